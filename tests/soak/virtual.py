"""A day of virtual time: three replicas of the simulation, and every object that each of them holds, counted.

The engine, guard, journal, applier, overlay, ring and machines are the real ones, under a virtual clock, network and disk;
the checker of the simulation is away, since it keeps the whole history. Every so often a node is cut off for two minutes,
the leader too, so that leaders change and snapshots travel. Twice an hour everything that can be reached from a replica is
counted, but for its store, whose rows are counted apart.
"""

from __future__ import annotations

import gc
import logging
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

from raftcluster.engine import seam
from raftcluster.engine.operations import Operation
from raftcluster.engine.ports import Bounds
from raftcluster.engine.replica import Replica
from raftcluster.greylist.check import command
from raftcluster.greylist.record import node_label
from raftcluster.storage.memory import MemoryDisk, MemoryLog, MemoryTables
from tests.simulation.checker import Checker
from tests.simulation.disk import Disk
from tests.simulation.network import Network
from tests.simulation.process import Process, machines
from tests.simulation.profiles import Options
from tests.simulation.world import World

NODES: Final = 3
CHECKS_PER_SECOND: Final = 0.5
SETTINGS: Final[dict[str, Any]] = {"lab": True, "delay": 300, "window": 3600, "life": 7200}
KNOWN: Final = 4000
"""Triplets that come back now and then; every second check is of a new one."""
CUT_EVERY_SECONDS: Final = 900.0
CUT_SECONDS: Final = 120.0
SAMPLE_SECONDS: Final = 1800.0
BOUNDS: Final = Bounds(ring=1000, keep_entries=20, keep_bytes=20_000)
"""Small enough to be reached in the first hour, and for whoever was cut off to need a snapshot."""
OPTIONS: Final = Options(voters=NODES, disks=("fast",), bounds=BOUNDS)
SHARE, SLACK_OBJECTS, SLACK_BYTES = 0.05, 500, 100_000
"""By how much a replica's last quarter may exceed its second one."""


class Bystander(Checker):
    """Sees everything and remembers nothing."""

    def _nothing(self, *_arguments: Any) -> Any: ...

    started = crashed = submitted = sends = receives = role = applied = after = unit = _nothing  # type: ignore[assignment]


OUTSIDE: Final = (
    *(types.ModuleType, type, types.FunctionType, types.CodeType, types.BuiltinFunctionType, types.FrameType),
    *(World, Process, Network, Checker, Disk, MemoryDisk, MemoryLog, MemoryTables, logging.Logger),
)
"""Where a replica ends."""


def reachable(root: object) -> tuple[int, int]:
    """How many objects there are below `root` and in it, and their size in bytes."""
    seen, stack, size = {id(root)}, [root], 0
    while stack:
        held = stack.pop()
        size += sys.getsizeof(held)
        for inner in gc.get_referents(held):
            if id(inner) not in seen and not isinstance(inner, OUTSIDE):
                seen.add(id(inner))
                stack.append(inner)
    return len(seen), size


