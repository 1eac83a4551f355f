"""After a lost quorum: what one survivor holds becomes a new cluster of one node.

Raft cannot go on without a majority; whoever decides that the others are gone for good decides it for them, too. So this
is a new cluster, with an id and certificates of its own: a member of the old one that comes back after all is refused,
and finds out why from a statement that this node signs with the key by which it is known there (see `statement`).

    recover.json    the decision: written first, removed last. From then on no node starts here until `recover` is done
    certificates    of the new generation; then the statement, signed while the old key is there
    tables, log     one durable unit of the tables, then the log that follows it (see `offline`)
    node.json       of the new cluster; then what is trusted, and the old keys are deleted

Every step can be repeated: what broke off is finished by calling it again.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raftcluster.backup.offline import Offline
from raftcluster.backup.unfinished import RECOVER, RESTORE, check_finished
from raftcluster.builtin import all_machines
from raftcluster.cluster.auditing import attributed
from raftcluster.cluster.create import founding
from raftcluster.cluster.keystore import Keystore, Trust
from raftcluster.cluster.reconcile import GENESIS
from raftcluster.cluster.records import Facts, Member, rejected
from raftcluster.cluster.statement import STATEMENT, Statement
from raftcluster.cluster.view import View
from raftcluster.codec import Value, unpack
from raftcluster.config.reading import read_revision
from raftcluster.errors import FrameError, RaftclusterError
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.machine import StateMachine
from raftcluster.storage.directory import DataDirectory, damaged, read_object
from raftcluster.transport.certificates import certificate_hash, validity
from raftcluster.transport.connect import dial_untrusted
from raftcluster.transport.ports import Address

log = logging.getLogger("raftcluster.backup")


@dataclass(frozen=True, slots=True)
class Survivor:
    """One member of the old cluster, as this node knows it."""

    name: str
    node_id: str
    host: str
    port: int
    role: str
    here: bool
    """Whether it is this node: the others are none of the new cluster's and join it anew."""
    answers: bool
    """Whether a node of the old cluster answers at its address, or says so."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a recovery on this node would keep and lose.

    Run it on every survivor: the one with the greatest `last_term`, then the greatest `last_index`, knows most. What only
    the others have is lost: entries beyond `last_index`.
    """

    cluster: str
    cluster_id: str
    node: str
    node_id: str
    term: int
    """The greatest that this node has heard of."""
    last_term: int
    last_index: int
    """Everything up to here is kept."""
    commit_index: int
    """Up to here this node knows it to be acknowledged."""
    applied_index: int
    """Up to here it is in the tables on the disk; the rest is applied from the log."""
    uncertain: int
    """Entries beyond `commit_index`: kept, whether or not a majority had them."""
    voter: bool
    """Whether this node had a vote. A learner may be behind."""
    voters: list[str]
    """Names of those that had one."""
    quorum: int
    """How many of them are needed for the old cluster to go on: if so many can be started, start them instead."""
    members: list[Survivor]
    generation: int
    """Of the certificates that are given up."""
    config_revision: int
    unfinished: bool
    """Whether a recovery was begun here: it can only be finished."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The new cluster."""

    cluster: str
    cluster_id: str
    former_id: str
    """The old cluster's."""
    node: str
    node_id: str
    generation: int
    index: int
    """Where its log begins."""
    removed: list[str]
    """Names of the members that have to join anew."""


def preview(path: str | os.PathLike[str], *, machines: Sequence[StateMachine] = ()) -> Preview:
    """What `recover` would do in `path`. Changes nothing. `machines` are the embedder's, as for `Node.open`.

    Raises `StorageRefusal` when a node uses the directory, or nothing is in it; `StorageFailed` when it is damaged.
    """
    with DataDirectory.open(path) as directory:
        node = directory.read_node()
        with Offline(directory, all_machines(machines), [node["founder"]]) as state:
            return _preview(directory, node, state, state.view())


def recover(
    path: str | os.PathLike[str],
    *,
    confirm: str,
    machines: Sequence[StateMachine] = (),
    outlet: Outlet | None = None,
    force: bool = False,
    reason: str = "",
    author: str = "",
) -> Recovered:
    """Make what the survivor in `path` holds a new cluster of one node, named as before. Then start it, and invite others.

    `confirm` is the cluster's name. Only when a majority of the voters is gone for good: if they run on, there are two
    clusters afterwards. So the members are asked first, and while enough of them answer to be a majority with this node it is
    refused; `force` does it all the same, and so does a certificate that has expired here. `machines` as for `preview`, `outlet` as for `Node.open`; `author` and `reason` are kept.

    Raises `Rejected` when the name differs, when there is nothing to recover from or for, when this node was removed, or a
    majority answers (`quorum-alive`); otherwise what `preview` raises, `StorageFull`, `Refusal`. Before the decision is on the disk nothing has changed; after
    it, calling this again finishes the work.
    """
    with DataDirectory.open(path) as directory:
        node = directory.read_node()
        with Offline(directory, all_machines(machines), [node["founder"]]) as state:
            plan = _plan(directory, node, state, confirm, force, [author, reason])
            return _carry_out(directory, node, state, plan, outlet)


