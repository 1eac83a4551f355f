"""Cluster time: the cluster's own clock, in which waits and lives are measured. Never one host's wall clock.

Theory of operation. Every append carries the leader's cluster time; each node notes it together with its own
CLOCK_BOOTTIME, which no administrator sets and which runs on while a machine is suspended. The leader advances the time
by elapsed boot time; its successor continues from the last time it heard. Wall clocks only *steer*: the rate follows the
lower median of a quorum's wall clocks by at most 5 %, so that the clock of one host decides nothing.

Guarantee: stamps never decrease; they are off by at most one message delay per change of leader; no wall clock decides.

Rules (numbers as in docs/divergences.md):

17. a leader stamps max(noted + elapsed, last stamp in its own log); what it notes itself runs on at its rate, until the
    gap is closed that the rate is for, also when it leads again in another term;
18. within a term a follower notes max(heard, noted + 0.95 x elapsed): a message may be late or doubled;
19. the rate is changed by at most 5 %;
20. a restarted leader stamps nothing until a quorum has answered; of what they know it takes the latest term's time, and
    wall clocks (their lower median) only when nobody in that quorum knows the time;
21. the wall clock in a message is read when the message leaves, not when it is queued.

All times are milliseconds as floats here; a stamp in the log is an integer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from raftcluster import limits

FRESH_MS = 5_000.0
"""A peer's wall clock counts towards the median for this long."""
CEILING_MS = float(limits.TIME_MS)
"""Time stops here: what is told stays what `wire` accepts, and what machines can store, whatever this node was told."""
CORRECTION_MS = 5_000.0
"""The rate aims at closing the gap to the median in this time, within the slew."""


class Known(NamedTuple):
    """What a node knows of cluster time, as it travels in an answer."""

    time: float
    term: int
    """The term in which it was heard; the latest term's knowledge is the best."""


class _Answer(NamedTuple):
    wall: float
    at: float
    term: int
    known: Known | None


class ClusterTime:
    """One node's view. Thread: tick thread only. `boot` and `wall` return milliseconds."""

    def __init__(self, boot: Callable[[], float], wall: Callable[[], float], disabled: Collection[str] = ()) -> None:
        self._boot, self._wall = boot, wall
        self._disabled = frozenset(disabled)
        self._time: float | None = None
        self._noted_at = 0.0
        self._term = -1
        """The term that `_time` comes from."""
        self._leading = -1
        """The last term in which this node stamped."""
        self._rate = 1.0
        """How this node runs from its note on, while it steers; 1 for a note that it was told."""
        self._answers: dict[str, _Answer] = {}

    def _elapsed(self) -> float:
        return self._boot() - self._noted_at

    def _here(self) -> float:
        """What was noted, and what has passed since. A rate is for closing a gap, so it holds for as long as that takes: a
        leader that was cut off for an hour is not three minutes off when it returns."""
        assert self._time is not None
        elapsed = self._elapsed()
        return self._time + elapsed + (self._rate - 1.0) * min(elapsed, CORRECTION_MS)

    def _note(self, time: float, term: int) -> None:
        self._time, self._noted_at, self._term = min(time, CEILING_MS), self._boot(), term

    def now(self) -> float | None:
        """The best estimate, None when this node has heard of no time yet.

        Invariant: the next stamp is not below it, in whichever term; what an append of a new leader carries before its first
        stamp is on the same course as that stamp.
        """
        return None if self._time is None else min(self._here(), CEILING_MS)

    # ---- follower

    def heard(self, term: int, time: float) -> None:
        """An append of `term` carried `time`."""
        if self._time is not None and term == self._term and "late_time" not in self._disabled:
            time = max(time, self._time + self._elapsed() * (1 - limits.CLOCK_SLEW))
        self._note(time, term)
        self._rate = 1.0

    def known(self) -> Known | None:
        """What to tell a leader that asks."""
        now = self.now()
        return None if now is None else Known(now, self._term)

    def wall(self) -> float:
        """This host's wall clock, to be read when a message leaves."""
        return self._wall()

    # ---- leader

    def answered(self, peer: str, term: int, wall: float, known: Known | None) -> None:
        """`peer` answered an append of this node's `term`."""
        self._answers[peer] = _Answer(wall, self._boot(), term, known)

    def stamp(self, term: int, last: float, voters: Collection[str], me: str) -> float | None:
        """The time to stamp an entry (or an append) of `term` with; None while it is not known (rule 20).

        `last` is the greatest stamp in this node's log and tables.
        """
        if self._time is None and not self._learn(term, last, voters, me):
            return None
        time = self._here()
        if self._leading != term:  # first use in this term
            self._leading, self._rate = term, 1.0
            if "time_floor" not in self._disabled:
                time = max(time, last)
        median = self._median(term, voters, me)
        if median is not None:
            slew = limits.CLOCK_SLEW
            self._rate = 1.0 + max(-slew, min(slew, (median - time) / CORRECTION_MS))
        self._note(time, term)
        return self._time

    def skews(self, term: int, voters: Collection[str], me: str) -> dict[str, float]:
        """How far each wall clock is off the quorum's median, in milliseconds; empty without a fresh quorum. Leader only."""
        median = self._median(term, voters, me)
        if median is None:
            return {}
        now = self._boot()
        walls = {me: self._wall()} | {
            peer: answer.wall + (now - answer.at)
            for peer, answer in self._answers.items()
            if answer.term == term and now - answer.at < FRESH_MS
        }
        return {peer: wall - median for peer, wall in walls.items()}

    def _fresh(self, term: int, voters: Collection[str], me: str) -> list[_Answer]:
        now = self._boot()
        return [
            a for p, a in self._answers.items() if p in voters and p != me and a.term == term and now - a.at < FRESH_MS
        ]

    def _median(self, term: int, voters: Collection[str], me: str) -> float | None:
        """The lower median of a quorum's wall clocks, this host's included."""
        now = self._boot()
        walls = [self._wall()] + [a.wall + (now - a.at) for a in self._fresh(term, voters, me)]
        if 2 * len(walls) <= len(voters):
            return None
        return sorted(walls)[(len(walls) - 1) // 2]

    def _learn(self, term: int, last: float, voters: Collection[str], me: str) -> bool:
        median = self._median(term, voters, me)
        if median is None:
            return False
        now = self._boot()
        told = [
            (a.known.term, a.known.time + (now - a.at)) for a in self._fresh(term, voters, me) if a.known is not None
        ]
        if told:
            best = max(told)
            self._note(best[1], best[0])
        else:
            self._note(max(last, median), term)
        return True
