"""`./run bench --scale`: what a million triplets, more nodes and the loss of a node do, beside etcd and Redis.

One system after the other: nothing else runs while one is measured. Each figure is told with its target.
"""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import caller
from benchmarks.load import Meter, Sample, Window, disk_written
from benchmarks.peers.etcd import Etcd
from benchmarks.peers.ours import Ours
from benchmarks.peers.redis import Redis
from tests.rollover.load import Load, percentile

MILLION: Final = 1_000_000
"""With more only rates are measured."""
BUSY: Final = "ours, busy"
LOST: Final = 5
"""Leaders are killed so often."""
IDLE_SECONDS: Final = 10.0
CHECKS_A_SECOND: Final = 500.0
"""While a node joins."""
WITHOUT: Final = "full, no checkpoints"
WITHOUT_SECONDS: Final = 10.0
"""Or less: nothing leaves the memory meanwhile."""
MORE_NODES: Final = (5, 7)
MIXES: Final = {"returning": "80 % returning", "hot": "100 triplets"}
FULL_SECONDS: Final = 120.0
"""At least, of the cell of new triplets in a full table: as long as many checkpoints, and what they leave to be swept, take."""
QUIET_SECONDS: Final = 10.0
"""Before a node joins."""


@dataclass
class Figures:
    """What was measured of one system, by name."""

    values: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.values[name] = value
        print(f"  {name}: {value:,.4g}", flush=True)


@dataclass(frozen=True)
class Target:
    """A ratio of two figures, and what it is to be."""

    what: str
    of: tuple[str, str]
    """(system, figure)"""
    to: tuple[str, str] | None
    """The same; None: the figure itself counts."""
    least: float | None = None
    most: float | None = None

    def judge(self, found: Mapping[str, Figures]) -> tuple[float, str] | None:
        """(the ratio, "reached" or "missed"); None when it was not measured."""
        try:
            value = found[self.of[0]].values[self.of[1]]
            if self.to is not None:
                value /= found[self.to[0]].values[self.to[1]]
        except KeyError:
            return None
        good = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return value, "reached" if good else "missed"


TARGETS: Final = (
    Target("checks/s with the table / empty, at 256", (BUSY, "full"), (BUSY, "empty"), least=0.8),
    Target(
        "p99.9 with checkpoints / without",
        (BUSY, "full, p99.9 ms"),
        (BUSY, f"{WITHOUT}, p99.9 ms"),
        most=3.0,
    ),
    Target("checks/s on 5 nodes / on 3, at 256", ("ours, 5 nodes", "empty"), ("ours", "empty"), least=0.6),
    Target("restart to first answer / Redis", ("ours", "restart s"), ("redis", "restart s"), most=0.25),
    Target("private memory / etcd", ("ours", "private MB"), ("etcd", "private MB"), most=0.15),
    Target("private memory / Redis", ("ours", "private MB"), ("redis", "private MB"), most=0.6),
    Target("a node joins under load, s", ("ours", "join s"), None, most=5.0),
    Target("p99 meanwhile / before", ("ours", "join p99 ms"), ("ours", "before p99 ms"), most=2.0),
    Target("leader killed, gap / etcd", ("ours", "gap s"), ("etcd", "gap s"), most=0.6),
    Target("idle, % of a core per node", ("ours", "idle %"), None, most=1.0),
)


