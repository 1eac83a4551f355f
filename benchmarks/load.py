"""What is measured, and in which order.

A *row* is one way of doing greylist checks on one peer (etcd over 4 connections, ours, ...). A *cell* is a row at one
number of checks in flight. The suite goes through all cells once per round, and through several rounds, so that every
row meets the same disturbances of the machine; what is reported of a cell is the median of its rounds, and their range.

The same rule counts everywhere: a closed loop keeps the cell's number of requests in flight, a warm-up is thrown away,
and then every check answered within the measured time counts, with the latency its caller saw.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

IN_FLIGHT = (1, 8, 64, 256, 1024, 4096)
SECTOR_BYTES = 512  # of the kernel's block statistics, whatever the disk's sectors are


@dataclass(frozen=True)
class Window:
    """How one cell is measured: checks in flight, and seconds."""

    in_flight: int
    seconds: float
    warm_up: float
    name: str  # unique in the run: makes the keys new
    mix: str = "new"  # of ours: see `caller`


@dataclass(frozen=True)
class Sample:
    """One cell in one round. CPU seconds (by process) and written bytes are those of the measured time."""

    checks: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    errors: int = 0
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    written_bytes: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Checks a second."""
        return self.checks / self.seconds


def quantiles(microseconds: Mapping[float, int]) -> dict[str, float]:
    """The latencies of a `Sample` by field, from (latency, how many had it); nan when there are none."""
    return {
        "p50_ms": quantile(microseconds, 0.50),
        "p99_ms": quantile(microseconds, 0.99),
        "p999_ms": quantile(microseconds, 0.999),
        "max_ms": quantile(microseconds, 1.0),
    }


def quantile(microseconds: Mapping[float, int], share: float) -> float:
    """Milliseconds; nan when there are none."""
    left = max(1, round(share * sum(microseconds.values())))
    for latency in sorted(microseconds):
        left -= microseconds[latency]
        if left <= 0:
            return latency / 1000
    return float("nan")


@dataclass(frozen=True)
class Row:
    """One way of doing checks; `group` are the rows of which the best is published."""

    group: str
    label: str
    levels: Sequence[int]
    measure: Callable[[Window], Sample]


class Peer(Protocol):
    """A system under test: started once, measured in many cells, stopped."""

    name: str

    def start(self) -> None:
        """Return when it can answer."""

    def stop(self) -> None:
        """End all of its processes; may be called after a failed start, and twice."""

    def rows(self) -> Sequence[Row]:
        """The ways of doing checks that are measured."""

    def describe(self) -> dict[str, Any]:
        """Versions and configuration, for the report."""


class Meter:
    """CPU seconds and bytes written by some processes since it was made. Of one that has ended meanwhile nothing is known, nor
    counted: PostgreSQL's short-lived workers."""

    def __init__(self, processes: Mapping[str, psutil.Process]) -> None:
        self._processes = processes
        self._begin = self._counters()

    def _counters(self) -> dict[str, tuple[float, int]]:
        """Name -> CPU seconds, bytes written."""
        found = {}
        for name, process in self._processes.items():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[name] = (times.user + times.system, process.io_counters().write_bytes)
        return found

    def read(self) -> tuple[dict[str, float], int | None]:
        """CPU seconds by process, and bytes written by all: None where the kernel does not count (a fsynced store that wrote
        nothing did not run on a counted disk)."""
        end, begin = self._counters(), self._begin
        cpu = {name: round(seconds - begin[name][0], 3) for name, (seconds, _) in end.items() if name in begin}
        written = sum(count - begin[name][1] for name, (_, count) in end.items() if name in begin)
        return cpu, written or None


def disk_written(directory: Path) -> int:
    """Bytes that everybody has written to the disk under `directory` so far, by the kernel's count of sectors."""
    device = directory.stat().st_dev
    fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    return int(fields[6]) * SECTOR_BYTES


@dataclass(frozen=True)
class Cell:
    """All rounds of one row at one level."""

    group: str
    label: str
    in_flight: int
    samples: Sequence[Sample]

    def median(self, figure: str) -> float:
        return statistics.median(float(getattr(sample, figure)) for sample in self.samples)

    def span(self, figure: str) -> tuple[float, float]:
        values = [float(getattr(sample, figure)) for sample in self.samples]
        return min(values), max(values)

    @property
    def cpu_seconds_per_check(self) -> float:
        checks = sum(sample.checks for sample in self.samples)
        return sum(sum(sample.cpu_seconds.values()) for sample in self.samples) / checks if checks else float("nan")

    @property
    def written_bytes_per_check(self) -> float | None:
        checks = sum(sample.checks for sample in self.samples)
        written = [sample.written_bytes for sample in self.samples]
        return sum(w for w in written if w is not None) / checks if checks and None not in written else None


def interleave(
    rows: Sequence[Row], rounds: int, seconds: float, warm_up: float, progress: Callable[[str, Sample], None]
) -> list[Cell]:
    """Measure every cell once per round; `progress` hears of each sample."""
    samples: dict[tuple[str, str, int], list[Sample]] = {}
    for number in range(rounds):
        for row, in_flight in _cells(rows):
            window = Window(
                in_flight, seconds, warm_up, f"r{number}-{len(samples)}-{row.label}-{in_flight}".replace(" ", "")
            )
            sample = row.measure(window)
            assert sample.checks > 0, f"{row.label} at {in_flight} in flight answered nothing: {sample}"
            samples.setdefault((row.group, row.label, in_flight), []).append(sample)
            progress(f"round {number + 1}/{rounds}  {row.label}, {in_flight} in flight", sample)
    return [Cell(group, label, in_flight, taken) for (group, label, in_flight), taken in samples.items()]


def _cells(rows: Sequence[Row]) -> Iterator[tuple[Row, int]]:
    """Level by level, so that rivals of one level are measured side by side."""
    for level in sorted({level for row in rows for level in row.levels}):
        for row in rows:
            if level in row.levels:
                yield row, level


def best(cells: Sequence[Cell]) -> dict[tuple[str, int], Cell]:
    """Per group and level the cell with the highest median rate."""
    chosen: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        key = (cell.group, cell.in_flight)
        if key not in chosen or cell.median("rate") > chosen[key].median("rate"):
            chosen[key] = cell
    return chosen
