"""The commands that take the cluster from one certificate generation to the next. Rules: see `machine`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from raftcluster.cluster.beginnings import exclude, give_up, sorted_with
from raftcluster.cluster.manifests import MANIFEST, Link, Manifest, is_endorsed
from raftcluster.cluster.records import Facts, Generation, Member, rejected
from raftcluster.cluster.rows import (
    CERTIFICATE_BYTES,
    REQUEST_BYTES,
    Commands,
    chain_voters,
    check_endorsement,
    check_member,
    expect,
    live_members,
    put_generation,
    put_link,
    put_member,
    remove_member,
    under_way,
)
from raftcluster.cluster.view import FACTS, active, facts, head, members
from raftcluster.codec import Value, pack
from raftcluster.errors import Rejected
from raftcluster.machine import Tables

COLLECT_MS: Final = 10_000
"""Who is up sends its request within a fraction of a second. Whose is missing after this is down."""
TRUST_MS: Final = 5_000
"""After this a majority of endorsements is enough to go on; before it everybody is waited for."""
SWITCH_MS: Final = 5_000
"""The leader switches last, but does not wait longer than this for the others."""
RETIRE_MS: Final = 10_000
"""A generation in use by a majority is in force after this: who has not switched comes back through the public chain."""


def expected_manifest(
    known: Facts, newest: Link, live: Iterable[Member], current: Generation, pins: Mapping[str, bytes]
) -> Manifest:
    """The manifest that this generation must have, and no other. `pins`: node id -> fingerprint, of all who hold a certificate
    of it; joiners and learners never count."""
    voters = {each.node_id: pins[each.node_id] for each in live if each.role == "voter" and each.node_id in pins}
    position = (current.number, current.sequence, current.txid, newest.digest)
    return Manifest(MANIFEST, known.cluster_id, *position, dict(sorted(voters.items())))


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
    if node_id not in current.members:
        raise rejected("no-part", f"{node_id} has no part in generation {number}", subject=node_id)
    if not 1 <= len(request) <= REQUEST_BYTES:
        raise rejected("malformed", "malformed certificate request", subject=node_id)
    put_generation(tables, replace(current, requests=sorted_with(current.requests, node_id, request)))
    return None


def _overdue(tables: Tables, time: int, number: int) -> Value:
    """The deadline for requests has passed: exclude who has sent none, or give up. True: it goes on."""
    current = under_way(tables, number)
    if current.phase != "collect" or time - current.begun < COLLECT_MS:
        raise rejected("out-of-order", f"generation {number} is in phase {current.phase}, or not overdue")
    missing = [each for each in current.members if each not in current.requests]
    if not missing:
        return True
    names = ", ".join(sorted(each.name for each in live_members(tables) if each.node_id in missing))
    reason = f"{names} did not answer within {COLLECT_MS // 1000} s"
    if not current.patient:
        try:
            put_generation(tables, exclude(tables, current, missing))
        except Rejected as error:
            reason = f"{reason}, and {error.message}"
        else:
            return True
    give_up(tables, time, current, reason)
    return False


def _minted(
    tables: Tables, time: int, number: int, root: bytes, manifest: bytes, signature: bytes, issued: dict[str, Value]
) -> Value:
    """The hierarchy: root, its manifest and, per node, [request, certificate, pin]. All in one entry; accepted once."""
    current = under_way(tables, number)
    if current.phase != "collect":
        raise rejected("minted-already", f"generation {number} is minted already", subject=str(number))
    if sorted(issued) != current.holders():
        raise rejected(
            "incomplete",
            f"generation {number} must have a certificate for every member, and for nobody else",
            subject=str(number),
        )
    if not 1 <= len(root) <= CERTIFICATE_BYTES or not 1 <= len(signature) <= CERTIFICATE_BYTES:
        raise rejected("malformed", "malformed root", subject=str(number))
    live = {member.node_id: member for member in live_members(tables)}
    certificates: dict[str, bytes] = {}
    pins: dict[str, bytes] = {}
    for node_id in sorted(issued):
        request, certificate, pin = expect(issued[node_id], (bytes, bytes, bytes))
        if request != current.requests.get(node_id):
            raise rejected("other-request", f"{node_id} has sent another request since", subject=node_id)
        if len(pin) != 32 or not 1 <= len(certificate) <= CERTIFICATE_BYTES:
            raise rejected("malformed", "malformed certificate", subject=node_id)
        certificates[node_id], pins[node_id] = certificate, pin
    known, newest = facts(tables), head(tables)
    assert known is not None and newest is not None, "there was a genesis"
    if manifest != expected_manifest(known, newest, live.values(), current, pins).pack():
        raise rejected("other-manifest", f"the manifest is not the one of generation {number}", subject=str(number))
    for node_id, pin in pins.items():
        member = live[node_id]
        put_member(tables, replace(member, pins=[*member.pins[-1:], pin], generation=number))
    for node_id in current.excluded:
        if node_id in live and live[node_id].role == "voter":
            put_member(tables, replace(live[node_id], role="learner"))
    joiners = sorted(current.joiners)
    current = replace(current, phase="trust", root=root, manifest=manifest, signature=signature, minted=time)
    advance(tables, time, replace(current, certificates=certificates, trusted=joiners, switched=joiners))
    return None


def _trusted(tables: Tables, time: int, number: int, node_id: str, endorsement: list[Value]) -> Value:
    """A member trusts the new root; a voter of the manifest before endorses the new one: [public key, signature]."""
    current = under_way(tables, number)
    if node_id in current.trusted or node_id in current.endorsements:
        return None
    check_member(tables, node_id)
    if current.phase not in ("trust", "switch") or node_id not in [*current.holders(), *current.leaving]:
        raise rejected(
            "out-of-order",
            f"generation {number} is in phase {current.phase}: there is nothing to trust",
            subject=node_id,
        )
    if current.phase == "trust":
        check_endorsement(chain_voters(tables), node_id, endorsement)
    if current.phase == "trust" and endorsement:  # later it is not needed any more
        current = replace(current, endorsements=dict(sorted({**current.endorsements, node_id: endorsement}.items())))
    if node_id not in current.leaving:
        current = replace(current, trusted=sorted([*current.trusted, node_id]))
    advance(tables, time, current)
    return None


def _switch(tables: Tables, time: int, number: int) -> Value:
    """Go on with a majority of endorsements, without waiting for who is down."""
    current = under_way(tables, number)
    if current.phase == "switch":
        return None
    if current.phase != "trust" or not is_endorsed(chain_voters(tables), list(current.endorsements)):
        raise rejected(
            "out-of-order", f"generation {number} is in phase {current.phase} and not endorsed by a majority"
        )
    enter_switch(tables, time, current)
    return None


def _switched(tables: Tables, time: int, number: int, node_id: str) -> Value:
    current = under_way(tables, number)
    if node_id in current.switched:
        return None
    check_member(tables, node_id)
    if current.phase != "switch" or node_id not in current.trusted:
        raise rejected(
            "out-of-order",
            f"generation {number} is in phase {current.phase}: not every member trusts it",
            subject=node_id,
        )
    put_generation(tables, replace(current, switched=sorted([*current.switched, node_id])))
    return None


def _retire(tables: Tables, time: int, number: int) -> Value:
    """Put the generation in force and forget its predecessor but for the root. Who has not switched is asleep from now on."""
    before = active(tables)
    if before is not None and before.number == number:
        return None
    current = under_way(tables, number)
    live = live_members(tables)
    missing = sorted(
        each.name for each in live if each.node_id in current.members and each.node_id not in current.switched
    )
    voters = [each.node_id for each in live if each.role == "voter"]
    enough = is_endorsed(voters, current.switched) and time - current.switching >= RETIRE_MS
    if current.phase != "switch" or (missing and not enough):
        raise rejected(
            "not-switched",
            f"generation {number} is in phase {current.phase}; not switched: {', '.join(missing) or 'nobody'}",
            subject=str(number),
        )
    if before is not None:
        put_generation(tables, replace(before, phase="retired", requests={}, certificates={}))
    for member in live:
        awake = member.node_id in current.switched
        asleep_since = 0 if awake else member.asleep_since or time
        pins = member.pins[-1:] if awake or member.node_id not in current.certificates else member.pins
        put_member(tables, replace(member, pins=list(pins), asleep_since=asleep_since))
    put_generation(tables, replace(current, phase="active", requests={}, retired=time))
    tables.put(FACTS, b"active", pack(number))
    tables.delete(FACTS, b"pending")
    return None


def _awake(tables: Tables, time: int, node_id: str) -> Value:
    """A member that had not switched in time presents the generation in force now: the next one is to wait for it."""
    member, current = check_member(tables, node_id), active(tables)
    if current is None or node_id not in current.certificates:
        raise rejected(
            "no-certificate", f"{member.name} has no certificate of the generation in force", subject=node_id
        )
    put_member(tables, replace(member, pins=list(member.pins[-1:]), asleep_since=0))
    return None


def advance(tables: Tables, time: int, current: Generation) -> None:
    """Store the record; from trust to switch when it is endorsed by a majority and nobody is missing any more. With somebody
    leaving, only the leader's `switch` does it: it must not be the one that leaves."""
    if (
        current.phase == "trust"
        and not current.leaving
        and all(each in current.trusted for each in current.members)
        and is_endorsed(chain_voters(tables), list(current.endorsements))
    ):
        enter_switch(tables, time, current)
    else:
        put_generation(tables, current)


