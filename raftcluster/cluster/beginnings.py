"""The commands that begin a generation: a host joins, a member returns, one leaves, or the hierarchy is renewed; and the one
that gives it up. Rules: see `machine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from raftcluster import limits
from raftcluster.cluster.manifests import Manifest, is_endorsed, majority
from raftcluster.cluster.records import Generation, Member, differences, rejected
from raftcluster.cluster.rows import (
    REQUEST_BYTES,
    Commands,
    chain_voters,
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
from raftcluster.cluster.view import (
    FACTS,
    GENERATION,
    GENERATIONS,
    MEMBERS,
    active,
    facts,
    invitation,
    last,
    pending,
)
from raftcluster.codec import Value, pack
from raftcluster.machine import ReadTables, Tables

ASLEEP_MS: Final = 7 * 86_400_000
"""A member that has missed generations may return by its last key for so long; then it needs a token."""


def _begin(tables: Tables, time: int, txid: str, joiner: list[Value]) -> Value:
    """Let a joiner into a generation that is still collected, or into a new one. The result is its number."""
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
    number = _admit(tables, time, txid, node_id, token_id, request)
    put_invitation(tables, replace(token, used_by=request_hash))
    put_member(tables, Member(node_id, name, host, port, "learner", [], 0, product, time))
    return number


def _return(tables: Tables, time: int, txid: str, node_id: str, pin: bytes, request: bytes) -> Value:
    """A member that has slept through generations asks for the next one; the key it is known by has signed for it."""
    member = check_member(tables, node_id)
    if pin not in member.pins:
        raise rejected("pin", f"{member.name} is not known by that key", subject=member.name, remedy="join again")
    if not 1 <= len(request) <= REQUEST_BYTES:
        raise rejected("malformed", "malformed certificate request", subject=node_id)
    current = pending(tables)
    if current is not None and node_id in current.joiners:
        if current.phase == "collect" and current.requests.get(node_id) != request:
            put_generation(tables, replace(current, requests=sorted_with(current.requests, node_id, request)))
        return current.number
    if member.asleep_since == 0:
        raise rejected(
            "not-asleep",
            f"{member.name} is of the generation in force",
            subject=member.name,
            remedy="nothing to do: its links will come up",
        )
    if time - member.asleep_since > ASLEEP_MS:
        raise rejected(
            "slept-too-long",
            f"{member.name} has missed the generations of more than {ASLEEP_MS // 86_400_000} days: "
            "its old key is not accepted any more",
            subject=member.name,
            remedy="remove it, invite it again and join with an empty data directory",
        )
    number = _admit(tables, time, txid, node_id, "", request)
    current = under_way(tables, number)
    put_generation(tables, replace(current, patient=False))  # who is down meanwhile must not keep it out
    return number


def _rotate(tables: Tables, time: int, txid: str, excluded: list[Value], patient: bool) -> Value:
    """Begin a generation without a joiner, without these members (ids). The result is its number."""
    names = {node_id: check_member(tables, node_id).name for node_id in expect(excluded, (str,) * len(excluded))}
    _check_idle(tables)
    current = start(tables, time, txid, patient=patient)
    if names:
        current = exclude(tables, current, sorted(names))
    put_generation(tables, current)
    return current.number


def _abort(tables: Tables, time: int, number: int, reason: str) -> Value:
    """Give a generation up: until it is minted. Who was to join with it gets the token back."""
    current = under_way(tables, number)
    if current.phase != "collect":
        raise rejected(
            "minted-already",
            f"generation {number} is in phase {current.phase}: it only goes forward from there",
            subject=str(number),
        )
    give_up(tables, time, current, reason)
    return None


def give_up(tables: Tables, time: int, current: Generation, reason: str) -> None:
    """The work of `abort`."""
    for node_id, token_id in current.joiners.items():
        token = invitation(tables, token_id) if token_id else None
        if token is not None:
            put_invitation(tables, replace(token, used_by=None))
            tables.delete(MEMBERS, node_id.encode())
    put_generation(tables, replace(current, phase="aborted", requests={}, reason=reason[:1000]))
    tables.put(FACTS, b"aborted", pack(time))
    tables.delete(FACTS, b"pending")


def leave(tables: Tables, time: int, member: Member) -> int | None:
    """When the chain needs this voter's endorsement of the generation without it: begin that one; the member is removed when
    it is switched to. None when it can be removed at once. Refused while a manifest that names it is being endorsed, and the
    one after that would need it; and while a generation is under way that it has to endorse because others are left out of it.

    Who else is down is not waited for: a removal is not called off, and nobody else can be removed meanwhile."""
    left = [each.node_id for each in live_members(tables) if each.node_id != member.node_id and not each.asleep_since]
    current = pending(tables)

    def needed(voters: Mapping[str, bytes], silent: Sequence[str] = ()) -> bool:
        return member.node_id in voters and not is_endorsed(voters, [each for each in left if each not in silent])

    if current is not None and current.phase == "trust" and needed(Manifest.unpack(current.manifest).voters):
        raise _busy(current)
    if not needed(chain_voters(tables)):
        if current is not None and needed(chain_voters(tables), current.excluded):
            raise _busy(current)
        return None
    if member.asleep_since:  # shut out now, it would leave a chain that nobody can carry on
        raise _endorsement_needed([member])
    if current is None:
        current = start(tables, time, f"remove {member.node_id}", patient=False)
    elif current.phase != "collect":
        raise _busy(current)
    if member.node_id not in current.leaving:
        current = replace(
            current,
            members=[each for each in current.members if each != member.node_id],
            requests={each: pem for each, pem in current.requests.items() if each != member.node_id},
            leaving=sorted([*current.leaving, member.node_id]),
        )
    put_generation(tables, current)
    return current.number


def start(tables: Tables, time: int, txid: str, *, patient: bool) -> Generation:
    """A new generation of all who hold a certificate of the one in force and are awake; not stored yet, but its numbers are taken.
    Raises `Rejected` when they cannot carry the chain on: it would wait for ever for an endorsement that nobody gives."""
    number, sequence, before = last(tables, "last") + 1, last(tables, "sequence") + 1, active(tables)
    members = [each.node_id for each in live_members(tables) if each.generation and not each.asleep_since]
    voters = chain_voters(tables)
    if voters and not is_endorsed(voters, members):
        asleep = [each for each in live_members(tables) if each.asleep_since and each.node_id in voters]
        raise _endorsement_needed(asleep)
    for key, _ in tables.scan(GENERATION, stop=max(0, number - GENERATIONS).to_bytes(4, "big"), limit=GENERATIONS):
        if before is None or key != before.number.to_bytes(4, "big"):
            tables.delete(GENERATION, key)
    tables.put(FACTS, b"pending", pack(number))
    tables.put(FACTS, b"last", pack(number))
    tables.put(FACTS, b"sequence", pack(sequence))
    tables.delete(FACTS, b"amendment")
    return Generation(number, "collect", txid, sequence, members, time, patient)


def exclude(tables: ReadTables, current: Generation, node_ids: Sequence[str]) -> Generation:
    """The generation without these members. Raises `Rejected` when those left are no quorum, or cannot carry the chain on."""
    members = [each for each in current.members if each not in node_ids]
    live = {each.node_id: each for each in live_members(tables)}
    voters = [each for each in live.values() if each.role == "voter" and each.node_id not in current.leaving]
    left = [each for each in members if live[each].role == "voter"]
    if len(left) < majority(len(voters)) or not is_endorsed(chain_voters(tables), [*members, *current.leaving]):
        names = ", ".join(live[each].name for each in node_ids if each in live)
        raise rejected(
            "no-quorum-left",
            f"without {names} the generation would have {len(left)} of {len(voters)} voters",
            subject=str(current.number),
            remedy="start them; if they are lost for good, see: raftcluster recover",
        )
    gone = sorted({*current.excluded, *(each for each in current.members if each in node_ids)})
    requests = {each: pem for each, pem in current.requests.items() if each not in node_ids}
    return replace(current, members=members, excluded=gone, requests=requests)


def sorted_with(items: Mapping[str, bytes], key: str, value: bytes) -> dict[str, bytes]:
    """A copy with `key` set, in key order: equal contents have equal bytes on every node."""
    merged = {**items, key: value}
    return {each: merged[each] for each in sorted(merged)}


def _admit(tables: Tables, time: int, txid: str, node_id: str, token_id: str, request: bytes) -> int:
    """Into the generation that is being collected, or a new one."""
    current = pending(tables)
    if current is None:
        current = start(tables, time, txid, patient=True)
    elif current.phase != "collect":
        raise _busy(current)
    joiners = {**current.joiners, node_id: token_id}
    joiners = {each: joiners[each] for each in sorted(joiners)}
    excluded = [each for each in current.excluded if each != node_id]
    requests = sorted_with(current.requests, node_id, request)
    put_generation(tables, replace(current, joiners=joiners, excluded=excluded, requests=requests))
    return current.number


def _check_idle(tables: ReadTables) -> None:
    current = pending(tables)
    if current is not None:
        raise _busy(current)


def _endorsement_needed(asleep: Sequence[Member]) -> Exception:
    names = ", ".join(each.name for each in asleep)
    return rejected(
        "endorsement-needed",
        f"{names} asleep: the chain's next manifest needs more endorsements than are left without",
        subject=names,
        remedy="start it; if it is lost: raftcluster recover on one node, then join the others anew",
    )


def _busy(current: Generation) -> Exception:
    return rejected(
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


COMMANDS: Commands = {
    "begin": (_begin, (str, list)),
    "return": (_return, (str, str, bytes, bytes)),
    "rotate": (_rotate, (str, list, bool)),
    "abort": (_abort, (int, str)),
}
