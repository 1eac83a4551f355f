"""The guards' own test: without each of them something breaks, by a seed of the simulation or in a schedule by hand.

    python -m tests.simulation --mutation

A guard that no test misses would be one that nobody knows to work. `killed_by` carries out what misses a guard and says
what it was; a guard that is missed by nothing is dead, and must go, or untested.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from raftcluster.engine.cluster_time import ClusterTime, Known
from raftcluster.engine.membership import Change
from tests.simulation import test_hazards
from tests.simulation.lab import GuardedLab, Message
from tests.simulation.simulation import simulate

THREE: Final = ["n1", "n2", "n3"]
FOUR: Final = [*THREE, "n4"]
FIVE: Final = [*FOUR, "n5"]

PROFILES: Final = {
    "trim": "static",
    "only_voters": "membership",
    "self_clamp": "static",
    "ack_gate": "static",
    "vote_request_gate": "membership_snapshot",
    "vote_grant_gate": "power",
    "patience": "slow_disks",
    "single": "single",
    "applied": "snapshot",
    "recover": "snapshot",
    "late_time": "adversarial",
}
"""guard -> a profile that misses it within the first `SEEDS` seeds; most do at once."""

SEEDS: Final = 50

Schedule = Callable[[list[str]], bool]
"""Carries something out without these guards; whether it went wrong."""


def hazard(test: Callable[[str, Callable[..., GuardedLab]], None]) -> Schedule:
    """A schedule of `test_hazards` as one of ours."""

    def showed(disabled: list[str]) -> bool:
        def make(ids: list[str] = THREE, **options: object) -> GuardedLab:
            for stock in ("snapshot_bytes", "compact_entries", "membership"):
                options.pop(stock, None)
            return GuardedLab(ids, disabled=disabled, **options)  # type: ignore[arg-type]

        try:
            test("ours", make)
        except AssertionError as error:
            return "it shows on ours" in str(error)
        return False

    showed.__name__ = test.__name__
    return showed


def acknowledgement_of_an_old_term(disabled: list[str]) -> bool:
    """n2's acknowledgements of term 1 arrive when n1 leads again, in term 3, and has written as far once more."""
    lab = GuardedLab(FIVE, disabled=disabled)
    lab.elect("n1", ["n2", "n3"])
    lab.flow(FIVE)
    for _ in range(6):
        lab.command("n1")
        lab.tick("n1")
    lab.beat("n1")
    lab.give("n1", "n2")
    stale = lab.take("n2", "n1")
    for node in ("n3", "n4", "n5"):
        lab.drop("n1", node)
    lab.elect("n4", ["n3", "n5"])
    lab.drop("n4", "n2")
    for _ in range(4):
        for node in ("n1", "n3", "n5"):
            lab.beat("n4")
            lab.give("n4", node)
            lab.give(node, "n4")
            lab.drop("n4", "n2")
    lab.sent.clear()
    lab.elect("n1", ["n3", "n5"])
    for _ in range(8):
        lab.command("n1")
        lab.tick("n1")
    for node in ("n2", "n4", "n5"):
        lab.drop("n1", node)
        lab.drop(node, "n1")
    lab.sent["n2", "n1"].extend(stale)
    lab.give("n2", "n1")
    lab.give("n1", "n3")
    lab.give("n3", "n1")
    lab.tick("n1")
    lab.tick("n1")
    return any(lab.acknowledged.values())  # n1 and n3 hold them: two of five


def leader_heard_by_all_but_one(disabled: list[str]) -> bool:
    """n3 has no link to the leader and one to n2, which hears it well: nothing is wrong with that leader."""
    lab = GuardedLab(THREE, disabled=disabled)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    term = lab.term("n1")
    lab.unlink("n1", "n3")
    lab.flow(THREE, rounds=60, seconds=0.1)
    return lab.term("n2") > term


def node_that_was_isolated(disabled: list[str]) -> bool:
    """n3 hears nobody for ten seconds, and is back: the term must not have risen for that."""
    lab = GuardedLab(THREE, disabled=disabled)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    term = lab.term("n1")
    for _ in range(100):
        lab.beat(*THREE, seconds=0.1)
        lab.give("n1", "n2")
        lab.give("n2", "n1")
        for other in ("n1", "n2"):
            lab.drop("n3", other)
            lab.drop(other, "n3")
    lab.flow(THREE, rounds=20, seconds=0.1)
    return lab.term("n1") > term


