"""Plots of what `./run bench` has measured: `./run bench --plot FILE.png --from FILE.json`. The JSON says which: of the suite, or of
`--timeline`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot

GROUPS: Final = {
    "ours": "ours, embedded",
    "workers: 4 processes at one node": "ours, worker socket",
    "policy: ours, one of 3 nodes asked": "ours, Postfix's protocol",
    "etcd rmw": "etcd, read then compare-and-put",
    "etcd create": "etcd, put if absent",
    "Redis rmw": "Redis, Lua and WAIT 1",
    "PostgreSQL upsert": "PostgreSQL, upsert",
    "policy: postgrey, NOT durable, one host": "postgrey, not durable",
}
SIZE: Final = (9, 5.5)
DPI: Final = 100


def draw(found: dict[str, Any], file: Path) -> None:
    """Write the plot."""
    mpl.use("agg")
    _, axes = pyplot.subplots(figsize=SIZE)
    if "marks" in found:
        _timeline(axes, found)
    else:
        _throughput(axes, found)
    axes.grid(alpha=0.3)
    pyplot.tight_layout()
    pyplot.savefig(file, dpi=DPI)


def _throughput(axes: Any, found: dict[str, Any]) -> None:
    """Checks a second against their 99th percentile, a point for each number in flight."""
    for group, label in GROUPS.items():
        best: dict[int, Any] = {}
        for cell in found["cells"]:
            level = cell["in_flight"]
            if cell["group"] == group and (
                level not in best or cell["checks_per_second"] > best[level]["checks_per_second"]
            ):
                best[level] = cell
        rows = [best[level] for level in sorted(best)]
        if rows:
            axes.plot(
                [row["checks_per_second"] for row in rows], [row["p99_ms"] for row in rows], marker="o", label=label
            )
            axes.annotate(f" {rows[-1]['in_flight']}", (rows[-1]["checks_per_second"], rows[-1]["p99_ms"]))
    axes.set(xscale="log", yscale="log", xlabel="checks a second", ylabel="99th percentile, ms")
    levels = [cell["in_flight"] for cell in found["cells"]]
    axes.set_title(f"{min(levels)} to {max(levels)} checks in flight, commit {found['commit']}")
    axes.legend()


def _timeline(axes: Any, found: dict[str, Any]) -> None:
    axes.plot([at for at, _ in found["checks"]], [took for _, took in found["checks"]], ".", markersize=2)
    axes.set(yscale="log", xlabel="seconds", ylabel="a check took, ms")
    for at, what in found["marks"]:
        axes.axvline(at, color="grey", linewidth=0.8)
        axes.text(at, axes.get_ylim()[1], f" {what}", rotation=90, va="top", ha="left", fontsize=7)
