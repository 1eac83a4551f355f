"""Reading the cluster's tables: the rows one by one, and all that a reconciler needs at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from raftcluster import limits
from raftcluster.cluster.records import Destruction, Facts, Generation, Invitation, Member
from raftcluster.codec import unpack
from raftcluster.machine import ReadTables

MEMBERS: Final = "members"
TOKENS: Final = "tokens"
GENERATION: Final = "generation"
FACTS: Final = "facts"

INVITATIONS: Final = 256
"""Kept at once, used and expired ones included: bounds the scan that an invitation makes."""
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
        )

    def live(self) -> dict[str, Member]:
        """The members that are not removed."""
        return {node_id: member for node_id, member in self.members.items() if member.role != "removed"}

    def named(self, name: str) -> Member | None:
        """The live member of that name or node id."""
        return next((member for member in self.live().values() if name in (member.name, member.node_id)), None)