def run(directory: Path, triplets: int, seconds: float, peers: Collection[str]) -> dict[str, Any]:
    """Measure and print all of `peers`, of ours, etcd and redis; the figures and how they were judged."""
    shutil.rmtree(directory, ignore_errors=True)
    found: dict[str, Figures] = {}
    stages: list[tuple[str, Callable[[Figures, Path], None]]] = [
        ("ours", lambda figures, path: _ours(figures, path, triplets, seconds)),
        (BUSY, lambda figures, path: _busy(figures, path, triplets, seconds)),
        *((f"ours, {nodes} nodes", partial(_more, nodes=nodes, seconds=seconds)) for nodes in MORE_NODES),
        ("etcd", lambda figures, path: _etcd(figures, path, triplets)),
        ("redis", lambda figures, path: _redis(figures, path, triplets)),
    ]
    for name, measure in stages:
        if name.partition(",")[0] not in peers or (triplets > MILLION and name != BUSY):
            continue
        print(f"{name}, {triplets:,} triplets", flush=True)
        path = directory / name.replace(", ", "-").replace(" ", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        measure(found.setdefault(name, Figures()), path)
        shutil.rmtree(path)
    judged = {target.what: target.judge(found) for target in TARGETS}
    print(f"{'':44}{'found':>10}  target")
    for target in TARGETS:
        said = judged[target.what]
        bound = f"at least {target.least}" if target.least is not None else f"at most {target.most}"
        print(
            f"{target.what:44}{'-' if said is None else f'{said[0]:.3g}':>10}  {bound}: {said[1] if said else 'not measured'}"
        )
    return {"figures": {name: each.values for name, each in found.items()}, "targets": judged}


def _ours(figures: Figures, path: Path, triplets: int, seconds: float) -> None:
    peer = Ours(path)
    try:
        peer.start()
        _idle(figures, peer.servers())
        _rate(figures, "empty", peer, seconds)
        peer.fill(triplets)
        _memory(figures, peer.servers())
        figures.note("restart s", peer.restart())
        figures.note("gap s", statistics.median(peer.gap() for _ in range(LOST)))
        with Load(peer.places(), CHECKS_A_SECOND, path) as load:
            begun = time.monotonic()
            threading.Event().wait(QUIET_SECONDS)
            before = time.monotonic()
            figures.note("join s", peer.grow())
            ended = time.monotonic()
            load.end()
        figures.note("before p99 ms", percentile(load.between(begun, before), 0.99) * 1000)
        figures.note("join p99 ms", percentile(load.between(before, ended), 0.99) * 1000)
        assert not load.errors and not load.degraded(), (load.errors, load.degraded()[:3])
    finally:
        peer.stop()


def _busy(figures: Figures, path: Path, triplets: int, seconds: float) -> None:
    """Ours, with the table full; the long cell comes last, for it makes the table several times as large."""
    peer = Ours(path)
    try:
        peer.start()
        _rate(figures, "empty", peer, seconds)
        peer.fill(triplets)
        for mix, what in MIXES.items():
            figures.note(f"full, {what}", peer.measure(Window(256, seconds, 0.5, f"mix-{mix}", mix)).rate)
        peer.reopen(checkpoints=False)
        threading.Event().wait(caller.WITHOUT_SECONDS + 2.0)  # for the one that there is
        _rate(figures, WITHOUT, peer, min(seconds, WITHOUT_SECONDS))
        peer.reopen(checkpoints=True)
        _rate(figures, "full", peer, max(seconds, FULL_SECONDS))
    finally:
        peer.stop()


def _more(figures: Figures, path: Path, nodes: int, seconds: float) -> None:
    peer = Ours(path, nodes)
    try:
        peer.start()
        _rate(figures, "empty", peer, seconds)
    finally:
        peer.stop()


def _etcd(figures: Figures, path: Path, triplets: int) -> None:
    peer = Etcd(path)
    try:
        peer.start()
        _idle(figures, peer.servers())
        peer.fill(triplets)
        _memory(figures, peer.servers())
        figures.note("restart s", peer.restart())
        figures.note("gap s", statistics.median(peer.gap() for _ in range(LOST)))
    finally:
        peer.stop()


def _redis(figures: Figures, path: Path, triplets: int) -> None:
    peer = Redis(path)
    try:
        peer.start()
        peer.fill(triplets)
        _memory(figures, peer.servers())
        figures.note("restart s", peer.restart())
    finally:
        peer.stop()


def _rate(figures: Figures, name: str, peer: Ours, seconds: float) -> None:
    written = disk_written(peer.directory)
    sample: Sample = peer.measure(Window(256, seconds, 0.5, name))
    written = disk_written(peer.directory) - written
    figures.note(name, sample.rate)
    figures.note(f"{name}, p99 ms", sample.p99_ms)
    figures.note(f"{name}, p99.9 ms", sample.p999_ms)
    if sample.written_bytes is not None:
        figures.note(f"{name}, bytes a check", sample.written_bytes / sample.checks)
    figures.note(f"{name}, disk bytes a check", written / sample.checks)


def _idle(figures: Figures, servers: Mapping[str, psutil.Process]) -> None:
    """Of the busiest process."""
    threading.Event().wait(IDLE_SECONDS / 2)
    meter = Meter(servers)
    threading.Event().wait(IDLE_SECONDS)
    figures.note("idle %", max(meter.read()[0].values()) / IDLE_SECONDS * 100)


def _memory(figures: Figures, servers: Mapping[str, psutil.Process]) -> None:
    """Of the largest process: what is its own, and all that is mapped."""
    found = [(_anonymous(each.pid), each.memory_info().rss) for each in servers.values()]
    figures.note("private MB", max(own for own, _ in found) / 1e6)
    figures.note("resident MB", max(rss for _, rss in found) / 1e6)


def _anonymous(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")
