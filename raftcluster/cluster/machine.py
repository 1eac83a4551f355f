"""The replicated record of membership, invitations and certificate generations.

A generation walks through phases, and the record in the tables is all there is: any leader carries on from it.

    begin --> collect --csr...--> minted --> trust --trusted...--> switch --switched...--> retire --> active

Rules:

1. one generation at a time; its number is greater than any before;
2. a token is consumed by `begin`, bound to the hash of one certificate request: the same request again is answered as
   before, any other is a replay;
3. `minted` is accepted once, and only for exactly the nodes and requests that were collected;
4. a joiner counts as trusting and presenting the generation that lets it in, for it has no other: its death then
   holds up nobody;
5. a report that was made already changes nothing; a report out of order is refused, saying why;
6. what a removed member may show is empty from that entry on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from raftcluster.cluster.records import SCHEMA, Destruction, Facts, Generation, Invitation, Member, rejected
from raftcluster.cluster.rows import (
    advance,
    check_address,
    check_free,
    check_member,
    check_name,
    expect,
    live_members,
    of_kind,
    put_generation,
    put_invitation,
    put_member,
)
from raftcluster.cluster.succession import begin, csr, minted, retire, switched, trusted
from raftcluster.cluster.view import (
    FACTS,
    GENERATION,
    INVITATIONS,
    MEMBERS,
    REMOVED,
    TOKENS,
    destruction,
    facts,
    invitation,
    invitations,
    members,
    pending,
    revision,
)
from raftcluster.codec import Value, pack
from raftcluster.machine import Tables

INVITATION_SECONDS: Final = 30 * 86_400
"""The longest life of a token."""
KEPT_MS: Final = 86_400_000
"""An expired invitation is forgotten after a day: until then a joiner that lost the answer may ask again."""


class ClusterMachine:
    """State machine `cluster`. See `raftcluster.machine.StateMachine`; every command is a list, its verb first."""

    name = "cluster"
    schema = SCHEMA
    tables = (MEMBERS, TOKENS, GENERATION, FACTS)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """Carry out one command. Raises `Rejected` with a stable code."""
        if (
            not isinstance(command, list)
            or not command
            or not isinstance(command[0], str)
            or command[0] not in _COMMANDS
        ):
            raise rejected("malformed", "unknown cluster command")
        verb = command[0]
        handler, types = _COMMANDS[verb]
        arguments = command[1:]
        if len(arguments) != len(types) or not all(
            of_kind(value, kind) for value, kind in zip(arguments, types, strict=True)
        ):
            raise rejected("malformed", f"malformed arguments of {verb}", subject=verb)
        if verb != "genesis":
            if facts(tables) is None:
                raise rejected("no-cluster", "the cluster has no genesis yet")
            if verb != "recorded" and destruction(tables) is not None:
                raise rejected("destroyed", "the cluster is being destroyed: nothing changes any more")
        result = handler(tables, time, *arguments)
        tables.put(FACTS, b"revision", pack(revision(tables) + 1))
        return result

    def tick(self, tables: Tables, time: int) -> None:
        """Nothing expires in the background: invitations are pruned by the next one."""


def _genesis(tables: Tables, time: int, what: list[Value], node: list[Value], minted: list[Value]) -> Value:
    """The first entry: facts, the founder, generation 1. Answered alike when it comes again."""
    wanted = Facts.of(what)
    known = facts(tables)
    if known is not None:
        if known == wanted:
            return known.cluster_id
        raise rejected(
            "has-genesis", f"this log belongs to cluster {known.cluster_id} already", subject=known.cluster_id
        )
    node_id, name, host, port, product = expect(node, (str, str, str, int, str))
    number, root, certificate, pin = expect(minted, (int, bytes, bytes, bytes))
    check_name(name)
    check_address(host, port)
    if number < 1:
        raise rejected("malformed", "generations count from 1")
    tables.put(FACTS, b"cluster", wanted.pack())
    tables.put(FACTS, b"active", pack(number))
    tables.put(FACTS, b"last", pack(number))
    put_member(tables, Member(node_id, name, host, port, "voter", [pin], number, product, time))
    founder = [node_id]
    put_generation(
        tables,
        Generation(
            number, "active", "genesis", [], {}, root, {node_id: certificate}, founder, founder, time, time, time
        ),
    )
    return wanted.cluster_id


def _invite(tables: Tables, time: int, token_id: str, public_key: bytes, name: str, life_s: int) -> Value:
    """Remember a token's public half; the result is its expiry in cluster time."""
    check_name(name)
    if not 1 <= life_s <= INVITATION_SECONDS:
        raise rejected(
            "malformed", f"an invitation lives 1 to {INVITATION_SECONDS} seconds, not {life_s}", subject="ttl"
        )
    if len(public_key) != 32 or not 1 <= len(token_id) <= 64:
        raise rejected("malformed", "malformed invitation", subject=token_id)
    wanted = Invitation(token_id, public_key, name, time + life_s * 1000, None, False)
    known = invitation(tables, token_id)
    if known is not None:
        if replace(known, expires=wanted.expires) == wanted:
            return known.expires
        raise rejected("token-exists", f"there is a token {token_id} already", subject=token_id)
    if any(member.name == name for member in live_members(tables)):
        raise rejected(
            "name-taken", f"{name} is a member already", subject=name, remedy="remove it first, or choose another name"
        )
    kept = 0
    for each in invitations(tables):
        if each.expires + KEPT_MS < time:
            tables.delete(TOKENS, each.token_id.encode())
        else:
            kept += 1
    if kept >= INVITATIONS:
        raise rejected(
            "too-many-tokens",
            f"{kept} invitations are remembered, the limit is {INVITATIONS}",
            remedy="wait a day, or use fewer",
        )
    put_invitation(tables, wanted)
    return wanted.expires


