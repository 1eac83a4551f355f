"""What `Node.status` says: plain values, for people and programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raftcluster import limits
from raftcluster.cluster.records import Member
from raftcluster.codec import Value
from raftcluster.engine.replica import Replica
from raftcluster.errors import RaftclusterError
from raftcluster.transport.ports import LinkInfo


def node_status(replica: Replica, facts: Mapping[str, Any], failure: RaftclusterError | None) -> dict[str, Value]:
    """One node by itself; `match` is for :func:`member_rows`. Thread: tick thread. Never waits."""
    engine, journal, me = replica.engine, replica.journal, replica.me
    voters = journal.voters()
    match = {peer: index for peer in sorted(engine.others) if (index := engine.match_index(peer)) is not None}
    return {
        "id": me,
        "name": facts["name"],
        "cluster_id": facts["cluster_id"],
        "lab": facts["lab"],
        "role": "leader" if engine.is_leader else "voter" if me in voters else "learner",
        "leader": engine.leader,
        "term": engine.term,
        "voters": sorted(voters),
        "last_index": journal.last[1],
        "commit_index": engine.commit_index,
        "applied_index": engine.applied,
        "durable_index": journal.durable_index,
        "checkpoint_index": journal.base_index,
        "log_entries": len(journal),
        "log_bytes": journal.bytes,
        "overlay_keys": replica.applier.overlay.keys,
        "cluster_time_ms": replica.time(),
        "clock_skews": {peer: skew / 1000 for peer, skew in sorted(replica.leadership.skews.items())},
        "storage": replica.health,
        "failure": None if failure is None else str(failure),
        "match": match if engine.is_leader else {},
    }


def member_rows(
    members: Iterable[Member], links: Mapping[str, LinkInfo], own: Mapping[str, Value], match: Mapping[str, int]
) -> list[dict[str, Value]]:
    """One row per member, as the node `own` sees it."""
    rows: list[dict[str, Value]] = []
    for member in members:
        link = links.get(member.node_id)
        here = member.node_id == own["id"]
        trails = own["last_index"] - match[member.node_id] if member.node_id in match else None
        rows.append(
            {
                "id": member.node_id,
                "name": member.name,
                "address": f"{member.host}:{member.port}",
                "role": "leader"
                if member.node_id == own["leader"]
                else "voter"
                if member.node_id in own["voters"]
                else "learner",
                "linked": here or link is not None,
                "trails_by": 0 if here else trails,
                "generation": member.generation if link is None else link.generation,
                "clock_skew": own["clock_skews"].get(member.node_id),
                "round_trip": None if link is None else link.round_trip,
                "product": member.product,
            }
        )
    return rows


def clock_alarms(own: Mapping[str, Value]) -> dict[str, str]:
    """As the leader knows: whose wall clock is off. Waits and lives do not depend on it; certificates and logs do."""
    off = {peer: skew for peer, skew in own["clock_skews"].items() if abs(skew) > limits.CLOCK_ALARM_SECONDS}
    if not off:
        return {}
    text = ", ".join(f"{peer} {skew:+.1f} s" for peer, skew in off.items())
    return {"clock": f"wall clocks are off the median: {text}; synchronise them (chrony, systemd-timesyncd)"}
