"""The timing matrix on real hosts: what it takes for wrong, and what proves nothing."""

from __future__ import annotations

import pytest

from tests.chaos.timing import Answer, Pair, judge
from tests.checkers.greylisting import Rules

RULES = Rules(delay=10, tolerance=0.0)
FIRST = Answer(0.0, 0.1, "defer")
EARLY = Answer(9.0, 9.1, "defer")
LATE = Answer(11.1, 11.2, "pass")


def pair(first: Answer = FIRST, early: Answer = EARLY, late: Answer = LATE) -> Pair:
    return Pair("mx1", "mx2", first, early, late)


def test_deferred_before_and_passed_after_is_well() -> None:
    assert judge([pair(), pair()], RULES) == ([], 2)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (pair(early=EARLY._replace(action="pass")), "mx1 -> mx2: passed 9.100 s after its first attempt"),
        (pair(late=LATE._replace(action="defer")), "mx1 -> mx2: deferred 11.000 s after its first attempt"),
        (pair(first=FIRST._replace(action="pass")), "mx1 -> mx2: the first attempt passed"),
    ],
)
def test_a_wrong_verdict_is_seen(told: Pair, wrong: str) -> None:
    assert judge([pair(), told], RULES) == ([wrong], 2)


def test_an_early_check_that_was_answered_late_may_be_told_either() -> None:
    """An election has taken the second that was left."""
    for action in ("defer", "pass"):
        assert judge([pair(early=Answer(9.0, 9.6, action))], RULES) == ([], 0)


def test_cluster_time_may_be_slow_by_as_much_as_it_is_steered() -> None:
    assert judge([pair(late=Answer(10.5, 10.6, "defer"))], RULES) == ([], 1)
