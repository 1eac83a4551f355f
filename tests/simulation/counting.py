"""Exactly once in the counters: the leader is killed again and again while checks are counted, and at the end the counters are
equal to the distinct events -- in the cluster's totals and in every triplet's record.

An event is a check under an id; its client asks again under the same id, at the same node, also after that node was killed
and is back, until it has an answer, and now and then once more afterwards.

    python -m tests.simulation --kills 200
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

from raftcluster.engine.operations import Operation
from raftcluster.greylist.check import DEFERRED, command, told
from raftcluster.greylist.machine import NAME, read_record, read_totals
from raftcluster.greylist.record import node_label
from tests.simulation.process import Process
from tests.simulation.profiles import Options
from tests.simulation.simulation import Simulation

TRIPLETS: Final = 40
EVENTS_PER_SECOND: Final = 40.0
SETTLED_SECONDS: Final = 3.0
PATIENCE_SECONDS: Final = 60.0


class Figures(NamedTuple):
    """What a run came to."""

    kills: int
    events: int
    asked: int
    """How often something was asked, repetitions among it."""
    counted: int
    """What the totals of all nodes say together."""
    wrong: list[str]


class Event:
    """One check, and whoever wants its answer."""

    def __init__(self, run: Counting, number: int, triplet: int, at: Process) -> None:
        self._run, self._at, self.triplet = run, at, triplet
        self._ident = b"event%011d" % number
        self._command = command(run.revision, triplet.to_bytes(16, "big"), node_label(at.name), False, b"")
        self.deferred: bool | None = None
        self._told: bytes | None = None
        self.ask()

    def ask(self) -> None:
        """Ask, and if nothing comes, again."""
        world, replica = self._run.world, self._at.replica
        if replica is not None:
            self._run.asked += 1
            operation = Operation(NAME, self._ident, replica.engine.applied, [self._command])
            self._at.run(lambda: replica.submit(operation, self._answer))
            self._at.wake()
        if self.deferred is None:
            world.after(world.random.uniform(0.1, 0.6), lambda: None if self.deferred is not None else self.ask())
        elif world.chance(0.05):
            world.after(world.random.uniform(0.1, 3.0), self.ask)

    def _answer(self, results: list[Any] | None, error: object) -> None:
        if results is None:
            return
        if results[0][0] != 0 or type(results[0][1]) is not bytes:
            self._run.wrong.append(f"{self._ident!r} was told {results}")
        elif self.deferred is None:
            self._told = results[0][1]
            self.deferred = told(results[0][1]).passes == DEFERRED
            if self._run.world.chance(0.1):
                self._run.world.after(self._run.world.random.uniform(0.1, 3.0), self.ask)
        elif results[0][1] != self._told:
            self._run.wrong.append(f"{self._ident!r} was told one thing, then another")


class Counting:
    """One run."""

    def __init__(self, kills: int, seed: int) -> None:
        options = Options(
            voters=3, disks=("fast", "mixed"), operations_per_second=1.0, waits=(4, 10_000, 20_000), compare=5.0
        )
        self.simulation = run = Simulation("counting", seed, options=options)
        self.world, self.kills, self.revision = run.world, kills, 1
        self.asked = 0
        self.wrong: list[str] = []
        self.events: list[Event] = []
        self._killed = 0

    def carry_out(self) -> Figures:
        """Kill, count, heal, compare."""
        run, world = self.simulation, self.world
        run.begin()
        run.workload.begin()
        self._go(SETTLED_SECONDS)
        while run.workload.clients[0].results is None:  # the waits
            self._go(SETTLED_SECONDS)
        run.workload.patient = True  # its own checks would be counted, too
        while run.workload.open:  # those that are under way still are
            self._go(1.0)
        before = self._totals()
        self._next()
        self._kill()
        while self._killed < self.kills:
            self._go(1.0)
        end = world.time + PATIENCE_SECONDS
        while world.time < end and any(event.deferred is None for event in self.events):
            self._go(1.0)
        self._go(5.0)
        counted = self._totals() - before
        self._compare(counted)
        return Figures(self._killed, len(self.events), self.asked, counted.total(), self.wrong)

    def _go(self, seconds: float) -> None:
        self.world.run(self.world.time + seconds, lambda: bool(self.simulation.checker.violations))
        if self.simulation.checker.violations:
            raise AssertionError(f"counting/{self.simulation.seed}: {self.simulation.checker.violations[0]}")

    def _next(self) -> None:
        if self._killed >= self.kills:
            return
        up = [process for process in self.simulation.processes.values() if process.up]
        if up:
            random = self.world.random
            self.events.append(Event(self, len(self.events), 10_000 + random.randrange(TRIPLETS), random.choice(up)))
        self.world.after(self.world.random.expovariate(EVENTS_PER_SECOND), self._next)

    def _kill(self) -> None:
        """The leader, in the middle of what it does; the next one when all are up and one of them leads."""
        processes = list(self.simulation.processes.values())
        leaders = [p for p in processes if p.replica is not None and p.replica.engine.is_leader]
        if leaders and all(p.up for p in processes):
            self._killed += 1
            leaders[0].crash(self.world.random.uniform(0.1, 1.0))
        if self._killed < self.kills:
            self.world.after(self.world.random.uniform(0.3, 2.0), self._kill)

    def _tables(self) -> Any:
        (leader,) = (
            p.replica
            for p in self.simulation.processes.values()
            if p.replica is not None and p.replica.engine.is_leader
        )
        return leader.applier.tables(NAME)

    def _totals(self) -> Counter[str]:
        totals: Counter[str] = Counter()
        for deferred, passed, _, _ in read_totals(self._tables()).values():
            totals += Counter(deferred=deferred, passed=passed)
        return totals

    def _compare(self, counted: Counter[str]) -> None:
        told_of = Counter(
            "deferred" if event.deferred else "passed" for event in self.events if event.deferred is not None
        )
        unanswered = sum(event.deferred is None for event in self.events)
        if unanswered:
            self.wrong.append(f"{unanswered} events were never answered")
        if counted != told_of:
            self.wrong.append(f"the totals say {dict(counted)}, the events were told {dict(told_of)}")
        by_triplet: dict[int, Counter[str]] = {}
        for event in self.events:
            by_triplet.setdefault(event.triplet, Counter())["deferred" if event.deferred else "passed"] += 1
        for triplet, wanted in by_triplet.items():
            record = read_record(self._tables(), triplet.to_bytes(16, "big"))
            found: Counter[str] = Counter()
            for _, deferred, passed in record.counters if record else ():
                found += Counter(deferred=deferred, passed=passed)
            if found != wanted:
                self.wrong.append(f"triplet {triplet} counts {dict(found)}, its events were {dict(wanted)}")


def report(kills: int, seed: int) -> int:
    """Carry it out and print; 1 when a counter is wrong."""
    found = Counting(kills, seed).carry_out()
    print(
        f"counting/{seed}: the leader was killed {found.kills} times; {found.events} distinct events, asked {found.asked} times; "
        f"the counters say {found.counted}"
    )
    for line in found.wrong:
        print(line)
    return int(bool(found.wrong) or found.counted != found.events)
