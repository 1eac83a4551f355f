"""Two promises with a figure, each measured in 200 runs at the product's own time-outs.

* Whoever was cut off, or removed, deposes no leader that nothing is wrong with.
* A leader that loses its majority ceases to be one within two election time-outs.

    python -m tests.simulation --targets
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from raftcluster import limits
from raftcluster.engine.membership import Change
from tests.simulation.process import Process
from tests.simulation.profiles import Options
from tests.simulation.simulation import Simulation

RUNS: Final = 200
SETTLED_SECONDS: Final = 3.0
"""Within this a leader was elected and has been one for a while."""
WITHIN_SECONDS: Final = 2 * limits.ELECTION_MAX_SECONDS


class Deposed(AssertionError):
    """A run in which something else went wrong than what is measured."""


def _cluster(kind: str, seed: int, disabled: Collection[str]) -> tuple[Simulation, Process]:
    """Three or five nodes under a load, and their leader."""
    options = Options(voters=3 if seed % 2 else 5, disks=("fast",), operations_per_second=4.0)
    run = Simulation(f"target: {kind}", seed, disabled=disabled, options=options)
    run.begin()
    run.workload.begin()
    _pass(run, SETTLED_SECONDS)
    (leader,) = [p for p in run.processes.values() if p.replica is not None and p.replica.engine.is_leader]
    return run, leader


def _pass(run: Simulation, seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
    run.world.run(run.world.time + seconds, lambda: stop() or bool(run.checker.violations))
    if run.checker.violations:
        raise Deposed(f"{run.profile}/{run.seed}: {run.checker.violations[0]}")


def deposes(seed: int, disabled: Collection[str] = ()) -> bool:
    """Whether a follower deposes the leader: by being cut off and back again, several times, or by being removed."""
    run, leader = _cluster("deposed", seed, disabled)
    random, network = run.world.random, run.network
    assert leader.replica is not None
    term = leader.replica.engine.term
    others = [name for name in run.processes if name != leader.name]
    victim = random.choice(others)
    if seed % 4 < 2:
        for _ in range(random.randint(1, 4)):
            way = random.choice(("all", "leader", "hears nobody", "is heard by nobody"))
            for other in [leader.name] if way == "leader" else [leader.name, *others]:
                if other != victim:
                    if way != "is heard by nobody":
                        network.block(other, victim)
                    if way != "hears nobody":
                        network.block(victim, other)
            _pass(run, random.uniform(0.5, 6.0))
            network.unblock()
            _pass(run, random.uniform(0.5, 4.0))
    else:
        answers: list[bool] = []
        leader.run(partial(leader.replica.change_voters, Change("rem", victim), answers.append))
        leader.wake()
        _pass(run, 15.0)
        if answers != [True]:
            raise Deposed(f"{run.profile}/{run.seed}: {victim} was not removed")
    return not leader.replica.engine.is_leader or leader.replica.engine.term != term


def steps_down(seed: int, disabled: Collection[str] = ()) -> float:
    """Seconds from the loss of its majority until a leader is none any more."""
    run, leader = _cluster("without a quorum", seed, disabled)
    random, replica = run.world.random, leader.replica
    assert replica is not None
    others = [name for name in run.processes if name != leader.name]
    number = len(run.processes)
    lost = random.sample(others, random.randint(number - number // 2, number - 1))
    silent, deaf = random.choice(((True, True), (True, False), (False, True)))
    for other in lost:
        if silent:
            run.network.block(other, leader.name)
        if deaf:
            run.network.block(leader.name, other)
    began = run.world.time
    _pass(run, 10 * WITHIN_SECONDS, lambda: not replica.engine.is_leader)
    return run.world.time - began


def report() -> int:
    """Measure and print both; 1 when one is missed."""
    deposed = sum(deposes(seed) for seed in range(RUNS))
    print(f"a node that was cut off or removed deposed a healthy leader {deposed} times in {RUNS}")
    unguarded = sum(deposes(seed, ["pre_vote", "sticky"]) for seed in range(RUNS // 10))
    print(f"    (without pre-vote and stickiness {unguarded} times in {RUNS // 10})")
    seconds = sorted(steps_down(seed) for seed in range(RUNS))
    print(
        f"a leader without a quorum ceased to be one within {seconds[-1]:.3f} s (median {seconds[RUNS // 2]:.3f} s, "
        f"{RUNS} runs; two election time-outs are {WITHIN_SECONDS:.1f} s)"
    )
    return int(deposed > 0 or unguarded == 0 or seconds[-1] > WITHIN_SECONDS)
