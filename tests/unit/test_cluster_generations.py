"""Whole generations under an adversary: any node crashes at any step, is down in any phase, leads or leads no more."""

from __future__ import annotations

import pytest

from raftcluster.cluster.generations import COLLECT_MS
from tests.cluster_world import ROUND_MS, World

PHASES = ("collect", "trust", "switch")
SEEDS = range(10)


def grown(seed: int, size: int, *, crash: float = 0.0) -> World:
    print(f"seed {seed}")
    world = World(seed)
    for number in range(2, size + 1):
        world.admit(f"n{number}", crash)
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_growing_and_renewing_with_crashes_anywhere(seed: int) -> None:
    crash = 0.0 if seed == 0 else 0.2
    world = grown(seed, 3, crash=crash)
    world.log.apply("rotate", "renew", [], True)
    world.run(crash)
    view = world.log.view
    assert view.active is not None and view.active.number == 4
    assert {member.role for member in view.live().values()} == {"voter"}
    assert all(len(member.pins) == 1 and member.generation == 4 for member in view.live().values())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", ["the leader", "a follower"])
@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_dies_in_a_phase_and_comes_back_in_time(phase: str, victim: str, seed: int) -> None:
    """Time stands still: nobody is left out, the generation waits."""
    world = grown(seed, 3)
    world.log.apply("rotate", "x", [], True)
    world.until(phase)
    node = (
        world.leader if victim == "the leader" else next(each for each in sorted(world.voters) if each != world.leader)
    )
    world.stop(node)
    for _ in range(300):
        world.round(0.0)
    world.start(node)
    world.run(0.1)
    assert world.log.view.active is not None and world.log.view.active.number == 4 == world.log.view.newest


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", ["the leader", "a follower"])
@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_is_down_in_a_phase_does_not_hold_up_the_others(phase: str, victim: str, seed: int) -> None:
    """Its deadline passes; the others go on, three generations further; it comes back by itself."""
    world = grown(seed, 3)
    world.time = True
    world.log.apply("rotate", "x", [], False)
    world.until(phase)
    node = (
        world.leader if victim == "the leader" else next(each for each in sorted(world.voters) if each != world.leader)
    )
    world.stop(node)
    world.until("active")
    number = world.log.view.active.number  # type: ignore[union-attr]
    for _ in range(3):
        world.log.apply("rotate", "x", [], False)
        world.until("active")
    assert world.log.view.active.number == number + 3  # type: ignore[union-attr]
    world.start(node)
    world.run(0.05)
    assert world.returns >= 1, "by the public chain, without a token"
    assert world.log.view.members[node].role == "voter"


@pytest.mark.parametrize("seed", range(3))
def test_a_patient_generation_is_given_up_when_a_member_is_down(seed: int) -> None:
    world = grown(seed, 3)
    world.time = True
    world.stop("n3") if world.leader != "n3" else world.stop("n2")
    number = world.log.apply("rotate", "x", [], True)
    world.until("active")
    view = world.log.view
    assert view.active is not None and view.active.number == number - 1 and view.newest == number
    assert view.aborted >= COLLECT_MS and not any(member.asleep_since for member in view.live().values())
    for node in ("n2", "n3"):
        world.start(node)
    world.run(0.1)
    assert world.log.view.newest == number, "nobody was left behind"


@pytest.mark.parametrize("seed", range(3))
def test_removing_three_of_five_one_by_one(seed: int) -> None:
    """Succession goes on to the last: each link is endorsed by a majority of the voters before."""
    world = grown(seed, 5)
    for left in (4, 3, 2, 1):
        view = world.log.view
        victim = world.random.choice(sorted(view.live()))
        if victim == world.leader:
            world.lead()
        world.log.apply("removed", victim)
        world.time = True  # who is removed is cut off at once
        world.cut()
        world.run(0.05)
        assert victim not in world.log.view.live() and len(world.log.view.live()) == left


@pytest.mark.parametrize("seed", SEEDS)
def test_an_adversary_with_everything(seed: int) -> None:
    """Nodes are down at random for longer than any deadline, crash at any step, leaders change; and then all is well."""
    world = grown(seed, 4)
    world.time = True
    for _ in range(6):
        down = world.random.choice([each.id for each in world.nodes])
        world.stop(down)
        if world.log.view.pending is None and world.has_quorum():
            world.log.apply("rotate", "x", [], world.random.random() < 0.3)
        for _ in range(world.random.randint(50, 3 * COLLECT_MS // ROUND_MS)):
            world.round(0.05)
        world.start(down)
        for _ in range(world.random.randint(0, 400)):
            world.round(0.05)
    world.run(0.02)
