"""Who may ask for votes, and who gets one: pre-vote and leader stickiness (H17, H18).

Raft's dissertation, sections 9.6 and 4.2.3: a term is raised only by whoever could win it, and nobody votes while it
hears a leader. So a node that was cut off, or removed, never deposes a leader that nothing is wrong with.
"""

from __future__ import annotations

from collections.abc import Callable

from raftcluster.engine.guards import Message, Seam

NEVER = float("-inf")


class Election:
    """One node's part in elections. Thread: tick thread only."""

    def __init__(
        self,
        seam: Seam,
        send: Callable[[str, Message], bool],
        now: Callable[[], float],
        linked: set[str],
        tell_term: Callable[[str], None],
        *,
        sticky_seconds: float,
        sticky: bool,
    ) -> None:
        self._seam, self._send, self._now, self._linked, self._tell_term = seam, send, now, linked, tell_term
        self._sticky_seconds, self._sticky_on = sticky_seconds, sticky
        self.leader_heard = NEVER
        """When an append of the current term came last."""
        self.transfer_term = -1
        """The term whose leader asked this node to campaign at once; -1 when none did."""
        self._round = 0
        self._grants: set[str] = set()

    def sticky(self) -> bool:
        """Whether a leader is alive as far as this node knows."""
        return self._sticky_on and (self._seam.is_leader or self._heard_lately())

    def _heard_lately(self) -> bool:
        return self._now() - self.leader_heard < self._sticky_seconds

    def vote_requested(self, peer: str, message: Message) -> None:
        """A candidate asks. What passes here goes to the engine, which keeps the vote."""
        if not message.get("transfer") and self.sticky():
            return
        if message["term"] < self._seam.term:
            self._tell_term(peer)
            return
        self._seam.hand(peer, message)

    def ask(self) -> bool:
        """Begin a round of pre-votes. True when this node wins it alone."""
        seam = self._seam
        self._round += 1
        self._grants = set()
        _, index, term = seam.journal.last
        question = {"type": "pre_vote", "term": seam.term + 1, "index": index, "last_term": term, "round": self._round}
        for peer in sorted(seam.others & self._linked):
            self._send(peer, question)
        return self._won()

    def _won(self) -> bool:
        return (len(self._grants) + 1) * 2 > len(self._seam.others) + 1

    def asked(self, peer: str, message: Message) -> None:
        """A peer wants to know whether it would get this node's vote."""
        seam = self._seam
        if message["term"] <= seam.term:
            self._tell_term(peer)
            return
        _, index, term = seam.journal.last
        if (message["last_term"], message["index"]) >= (term, index) and not self.sticky():
            self._send(peer, {"type": "pre_vote_grant", "round": message["round"], "term": message["term"]})

    def granted(self, peer: str, message: Message) -> None:
        """A peer would vote for this node."""
        seam = self._seam
        if message["round"] != self._round or message["term"] != seam.term + 1 or seam.is_leader:
            return
        if peer not in seam.others or self._heard_lately():
            return
        self._grants.add(peer)
        if self._won():
            seam.campaign()
