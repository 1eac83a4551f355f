"""Features: what a newer program writes into the log that an older one would not understand.

While a cluster is upgraded node by node it runs two versions, and every one of them applies every command. So each node
reports what its program understands, and a feature is *enabled* by the entry with which the last live member has reported
it: only then may a node propose what belongs to it. That is for good: a program that does not understand what is enabled
is refused, when it joins and when it opens its directory. (The version gate of etcd's and Consul's documentation, by name
instead of by number, so that an embedding product has features of its own.)

    facts    "features" -> {node id: [names]}    "enabled" -> [names], both in order
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from raftcluster.cluster.view import FACTS, View, enabled, members, reported
from raftcluster.codec import Value, pack
from raftcluster.errors import DataVersion, Rejected
from raftcluster.machine import Tables

NAMES: Final = 64
"""Of one program."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Feature:
    """One that any live member understands, or that is enabled."""

    name: str
    enabled: bool
    missing: Sequence[str]
    """Names of the live members whose program has not reported it: what it waits for."""


def checked(names: Collection[Value]) -> list[str]:
    """The names in order. Raises `Rejected` when they are none."""
    if isinstance(names, str) or not all(isinstance(each, str) and _NAME.fullmatch(each) for each in names):
        raise Rejected(
            "a feature's name has lower case letters, digits, dots, dashes and underscores, 63 at most",
            subject="features",
        )
    if len(names) > NAMES:
        raise Rejected(f"a program has at most {NAMES} features", subject="features")
    return sorted(set(names))


def settle(tables: Tables, reports: Mapping[str, Sequence[str]]) -> list[str]:
    """Keep these reports of the live members, and enable what all of them understand; the result is what that has added."""
    live = sorted(each.node_id for each in members(tables).values() if each.role != "removed")
    kept = {node_id: list(reports[node_id]) for node_id in live if node_id in reports}
    tables.put(FACTS, b"features", pack(kept))
    before = enabled(tables)
    common = set.intersection(*(set(kept.get(node_id, ())) for node_id in live)) if live else set()
    added = sorted(common - set(before))
    if added:
        tables.put(FACTS, b"enabled", pack(sorted([*before, *added])))
    return added


def listed(view: View) -> list[Feature]:
    """All features, by name."""
    live = sorted(view.live().values(), key=lambda each: each.name)
    names = {name for names in view.reported.values() for name in names} | set(view.enabled)
    return [
        Feature(
            name,
            name in view.enabled,
            [each.name for each in live if name not in view.reported.get(each.node_id, ())],
        )
        for name in sorted(names)
    ]


def lacking(enabled: Collection[str], known: Collection[str]) -> str:
    """What keeps a program that knows these features out, as `records.differences` would say it; "" when nothing does."""
    missing = sorted(set(enabled) - set(known))
    if not missing:
        return ""
    return f"features: the cluster has enabled {', '.join(missing)}, which this node's program does not know"


def check_understood(enabled: Collection[str], known: Collection[str], subject: str) -> None:
    """Raise `DataVersion` when this program does not understand what the cluster has enabled."""
    text = lacking(enabled, known)
    if text:
        raise DataVersion(text, subject=subject, remedy="install the version that the other nodes run")


def report(tables: Tables, node_id: str, names: Collection[Value]) -> list[str]:
    """Note what a member's program understands; the result is what is enabled by that."""
    return settle(tables, {**reported(tables), node_id: checked(names)})
