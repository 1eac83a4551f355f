"""What the commands of a running pacemaker and corosync print, and which hosts that makes. Pure.

Sources: crm_node(8), corosync-cmapctl(8), cmap_keys(7), cibadmin(8).

`crm_node --list` names everybody whom pacemaker remembers, past members included, so it alone says little. A node that
corosync's nodelist has, or that is in the membership now, is of the cluster; one that is in neither is past. Where corosync
has no nodelist (it may find nodes by multicast), who was there and is not may be either, and is taken for down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from raftcluster.discovery.candidate import State
from raftcluster.discovery.corosync_conf import ConfiguredNode, rings
from raftcluster.errors import Refusal

_CMAP = re.compile(r"^(\S+) \(([a-z0-9]+)\) = (.*)$")
_ADDRESS = re.compile(r"ip\(([^)]+)\)")
_PREFIXES = ("runtime.members", "runtime.totem.pg.mrp.srp.members")  # corosync 3, and 2
_STATUS = re.compile("(?:" + "|".join(map(re.escape, _PREFIXES)) + r")\.(\d+)\.status")
REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class RememberedNode:
    """A line of `crm_node --list`."""

    id: str
    name: str
    state: str
    """"member" or "lost"; pacemaker does not always say."""


@dataclass(frozen=True, slots=True)
class LiveNode:
    """A node as all commands together have it."""

    id: str
    name: str
    addresses: tuple[str, ...]
    state: State


def remembered(text: str) -> list[RememberedNode]:
    """`crm_node --list`: id, name and state, one node a line."""
    words = [line.split() for line in text.splitlines()]
    return [RememberedNode(each[0], each[1], each[2] if len(each) > 2 else "") for each in words if len(each) >= 2]


def partition(text: str) -> frozenset[str]:
    """`crm_node --partition`: the names of who is in this partition now."""
    return frozenset(text.split())


def keys(text: str) -> dict[str, str]:
    """`corosync-cmapctl`: `name (type) = value`, one a line."""
    return {found[1]: found[3].strip() for line in text.splitlines() if (found := _CMAP.match(line))}


def nodelist(cmap: Mapping[str, str]) -> list[ConfiguredNode]:
    """The nodes of corosync's nodelist, as `nodelist.node.N.KEY`."""
    found: dict[int, dict[str, str]] = {}
    for key, value in cmap.items():
        parts = key.split(".")
        if parts[:2] == ["nodelist", "node"] and len(parts) == 4 and parts[2].isdigit():
            found.setdefault(int(parts[2]), {})[parts[3]] = value
    return [
        ConfiguredNode(values.get("nodeid", ""), values.get("name", ""), rings(values))
        for _, values in sorted(found.items())
    ]


def joined(cmap: Mapping[str, str]) -> frozenset[str]:
    """The ids of who is in corosync's membership now, by `runtime.members.ID.status`."""
    return frozenset(found[1] for key, value in cmap.items() if value == "joined" and (found := _STATUS.match(key)))


def addresses(cmap: Mapping[str, str], node: str) -> tuple[str, ...]:
    """Where corosync has, or last had, the node with this id, by `runtime.members.ID.ip`: `r(0) ip(10.77.0.1) r(1) ...`."""
    return tuple(each for prefix in _PREFIXES for each in _ADDRESS.findall(cmap.get(f"{prefix}.{node}.ip", "")))


def remotes(text: str) -> list[str]:
    """The names of pacemaker's remote nodes in `cibadmin --query --scope nodes`: hosts without corosync. Raises `Refusal`."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise Refusal(f"cibadmin answers what is no XML: {error}", subject="cibadmin") from error
    return [each.get("uname", "") for each in root.iter("node") if each.get("type") == REMOTE and each.get("uname")]


def live(
    known: list[RememberedNode], present: frozenset[str], cmap: Mapping[str, str], remote: list[str]
) -> list[LiveNode]:
    """All of it together: corosync's nodes in their order, then whom only pacemaker knows."""
    configured, now = nodelist(cmap), joined(cmap)
    names = {each.id: each.name for each in known}
    found = []
    for node in configured:
        name = node.name or names.get(node.id, "")
        there = node.id in now or name in present
        found.append(
            LiveNode(node.id, name, node.addresses or addresses(cmap, node.id), State.MEMBER if there else State.DOWN)
        )
    listed = {each.id for each in configured} | {each.name for each in found if each.name}
    for each in known:
        if each.id in listed or each.name in listed:
            continue
        if each.name in remote:
            state = State.LISTED
        elif each.id in now or each.name in present:
            state = State.MEMBER
        else:
            state = State.PAST if configured else State.DOWN
        found.append(LiveNode(each.id, each.name, addresses(cmap, each.id), state))
    seen = {each.name for each in found}
    found += [LiveNode("", name, (), State.LISTED) for name in remote if name not in seen]
    return found
