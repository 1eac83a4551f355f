"""The commands that dismantle the cluster. Rules: see `machine`."""

from __future__ import annotations

from dataclasses import replace

from raftcluster.cluster.records import Destruction, rejected
from raftcluster.cluster.rows import Commands, check_member, live_members
from raftcluster.cluster.view import FACTS, destruction, facts
from raftcluster.codec import Value
from raftcluster.machine import Tables


def _destroy(tables: Tables, time: int, event_id: str, name: str, every_node: bool, reason: str) -> Value:
    """Decide to dismantle the cluster; confirmed by its name."""
    known = facts(tables)
    if known is None or known.name != name:
        raise rejected("not-confirmed", f"to destroy this cluster, confirm with its name, not {name!r}", subject=name)
    live = live_members(tables)
    if len(live) > 1 and not every_node:
        raise rejected(
            "has-members",
            f"the cluster has {len(live)} members and each would be destroyed",
            subject=name,
            remedy="say so, or remove the others first",
        )
    tables.put(FACTS, b"destroyed", Destruction(event_id, reason, time, []).pack())
    return event_id


def _recorded(tables: Tables, time: int, node_id: str) -> Value:
    """A node's event record of the destruction is on its disk."""
    decided = destruction(tables)
    if decided is None:
        raise rejected("out-of-order", "the cluster is not being destroyed", subject=node_id)
    check_member(tables, node_id)
    if node_id not in decided.recorded:
        tables.put(FACTS, b"destroyed", replace(decided, recorded=sorted([*decided.recorded, node_id])).pack())
    return None


COMMANDS: Commands = {
    "destroy": (_destroy, (str, str, bool, str)),
    "recorded": (_recorded, (str,)),
}
