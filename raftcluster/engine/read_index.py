"""ReadIndex: what a linearizable read must wait for (Raft's dissertation, section 6.4).

A leader notes its commit index, has a quorum confirm that it still leads, and only then answers with that index. It must
have committed an entry of its own term before, or it would not know what is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raftcluster.engine.guards import Message, Seam


@dataclass(slots=True)
class _Read:
    term: int
    index: int
    done: Callable[[int | None], None]


class ReadIndex:
    """One node's, leader or not. Thread: tick thread only."""

    def __init__(self, seam: Seam, send: Callable[[str, Message], bool], linked: set[str]) -> None:
        self._seam, self._send, self._linked = seam, send, linked
        self._reads: dict[int, _Read] = {}
        self._acks: dict[str, tuple[int, int]] = {}
        """peer -> (term, number) of the newest probe it has answered: it counts for all reads before, too, whose own probe
        may be lost."""
        self._number = 0

    def ask(self, done: Callable[[int | None], None]) -> None:
        """Call `done` with the index that the read must have applied, or with None: not the leader (any more)."""
        seam = self._seam
        committed = seam.journal.get(seam.commit_index)
        if not seam.is_leader or committed is None or committed[2] != seam.term:
            done(None)
            return
        self._number += 1
        self._reads[self._number] = _Read(seam.term, seam.commit_index, done)
        for peer in sorted(seam.others & self._linked):
            self._send(peer, {"type": "read_probe", "term": seam.term, "number": self._number})

    def link_up(self, peer: str) -> None:
        """There is a link to `peer`: a probe may have been lost with the one before, or was never sent."""
        if self._reads and self._seam.is_leader and peer in self._seam.others:
            self._send(peer, {"type": "read_probe", "term": self._seam.term, "number": self._number})

    def probed(self, peer: str, message: Message) -> None:
        """A peer wants to know whether it still leads."""
        if message["term"] == self._seam.term and self._seam.leader == peer:
            self._send(peer, {"type": "read_ack", "term": message["term"], "number": message["number"]})

    def acknowledged(self, peer: str, message: Message) -> None:
        """A voter says that this node still leads."""
        ack = (message["term"], message["number"])
        if ack[0] == self._seam.term and ack[1] <= self._number and peer in self._seam.others:
            self._acks[peer] = max(ack, self._acks.get(peer, ack))

    def settle(self) -> None:
        """Answer the reads that a quorum has confirmed, and those that will never be."""
        if not self._reads:
            return
        seam = self._seam
        confirmed = self._confirmed()
        for number in list(self._reads):
            read = self._reads[number]
            if not seam.is_leader or read.term != seam.term:
                del self._reads[number]
                read.done(None)
            elif number <= confirmed:
                del self._reads[number]
                read.done(read.index)

    def _confirmed(self) -> int:
        """The newest read that a quorum has confirmed in this term; 0 for none."""
        seam = self._seam
        needed = (len(seam.others) + 1) // 2  # with this node a majority
        if needed == 0:
            return self._number
        numbers = sorted(n for p, (term, n) in self._acks.items() if term == seam.term and p in seam.others)
        return numbers[-needed] if len(numbers) >= needed else 0