def without(current: Generation, node_id: str) -> Generation:
    """The generation for a cluster that this member does not belong to any more."""
    return replace(
        current,
        members=[each for each in current.members if each != node_id],
        leaving=[each for each in current.leaving if each != node_id],
        joiners={each: token for each, token in current.joiners.items() if each != node_id},
        requests={each: pem for each, pem in current.requests.items() if each != node_id},
    )


def enter_switch(tables: Tables, time: int, current: Generation) -> None:
    """The manifest becomes the chain's newest link; who leaves is a member no more."""
    put_link(
        tables, current.sequence, Link(current.manifest, current.root, current.signature, dict(current.endorsements))
    )
    for node_id in current.leaving:
        row = members(tables).get(node_id)
        if row is not None and row.role != "removed":
            remove_member(tables, row)
    put_generation(tables, replace(current, phase="switch", switching=time))


COMMANDS: Commands = {
    "csr": (_csr, (int, str, bytes)),
    "overdue": (_overdue, (int,)),
    "minted": (_minted, (int, bytes, bytes, bytes, dict)),
    "trusted": (_trusted, (int, str, list)),
    "switch": (_switch, (int,)),
    "switched": (_switched, (int, str)),
    "retire": (_retire, (int,)),
    "awake": (_awake, (str,)),
}
