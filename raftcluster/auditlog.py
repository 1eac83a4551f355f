"""The audit log of a cluster: what somebody has changed of its configuration, greylist, members and certificates, in one order.

Each of them is kept by the state machine that carries it out, with who made it, when, from where and why; here they are read
together. What has become too old to be kept there is in the nodes' event records (`config-changed`, `greylist-...`,
`cluster-changed`), which also outlive the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, islice
from operator import attrgetter

from raftcluster import trail
from raftcluster.cluster.auditing import read_newest
from raftcluster.config.past import Past
from raftcluster.greylist.acts import Act, read_acts
from raftcluster.greylist.lists.machine import Change, read_revision
from raftcluster.greylist.lists.machine import read_changes as read_list_changes
from raftcluster.greylist.machine import read_settings_history
from raftcluster.host import Host
from raftcluster.machine import ReadTables

KEYS = 20
"""A transaction names so many keys, and counts the others."""


@dataclass(frozen=True, slots=True)
class Audited:
    """One change. There is no value in it: those are in the histories."""

    time: int
    """Cluster time, milliseconds."""
    log: str
    """`config`, `greylist` (its settings), `lists`, `records` (forgotten or imported ones) or `cluster`."""
    number: int
    """The revision, or the number of the change among those of the cluster."""
    action: str
    subject: str
    author: str
    origin: str
    """The node at which it was asked, or the address of a host that joins."""
    reason: str


def read_audit(host: Host, limit: int) -> list[Audited]:
    """The newest `limit` changes as this node has applied them, newest first. Thread: any. Raises `Unavailable`."""
    logs = (_cluster, _config, _greylist, _lists, _records)
    rows = merge(*(each(host, limit) for each in logs), key=attrgetter("time"), reverse=True)
    return list(islice(rows, limit))


def _cluster(host: Host, limit: int) -> Iterator[Audited]:
    for each in host.query("cluster", lambda tables, _: read_newest(tables, limit)):
        yield Audited(
            each.time, "cluster", each.number, each.action, each.subject, each.author, each.origin, each.reason
        )


def _config(host: Host, limit: int) -> Iterator[Audited]:
    for revision, together in groupby(Past(host).log("", limit, None), attrgetter("revision")):
        changed = list(together)
        first = changed[0]
        action = "delete" if all(each.deleted for each in changed) else "set"
        more = f" and {len(changed) - KEYS} more" if len(changed) > KEYS else ""
        subject = ", ".join(each.key for each in changed[:KEYS]) + more
        yield Audited(first.time, "config", revision, action, subject, first.author, first.node, first.reason)


def _greylist(host: Host, limit: int) -> Iterator[Audited]:
    rows = host.query("greylist", lambda tables, _: read_settings_history(tables, limit))
    for revision, settings, author, reason, time, node in rows:
        yield Audited(time, "greylist", revision, "configure", ", ".join(settings), author, node, reason)


def _lists(host: Host, limit: int) -> Iterator[Audited]:
    def read(tables: ReadTables, now: int) -> list[Change]:
        return read_list_changes(tables, max(0, read_revision(tables) - limit), limit)

    for each in reversed(host.query("lists", read)):
        more = f" and {each.number - KEYS} more" if each.number > KEYS else ""
        entries = ", ".join(f"{effect} {kind} {pattern}" for effect, kind, pattern, _ in each.entries[:KEYS])
        yield Audited(each.time, "lists", each.revision, each.what, entries + more, each.author, each.node, each.reason)


def _records(host: Host, limit: int) -> Iterator[Audited]:
    def read(tables: ReadTables, now: int) -> list[Act]:
        return read_acts(tables, max(0, trail.read_newest(tables) - limit), limit)

    for each in reversed(host.query("greylist", read)):
        yield Audited(each.time, "records", each.number, each.what, each.detail, each.author, each.node, each.reason)
