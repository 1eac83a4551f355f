"""The commands that dismantle the cluster. Rules: see `machine`.

    destroy --signed...--> a majority has signed the tombstone --recorded...--> each node wipes

Nothing else is carried out once `destroy` is: the tombstone's statement is the same on every node. Whether a signature is
right is for each node to judge before it acts; here it is kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from raftcluster.cluster.records import Destruction, rejected
from raftcluster.cluster.rows import Commands, check_member, live_members
from raftcluster.cluster.view import FACTS, destruction, facts
from raftcluster.codec import Value
from raftcluster.machine import Tables

AFTER: Final = ("destroy", "signed", "recorded")
"""What is carried out in a cluster that is being destroyed."""
SIGNATURE_BYTES: Final = 1_024


def _destroy(
    tables: Tables, time: int, event_id: str, name: str, every_node: bool, reason: str, keep_software: bool
) -> Value:
    """Decide to dismantle the cluster, confirmed by its name; the result is the event's id. Decided once: again, the same."""
    known = facts(tables)
    if known is None or known.name != name:
        raise rejected("not-confirmed", f"to destroy this cluster, confirm with its name, not {name!a}", subject=name)
    decided = destruction(tables)
    if decided is not None:
        return decided.event_id
    live = live_members(tables)
    if len(live) > 1 and not every_node:
        raise rejected(
            "has-members",
            f"the cluster has {len(live)} members and each would be destroyed",
            subject=name,
            remedy="say so, or remove the others first",
        )
    tables.put(FACTS, b"destroyed", Destruction(event_id, reason, time, [], {}, keep_software).pack())
    return event_id


def _signed(tables: Tables, time: int, node_id: str, public: bytes, signature: bytes) -> Value:
    """A member's signature of the tombstone."""
    decided = _decided(tables, node_id)
    if not 1 <= len(public) <= SIGNATURE_BYTES or not 1 <= len(signature) <= SIGNATURE_BYTES:
        raise rejected("malformed", "malformed signature", subject=node_id)
    signatures = {**decided.signatures, node_id: [public, signature]}
    kept = {each: signatures[each] for each in sorted(signatures)}
    tables.put(FACTS, b"destroyed", replace(decided, signatures=kept).pack())
    return None


def _recorded(tables: Tables, time: int, node_id: str) -> Value:
    """A node's event record of the destruction is on its disk, and the tombstone with it."""
    decided = _decided(tables, node_id)
    if node_id not in decided.recorded:
        tables.put(FACTS, b"destroyed", replace(decided, recorded=sorted([*decided.recorded, node_id])).pack())
    return None


def _decided(tables: Tables, node_id: str) -> Destruction:
    decided = destruction(tables)
    if decided is None:
        raise rejected("out-of-order", "the cluster is not being destroyed", subject=node_id)
    check_member(tables, node_id)
    return decided


COMMANDS: Commands = {
    "destroy": (_destroy, (str, str, bool, str, bool)),
    "signed": (_signed, (str, bytes, bytes)),
    "recorded": (_recorded, (str,)),
}
