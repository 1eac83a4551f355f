"""The commands that change a member: address, role, removal. Rules: see `machine`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from raftcluster.cluster.records import Member, rejected
from raftcluster.cluster.rows import (
    Commands,
    advance,
    check_address,
    check_free,
    check_member,
    live_members,
    put_member,
)
from raftcluster.cluster.view import MEMBERS, REMOVED, members, pending
from raftcluster.codec import Value
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


def _without(items: Mapping[str, bytes], key: str) -> dict[str, bytes]:
    return {each: value for each, value in items.items() if each != key}


COMMANDS: Commands = {
    "address": (_address, (str, str, int)),
    "promoted": (_promoted, (str,)),
    "removed": (_removed, (str,)),
}