def removal_before_an_entry_of_the_term(disabled: list[str]) -> bool:
    """n1 adds n5 and is cut off with it; n2, elected, removes n1 at once, committed by n3 alone; n2 dies. By its own
    configuration n1 wins with n4 and n5, and overwrites what was committed (Ongaro, raft-dev, July 2015)."""
    lab = GuardedLab(FIVE, boot=FOUR, disabled=disabled)
    lab.elect("n1", ["n2", "n3", "n4"])
    lab.flow(FIVE)
    for node in ("n2", "n3", "n4"):
        lab.unlink("n1", node)
        lab.unlink("n5", node)
    lab.add("n1", "n5")
    lab.flow(["n1", "n5"])
    lab.clock.now += 1.5
    lab.nodes["n2"].engine.campaign()
    lab.tick("n2")
    for voter in ("n3", "n4"):
        lab.give("n2", voter)
        lab.give(voter, "n2")
    assert lab.is_leader("n2")
    lab.nodes["n2"].change_voters(Change("rem", "n1"), lambda done: None)
    lab.drop("n2", "n4")
    lab.unlink("n2", "n4")
    for _ in range(3):
        lab.beat("n2")
        lab.give("n2", "n3")
        lab.give("n3", "n2")
    committed = lab.log("n2")[: lab.commit("n2")]
    lab.crash("n2")
    lab.link("n1", "n4")
    lab.elect("n1", ["n4", "n5"])
    lab.flow(["n1", "n4", "n5"])
    return lab.log("n1")[: len(committed)] != committed


def voter_that_is_far_behind(disabled: list[str]) -> bool:
    """A new voter that has nothing yet counts for the majority at once."""
    lab = GuardedLab(FOUR, boot=THREE, disabled=disabled)
    lab.unlink("n1", "n4")
    lab.elect("n1", ["n2"])
    for _ in range(5):
        lab.command("n1")
        lab.flow(THREE, rounds=1)
    lab.link("n1", "n4")
    return lab.add("n1", "n4")


def removal_that_only_the_removed_one_holds(disabled: list[str]) -> bool:
    """n1 removes n2 and loses power before the entry is on its disk: the two need each other to go on."""
    lab = GuardedLab(["n1", "n2"], disabled=disabled)
    lab.elect("n1", ["n2"])
    lab.flow(["n1", "n2"])
    slow_disk(lab, "n1")
    assert lab.nodes["n1"].change_voters(Change("rem", "n2"), lambda done: None)
    lab.beat("n1")
    lab.give("n1", "n2")
    lab.crash("n1")
    lab.start("n1")
    lab.flow(["n1", "n2"], rounds=200)
    return not lab.is_leader("n1") and not lab.is_leader("n2")


def slow_disk(lab: GuardedLab, node: str) -> None:
    """From now on nothing reaches the node's disk before `lab.logs[node].complete()`."""
    lab.logs[node]._auto = False


def acknowledged_before_it_was_durable_here(disabled: list[str]) -> bool:
    """The leader's disk is the slowest: all have acknowledged when its own ticket is done. It must not take one more
    round trip, and, should the links be gone, not for ever."""
    lab = GuardedLab(THREE, disabled=disabled)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    slow_disk(lab, "n1")
    command = lab.command("n1")
    lab.beat("n1")
    for node in ("n2", "n3"):
        lab.give("n1", node)
        lab.give(node, "n1")
        lab.unlink("n1", node)
    lab.logs["n1"].complete()
    lab.settle("n1")
    lab.tick("n1")
    return command not in lab.acknowledged


def slow_follower_says_nothing(disabled: list[str]) -> bool:
    """A follower whose disk is slow must still answer, or a healthy leader steps down for want of answers."""
    lab = GuardedLab(THREE, disabled=disabled)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    slow_disk(lab, "n2")
    lab.command("n1")
    lab.beat("n1")
    lab.give("n1", "n2")
    lab.take("n2", "n1")
    answers = 0
    for _ in range(5):
        lab.beat("n1")
        lab.give("n1", "n2")
        answers += len(lab.take("n2", "n1"))
    return answers == 0


