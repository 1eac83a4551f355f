"""Each checker accepts a good history and finds the violation that was planted in it."""

from __future__ import annotations

from itertools import count

import pytest

from tests.checkers import gaps, greylisting, leadership, once, order, sessions, tables
from tests.checkers.gaps import Loss
from tests.checkers.greylisting import Check, Look, Rules
from tests.checkers.leadership import Sample
from tests.checkers.once import Attempt
from tests.checkers.order import Numbered
from tests.checkers.sessions import Sight
from tests.checkers.tables import Digest

RULES = Rules(delay=4)


def one(found: list[str], words: str) -> None:
    assert len(found) == 1 and words in found[0], found


def test_numbers_follow_real_time() -> None:
    good = [Numbered(0, 5, 2, "a"), Numbered(1, 2, 1, "b"), Numbered(3, 4, 3, "c"), Numbered(6, 7, 4, "d")]
    assert order.violations(good) == []
    one(order.violations([*good, Numbered(8, 9, 2, "e")][1:]), "before it was called")
    assert any("was given to" in text for text in order.violations([*good, Numbered(6, 9, 4, "e")]))


def test_operations_are_carried_out_once() -> None:
    attempts = [
        Attempt("a", "done", 1),
        Attempt("a", "unknown"),
        Attempt("b", "never"),
        Attempt("c", "unknown"),
        Attempt("d", "done", 2),
    ]
    counts, places = {"a": 1, "d": 1}, {"a": 1, "d": 2}
    assert once.violations(attempts, counts, places) == []
    assert once.violations(attempts, counts | {"c": 1}, places | {"c": 3}) == []
    one(once.violations(attempts, counts | {"a": 2}, places), "a was carried out 2 times")
    one(once.violations(attempts, {"a": 1}, places), "d was acknowledged and is lost")
    one(once.violations(attempts, counts | {"b": 1}, places), "told that it never will be")
    one(once.violations(attempts, counts | {"x": 1}, places), "nobody has asked for it")
    one(once.violations(attempts, counts, {"a": 1, "d": 3}), "a client was told 2")


def test_sessions_never_go_back() -> None:
    good = [Sight("s", "key", 4), Sight("s", "key", 7, "write"), Sight("other", "key", 3), Sight("s", "key", 7)]
    assert sessions.violations(good) == []
    one(sessions.violations([*good, Sight("s", "key", 6)]), "after its own read of 7")
    one(sessions.violations([*good[:2], Sight("s", "key", 5)]), "after its own write of 7")


def test_a_term_has_one_leader() -> None:
    good = [
        Sample(1, "a", "a1", 1, "a", True),
        Sample(2, "b", "b1", 1, "a", False),
        Sample(3, "b", "b1", 2, "b", True),
        Sample(4, "a", "a1", 1, "a", True),  # it has not heard of its successor
        Sample(5, "a", "a1", 2, None, False),
    ]
    assert leadership.violations(good) == []
    assert leadership.changes(good) == 1
    one(leadership.violations([*good, Sample(6, "c", "c1", 2, "c", True)]), "two leaders")
    one(leadership.violations([*good, Sample(6, "c", "c1", 1, "b", False)]), "two leaders")


def test_terms_do_not_go_back() -> None:
    history = [Sample(1, "a", "a1", 4, "a", True), Sample(2, "a", "a1", 6, None, False)]
    one(leadership.violations([*history, Sample(3, "a", "a1", 5, None, False)]), "goes back from term 6 to 5")
    heard_of_only = Sample(3, "a", "a2", 5, None, False)
    assert leadership.violations([*history, heard_of_only]) == []
    one(leadership.violations([*history, heard_of_only._replace(term=3)]), "goes back from term 4 to 3")


def test_equal_entries_make_equal_tables() -> None:
    good = [Digest("a", 10, "x"), Digest("b", 10, "x"), Digest("a", 20, "y")]
    assert tables.violations(good) == []
    assert tables.compared(good) == 1
    one(tables.violations([*good, Digest("b", 20, "z")]), "after entry 20 a and b")


def history() -> tuple[list[Check], list[Look]]:
    checks = [
        Check("t", 0, 0.1, "defer", "new", request="mx1 i1"),
        Check("t", 0.2, 0.3, "defer", "new", request="mx1 i1"),
        Check("t", 2, 2.1, "defer", "early"),
        Check("t", 3, 5, None),
        Check("t", 5, 5.1, "pass", "waited", 4),
        Check("t", 9, 9.1, "pass", "known"),
    ]
    return checks, [Look("t", 1, 1.1, 1000), Look("t", 6, 6.1, 1000)]


def test_greylisting_as_it_should_be() -> None:
    assert greylisting.violations(*history(), RULES) == []


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        (Check("t", 10, 10.1, "defer", "new"), "though it had been accepted"),
        (Check("t", 1, 1.1, "pass", "waited", 4), "passed 1.100 s after the first attempt"),
        (Check("t", 5, 5.2, "pass", "waited", 3), "passed after 3 s of cluster time"),
        (Check("t", 0.5, 0.6, "defer", "early", request="mx1 i1"), "was told defer new, then defer early"),
        (Look("t", 7, 7.1, 1001), "first seen moved"),
        (Look("t", 7, 7.1, None), "forgotten"),
    ],
)
def test_what_greylisting_must_not_do(planted: Check | Look, words: str) -> None:
    checks, looks = history()
    if isinstance(planted, Check):
        checks.append(planted)
    else:
        looks.append(planted)
    assert any(words in text for text in greylisting.violations(checks, looks, RULES))


def test_a_wait_that_does_not_end_is_found() -> None:
    waiting = [Check("t", at, at + 0.1, "defer", "early") for at in (0.0, 3.0, 5.0, 5.5)]
    one(greylisting.violations(waiting, [], RULES), "deferred 5.400 s after the first answer")


def test_a_repeated_request_is_told_what_was_decided_when_its_first_answer_was_lost() -> None:
    first = Check("t", 2, 4, None, request="mx1 i2")
    again = Check("t", 5.2, 5.3, "defer", "early", request="mx1 i2")
    checks = [Check("t", 0, 0.1, "defer", "new"), first, Check("t", 5, 5.1, "pass", "waited", 4)]
    assert greylisting.violations([*checks, again], [], RULES) == []
    one(greylisting.violations([*checks, again._replace(request="mx1 i3")], [], RULES), "though it had been accepted")


def test_a_record_that_an_answer_promised_is_missed() -> None:
    one(greylisting.violations([Check("t", 0, 1, "defer", "new")], [Look("t", 2, 3, None)], RULES), "forgotten")
    assert greylisting.violations([Check("t", 0, 1, None)], [Look("t", 2, 3, None)], RULES) == []


def test_checks_are_counted_once() -> None:
    assert greylisting.count_violations(10, 2, 12) == []
    one(greylisting.count_violations(10, 2, 13), "counted 13")
    one(greylisting.count_violations(10, 2, 9), "counted 9")


def test_the_longest_time_without_writes_after_a_loss() -> None:
    ticks = count()
    writes = [(float(at), at + 0.1) for at in (next(ticks), next(ticks), 7, 8)]
    found = gaps.worst([Loss(0.5, "killed"), Loss(1.5, "cut off")], writes)
    assert found is not None and found.loss.what == "cut off" and found.seconds == pytest.approx(5.6)
    assert gaps.worst([], writes) is None
    never = gaps.worst([Loss(9, "killed")], writes)
    assert never is not None and never.seconds == float("inf")
