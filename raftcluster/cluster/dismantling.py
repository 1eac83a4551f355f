"""What a node has to do next in a cluster that is being destroyed: pure decisions, as in `lifecycle`.

    sign      each voter signs the tombstone; nobody goes on before a majority has
    record    each node keeps tombstone and event record outside what will be removed, durably, and says so
    leave     each node goes when all have recorded it. Who is down is not waited for: it will find the tombstone

The leader goes last, so that what the others have said is committed and heard.
"""

from __future__ import annotations

from typing import Final

from raftcluster.cluster.actions import Action, Alarm, Local, Propose, Record, Sign, Wipe
from raftcluster.cluster.records import Destruction
from raftcluster.cluster.view import View

FAREWELL_SECONDS: Final = 5.0
"""So long a node waits for members that it has no link to, and a leader for the others to have heard that all is recorded."""
DESTROY_SECONDS: Final = 30.0
"""A node that has the tombstone and hears nothing new any more goes after this."""


def decide(view: View, decided: Destruction, local: Local) -> list[Action]:
    """What to do now, in this order."""
    live = view.live()
    if local.node_id not in live:
        return [Wipe()] if local.recorded else [Record(decided)] if local.entombed else []
    signing: list[Action] = []
    if not local.signed and view.head is not None and local.node_id in view.head.content().voters:
        signing.append(Sign())
    if not local.entombed:
        if local.destroying_s >= DESTROY_SECONDS:
            text = "the cluster is being destroyed, and less than a majority of it has signed the tombstone"
            signing.append(Alarm("destroy-waits", f"{text}: start the members that are down"))
        return signing
    if not local.recorded:
        return [*signing, Record(decided)]
    missing = set(live) - set(decided.recorded) - {local.node_id}
    told = local.node_id in decided.recorded
    if _may_leave(local, missing, told):
        return [Wipe()]
    return signing if told else [*signing, Propose(["recorded", local.node_id])]


def _may_leave(local: Local, missing: set[str], told: bool) -> bool:
    if local.destroying_s >= DESTROY_SECONDS:
        return True
    if not told:  # a leader could still hear it
        return not local.links and bool(missing) and local.destroying_s >= FAREWELL_SECONDS and not local.leader
    if missing & set(local.links):
        return False
    patience = FAREWELL_SECONDS * ((1 if missing else 0) + (1 if local.leader and local.links else 0))
    return local.destroying_s >= patience
