"""The commands that take the cluster from one certificate generation to the next. Rules: see `machine`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from raftcluster import limits
from raftcluster.cluster.records import Generation, Member, differences, rejected
from raftcluster.cluster.rows import (
    CERTIFICATE_BYTES,
    REQUEST_BYTES,
    Commands,
    advance,
    check_address,
    check_free,
    check_member,
    check_name,
    expect,
    live_members,
    put_generation,
    put_invitation,
    put_member,
    under_way,
)
from raftcluster.cluster.view import FACTS, MEMBERS, active, facts, invitation, pending
from raftcluster.codec import Value, pack, unpack
from raftcluster.machine import Tables


def _begin(tables: Tables, time: int, txid: str, joiner: list[Value] | None) -> Value:
    """Start a generation, with a joiner or (None) to renew. The result is its number."""
    if joiner is None:
        _check_idle(tables)
        return _start(tables, time, txid, [], {})
    kinds = (str, str, str, int, str, int, str, str, bytes, bytes)
    node_id, name, host, port, product, schema, realm, token_id, request_hash, request = expect(joiner, kinds)
    check_name(name)
    check_address(host, port)
    if not 1 <= len(node_id) <= 64 or len(request_hash) != 32 or not 1 <= len(request) <= REQUEST_BYTES:
        raise rejected("malformed", "malformed joiner", subject=name)
    known = facts(tables)
    differing = differences(known, product, schema, realm) if known is not None else []
    if differing:
        raise rejected("incompatible", f"{name} cannot join: {'; '.join(differing)}", subject=name)
    token = invitation(tables, token_id)
    if token is None:
        raise rejected(
            "token-unknown", f"there is no token {token_id}", subject=token_id, remedy="ask for a new invitation"
        )
    if token.name != name:
        raise rejected("token-name", f"token {token_id} invites {token.name}, not {name}", subject=name)
    if token.used_by is not None:
        if token.used_by == request_hash:
            return _begun_already(tables, node_id, name, host, port)
        raise rejected(
            "token-replayed",
            f"token {token_id} was used already, with another certificate request",
            subject=token_id,
            remedy="if that was not you, remove that member; ask for a new invitation",
        )
    if token.revoked:
        raise rejected(
            "token-revoked", f"token {token_id} was revoked", subject=token_id, remedy="ask for a new invitation"
        )
    if token.expires <= time:
        raise rejected(
            "token-expired",
            f"token {token_id} expired {(time - token.expires) // 1000} s ago",
            subject=token_id,
            remedy="ask for a new invitation",
        )
    live = live_members(tables)
    if tables.get(MEMBERS, node_id.encode()) is not None:
        raise rejected(
            "node-known",
            f"node {node_id} was a member before",
            subject=node_id,
            remedy="start with an empty data directory",
        )
    if any(member.name == name for member in live):
        raise rejected(
            "name-taken", f"{name} is a member already", subject=name, remedy="remove it first, or choose another name"
        )
    check_free(tables, host, port, node_id)
    if len(live) >= limits.VOTERS:
        raise rejected("full", f"a cluster has at most {limits.VOTERS} members", subject=name)
    _check_idle(tables)
    put_invitation(tables, replace(token, used_by=request_hash))
    put_member(tables, Member(node_id, name, host, port, "learner", [], 0, product, time))
    return _start(tables, time, txid, [node_id], {node_id: request})


def _csr(tables: Tables, time: int, number: int, node_id: str, request: bytes) -> Value:
    """A member's request for a certificate of the generation. May be replaced until it is minted."""
    current = under_way(tables, number)
    if current.requests.get(node_id) == request:
        return None
    check_member(tables, node_id)
    if current.phase != "collect":
        raise rejected("minted-already", f"generation {number} is minted: requests come too late", subject=node_id)
    if node_id in current.joiners:
        raise rejected("joiner-bound", f"{node_id} joins with the request that its token is bound to", subject=node_id)
    if not 1 <= len(request) <= REQUEST_BYTES:
        raise rejected("malformed", "malformed certificate request", subject=node_id)
    put_generation(tables, replace(current, requests=_with(current.requests, node_id, request)))
    return None