def _preview(directory: DataDirectory, node: dict[str, Any], state: Offline, view: View) -> Preview:
    facts, me = _facts(directory, view), node["node_id"]
    rows = sorted(view.live().values(), key=lambda member: member.name)
    names = {member.node_id: member.name for member in view.members.values()}
    answering = _answering(view, facts.cluster_id, me)
    index, term = state.last
    return Preview(
        facts.name,
        facts.cluster_id,
        node["name"],
        me,
        state.term,
        term,
        index,
        state.commit,
        state.checkpoint,
        index - state.commit,
        me in state.voters,
        sorted(names.get(each, each) for each in state.voters),
        len(state.voters) // 2 + 1,
        [
            Survivor(
                each.name,
                each.node_id,
                each.host,
                each.port,
                each.role,
                each.node_id == me,
                each.node_id in answering,
            )
            for each in rows
        ],
        0 if view.active is None else view.active.number,
        read_revision(state.applier.tables("config")),
        (directory.path / RECOVER).exists(),
    )


def _facts(directory: DataDirectory, view: View) -> Facts:
    if view.facts is None:
        raise rejected(
            "nothing-to-recover",
            f"{directory.path} holds no state of a cluster: nothing was ever applied there",
            subject=str(directory.path),
            remedy="use another survivor, or a backup: raftcluster restore",
        )
    return view.facts


def _plan(
    directory: DataDirectory, node: dict[str, Any], state: Offline, confirm: str, force: bool, why: list[str]
) -> dict[str, Any]:
    """The decision: the one that is on the disk, or a new one, checked and written."""
    file = directory.path / RECOVER
    view = state.view()
    facts, me = _facts(directory, view), node["node_id"]
    if confirm != facts.name:
        raise rejected(
            "not-confirmed", f"to recover this cluster, confirm with its name, not {confirm!r}", subject=confirm
        )
    if (begun := read_object(file)) is not None:
        return _checked(begun, file)
    if (directory.path / RESTORE).exists():
        check_finished(directory.path)
    if view.destruction is not None:
        raise rejected("destroyed", f"cluster {facts.name} is being destroyed", subject=facts.name)
    if me not in view.live():
        raise rejected(
            "removed",
            f"{node['name']} was removed from cluster {facts.name}: what it holds ended there",
            subject=node["name"],
            remedy="recover a member, or restore a backup",
        )
    if state.voters == {me}:
        raise rejected(
            "quorum-not-lost",
            f"{node['name']} is the only voter: it needs nobody else",
            subject=node["name"],
            remedy="start it",
        )
    keystore = Keystore(directory, facts.cluster_id, me)
    if not force and not _has_expired(keystore):
        _check_lost(view, facts, me, state.voters)
    numbers = [*keystore.on_disk(), int(unpack(state.applier.tables("cluster").get("facts", b"last") or b"\x00"))]
    plan = {
        "cluster_id": str(uuid.uuid4()),
        "former": facts.values(),
        "generation": max(numbers) + 1,
        "revision": max(view.revision, keystore.trust().revision) + 1,
        "removed": sorted(each.name for each in view.live().values() if each.node_id != me),
        "decided_at": int(time.time()),
        "why": why,
    }
    _told(plan, node, 0)  # refused before anything is decided
    directory.write(RECOVER, (json.dumps(plan, indent=2, sort_keys=True) + "\n").encode())
    return plan


def _checked(plan: dict[str, Any], file: Path) -> dict[str, Any]:
    """The decision that is on the disk. Raises `StorageFailed` when it is none."""
    kinds = {"cluster_id": str, "former": list, "generation": int, "revision": int, "removed": list, "decided_at": int}
    try:
        if any(type(plan[name]) is not kind for name, kind in kinds.items()):
            raise ValueError("a field is of another kind")
        Facts.of(plan["former"])
        author, reason = map(str, plan.get("why", ["", ""]))
    except (FrameError, KeyError, TypeError, ValueError) as error:
        raise damaged(file, f"it is no decision: {error}") from error
    return {**plan, "why": [author, reason]}