class VirtualSoak:
    """One run. There is one at a time in a process: the engine has one clock."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(f"soak/{seed}")
        names = [f"n{number}" for number in range(1, NODES + 1)]
        self.processes: dict[str, Process] = {}
        checker = Bystander(world, self.processes, names, machines(), BOUNDS.ring)
        for name in names:
            self.processes[name] = Process(name, names, world, OPTIONS, checker, ())
        self._network = network = Network(world, OPTIONS, self.processes)
        for process in self.processes.values():
            process.network, process.peers = network, self.processes
        self.events: Counter[str] = Counter()
        self.samples: dict[str, list[dict[str, int]]] = {name: [] for name in names}
        self._asked = 0

    def run(self, hours: float, tell: Callable[[str], None], every: float = SAMPLE_SECONDS) -> None:
        """Let the time pass, with a sample every so many seconds; the events plan themselves anew."""
        seam.use_clock(self.world.read)
        world, end = self.world, self.world.time + hours * 3600
        for process in self.processes.values():
            world.after(world.random.uniform(0, 0.1), process.start)
        world.after(5.0, self._configure)
        world.after(20.0, self._check)
        world.after(CUT_EVERY_SECONDS, self._cut_off)
        while world.time < end:
            world.run(min(end, world.time + every), lambda: False)
            self._sample()
            shown = {name: list(rows[-1].values()) for name, rows in self.samples.items()}
            tell(f"{(world.time - 100) / 3600:6.1f} h {shown} {dict(self.events)}")

    def _replica(self) -> Replica:
        replica = self.world.random.choice(list(self.processes.values())).replica
        assert replica is not None, "nobody crashes here"
        return replica

    def _submit(self, commands: list[Any]) -> None:
        replica = self._replica()
        self._asked += 1
        ident = self._asked.to_bytes(16, "big")
        operation = Operation("greylist", ident, replica.engine.applied, commands)
        process = self.processes[replica.me]
        process.run(lambda: replica.submit(operation, self._answered))
        process.wake()
        self.world.after(5.0, lambda: process.run(lambda: replica.outbox.give_up(ident, self._answered)))

    def _answered(self, results: list[Any] | None, error: Exception | None) -> None:
        self.events["decided" if results is not None else "undecided"] += 1

    def _configure(self) -> None:
        self._submit([["settings", SETTINGS, "soak", "", None, ""]])

    def _check(self) -> None:
        random = self.world.random
        number = self._asked if random.random() < 0.5 else self._asked - random.randrange(1, KNOWN)
        key = max(0, number).to_bytes(16, "big")
        self._submit([command(1, key, node_label(random.choice(list(self.processes))), False, b"triplet" + key)])
        self.world.after(random.expovariate(CHECKS_PER_SECOND), self._check)

    def _cut_off(self) -> None:
        alone, *others = self.world.random.sample(list(self.processes), NODES)
        for other in others:
            self._network.block(alone, other)
            self._network.block(other, alone)
        self.events["partitions"] += 1
        self.world.after(CUT_SECONDS, self._network.unblock)
        self.world.after(CUT_EVERY_SECONDS, self._cut_off)

    def _sample(self) -> None:
        self.events["snapshots"] = self.world.counts["snapshots"]
        for name, process in self.processes.items():
            assert process.replica is not None and process.incarnation == 1, f"{name} has stopped"
            objects, size = reachable(process.replica)
            rows = sum(map(len, process.image.tables.values()))
            self.events["terms"] = max(self.events["terms"], process.replica.engine.term)
            self.samples[name].append({"objects": objects, "bytes": size, "rows": rows})


def grew(samples: Mapping[str, Sequence[Mapping[str, int]]]) -> Iterator[str]:
    """Whose last quarter is above its second one."""
    for name, rows in samples.items():
        quarter = len(rows) // 4
        assert quarter >= 2, f"{len(rows)} samples show nothing"
        for quantity, slack in (("objects", SLACK_OBJECTS), ("bytes", SLACK_BYTES), ("rows", SLACK_OBJECTS)):
            before = median(row[quantity] for row in rows[quarter : 2 * quarter])
            after = median(row[quantity] for row in rows[-quarter:])
            if after > before * (1 + SHARE) + slack:
                yield f"{quantity} of {name} grew from {before:.0f} to {after:.0f}"


def virtual(hours: float, seed: int) -> bool:
    """One run, told; True when nothing grew and leaders, snapshots and decisions were there."""
    logging.getLogger("raftcluster").setLevel(logging.CRITICAL + 1)
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)
    print(f"soak: {hours:g} h of virtual time, seed {seed}; objects, bytes, rows of each replica", flush=True)
    soak = VirtualSoak(seed)
    soak.run(hours, lambda line: print(line, flush=True))
    problems = list(grew(soak.samples))
    problems += [f"no {name}" for name in ("decided", "partitions", "snapshots") if not soak.events[name]]
    if soak.events["terms"] < 2:
        problems.append("the leader never changed")
    for text in problems:
        print(f"PROBLEM: {text}")
    print(f"soak: {hours:g} h of virtual time, {len(problems)} problems", flush=True)
    return not problems
