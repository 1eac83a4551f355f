"""What the log keeps for members that are being sent a snapshot.

A snapshot of millions of rows takes seconds to send and to install. What is committed meanwhile is cut behind checkpoints as
always; a member that finds the log begun after its snapshot needs another one, and under load never catches up. (Raft's
dissertation, section 5.1: a slow follower, and how much of the log to retain for it.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raftcluster import limits


@dataclass(slots=True)
class _Hold:
    index: int
    """It has, or will have, all up to here."""
    since: float
    """Of its last progress."""


class Holding:
    """The leader's. Thread: tick thread only."""

    def __init__(self, now: Callable[[], float], match: Callable[[str], int | None]) -> None:
        """`match` tells up to where a member's log is known to be equal; None when that is not known."""
        self._now, self._match = now, match
        self._holds: dict[str, _Hold] = {}

    def begin(self, peer: str, index: int) -> None:
        """`peer` is being sent the tables as of `index`."""
        self._holds[peer] = _Hold(index, self._now())

    def clear(self) -> None:
        """This node leads no more: the next leader sends what it has."""
        self._holds.clear()

    def floor(self, enough: int) -> int | None:
        """The index behind which nothing may be cut; None when nothing is held. Who has all up to `enough` needs no hold any
        more, and who has made no progress for `LOG_HOLD_SECONDS` gets none."""
        now = self._now()
        for peer, hold in list(self._holds.items()):
            match = self._match(peer)
            if match is not None and match > hold.index:
                hold.index, hold.since = match, now
            arrived = match is not None and match >= max(hold.index, enough)  # None: its link is being replaced
            if arrived or now - hold.since > limits.LOG_HOLD_SECONDS:
                del self._holds[peer]
        return min((hold.index for hold in self._holds.values()), default=None)
