"""What a node has to do next in a cluster that is being destroyed: pure decisions, as in `lifecycle`."""

from __future__ import annotations

from typing import Final

from raftcluster.cluster.actions import Action, Local, Propose, Record, Wipe
from raftcluster.cluster.records import Destruction
from raftcluster.cluster.view import View

FAREWELL_SECONDS: Final = 5.0
"""The leader of a cluster being destroyed waits this long for the others to have heard that all have recorded it."""
DESTROY_SECONDS: Final = 30.0
"""The decision to destroy is committed; a node that cannot hear from the others any more carries it out after this."""


def decide(view: View, decided: Destruction, local: Local) -> list[Action]:
    if not local.recorded:
        return [Record(decided)]
    live = view.live()
    everyone = set(live) <= set(decided.recorded)
    heard = not local.leader or not local.links or local.destroying_s >= FAREWELL_SECONDS
    if (everyone and heard) or local.destroying_s >= DESTROY_SECONDS or local.node_id not in live:
        return [Wipe()]
    return [] if local.node_id in decided.recorded else [Propose(["recorded", local.node_id])]
