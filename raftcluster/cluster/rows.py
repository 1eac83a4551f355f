"""Writing the cluster's tables: checks and puts that all commands share. Pure; called from `apply` only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Final

from raftcluster import limits
from raftcluster.cluster.features import settle
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.records import Generation, Invitation, Member, rejected
from raftcluster.cluster.view import (
    CHAIN,
    FACTS,
    GENERATION,
    LINKS,
    MEMBERS,
    REMOVED,
    TOKENS,
    head,
    members,
    pending,
    reported,
)
from raftcluster.codec import Value, pack
from raftcluster.machine import ReadTables, Tables

TEXT_BYTES: Final = 1_024
REQUEST_BYTES: Final = 8_192
CERTIFICATE_BYTES: Final = 8_192

Commands = Mapping[str, tuple[Callable[..., Value], tuple[object, ...]]]
"""What a noun's file offers to the machine: verb -> (handler, kinds of its arguments)."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def of_kind(value: Value, kind: object) -> bool:
    """`isinstance`, but a bool is no int, and texts are bounded: their UTF-8 may be a key or a row."""
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
        return False
    return isinstance(value, kind)  # type: ignore[arg-type]


def expect(values: Value, kinds: tuple[type, ...]) -> list[Value]:
    """`values`, when it is a list of these kinds; else `Rejected`."""
    if not isinstance(values, list) or len(values) != len(kinds) or not all(map(of_kind, values, kinds)):
        raise rejected("malformed", "malformed arguments")
    return values


def check_name(name: str) -> None:
    """Refuse what is no host name in lower case."""
    if len(name) > limits.NAME_BYTES or not _NAME.fullmatch(name):
        raise rejected("bad-name", f"{name[:80]!a} is no host name in lower case", subject=name[:80])


def check_address(host: str, port: int) -> None:
    """Refuse what cannot be dialled."""
    if not 1 <= len(host) <= limits.NAME_BYTES or not host.isascii() or not host.isprintable() or " " in host:
        raise rejected("bad-address", f"{host[:80]!a} is no host", subject=host[:80])
    if not 1 <= port <= 65_535:
        raise rejected("bad-address", f"{port} is no port", subject=host)


def check_free(tables: ReadTables, host: str, port: int, node_id: str) -> None:
    """Refuse an address at which another member is."""
    if any((each.host, each.port) == (host, port) for each in live_members(tables) if each.node_id != node_id):
        raise rejected("address-taken", f"a member is at {host}:{port} already", subject=f"{host}:{port}")


def check_member(tables: Tables, node_id: str) -> Member:
    """The live member with this id, or `Rejected`."""
    row = tables.get(MEMBERS, node_id.encode()) if 1 <= len(node_id) <= 64 else None
    member = None if row is None else Member.unpack(row)
    if member is None or member.role == "removed":
        raise rejected("no-member", f"{node_id} is no member", subject=node_id)
    return member


def under_way(tables: Tables, number: int) -> Generation:
    """The generation under way, when it is this one; else `Rejected`."""
    current = pending(tables)
    if current is None or current.number != number:
        raise rejected("not-under-way", f"generation {number} is not under way", subject=str(number))
    return current


def live_members(tables: ReadTables) -> list[Member]:
    """Learners and voters, in the order of their ids."""
    return [member for member in members(tables).values() if member.role != "removed"]


def chain_voters(tables: ReadTables) -> dict[str, bytes]:
    """Who may endorse the next link of the chain: node id -> fingerprint of its key. Empty before genesis."""
    newest = head(tables)
    return {} if newest is None else dict(newest.content().voters)


def put_link(tables: Tables, sequence: int, link: Link) -> None:
    """Make `link` the newest of the chain, and forget the oldest beyond `LINKS`."""
    tables.put(CHAIN, sequence.to_bytes(8, "big"), link.pack())
    tables.put(FACTS, b"head", pack(sequence))
    rows = tables.scan(CHAIN, limit=LINKS + 1)
    if len(rows) > LINKS:
        tables.delete(CHAIN, rows[0][0])


def check_endorsement(voters: Mapping[str, bytes], node_id: str, endorsement: Value) -> None:
    """Refuse what is not [public key, signature] of one of the voters (id -> fingerprint); nobody else says anything. Whether
    the signature is good is judged by who follows the chain, as nothing is signed or verified in `apply`."""
    if node_id not in voters:
        if endorsement:
            raise rejected("no-voter", f"{node_id} is no voter of the manifest before", subject=node_id)
        return
    key, _ = expect(endorsement, (bytes, bytes))
    if sha256(key).digest() != voters[node_id]:
        raise rejected("pin", f"{node_id} endorses with a key that it is not known by", subject=node_id)


def remove_member(tables: Tables, member: Member) -> None:
    """Shut a member out: what it may show is empty from this entry on. The oldest removed one beyond `REMOVED` is forgotten."""
    gone = [each for each in members(tables).values() if each.role == "removed"]
    if len(gone) >= REMOVED:
        oldest = min(gone, key=lambda each: (each.joined_at, each.node_id))
        tables.delete(MEMBERS, oldest.node_id.encode())
    put_member(tables, replace(member, role="removed", pins=[]))
    settle(tables, reported(tables))  # all others may have waited for it
    tables.delete(FACTS, b"amendment")  # it may name this one: then nobody could endorse what comes after it


def put_member(tables: Tables, member: Member) -> None:
    """Store a member."""
    tables.put(MEMBERS, member.node_id.encode(), member.pack())


def put_invitation(tables: Tables, token: Invitation) -> None:
    """Store an invitation."""
    tables.put(TOKENS, token.token_id.encode(), token.pack())


def put_generation(tables: Tables, current: Generation) -> None:
    """Store a generation's record."""
    tables.put(GENERATION, current.number.to_bytes(4, "big"), current.pack())
