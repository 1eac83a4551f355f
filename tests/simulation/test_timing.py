"""Exact timing between hosts: a triplet that one node saw first is deferred a second before its wait is over and passes a second
after, at every other node, whatever happens to the leader meanwhile.

Real replicas, guard and machines, at the product's own time-outs, under a virtual clock and network: seconds here are
true seconds of that world, no node's clock is right (each runs at its own rate, up to half a second off).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, Final

import pytest

from raftcluster.engine.operations import Operation
from raftcluster.greylist.check import DEFERRED, command, told
from raftcluster.greylist.record import node_label
from tests.simulation.faults import DAY
from tests.simulation.process import Process
from tests.simulation.profiles import Options
from tests.simulation.simulation import Simulation

DELAY: Final = 12
SETTLED_SECONDS: Final = 3.0
AWAY_SECONDS: Final = 4.0
ASK_AGAIN_SECONDS: Final = 0.5

Happening = Callable[[Simulation, Process], None]


class Check:
    """One check at one node, asked again under its id until it is answered. Times in seconds of the world."""

    def __init__(self, run: Simulation, key: int, at: Process) -> None:
        self._run, self._at = run, at
        self._ident = run.world.random.getrandbits(128).to_bytes(16, "big")
        self._command = command(1, key.to_bytes(16, "big"), node_label(at.name), False, b"")
        self.called = run.world.time
        self.answered = 0.0
        self.deferred: bool | None = None
        self._ask()

    def _ask(self) -> None:
        if self.deferred is not None:
            return
        replica = self._at.replica
        if replica is not None:
            operation = Operation("greylist", self._ident, replica.engine.applied, [self._command])
            self._at.run(lambda: replica.submit(operation, self._answer))
            self._at.wake()
        self._run.world.after(ASK_AGAIN_SECONDS, self._ask)

    def _answer(self, results: list[Any] | None, error: object) -> None:
        if results is not None and self.deferred is None:
            assert results[0][0] == 0 and type(results[0][1]) is bytes, results
            self.deferred = told(results[0][1]).passes == DEFERRED
            self.answered = self._run.world.time


def steady(run: Simulation, leader: Process) -> None:
    pass


def killed(run: Simulation, leader: Process) -> None:
    leader.crash(AWAY_SECONDS)


def partition(run: Simulation, leader: Process) -> None:
    for name in run.processes:
        if name != leader.name:
            run.network.block(name, leader.name)
            run.network.block(leader.name, name)
    run.world.after(AWAY_SECONDS, run.network.unblock)


def jumps(days: int, run: Simulation, leader: Process) -> None:
    leader.wall_offset = days * DAY


HAPPENINGS: Final[dict[str, Happening]] = {
    "steady": steady,
    "leader killed": killed,
    "partition": partition,
    "leader's clock a day ahead": partial(jumps, 1),
    "leader's clock a day behind": partial(jumps, -1),
}
MOMENTS: Final = {
    "between the two nodes": 5.0,
    "just before the early one": DELAY - 1.2,
    "before the late one": DELAY + 0.5,
}


def leads(run: Simulation) -> Process:
    (leader,) = (p for p in run.processes.values() if p.replica is not None and p.replica.engine.is_leader)
    return leader


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("happening", HAPPENINGS)
def test_no_wrong_verdict_at_any_pair_of_nodes(happening: str, moment: str) -> None:
    matrix(happening, moment, DELAY)


@pytest.mark.parametrize("delay", [DELAY - 3, DELAY + 3])
def test_a_wait_that_is_wrong_by_seconds_is_seen(delay: int) -> None:
    with pytest.raises(AssertionError, match=r"passed|deferred"):
        matrix("steady", "between the two nodes", delay)


@pytest.mark.parametrize(
    ("happening", "seed"), [("leader killed", 2), ("leader's clock a day behind", 5), ("partition", 6)]
)
def test_the_waits_are_set_before_anybody_is_checked(happening: str, seed: int) -> None:
    """In these a check of the load was there first, and the cluster refused, as it must, to become one for tests."""
    matrix(happening, "between the two nodes", DELAY, seed)


def matrix(happening: str, moment: str, delay: int, seed: int = 1) -> None:
    """All pairs of nodes, with one thing that happens at one moment; the cluster's delay should be DELAY."""
    options = Options(voters=3, disks=("fast",), operations_per_second=2.0, waits=(delay, 120, 240))
    run = Simulation(f"timing: {happening}, {moment}", seed, options=options)
    run.begin()
    run.workload.begin()

    def go(until: float) -> None:
        run.world.run(until, lambda: bool(run.checker.violations))
        assert not run.checker.violations, f"{run.profile}/{run.seed}: {run.checker.violations[0]}"

    go(run.world.time + SETTLED_SECONDS)
    while run.workload.clients[0].results is None:  # the waits
        go(run.world.time + SETTLED_SECONDS)
    assert run.workload.clients[0].results == [[0, 1]], "the waits are set"
    began = run.world.time
    pairs = list(product(run.processes.values(), repeat=2))
    first = [Check(run, 1_000 + number, one) for number, (one, _) in enumerate(pairs)]
    run.world.at(began + MOMENTS[moment], lambda: HAPPENINGS[happening](run, leads(run)))
    go(began + DELAY - 1)
    assert all(check.deferred for check in first)
    early = [Check(run, 1_000 + number, other) for number, (_, other) in enumerate(pairs)]
    go(max(check.answered for check in first) + DELAY + 1)
    late = [Check(run, 1_000 + number, other) for number, (_, other) in enumerate(pairs)]
    go(run.world.time + AWAY_SECONDS + 6)
    in_time = 0
    for (one, other), begin, before, after in zip(pairs, first, early, late, strict=True):
        pair = f"{one.name} -> {other.name}"
        assert before.deferred is not None and after.deferred is not None, f"{pair}: not answered"
        if before.answered < begin.called + DELAY - 0.1:
            in_time += 1
            assert before.deferred, f"{pair}: passed {before.answered - begin.called:.3f} s after its first attempt"
        assert not after.deferred, f"{pair}: deferred {after.called - begin.answered:.3f} s after its first attempt"
    undisturbed = happening in ("steady", "leader's clock a day ahead", "leader's clock a day behind")
    if undisturbed or moment != "just before the early one":  # else an election may have taken the second that was left
        assert in_time == len(pairs)
