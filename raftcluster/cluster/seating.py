"""Which members are to become voters of the engine, and which are to be none any more: pure decisions of the leader, as in
`lifecycle`."""

from __future__ import annotations

from raftcluster.cluster.actions import Action, Expel, Local, Promote, Propose
from raftcluster.cluster.view import View


def decide(view: View, local: Local) -> list[Action]:
    """What the leader has to change in the engine's voters now."""
    coming, live = view.pending, view.live()
    actions: list[Action] = []
    for each in live.values():
        if each.role == "learner" and each.generation and not (coming and each.node_id in coming.joiners):
            if each.node_id in local.voters:
                actions.append(Propose(["promoted", each.node_id]))
            elif each.node_id in local.caught_up:
                actions.append(Promote(each.node_id))
    if view.leaving in local.voters:
        actions.append(Expel(view.leaving))
    elif view.leaving:
        actions.append(Propose(["removed", view.leaving]))
    actions += [Expel(each) for each in sorted(set(local.voters) - set(live))]
    return actions