def knowledge_of_an_older_term(disabled: list[str]) -> bool:
    """A leader that has restarted asks a majority for the time; they know it from a term before its last entry's."""
    boot = [1_000.0]
    clock = ClusterTime(lambda: boot[0], lambda: 9_000.0, disabled)
    clock.answered("n2", 3, 9_000.0, Known(4_000.0, 1))
    stamp = clock.stamp(3, 5_000.0, THREE, "n1")
    assert stamp is not None
    return stamp < 5_000.0


def catch_up_over_a_slow_link(disabled: list[str]) -> tuple[int, int]:
    """n1 has a divergent tail of some batches; messages between it and the leader take five rounds. Rounds until their logs
    are equal (100 when they never are), and entries that were sent meanwhile."""
    lab = GuardedLab(THREE, batch_bytes=100, disabled=disabled)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    for _ in range(10):
        lab.command("n1")
        lab.tick("n1")
    lab.sent.clear()
    lab.elect("n2", ["n3"])
    for _ in range(10):
        lab.command("n2")
        lab.flow(["n2", "n3"], rounds=1)
    lab.drop("n2", "n1")
    there: deque[list[Message]] = deque([[] for _ in range(5)])
    back: deque[list[Message]] = deque([[] for _ in range(5)])
    sent = 0
    for rounds in range(100):
        lab.beat(*THREE, seconds=0.05)
        there.append(lab.take("n2", "n1"))
        back.append(lab.take("n1", "n2"))
        sent += sum(len(message.get("entries", ())) for message in there[-1])
        for message in there.popleft():
            lab.deliver("n2", "n1", message)
        for message in back.popleft():
            lab.deliver("n1", "n2", message)
        lab.give("n2", "n3")
        lab.give("n3", "n2")
        if lab.log("n1") == lab.log("n2"):
            return rounds, sent
    return 100, sent


def everything_is_sent_again_and_again(disabled: list[str]) -> bool:
    """Each append that is under way is refused, and each refusal has all of it sent once more."""
    return catch_up_over_a_slow_link(disabled)[1] > 60


def divergent_tail_is_found_one_by_one(disabled: list[str]) -> bool:
    """A refusal that names only the entry before: one round trip for each entry of the tail."""
    return catch_up_over_a_slow_link(disabled)[0] > 60


SCHEDULES: Final[dict[str, Schedule]] = {
    "ack_term": acknowledgement_of_an_old_term,
    "barrier": everything_is_sent_again_and_again,
    "reset_hint": divergent_tail_is_found_one_by_one,
    "snapshot_clamp": hazard(test_hazards.test_h4_a_snapshot_that_did_not_arrive_is_not_acknowledged),
    "vote_check": hazard(test_hazards.test_h18_votes_count_once_and_only_of_voters),
    "tell_term": hazard(test_hazards.test_h17_a_deposed_leader_is_told),
    "pre_vote": node_that_was_isolated,
    "sticky": leader_heard_by_all_but_one,
    "one_change": hazard(test_hazards.test_h8_one_change_of_the_voters_at_a_time),
    "no_op_first": removal_before_an_entry_of_the_term,
    "caught_up": voter_that_is_far_behind,
    "withhold": removal_that_only_the_removed_one_holds,
    "late_ack": acknowledged_before_it_was_durable_here,
    "time_floor": knowledge_of_an_older_term,
    "ack_copy": slow_follower_says_nothing,
}
"""guard -> a schedule that goes wrong without it."""


def killed_by(guard: str) -> str | None:
    """What fails without this guard: the seed or the schedule, and how. None when nothing does."""
    schedule = SCHEDULES.get(guard)
    if schedule is not None:
        return f"schedule {schedule.__name__}" if schedule([guard]) and not schedule([]) else None
    for seed in range(SEEDS if guard in PROFILES else 0):
        violations = simulate(PROFILES[guard], seed, [guard]).violations
        if violations:
            return f"--profile {PROFILES[guard]} --seed {seed} --without {guard}: {violations[0]}"
    return None
