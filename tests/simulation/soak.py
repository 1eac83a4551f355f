"""Hours of virtual time: is everything flat that is bounded?

    python -m tests.simulation --soak 24

Three nodes, a moderate load of ever new triplets, a fault every few minutes, all time-outs twenty times the product's so
that a day fits into minutes. Once a minute the sizes of every container that a replica holds are taken, found by walking
through its objects: what nobody thought of is looked at, too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Set, Sized
from dataclasses import replace
from typing import Any, Final

from raftcluster import limits
from raftcluster.engine.ports import Bounds, Timing
from raftcluster.engine.replica import Replica
from tests.simulation.process import Process
from tests.simulation.profiles import CRASHES, PARTITIONS, SLOWNESS, Options
from tests.simulation.simulation import Simulation

STRETCH: Final = 20.0
SAMPLE_SECONDS: Final = 60.0
OPTIONS: Final = Options(
    voters=3,
    operations_per_second=0.75,
    faults_per_second=1 / 150,
    faults=PARTITIONS + CRASHES + SLOWNESS + ("transfer", "full disk"),
    disks=("mixed",),
    stretch=STRETCH,
    sweep=600.0,
    compare=600.0,
    keys=1 << 64,
    waits=(60, 600, 3600),
    timing=Timing(heartbeat=1.0, election_min=6.0, election_max=12.0, check_quorum=12.0, checkpoint=10.0, resend=10.0),
    bounds=Bounds(
        entry_operations=100, in_flight=2, pending=200, queue=200, checkpoint_keys=200, overlay_keys=800, ring=500,
        keep_entries=64, keep_bytes=100_000,
    ),
)  # fmt: skip
OURS: Final = ("raftcluster.", "pysyncobj.", "_raftcluster")
FILLS: Final = {
    "rows of config.history": 3 * limits.HISTORY_REVISIONS,
    "rows of config.changes": limits.CONFIG_CHANGES,
    "disk: bytes of tables, in hundreds": 10_000,
}
"""What is bounded too high to be full within hours, and its bound."""
PEAK_SHARE: Final = 1.25
PEAK_SLACK: Final = 40
"""The last third of the hours may peak at so much more than the one before: what is bounded by chance is not exact."""


def holdings(replica: Replica) -> dict[str, int]:
    """Attribute path -> how many items it holds, those of containers within it included."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", replica)]
    while waiting:
        path, thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        for name, value in _attributes(thing):
            if name in ("store", "_store", "_log", "_disk", "ports", "observer", "timing", "bounds"):
                continue  # the world's; what is on the disk is measured apart
            inner = f"{path}.{name}".lstrip(".")
            if (
                isinstance(value, Sized)
                and not isinstance(value, str | bytes)
                and type(value).__module__
                in (
                    "builtins",
                    "collections",
                )
            ):
                found[inner] += _items(value)
            if type(value).__module__.startswith(OURS):
                waiting.append((inner, value))
    return found


def _attributes(thing: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(thing, name):
                yield name, getattr(thing, name)


def _items(container: Sized) -> int:
    values = container.values() if isinstance(container, Mapping) else () if isinstance(container, Set) else container
    inner = [v for v in values if isinstance(v, list | dict | set) or type(v).__module__ == "collections"]  # type: ignore[attr-defined]
    return len(container) + sum(len(v) for v in inner)


def on_disk(process: Process) -> dict[str, int]:
    """What the twins of the two stores hold, in rows and bytes; without the ledger's lines, which grow by design."""
    image, found = process.image, {}
    kept = {name: rows for name, rows in image.tables.items() if name != "ledger.lines"}
    for name, rows in kept.items():
        found[f"rows of {name}"] = len(rows)
    found["disk: entries"] = len(image.entries)
    found["disk: bytes of tables, in hundreds"] = (
        sum(len(k) + len(v) for rows in kept.values() for k, v in rows.items()) // 100
    )
    if process.disk is not None:
        found["disk: records waiting"] = process.disk.log.records
        found["disk: units waiting"] = process.disk.tables.units
    return found


class Soak:
    """One run. Peaks by quantity and virtual hour."""

    def __init__(self, hours: float, seed: int, waits: tuple[int, int, int] = OPTIONS.waits) -> None:
        self.hours = hours
        self.run = Simulation("soak", seed, options=replace(OPTIONS, waits=waits))
        self.peaks: dict[str, list[int]] = {}
        self._began = 0.0
        self._slots = max(3, round(hours))

    def carry_out(self) -> list[str]:
        """Violations of the checker, and what has grown."""
        run = self.run
        run.begin()
        run.workload.begin()
        run.faults.begin()
        self._began = run.world.time
        self._sample()
        end = self._began + self.hours * 3600
        run.world.run(end, lambda: bool(run.checker.violations))
        run.heal()
        if not run.checker.violations:
            run.checker.sweep()
            run.checker.finish()
        return run.checker.violations or self.grown()

    def _sample(self) -> None:
        world = self.run.world
        slot = int((world.time - self._began) / (self.hours * 3600) * self._slots)
        for process in self.run.processes.values():
            if process.replica is not None and slot < self._slots:
                for name, size in (holdings(process.replica) | on_disk(process)).items():
                    peaks = self.peaks.setdefault(name, [0] * self._slots)
                    peaks[slot] = max(peaks[slot], size)
        world.after(SAMPLE_SECONDS, self._sample)

    def grown(self) -> list[str]:
        """What peaks higher in the last third of the time than the third before allows."""
        third = self._slots // 3
        found = []
        for name, peaks in sorted(self.peaks.items()):
            before, last = max(peaks[third:-third]), max(peaks[-third:])
            if last > max(before * PEAK_SHARE + PEAK_SLACK, FILLS.get(name, 0)):
                found.append(f"growth: {name} peaks at {last} in the last third, at {before} in the one before")
        return found

    def figures(self) -> str:
        """The peaks by third, of all that ever held more than a few items."""
        third = self._slots // 3
        lines = [f"{'peak of':52} {'first':>8} {'second':>8} {'last':>8}  third of the time"]
        for name, peaks in sorted(self.peaks.items(), key=lambda each: -max(each[1])):
            if max(peaks) > 5:
                thirds = max(peaks[:third]), max(peaks[third:-third]), max(peaks[-third:])
                lines.append(f"{name:52} " + " ".join(f"{value:8}" for value in thirds))
        return "\n".join(lines)


def report(hours: float, seed: int) -> int:
    """Run it, print the figures; 1 when anything was violated or has grown."""
    began = time.process_time()
    soak = Soak(hours, seed)
    wrong = soak.carry_out()
    counts = soak.run.world.counts
    print(soak.figures())
    print(
        f"{len(soak.peaks)} quantities, {hours:g} h of virtual time, seed {seed}, {time.process_time() - began:.0f} s of CPU"
    )
    print(", ".join(f"{counts[name]} {name}" for name in sorted(counts)))
    for each in wrong:
        print(each)
    return int(bool(wrong))
