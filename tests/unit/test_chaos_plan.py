"""What a run of `./run chaos` will do, before it does it."""

from __future__ import annotations

import pytest

from tests.chaos.analysis import Verdict
from tests.chaos.campaign import Plan, schedule, shortcomings
from tests.chaos.faults import KINDS
from tests.checkers.gaps import Gap, Loss

LONG = Plan(seed=1, size=3, seconds=600, long=True)


def test_a_round_has_every_kind_once_in_an_order_that_the_seed_gives() -> None:
    rounds = [[kind.name for kind in schedule(LONG.kinds, seed)] for seed in range(20)]
    assert all(sorted(names) == sorted(kind.name for kind in KINDS) for names in rounds)
    assert len({tuple(names) for names in rounds}) == 20
    assert rounds[7] == [kind.name for kind in schedule(LONG.kinds, 7)]


def test_a_member_is_removed_after_it_was_added() -> None:
    for seed in range(20):
        names = [kind.name for kind in schedule(LONG.kinds, seed)]
        assert names.index("add member") < names.index("remove member")


def test_only_takes_these_kinds_alone() -> None:
    assert LONG.kinds == LONG._replace(long=False).kinds == KINDS
    assert [kind.name for kind in LONG._replace(only=("SIGSTOP",)).kinds] == ["SIGSTOP"]


def test_in_a_long_run_every_place_has_a_long_fault_now_and_then() -> None:
    for place in range(len(KINDS)):
        assert sum(LONG.lasts_long(rounds, place) for rounds in range(12)) == 2
    assert not any(LONG._replace(long=False).lasts_long(rounds, 0) for rounds in range(12))


GOOD = Verdict({"a check": 5}, [], 1, Gap(1.0, Loss(0, "SIGKILL of mx1")))


def test_a_run_that_proves_enough_has_no_shortcomings() -> None:
    assert shortcomings(GOOD, {"kill -9": 1}) == []


@pytest.mark.parametrize(
    ("verdict", "faults", "words"),
    [
        (GOOD, {"kill -9": 0}, "no fault of the kind 'kill -9' took place"),
        (Verdict({"a check": 0}, [], 1, GOOD.gap), {}, "nothing was checked: a check"),
        (Verdict({}, [], 0, GOOD.gap), {}, "the leader never changed"),
        (Verdict({}, [], 1, None), {}, "no leader was lost"),
        (Verdict({}, [], 1, Gap(61.0, Loss(0, "SIGKILL of mx1"))), {}, "nobody could write for 61.0 s"),
    ],
)
def test_a_run_that_proves_too_little_says_why(verdict: Verdict, faults: dict[str, int], words: str) -> None:
    found = shortcomings(verdict, faults)
    assert len(found) == 1 and words in found[0]
