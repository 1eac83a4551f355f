"""What a node has to do next: pure decisions from the replicated record and what is true on this node.

Theory of operation. Nobody drives a generation from beginning to end. Each node compares the record (`View`) with its own
disk and links (`Local`) and does whatever of *its* part is missing; the leader, whoever that is, also does the cluster's
part. Every action is idempotent, so a crash anywhere costs a repetition: after it the same comparison finds what is left.

    phase    every node                                                leader
    collect  make a key, send a request (a joiner has: with its token)  mint when all requests are in; late: exclude or abort
    trust    check and store it, trust both roots, endorse, say so      switch when all have; late: with a majority
    switch   present the new certificate, replace links, say so         (last:) the same; retire when all have; late: most
    active   trust its root alone, delete older keys                    promote caught-up learners; renew when it is due
    asleep   follow the public chain, ask for a certificate, return     --

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
    Amend,
    CatchUp,
    Depart,
    Endorse,
    Forget,
    Found,
    HandOver,
    Local,
    Mint,
    Propose,
    Relink,
    Renew,
    Request,
    Store,
    Use,
    Vouch,
)
from raftcluster.cluster.amendments import wanted_voters
from raftcluster.cluster.generations import COLLECT_MS, RETIRE_MS, SWITCH_MS, TRUST_MS
from raftcluster.cluster.manifests import is_endorsed
from raftcluster.cluster.records import Generation, Member
from raftcluster.cluster.view import View

RENEW_MS: Final = 60 * 86_400_000
"""A generation is renewed at two thirds of its certificates' 90 days."""
RETRY_MS: Final = 60_000
"""What the cluster begins by itself and had to give up is tried again after this."""
GATHER_MS: Final = 3_000
"""So long a generation with a joiner waits for other hosts that are invited: whoever is set up together gets one for all."""
ALONE_SECONDS: Final = 15.0
"""Who has been lonely for so long may need help."""
ALONE: Final = (
    "this node is linked with less than a majority of the members. If they are down: start them. If this node has another address "
    "than before, or they have: on a member, raftcluster members move NAME HOST:PORT, so that firewalls let it in. If the cluster "
    "was destroyed: raftcluster destroy --tombstone FILE, with a file that its other hosts keep beside their data directories "
    "(DIR-destroyed). If a majority is gone for good: raftcluster recover"
)
LONELY_SECONDS: Final = 3.0
"""A node without a majority's links for longer than dials pause may have slept through a generation, and asks."""


def decide(view: View, local: Local) -> list[Action]:
    """What to do now, in this order. Empty: this node's part is done until the record or the node changes."""
    if view.facts is None or view.active is None:
        return [Found()] if local.founder else _follow(local)
    if view.destruction is not None:  # whatever else has happened since: it stays decided
        return dismantling.decide(view, view.destruction, local)
    if view.revision < local.revision:
        return _follow(local)
    me = view.live().get(local.node_id)
    if me is None:
        return [Depart()] if local.node_id in view.members else []
    actions = _certificates(view, view.active, me, local) + _version(view, me, local) + _follow(local)
    if local.leader:
        actions += _duties(view, view.active, local)
    return actions


def is_for_the_unheard(action: Action) -> bool:
    """Whether to go on with this action when another one of the same look was heard by nobody who leads. What is proposed now is
    not heard either; the way back is there for exactly that, and must not wait behind what it leads to."""
    return isinstance(action, CatchUp)


def is_due(view: View) -> bool:
    """Whether the generation in force has to be replaced: a removed member holds a certificate of it, or it is old."""
    return why_due(view) != ""


def why_due(view: View) -> str:
    """The reason for it; "" when there is none."""
    active = view.active
    if active is None:
        return ""
    gone = [each.name for each in view.members.values() if each.role == "removed" and each.generation >= active.number]
    if gone:
        return f"{', '.join(sorted(gone))} removed: a generation without it"
    return "two thirds of its certificates' life are over" if view.time - active.minted >= RENEW_MS else ""


def peers(view: View, node_id: str) -> dict[str, Member]:
    """Who may link with `node_id` now."""
    return {each.node_id: each for each in view.live().values() if each.pins and each.node_id != node_id}


def _follow(local: Local) -> list[Action]:
    """What a node does that too few link with."""
    actions: list[Action] = []
    if local.lonely_s >= ALONE_SECONDS:
        actions.append(Alarm("alone", ALONE))
    if local.expired:
        remedy = "if no majority has a valid one: raftcluster recover on one node, then join the others anew"
        actions.append(Alarm("certificate-expired", f"this node's certificate has expired; {remedy}"))
    return [*actions, CatchUp()] if local.lonely_s >= LONELY_SECONDS else actions


def _version(view: View, me: Member, local: Local) -> list[Action]:
    """Say what runs here, when the record has something else."""
    said = (me.product, view.reported.get(me.node_id, []))
    if not me.generation or not local.product or said == (local.product, list(local.features)):
        return []
    return [Propose(["report", me.node_id, local.product, list(local.features)])]