def _has_expired(keystore: Keystore) -> bool:
    """Whether this node's certificate has: then it can link with nobody, whoever answers."""
    try:
        certificate = keystore.identity(keystore.trust().presented).certificate
    except RaftclusterError:  # it has none any more
        return True
    return validity(certificate)[1].timestamp() < time.time()


def _check_lost(view: View, facts: Facts, me: str, voters: Collection[str]) -> None:
    """Refuse while so many voters answer that with this one they are a majority."""
    alive = [each for each in _answering(view, facts.cluster_id, me) if each in voters]
    if len({*alive, me} & {*voters}) > len(voters) / 2:
        names = ", ".join(sorted(view.members[each].name for each in alive))
        raise rejected(
            "quorum-alive",
            f"of the {len(voters)} voters of cluster {facts.name}, {names} answer: with this node they are a majority",
            subject=facts.name,
            remedy="start this node instead; recover --force makes a second cluster all the same",
        )


def _answering(view: View, cluster_id: str, me: str) -> set[str]:
    """Ids of the other members at whose addresses somebody says to be of this cluster. All are asked at once."""
    others = [each for each in view.live().values() if each.node_id != me]
    with ThreadPoolExecutor(max(1, len(others))) as pool:
        answers = list(pool.map(lambda each: _answers((each.host, each.port), cluster_id), others))
    return {each.node_id for each, answer in zip(others, answers, strict=True) if answer}


def _answers(address: Address, cluster_id: str) -> bool:
    try:
        stream = dial_untrusted(address)
    except RaftclusterError as error:
        log.info("nobody answers at %s:%s: %s", *address, error)
        return False
    stream.close()
    return bool(stream.greeting.get("cluster") == cluster_id)


def _carry_out(
    directory: DataDirectory, node: dict[str, Any], state: Offline, plan: dict[str, Any], outlet: Outlet | None
) -> Recovered:
    me, generation, revision = node["node_id"], plan["generation"], plan["revision"]
    former = Facts.of(plan["former"])
    facts = replace(former, cluster_id=plan["cluster_id"], product=node["product"], founder=me)
    view = state.view()
    assert view.facts is not None
    keystore = Keystore(directory, facts.cluster_id, me)
    member = view.members.get(me)
    if view.facts.cluster_id != facts.cluster_id:
        assert isinstance(member, Member), "it was looked for before the decision"
        genesis = founding(keystore, generation, facts, member.name, (member.host, member.port), node["product"])
        _sign(directory, keystore, former, facts, generation, plan["decided_at"])
        why = _told(plan, node, state.last[0])
        state.refound(genesis, why, me, max(state.applier.stamp, int(time.time() * 1000)), revision)
    state.follow()
    assert state.anchor is not None
    former_facts = {"cluster_id": former.cluster_id, "decided_at": plan["decided_at"], "index": state.anchor.index}
    now = {**node, "cluster_id": facts.cluster_id, "cluster": facts.name, "founder": me, "recovered_from": former_facts}
    directory.write_node(now)
    keystore.keep(Trust(revision, generation, (generation,), {}))
    keystore.forget(keystore.on_disk() - {generation})
    (directory.path / GENESIS).unlink(missing_ok=True)
    with closing(Recorder(EventLog(directory.events), now, outlet)) as events:
        author, reason = plan.get("why", ["", ""])
        origin = {"former_id": former.cluster_id, "index": state.anchor.index, "removed": plan["removed"]}
        events.note("cluster-recovered", **origin, author=author, reason=reason)
    directory.remove(RECOVER)
    return Recovered(
        facts.name,
        facts.cluster_id,
        former.cluster_id,
        node["name"],
        me,
        generation,
        state.anchor.index,
        list(plan["removed"]),
    )


def _told(plan: dict[str, Any], node: dict[str, Any], index: int) -> Value:
    """The command that says who has decided it; a plan of an earlier version does not."""
    author, reason = plan.get("why", ["", ""])
    return attributed(["recovered", plan["former"][0], index], author, node["name"], reason)


def _sign(
    directory: DataDirectory, keystore: Keystore, former: Facts, facts: Facts, generation: int, decided_at: int
) -> None:
    """Say who this node has become, in a way that those who knew it can check. Without its old key nobody could: left out."""
    old = Keystore(directory, former.cluster_id, facts.founder)
    try:
        identity = old.identity(old.trust().presented)
    except RaftclusterError:
        return
    root = keystore.roots([generation])[0]
    statement = Statement(
        former.cluster_id, facts.cluster_id, facts.name, facts.founder, certificate_hash(root), decided_at
    )
    directory.write(STATEMENT, statement.signed(identity.key, identity.certificate))
