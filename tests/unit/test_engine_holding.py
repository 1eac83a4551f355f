"""For how long the log is kept for members that are being sent a snapshot."""

from __future__ import annotations

from raftcluster import limits
from raftcluster.engine.holding import Holding


class Leader:
    """A clock, and what is known of the members."""

    def __init__(self) -> None:
        self.now = 100.0
        self.matches: dict[str, int] = {"n3": 0}
        self.holding = Holding(lambda: self.now, self.matches.get)


def test_what_follows_a_snapshot_is_held_until_its_member_is_near_the_end() -> None:
    leader = Leader()
    assert leader.holding.floor(50) is None
    leader.holding.begin("n3", 10)
    assert leader.holding.floor(0) == 10, "nothing was heard of it yet"
    leader.matches["n3"] = 30
    assert leader.holding.floor(50) == 30, "what it has is not needed"
    leader.matches["n3"] = 50
    assert leader.holding.floor(50) is None and leader.holding.floor(60) is None


def test_the_slowest_counts_and_a_link_that_is_replaced_ends_nothing() -> None:
    leader = Leader()
    leader.holding.begin("n3", 10)
    leader.holding.begin("n4", 20)
    del leader.matches["n3"]
    assert leader.holding.floor(90) == 10
    leader.holding.clear()
    assert leader.holding.floor(90) is None


def test_without_progress_it_ends_and_progress_begins_the_time_anew() -> None:
    leader = Leader()
    leader.holding.begin("n3", 10)
    leader.now += limits.LOG_HOLD_SECONDS
    leader.matches["n3"] = 11
    assert leader.holding.floor(90) == 11
    leader.now += limits.LOG_HOLD_SECONDS
    assert leader.holding.floor(90) == 11
    leader.now += 0.1
    assert leader.holding.floor(90) is None