def _certificates(view: View, active: Generation, me: Member, local: Local) -> list[Action]:
    coming = view.pending
    actions: list[Action] = []
    if coming is not None and coming.phase == "collect" and coming.number not in local.stored:
        request = local.requests.get(coming.number)
        if me.node_id in coming.members and (request is None or coming.requests.get(me.node_id) != request):
            actions.append(Request(coming.number))
    for each in (active, coming):
        if each is None or not each.root:
            continue
        certificate = each.certificates.get(me.node_id)
        if certificate is None and each is coming and each.number not in local.rooted:
            actions.append(Store(each.number, each.root, None))
        elif certificate is not None and each.number not in local.stored:
            if each.number in local.requests:
                actions.append(Store(each.number, each.root, certificate))
            else:
                actions.append(
                    Alarm("key-lost", f"the key of generation {each.number} is not on this node's disk: join again")
                )
    use = _use(view, active, local)
    if use.present not in local.stored:
        held = [each for each in (active, coming) if each is not None and me.node_id in each.certificates]
        return actions if held else [*actions, CatchUp()]
    if (use.present, set(use.trust)) != (local.presented, set(local.trusted)):
        return [*actions, use]
    if coming is not None and coming.number in local.trusted:
        actions += _reports(coming, local)
    elif me.asleep_since and coming is None:
        actions.append(Propose(["awake", me.node_id]))
    if view.amendment is not None and view.head is not None and me.node_id not in view.amendment.endorsements:
        if me.node_id in view.head.content().voters:
            actions.append(Endorse(view.amendment.sequence))
    kept = {active.number, coming.number if coming else active.number}
    old = tuple(sorted(each for each in local.on_disk if each <= view.newest and each not in kept))
    if old:
        actions.append(Forget(old))
    return actions


def _use(view: View, active: Generation, local: Local) -> Use:
    """Both roots from the moment the new one is stored; the new certificate once every member trusts it."""
    coming = view.pending
    if coming is None or not coming.root or coming.number not in local.rooted:
        return Use(active.number, (active.number,))
    trust = (active.number, coming.number)
    if local.node_id not in coming.certificates or coming.number not in local.stored:
        return Use(active.number, trust)
    if local.node_id in coming.switched:
        return Use(coming.number, trust)
    others = set(coming.members) - {local.node_id}
    # Followers first, leader last; who has begun does not go back when it is elected meanwhile.
    late = view.time - coming.switching >= SWITCH_MS
    turn = not local.leader or others <= set(coming.switched) or local.presented == coming.number or late
    return Use(coming.number if coming.phase == "switch" and turn else active.number, trust)


def _reports(coming: Generation, local: Local) -> list[Action]:
    me = local.node_id
    if coming.phase == "trust" and me not in coming.trusted and me not in coming.endorsements:
        return [Vouch(coming.number)] if me in coming.certificates or me in coming.leaving else []
    if coming.phase == "switch" and me not in coming.trusted and me in coming.certificates:
        return [Vouch(coming.number)]
    if local.presented == coming.number:
        part = {
            *coming.holders(),
            *coming.leaving,
        }  # a link to whoever hangs, and was therefore left out, is not waited for
        if old := sorted(peer for peer, shown in local.links.items() if shown != coming.number and peer in part):
            return [Relink(tuple(old))]
        if coming.phase == "switch" and me not in coming.switched:
            return [Propose(["switched", coming.number, me])]
    return []


def _duties(view: View, active: Generation, local: Local) -> list[Action]:
    coming, live = view.pending, view.live()
    actions: list[Action] = []
    if coming is not None:
        actions += _step(view, coming, local)
    elif view.aborted == 0 or view.time - view.aborted >= RETRY_MS:
        if is_due(view):
            actions.append(Renew())
    if coming is None and view.amendment is None and view.head is not None:
        known = view.head.content().voters
        if wanted_voters(known, live.values()) != known:
            actions.append(Amend())
    return [*actions, *seating.decide(view, local)]


def _step(view: View, coming: Generation, local: Local) -> list[Action]:
    """The leader's part of a generation: what follows from what all have reported, or from a deadline."""
    if local.node_id in coming.leaving:
        return [HandOver()]
    holders = coming.holders()
    if coming.phase == "collect":
        if view.invited and view.time - coming.begun < GATHER_MS:
            return []
        if all(each in coming.requests for each in holders):
            return [Mint(coming.number, {each: coming.requests[each] for each in holders})]
        return [Propose(["overdue", coming.number])] if view.time - coming.begun >= COLLECT_MS else []
    if coming.phase == "trust" and view.head is not None:
        late = view.time - coming.minted >= TRUST_MS
        voters = view.head.content().voters
        if not is_endorsed(voters, list(coming.endorsements)):
            missing = sorted(view.members[each].name for each in voters if each not in coming.endorsements)
            text = f"generation {coming.number} waits for a majority of endorsements; missing: {', '.join(missing)}"
            return [Alarm("endorsements", text)] if late else []
        return [Propose(["switch", coming.number])] if late or set(coming.members) <= set(coming.trusted) else []
    late = view.time - coming.switching >= RETIRE_MS
    voters_now = [each.node_id for each in view.live().values() if each.role == "voter"]
    if set(coming.members) <= set(coming.switched) or (late and is_endorsed(voters_now, coming.switched)):
        return [Propose(["retire", coming.number])]
    return []
