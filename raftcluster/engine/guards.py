"""The names of all guards, and what they need of the engine."""

from __future__ import annotations

from typing import Any, Protocol

from raftcluster.engine.journal import Journal

Message = dict[str, Any]
"""As it travels: `type`, and the fields that `wire` checks."""

GUARDS = {
    "ack_term": "H3: an acknowledgement of another term does not count",
    "trim": "H2: the matching prefix of an append is not written again, reply and commit are clamped to what was verified",
    "barrier": "H15: one reset of nextIndex per round trip",
    "reset_hint": "H15: a reset asks for commit + 1, never for less",
    "snapshot_clamp": "H1, H4, H5: an offer of a snapshot neither commits, acknowledges nor discards anything",
    "vote_check": "H18: votes are counted once, and only of voters",
    "tell_term": "H17: whoever speaks for an old term is told the new one",
    "sticky": "H17: no vote while a leader is heard",
    "pre_vote": "H17: a term is raised only by whoever could win it",
    "only_voters": "H18: only a voter campaigns",
    "one_change": "H8: one change of the voters at a time",
    "no_op_first": "H8: no change before an entry of this term is committed",
    "caught_up": "H8: a voter is added once its log has caught up",
    "withhold": "a removal reaches whom it removes once it is committed: until then the others may need its vote",
    "self_clamp": "rule 6: acknowledgements count up to this leader's own durable index",
    "late_ack": "rule 6: what was clamped counts once it is durable here",
    "ack_gate": "rule 4: an acknowledgement beyond the durable index waits for its ticket",
    "ack_copy": "rule 4: a copy clamped to the durable index leaves at once, when no answer has for a heartbeat",
    "vote_request_gate": "rule 3: a request for votes waits for the ticket that covers it",
    "vote_grant_gate": "rule 3: a vote waits for the ticket that covers it",
    "patience": "rule 8: an election waits as long as disks take here",
    "single": "rule 7: a cluster of one waits for its own disk",
    "applied": "H13: the applied index starts at the checkpoint's",
    "recover": "rule 15: tables win",
    "late_time": "rule 18: within a term the time heard does not fall behind its slowest possible course",
    "time_floor": "rule 17: a stamp is never below the last one in the log",
}
"""Every guard, and what it mends."""


class Seam(Protocol):
    """What the guard needs of the engine; the seam file implements it with the engine's private names."""

    me: str
    journal: Journal

    @property
    def term(self) -> int: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def applied(self) -> int: ...
    @property
    def is_leader(self) -> bool: ...
    @property
    def is_candidate(self) -> bool: ...
    @property
    def leader(self) -> str | None: ...
    @property
    def others(self) -> frozenset[str]:
        """The voters by the engine's configuration, without this node."""

    def hand(self, peer: str, message: Message) -> None:
        """Give a message to the engine."""

    def next_index(self, peer: str) -> int | None: ...
    def set_next_index(self, peer: str, index: int) -> None: ...
    def match_index(self, peer: str) -> int | None: ...
    def raise_match(self, peer: str, index: int) -> None: ...
    def campaign(self) -> None:
        """Let the next tick start an election."""
