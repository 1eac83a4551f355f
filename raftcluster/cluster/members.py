"""The commands that change a member: address, version, role, removal. Rules: see `machine`."""

from __future__ import annotations

from dataclasses import replace

from raftcluster.cluster.beginnings import leave
from raftcluster.cluster.features import report
from raftcluster.cluster.generations import advance, without
from raftcluster.cluster.records import Member, product_name, rejected
from raftcluster.cluster.rows import (
    Commands,
    check_address,
    check_free,
    check_member,
    live_members,
    put_member,
    remove_member,
)
from raftcluster.cluster.view import FACTS, MEMBERS, leaving, pending
from raftcluster.codec import Value, pack
from raftcluster.machine import Tables


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
    coming = pending(tables)
    if member.role != "voter" and coming is not None and coming.phase == "trust":  # its manifest names the voters
        raise rejected("generation-under-way", f"generation {coming.number} is being endorsed", subject=member.name)
    put_member(tables, replace(member, role="voter"))
    return None


def _leaving(tables: Tables, time: int, node_id: str) -> Value:
    """Begin to take a member out: the leader takes its vote first, and shuts it out when that is committed. Until then its
    links stay: the change of voters may need them. One at a time, so that no two removals add up to a lost quorum."""
    row = tables.get(MEMBERS, node_id.encode())
    if row is not None and Member.unpack(row).role == "removed":
        return None
    member = check_member(tables, node_id)
    _check_not_last(tables, member)
    other = leaving(tables)
    if other and other != node_id:
        name = check_member(tables, other).name
        raise rejected(
            "change-under-way",
            f"{name} is being removed: one change of members at a time",
            subject=name,
            remedy="try again when it is done; see `raftcluster members`",
        )
    tables.put(FACTS, b"leaving", pack(node_id))
    return None


def _check_not_last(tables: Tables, member: Member) -> None:
    if member.role == "voter" and not any(
        each.role == "voter" for each in live_members(tables) if each.node_id != member.node_id
    ):
        raise rejected(
            "last-voter", f"{member.name} is the only voter", subject=member.name, remedy="destroy the cluster instead"
        )


def _removed(tables: Tables, time: int, node_id: str) -> Value:
    """Shut a member out, from this entry on; a generation follows, in which it has no part. The result is None then.

    When the chain of manifests needs its endorsement of that generation, the generation comes first, and the member is shut
    out when it is switched to: the result is its number.
    """
    row = tables.get(MEMBERS, node_id.encode())
    if row is not None and Member.unpack(row).role == "removed":
        return None
    member = check_member(tables, node_id)
    _check_not_last(tables, member)
    number = leave(tables, time, member)
    if number is not None:
        return number
    remove_member(tables, member)
    current = pending(tables)
    if current is not None:
        advance(tables, time, without(current, node_id))
    return None


def _report(tables: Tables, time: int, node_id: str, product: str, names: list[Value]) -> Value:
    """A member says which version it runs, and what that understands: see `features`. The result is the product before, and the
    features that are enabled by it."""
    member = check_member(tables, node_id)
    if product_name(product) != product_name(member.product):
        raise rejected(
            "incompatible", f"{member.name} runs {member.product!a}, and not {product!a}", subject=member.name
        )
    put_member(tables, replace(member, product=product))
    return [member.product, report(tables, node_id, names)]


COMMANDS: Commands = {
    "report": (_report, (str, str, list)),
    "address": (_address, (str, str, int)),
    "promoted": (_promoted, (str,)),
    "leaving": (_leaving, (str,)),
    "removed": (_removed, (str,)),
}
