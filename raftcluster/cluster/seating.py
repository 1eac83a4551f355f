"""Which members are to become voters of the engine, and which are to be none any more: pure decisions of the leader, as in
`lifecycle`."""

from __future__ import annotations

from raftcluster.cluster.actions import Action, Amend, Expel, Local, Promote, Propose
from raftcluster.cluster.view import View


def decide(view: View, local: Local) -> list[Action]:
    """What the leader has to change in the engine's voters now. Nothing, while it is open whether the last change holds."""
    if local.changing:
        return []
    coming, live = view.pending, view.live()
    actions: list[Action] = []
    for each in live.values():
        left_out = bool(each.asleep_since) or (coming is not None and each.node_id in coming.excluded)
        if each.role == "learner" and left_out:  # it cannot link: its vote would only count as missing
            actions += [Expel(each.node_id)] if each.node_id in local.voters else []
        elif each.role == "learner" and each.generation and not (coming and each.node_id in coming.joiners):
            if each.node_id in local.voters:  # while a manifest is being endorsed, the voters stay those that it names
                actions += [] if coming and coming.phase == "trust" else [Propose(["promoted", each.node_id])]
            elif each.node_id in local.caught_up and each.node_id != view.leaving:
                actions += _promotion(view, each.node_id)
    if view.leaving in local.voters:
        actions.append(Expel(view.leaving))
    elif view.leaving and not (coming and view.leaving in coming.leaving):
        actions.append(Propose(["removed", view.leaving]))
    actions += [Expel(each) for each in sorted(set(local.voters) - set(live))]
    return actions


def _promotion(view: View, node_id: str) -> list[Action]:
    """A learner becomes a voter; where the number of voters is even, the chain of manifests names it before: see
    `amendments.wanted_voters`."""
    known = {} if view.head is None else view.head.content().voters
    if len(known) % 2 or node_id in known:
        return [Promote(node_id)]
    return [Amend(node_id)] if view.pending is None and view.amendment is None else []