def _minted(tables: Tables, time: int, number: int, root: bytes, issued: dict[str, Value]) -> Value:
    """The hierarchy: root and, per node, [request, certificate, pin]. All in one entry; accepted once."""
    current = under_way(tables, number)
    if current.phase != "collect":
        raise rejected("minted-already", f"generation {number} is minted already", subject=str(number))
    live = {member.node_id: member for member in live_members(tables)}
    if sorted(issued) != sorted(live):
        raise rejected(
            "incomplete",
            f"generation {number} must have a certificate for every member, and for nobody else",
            subject=str(number),
        )
    certificates: dict[str, bytes] = {}
    for node_id in sorted(issued):
        request, certificate, pin = expect(issued[node_id], (bytes, bytes, bytes))
        if request != current.requests.get(node_id):
            raise rejected("other-request", f"{node_id} has sent another request since", subject=node_id)
        if len(pin) != 32 or not 1 <= len(certificate) <= CERTIFICATE_BYTES:
            raise rejected("malformed", "malformed certificate", subject=node_id)
        certificates[node_id] = certificate
        member = live[node_id]
        put_member(tables, replace(member, pins=[*member.pins[-1:], pin], generation=number))
    if not 1 <= len(root) <= CERTIFICATE_BYTES:
        raise rejected("malformed", "malformed root", subject=str(number))
    joiners = list(current.joiners)
    advance(
        tables,
        replace(
            current, phase="trust", root=root, certificates=certificates, trusted=joiners, switched=joiners, minted=time
        ),
    )
    return None


def _trusted(tables: Tables, time: int, number: int, node_id: str) -> Value:
    current = under_way(tables, number)
    if node_id in current.trusted:
        return None
    check_member(tables, node_id)
    if current.phase != "trust":
        raise rejected(
            "out-of-order",
            f"generation {number} is in phase {current.phase}: there is nothing to trust",
            subject=node_id,
        )
    advance(tables, replace(current, trusted=sorted([*current.trusted, node_id])))
    return None


def _switched(tables: Tables, time: int, number: int, node_id: str) -> Value:
    current = under_way(tables, number)
    if node_id in current.switched:
        return None
    check_member(tables, node_id)
    if current.phase != "switch":
        raise rejected(
            "out-of-order",
            f"generation {number} is in phase {current.phase}: not every member trusts it",
            subject=node_id,
        )
    put_generation(tables, replace(current, switched=sorted([*current.switched, node_id])))
    return None


def _retire(tables: Tables, time: int, number: int) -> Value:
    """Put the generation in force and forget its predecessor but for the root."""
    before = active(tables)
    if before is not None and before.number == number:
        return None
    current = under_way(tables, number)
    live = live_members(tables)
    missing = sorted(member.name for member in live if member.node_id not in current.switched)
    if current.phase != "switch" or missing:
        raise rejected(
            "not-switched",
            f"generation {number} is in phase {current.phase}; not switched: {', '.join(missing) or 'nobody'}",
            subject=str(number),
        )
    if before is not None:
        put_generation(tables, replace(before, phase="retired", requests={}, certificates={}))
    for member in live:
        put_member(tables, replace(member, pins=list(member.pins[-1:])))
    put_generation(tables, replace(current, phase="active", requests={}, retired=time))
    tables.put(FACTS, b"active", pack(number))
    tables.delete(FACTS, b"pending")
    return None


def _check_idle(tables: Tables) -> None:
    current = pending(tables)
    if current is not None:
        raise rejected(
            "generation-under-way",
            f"generation {current.number} is in phase {current.phase}: one at a time",
            subject=str(current.number),
            remedy="try again when it is in force",
        )


def _begun_already(tables: Tables, node_id: str, name: str, host: str, port: int) -> int:
    """The answer to a repeated `begin`: the generation under way, or the one it holds. It may have moved in between."""
    member = check_member(tables, node_id)
    if member.name != name:
        raise rejected("no-member", f"{node_id} is not {name}", subject=node_id)
    if (member.host, member.port) != (host, port):
        check_free(tables, host, port, node_id)
        put_member(tables, replace(member, host=host, port=port))
    current = pending(tables)
    return current.number if current is not None and node_id in current.joiners else member.generation


def _start(tables: Tables, time: int, txid: str, joiners: list[str], requests: dict[str, bytes]) -> int:
    number = int(unpack(tables.get(FACTS, b"last") or pack(0))) + 1
    put_generation(tables, Generation(number, "collect", txid, joiners, requests, b"", {}, [], [], time, 0, 0))
    tables.put(FACTS, b"pending", pack(number))
    tables.put(FACTS, b"last", pack(number))
    return number


def _with(items: Mapping[str, bytes], key: str, value: bytes) -> dict[str, bytes]:
    """A copy with `key` set, in key order: equal contents have equal bytes on every node."""
    merged = {**items, key: value}
    return {each: merged[each] for each in sorted(merged)}


COMMANDS: Commands = {
    "begin": (_begin, (str, (list, type(None)))),
    "csr": (_csr, (int, str, bytes)),
    "minted": (_minted, (int, bytes, dict)),
    "trusted": (_trusted, (int, str)),
    "switched": (_switched, (int, str)),
    "retire": (_retire, (int,)),
}
