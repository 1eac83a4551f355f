"""What a node has to do next: pure decisions from the replicated record and what is true on this node.

Theory of operation. Nobody drives a generation from beginning to end. Each node compares the record (`View`) with its own
disk and links (`Local`) and does whatever of *its* part is missing; the leader, whoever that is, also does the cluster's
part. Every action is idempotent, so a crash anywhere costs a repetition: after it the same comparison finds what is left.

    phase    every node                                                leader
    collect  make a key, send a request (a joiner has: with its token)  mint when all requests are in
    trust    store key and certificate, trust both roots, say so        --
    switch   present the new certificate, replace links, say so         (last:) the same; retire when all have
    active   trust its root alone, delete older keys                    promote caught-up learners; renew when it is due

Rules:

1. a view that is older than one this node has acted upon is ignored: tables are written behind the log, and a joiner
   starts with the view that its bundle carried;
2. nothing is reported before it is durable on this node;
3. a key is deleted only after the record says that nobody needs it: never one that is newer than the record;
4. a member that is removed loses its vote first, while it may still be needed to commit that; then it is shut out, and a
   generation without it follows.
"""

from __future__ import annotations

from typing import Final

from raftcluster.cluster import dismantling, seating
from raftcluster.cluster.actions import (
    Action,
    Alarm,
    Depart,
    Forget,
    Found,
    Local,
    Mint,
    Propose,
    Relink,
    Renew,
    Request,
    Store,
    Use,
)
from raftcluster.cluster.records import Generation, Member
from raftcluster.cluster.view import View

RENEW_MS: Final = 60 * 86_400_000
"""A generation is renewed at two thirds of its certificates' 90 days."""


def decide(view: View, local: Local) -> list[Action]:
    """What to do now, in this order. Empty: this node's part is done until the record or the node changes."""
    if view.facts is None or view.active is None:
        return [Found()] if local.founder else []
    if view.revision < local.revision:
        return []
    if view.destruction is not None:
        return dismantling.decide(view, view.destruction, local)
    me = view.live().get(local.node_id)
    if me is None:
        return [Depart()] if local.node_id in view.members else []
    actions = _certificates(view, view.active, me, local)
    if local.leader:
        actions += _duties(view, view.active, local)
    return actions


def peers(view: View, node_id: str) -> dict[str, Member]:
    """Who may link with `node_id` now."""
    return {each.node_id: each for each in view.live().values() if each.pins and each.node_id != node_id}


def _certificates(view: View, active: Generation, me: Member, local: Local) -> list[Action]:
    coming = view.pending
    actions: list[Action] = []
    if coming is not None and coming.phase == "collect" and coming.number not in local.stored:
        request = local.requests.get(coming.number)
        if me.node_id not in coming.joiners and (request is None or coming.requests.get(me.node_id) != request):
            actions.append(Request(coming.number))
    for each in (active, coming):
        if each is not None and me.node_id in each.certificates and each.number not in local.stored:
            if each.number in local.requests:
                actions.append(Store(each.number, each.root, each.certificates[me.node_id]))
            else:
                actions.append(
                    Alarm("key-lost", f"the key of generation {each.number} is not on this node's disk: join again")
                )
    use = _use(view, active, local)
    if use.present not in local.stored:
        return actions
    if (use.present, set(use.trust)) != (local.presented, set(local.trusted)):
        return [*actions, use]
    if coming is not None and coming.number in local.trusted:
        actions += _reports(coming, local)
    newest = coming.number if coming else active.number
    old = tuple(sorted(each for each in local.on_disk if each < newest and each != active.number))
    if old:
        actions.append(Forget(old))
    return actions


def _use(view: View, active: Generation, local: Local) -> Use:
    """Both roots from the moment the new one is stored; the new certificate once every member trusts it."""
    coming = view.pending
    if coming is None or coming.phase == "collect" or coming.number not in local.stored:
        return Use(active.number, (active.number,))
    trust = (active.number, coming.number)
    if local.node_id in coming.switched:
        return Use(coming.number, trust)
    others = set(view.live()) - {local.node_id}
    # Followers first, leader last; who has begun does not go back when it is elected meanwhile.
    turn = not local.leader or others <= set(coming.switched) or local.presented == coming.number
    return Use(coming.number if coming.phase == "switch" and turn else active.number, trust)


def _reports(coming: Generation, local: Local) -> list[Action]:
    if coming.phase == "trust" and local.node_id not in coming.trusted:
        return [Propose(["trusted", coming.number, local.node_id])]
    if local.presented == coming.number:
        if any(shown != coming.number for shown in local.links.values()):
            return [Relink()]
        if coming.phase == "switch" and local.node_id not in coming.switched:
            return [Propose(["switched", coming.number, local.node_id])]
    return []


def _duties(view: View, active: Generation, local: Local) -> list[Action]:
    coming, live = view.pending, view.live()
    actions: list[Action] = []
    if coming is not None:
        if coming.phase == "collect" and set(live) <= set(coming.requests):
            actions.append(Mint(coming.number, {each: coming.requests[each] for each in sorted(live)}))
        if coming.phase == "switch" and set(live) <= set(coming.switched):
            actions.append(Propose(["retire", coming.number]))
    else:
        shut_out = any(each.role == "removed" and each.generation >= active.number for each in view.members.values())
        if shut_out or view.time - active.minted >= RENEW_MS:
            actions.append(Renew())
    return [*actions, *seating.decide(view, local)]
