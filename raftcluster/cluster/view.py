"""Reading the cluster's tables: the rows one by one, and all that a reconciler needs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from raftcluster import limits
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.records import Amendment, Destruction, Facts, Generation, Invitation, Member
from raftcluster.codec import unpack
from raftcluster.machine import ReadTables

MEMBERS: Final = "members"
TOKENS: Final = "tokens"
GENERATION: Final = "generation"
FACTS: Final = "facts"
CHAIN: Final = "chain"

INVITATIONS: Final = 256
"""Kept at once, used and expired ones included: bounds the scan that an invitation makes."""
GENERATIONS: Final = 16
"""Records of generations that are kept, for people; what a node needs of an older one is in the chain."""
LINKS: Final = 512
"""Links of the chain that are kept: years of renewals, and what a cluster of nine grows and shrinks by meanwhile. A token
or a node that knows only an older one cannot follow."""
REMOVED: Final = 1_000
"""Removed members that are remembered, so that a member list is one scan."""


def facts(tables: ReadTables) -> Facts | None:
    """The cluster's facts; None before genesis."""
    row = tables.get(FACTS, b"cluster")
    return None if row is None else Facts.unpack(row)


def revision(tables: ReadTables) -> int:
    """How many commands have been carried out: orders two views of these tables, also across restarts."""
    row = tables.get(FACTS, b"revision")
    return 0 if row is None else int(unpack(row))


def destruction(tables: ReadTables) -> Destruction | None:
    """The decision to dismantle the cluster; None while it lives."""
    row = tables.get(FACTS, b"destroyed")
    return None if row is None else Destruction.unpack(row)


def leaving(tables: ReadTables) -> str:
    """Node id of the member that is being taken out; "" when there is none."""
    row = tables.get(FACTS, b"leaving")
    node_id = "" if row is None else str(unpack(row))
    member = tables.get(MEMBERS, node_id.encode()) if node_id else None
    return "" if member is None or Member.unpack(member).role == "removed" else node_id


def members(tables: ReadTables) -> dict[str, Member]:
    """All members by node id, removed ones included."""
    rows = tables.scan(MEMBERS, limit=REMOVED + limits.VOTERS + 1)
    return {member.node_id: member for member in (Member.unpack(value) for _, value in rows)}


def invitations(tables: ReadTables) -> list[Invitation]:
    """All invitations that are remembered."""
    return [Invitation.unpack(value) for _, value in tables.scan(TOKENS, limit=INVITATIONS)]


def _invited(tables: ReadTables, time: int) -> int:
    coming = pending(tables)
    if coming is None or coming.phase != "collect" or not coming.joiners:
        return 0
    return sum(1 for each in invitations(tables) if not each.revoked and each.used_by is None and each.expires > time)


def invitation(tables: ReadTables, token_id: str) -> Invitation | None:
    """One invitation."""
    row = tables.get(TOKENS, token_id.encode())
    return None if row is None else Invitation.unpack(row)


def generation(tables: ReadTables, number: int) -> Generation | None:
    """One generation's record."""
    row = tables.get(GENERATION, number.to_bytes(4, "big"))
    return None if row is None else Generation.unpack(row)


def active(tables: ReadTables) -> Generation | None:
    """The generation in force; None before genesis."""
    row = tables.get(FACTS, b"active")
    return None if row is None else generation(tables, int(unpack(row)))


def pending(tables: ReadTables) -> Generation | None:
    """The generation that is on its way in; None when there is none."""
    row = tables.get(FACTS, b"pending")
    return None if row is None else generation(tables, int(unpack(row)))


def generations(tables: ReadTables) -> list[Generation]:
    """The generations that are remembered, the oldest first."""
    return [Generation.unpack(value) for _, value in tables.scan(GENERATION, limit=2 * GENERATIONS)]


def reported(tables: ReadTables) -> dict[str, list[str]]:
    """Node id -> the features that its program understands, as it has last said. See `features`."""
    row = tables.get(FACTS, b"features")
    return {} if row is None else dict(unpack(row))


def enabled(tables: ReadTables) -> list[str]:
    """The features that every member understands, or has understood."""
    row = tables.get(FACTS, b"enabled")
    return [] if row is None else list(unpack(row))


def last(tables: ReadTables, what: str) -> int:
    """A counter of `FACTS`: 0 before it was first set."""
    row = tables.get(FACTS, what.encode())
    return 0 if row is None else int(unpack(row))


def link(tables: ReadTables, sequence: int) -> Link | None:
    """One link of the chain."""
    row = tables.get(CHAIN, sequence.to_bytes(8, "big"))
    return None if row is None else Link.unpack(row)


def head(tables: ReadTables) -> Link | None:
    """The newest link of the chain; None before genesis."""
    return link(tables, last(tables, "head"))


def links(tables: ReadTables) -> list[Link]:
    """The chain, the oldest link first."""
    return [Link.unpack(value) for _, value in tables.scan(CHAIN, limit=LINKS + 1)]


def amendment(tables: ReadTables) -> Amendment | None:
    """The change of the chain's voters that is being endorsed."""
    row = tables.get(FACTS, b"amendment")
    return None if row is None else Amendment.unpack(row)


@dataclass(frozen=True, slots=True)
class View:
    """The tables at one moment, without the invitations. `View.read` is what `Host.query` is given."""

    facts: Facts | None
    revision: int
    members: dict[str, Member]
    active: Generation | None
    pending: Generation | None
    destruction: Destruction | None
    time: int
    """Cluster time, milliseconds."""
    leaving: str = ""
    """Node id of the member that is being taken out; "" when there is none."""
    head: Link | None = None
    """The newest link of the chain of manifests."""
    amendment: Amendment | None = None
    aborted: int = 0
    """Cluster time at which a generation was last given up; 0 for never."""
    newest: int = 0
    """The greatest number that a generation has had."""
    reported: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Node id -> features."""
    enabled: Sequence[str] = ()
    """Features, in order."""
    invited: int = 0
    """Hosts whose invitation is still open, while joiners are collected: they may come into the same generation."""

    @classmethod
    def read(cls, tables: ReadTables, time: int) -> Self:
        """All of it."""
        return cls(
            facts(tables),
            revision(tables),
            members(tables),
            active(tables),
            pending(tables),
            destruction(tables),
            time,
            leaving(tables),
            head(tables),
            amendment(tables),
            last(tables, "aborted"),
            last(tables, "last"),
            reported(tables),
            enabled(tables),
            _invited(tables, time),
        )

    def live(self) -> dict[str, Member]:
        """The members that are not removed."""
        return {node_id: member for node_id, member in self.members.items() if member.role != "removed"}

    def named(self, name: str) -> Member | None:
        """The live member of that name or node id."""
        return next((member for member in self.live().values() if name in (member.name, member.node_id)), None)
