"""The end of a node's membership in a cluster that is destroyed: the plan, the decision, how far it is, and what is left to
do on this host once the node has stopped."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from raftcluster import limits
from raftcluster.cluster import destroy
from raftcluster.cluster.archive import Archive, find
from raftcluster.cluster.asking import administer, facts_of, read
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.teardown import Teardown
from raftcluster.cluster.tombstone import Statement, signers
from raftcluster.codec import Value
from raftcluster.errors import FrameError, MissingPrivilege, RaftclusterError, Refusal, Rejected, Unavailable
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.firewall import preflight
from raftcluster.firewall.nft import Nft
from raftcluster.firewall.table import table_name
from raftcluster.host import Host
from raftcluster.push import software
from raftcluster.storage.directory import DataDirectory, archive, refusals
from raftcluster.transport.handshake import JOIN
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.stream import Stream

log = logging.getLogger("raftcluster.cluster")

PLAN: Final[dict[str, Value]] = {"plan": True}
KEEP: Final = "keep_software"
RETURN: Final = (
    "is down: when it returns it asks the other hosts for the tombstone and does all of this by itself; "
    "or hand it the file: raftcluster destroy --tombstone FILE"
)


class Meshed(Host, Protocol):
    """A host with links, and with node.json."""

    facts: dict[str, Any]
    directory: DataDirectory
    mesh: Mesh


class Ending:
    """Of one node. Thread: any but the tick thread. Errors as those of `Members`."""

    def __init__(self, node: Meshed, outlet: Outlet) -> None:
        self._node, self._outlet = node, outlet

    def destroy(
        self, confirm: str, *, every_node: bool = False, keep_software: bool = False, reason: str = "", author: str = ""
    ) -> str:
        """Decide to dismantle the cluster named `confirm`. The result is the event id that every node records before it
        removes anything; when it returns the decision is committed and every node is at it. Asked again it says the same.
        What `push` has installed on the hosts goes as well, unless `keep_software`.

        Raises `Rejected` when the name differs, or when there are other members and not `every_node`.
        """
        command = ["destroy", str(uuid.uuid4()), confirm, every_node, reason, keep_software]
        return str(administer(self._node, command, author, reason))

    def plan(self, *, keep_software: bool = False) -> list[dict[str, Value]]:
        """What `destroy` would do, by node: "node", "node_id", "reached", and "steps", in their order. Changes nothing."""
        rows: list[dict[str, Value]] = []
        for member in sorted(read(self._node).live().values(), key=lambda each: each.name):
            steps, reached = [RETURN], False
            try:
                own = member.node_id == self._node.id
                answer = self.steps(keep_software) if own else self._ask(member.node_id, keep_software)
                steps, reached = [str(each) for each in answer], True
            except RaftclusterError as error:
                log.info("no plan from %s: %s", member.name, error)
            rows.append({"node": member.name, "node_id": member.node_id, "reached": reached, "steps": steps})
        return rows

    def _ask(self, peer: str, keep_software: bool) -> Value:
        stream = self._node.mesh.open_stream(peer, JOIN)
        try:
            stream.send({**PLAN, KEEP: True} if keep_software else PLAN)
            answer = stream.receive()
        finally:
            stream.close()
        if not isinstance(answer, dict) or not isinstance(answer.get("answer"), list):
            raise FrameError("the answer is no plan", subject=peer)
        return answer["answer"]

    def answer_plan(self, asked: Value) -> Value:
        """The answer to a member that asks what would be done here; None: it asks something else."""
        keeping = {**PLAN, KEEP: True}
        return {"answer": self.steps(asked == keeping)} if asked in (PLAN, keeping) else None

    def steps(self, keep_software: bool = False) -> list[str]:
        """What this node would do."""
        directory, facts = self._node.directory, self._node.facts
        kept = archive(directory.path)
        table = table_name(facts["node_id"])
        system = self._outlet.system()
        steps = [
            f"record the event cluster-destroyed in {directory.events}" + (f" and {system}" if system else ""),
            f"keep the tombstone and the events in {kept}",
            "stop the node",
            f"delete the nftables table inet {table}" if facts.get("firewall") else "no firewall table to delete",
        ]
        steps += [f"remove {each} ({_size(each)})" for each in sorted(directory.path.iterdir()) if each != kept]
        before = directory.read_before()
        steps.append(
            f"leave {directory.path} as it was: empty"
            if before.get("existed")
            else f"remove {directory.path}" + "".join(f" and {each}" for each in before.get("made", []))
        )
        return [*steps, *software.steps(software.here(), directory.path, keep_software)]

    def progress(self) -> dict[str, Value]:
        """How far it is: "event_id" (None while nothing is decided), names of who has "signed" and "recorded", how many
        signatures are "needed", who is "missing", and where the "tombstone" will be."""
        view = read(self._node)
        facts, decided, live = facts_of(view), view.destruction, view.live()
        if decided is None or view.head is None:
            return {"event_id": None}
        manifest = view.head.content()
        signed = signers(manifest, Statement.of_view(view).pack(), decided.signatures)
        names = {each.node_id: each.name for each in view.members.values()}
        return {
            "event_id": decided.event_id,
            "signed": [names.get(each, each) for each in signed],
            "needed": len(manifest.voters) // 2 + 1,
            "recorded": [names.get(each, each) for each in decided.recorded],
            "missing": sorted(each.name for each in live.values() if each.node_id not in decided.recorded),
            "tombstone": str(Archive(archive(self._node.directory.path)).tombstone(facts.cluster_id)),
        }

    def answer(self, stream: Stream, question: Mapping[str, Value]) -> Value:
        """The answer to a question over a connection that is no link. Raises `Rejected` for one that is not answered."""
        if set(question) == {"tombstone"} and isinstance(question["tombstone"], str):
            return find(self._node.directory.path, question["tombstone"])
        raise Rejected("that is no request that is answered here", subject=stream.address)


def apart(work: Callable[[], None]) -> None:
    """Do `work` on a thread of its own, for which the process stays. Raises `Unavailable` when there is no thread for it."""
    try:
        threading.Thread(target=work, name="raftcluster-wipe", daemon=False).start()
    except RuntimeError as error:
        text = f"the teardown cannot begin: {error}"
        raise Unavailable(text, subject="thread", remedy="allow this process more threads") from error


def finish(path: str | os.PathLike[str], *, outlet: Outlet | None = None, nft: Nft | None = None) -> None:
    """Do what is left to be done on this host for a marked directory: firewall, data, directory. Can be repeated.

    Raises `Refusal` when the firewall's table cannot be deleted, or something not removed; the rest is done, and the directory
    stays marked.
    """
    marked = destroy.marked(path)
    if marked.software and destroy.is_wiped(path):
        return
    node, root = dict(marked.node), Path(path)
    kept = Archive(archive(root))
    recorder = Recorder(EventLog(kept.events(node["cluster_id"])), node, outlet)
    try:
        with refusals(root):
            kept.follow(node["cluster_id"], root)
        trouble: RaftclusterError | None = None
        if node.get("firewall"):
            try:
                table, restored = preflight.remove(node["node_id"], node["listen"][1], node.get("before", {}), nft=nft)
                recorder.note("firewall-removed", table=table, restored=restored)
            except Refusal as error:
                trouble = error
                recorder.note("firewall-failed", table=table_name(node["node_id"]), reason=str(error))
        destroy.wipe(
            root,
            lambda step: recorder.note("teardown-step", event_id=marked.event_id, step=step),
            lambda: recorder.note("teardown-finished", event_id=marked.event_id),
            stay_marked=trouble is not None,
        )
        if trouble is None and marked.software:
            log.warning("the program in %s is removed by the unit, or by supervise there, as root", marked.software)
        if trouble is not None:
            raise trouble
    except PermissionError as error:
        raise MissingPrivilege(f"{path}: {error.strerror}", subject=str(path), remedy="run as its owner") from error
    except OSError as error:
        raise Refusal(f"{path}: {error}", subject=str(path), remedy="mend it, then start the node again") from error
    finally:
        recorder.close()


def bury(
    path: str | os.PathLike[str], tombstone: bytes, *, outlet: Outlet | None = None, nft: Nft | None = None
) -> str:
    """Tear down the node in `path`, which does not run, as `tombstone` proves that its cluster was destroyed; the event's id.

    What a push has put on this host goes as well, as its end has it. Raises `Rejected` when it proves no such thing, `StorageRefusal`
    when a process uses the directory, and as `finish` does.
    """
    if destroy.is_marked(path):
        event_id = destroy.marked(path).event_id
    else:
        with DataDirectory.open(path) as directory:
            node = directory.read_node()
            recorder = Recorder(EventLog(directory.events), node, outlet)
            try:
                keystore = Keystore(directory, node["cluster_id"], node["node_id"])
                teardown = Teardown(
                    directory, keystore, node["node_id"], recorder, recorder.outlet.sync, software.of(path)
                )
                said = teardown.believe(tombstone, "a file")
                event_id = said.event_id
                teardown.mark(event_id, said.keep_software)
            except OSError as error:
                raise Refusal(f"{path}: {error}", subject=str(path), remedy="mend the disk, then repeat it") from error
            finally:
                recorder.close()
    finish(path, outlet=outlet, nft=nft)
    # Nobody runs this node who would do it. The marker is the node's user's: where the program lies is not read from there.
    if os.geteuid() == 0 and destroy.is_marked(path) and (prefix := software.of(path)):
        software.remove(prefix)
    return event_id


def _size(path: Path) -> str:
    """For people."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    return f"{size / limits.MIB:.1f} MiB" if size >= limits.MIB else f"{size} bytes"
