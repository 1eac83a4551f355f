"""What has happened to the cluster between two looks at its tables, as events. Pure.

The look that was last told is kept on the disk, so that what happened while the node was down is told when it is back, and
what was told is not told again when the tables fall back a little in a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from raftcluster.cluster.records import Invitation
from raftcluster.cluster.view import View
from raftcluster.transport.certificates import certificate_hash

Change = tuple[str, dict[str, Any]]
"""The name of an event and its fields."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the events of the cluster are made of."""

    revision: int
    members: dict[str, list[str]]
    """node id -> name, address, role."""
    tokens: dict[str, list[str]]
    """token id -> invited name, state, expiry."""
    active: int
    root: str
    """SHA-256 of the root in force."""
    pending: int
    """Number of the generation under way; 0 when there is none."""
    minted: str
    """SHA-256 of its root; "" before."""
    destroyed: str
    """Event id of the decision to dismantle the cluster; "" while it lives."""
    reason: str

    @classmethod
    def at(cls, view: View, invitations: Sequence[Invitation]) -> Self:
        """The look at these tables. `view` is one after genesis."""
        assert view.active is not None
        coming, decided = view.pending, view.destruction
        return cls(
            view.revision,
            {each.node_id: [each.name, _address(each.host, each.port), each.role] for each in view.members.values()},
            {each.token_id: [each.name, _state(each), _date(each.expires)] for each in invitations},
            view.active.number,
            certificate_hash(view.active.root).hex(),
            coming.number if coming else 0,
            certificate_hash(coming.root).hex() if coming and coming.root else "",
            decided.event_id if decided else "",
            decided.reason if decided else "",
        )

    def kept(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def changes(before: Look, after: Look) -> Iterator[Change]:
    """What has happened in between. Steps that came and went in between are told as far as their end shows them."""
    yield from _tokens(before, after)
    yield from _members(before, after)
    yield from _generations(before, after)
    if after.destroyed and not before.destroyed:
        yield "destroy-decided", {"event_id": after.destroyed, "reason": after.reason}


def _tokens(before: Look, after: Look) -> Iterator[Change]:
    for token, (name, state, expires) in after.tokens.items():
        known = before.tokens.get(token)
        if known is None:
            yield "token-created", {"token": token, "member": name, "expires": expires}
        if state != "open" and (known is None or known[1] != state):
            yield f"token-{state}", {"token": token, "member": name}


def _members(before: Look, after: Look) -> Iterator[Change]:
    for node_id, (name, address, role) in after.members.items():
        who = {"member": name, "member_id": node_id}
        known = before.members.get(node_id)
        if known is None:
            yield "member-joined", {**who, "address": address}
        elif known[1] != address:
            yield "member-moved", {**who, "before": known[1], "after": address}
        was = known[2] if known else "learner"
        if role == "voter" and was != "voter":
            yield "member-promoted", who
        if role == "removed" and was != "removed":
            yield "member-removed", who


def _generations(before: Look, after: Look) -> Iterator[Change]:
    reached = max(before.active, before.pending)
    if before.pending and before.pending not in (after.pending, after.active) and after.active < before.pending:
        yield "generation-aborted", {"generation": before.pending}
    if after.active != before.active:
        if after.active > reached:
            yield "generation-begun", {"generation": after.active}
        if after.active > reached or not before.minted:
            yield "generation-minted", {"generation": after.active, "root": after.root}
        yield "generation-active", {"generation": after.active, "root": after.root, "before": before.root}
    if after.pending and after.pending > reached:
        yield "generation-begun", {"generation": after.pending}
    if after.minted and after.minted != before.minted:
        yield "generation-minted", {"generation": after.pending, "root": after.minted}


def _state(token: Invitation) -> str:
    return "revoked" if token.revoked else "used" if token.used_by is not None else "open"


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
