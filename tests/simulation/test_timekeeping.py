"""The account of cluster time: what a change of leader may do to it, and what not."""

from __future__ import annotations

from tests.simulation.timekeeping import Note, Sample, Timekeeping

VOTERS = frozenset({"n1", "n2", "n3"})


def told(stamped: int) -> list[str]:
    """n1 led term 5, a second late, and restarted; now it leads term 6 and has asked n3, which knows only term 4's time.

    `stamped`: the last term of which a stamp is, or will be, committed.
    """
    violations: list[str] = []
    account = Timekeeping(lambda kind, detail: violations.append(f"{kind}: {detail}"))
    account.heard("n1", 4, Note(10.0, Sample(4, 10.0, 10.0, 1)), 11.0)
    account.begins("n1", 5, 11.0, VOTERS, 4)
    account.stamped("n1", 1, 5, 10_000, 11.0, 11.0)
    account.restarted("n1")
    account.answered("n1", "n3", 6, Note(12.0, Sample(4, 10.0, 10.0, 1)), 12.0)
    account.begins("n1", 6, 12.0, VOTERS, stamped)
    account.stamped("n1", 2, 6, 12_000, 12.0, 12.0)
    account.check([(1, 5), (2, 6)])
    return violations


def test_time_may_leap_by_what_a_leader_was_late_whose_time_nobody_knows_any_more() -> None:
    assert told(stamped=5) == []


def test_time_that_makes_up_for_what_was_lost_before_the_last_stamp_is_too_fast() -> None:
    assert [text.partition(":")[0] for text in told(stamped=4)] == ["time too fast"]