def _revoke(tables: Tables, time: int, token_id: str) -> Value:
    known = invitation(tables, token_id)
    if known is None:
        raise rejected("token-unknown", f"there is no token {token_id}", subject=token_id)
    if known.used_by is not None:
        raise rejected(
            "token-used", f"token {token_id} let {known.name} in already", subject=token_id, remedy="remove the member"
        )
    put_invitation(tables, replace(known, revoked=True))
    return None


def _address(tables: Tables, time: int, node_id: str, host: str, port: int) -> Value:
    member = check_member(tables, node_id)
    check_address(host, port)
    check_free(tables, host, port, node_id)
    put_member(tables, replace(member, host=host, port=port))
    return None


def _promoted(tables: Tables, time: int, node_id: str) -> Value:
    member = check_member(tables, node_id)
    if member.generation == 0:
        raise rejected("no-certificate", f"{member.name} has no certificate yet", subject=member.name)
    put_member(tables, replace(member, role="voter"))
    return None


def _removed(tables: Tables, time: int, node_id: str) -> Value:
    """Shut a member out, from this entry on. A generation follows, in which it has no part."""
    row = tables.get(MEMBERS, node_id.encode())
    if row is not None and Member.unpack(row).role == "removed":
        return None
    member = check_member(tables, node_id)
    if member.role == "voter" and not any(
        each.role == "voter" for each in live_members(tables) if each.node_id != node_id
    ):
        raise rejected(
            "last-voter", f"{member.name} is the only voter", subject=member.name, remedy="destroy the cluster instead"
        )
    gone = [each for each in members(tables).values() if each.role == "removed"]
    if len(gone) >= REMOVED:
        oldest = min(gone, key=lambda each: (each.joined_at, each.node_id))
        tables.delete(MEMBERS, oldest.node_id.encode())
    put_member(tables, replace(member, role="removed", pins=[]))
    current = pending(tables)
    if current is not None:
        advance(
            tables,
            replace(
                current,
                joiners=[each for each in current.joiners if each != node_id],
                requests=_without(current.requests, node_id),
            ),
        )
    return None


def _destroy(tables: Tables, time: int, event_id: str, name: str, every_node: bool, reason: str) -> Value:
    """Decide to dismantle the cluster; confirmed by its name."""
    known = facts(tables)
    if known is None or known.name != name:
        raise rejected("not-confirmed", f"to destroy this cluster, confirm with its name, not {name!r}", subject=name)
    live = live_members(tables)
    if len(live) > 1 and not every_node:
        raise rejected(
            "has-members",
            f"the cluster has {len(live)} members and each would be destroyed",
            subject=name,
            remedy="say so, or remove the others first",
        )
    tables.put(FACTS, b"destroyed", Destruction(event_id, reason, time, []).pack())
    return event_id


def _recorded(tables: Tables, time: int, node_id: str) -> Value:
    """A node's event record of the destruction is on its disk."""
    decided = destruction(tables)
    if decided is None:
        raise rejected("out-of-order", "the cluster is not being destroyed", subject=node_id)
    check_member(tables, node_id)
    if node_id not in decided.recorded:
        tables.put(FACTS, b"destroyed", replace(decided, recorded=sorted([*decided.recorded, node_id])).pack())
    return None


_Handler = Callable[..., Value]


_COMMANDS: Final[dict[str, tuple[_Handler, tuple[object, ...]]]] = {
    "genesis": (_genesis, (list, list, list)),
    "invite": (_invite, (str, bytes, str, int)),
    "revoke": (_revoke, (str,)),
    "begin": (begin, (str, (list, type(None)))),
    "csr": (csr, (int, str, bytes)),
    "minted": (minted, (int, bytes, dict)),
    "trusted": (trusted, (int, str)),
    "switched": (switched, (int, str)),
    "retire": (retire, (int,)),
    "address": (_address, (str, str, int)),
    "promoted": (_promoted, (str,)),
    "removed": (_removed, (str,)),
    "destroy": (_destroy, (str, str, bool, str)),
    "recorded": (_recorded, (str,)),
}


def _without(items: Mapping[str, bytes], key: str) -> dict[str, bytes]:
    return {each: value for each, value in items.items() if each != key}
