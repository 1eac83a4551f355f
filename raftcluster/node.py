"""The facade: one node of a cluster inside the process that embeds it.

    with Node.open("/var/lib/raftcluster", product="mail-gateway/4.2") as node:
        verdict = node.greylist.check(client="192.0.2.7", sender="a@example.net", recipient="b@example.org")

A good guest: importing changes nothing, no thread runs before `open`, no signal handler is set, no logger but
"raftcluster.*" is written to, and `close` leaves nothing behind. After a fork every call of the child raises `Rejected`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from raftcluster import ending, lab, limits, protection, snapshots
from raftcluster.audit import Auditor
from raftcluster.backup import take
from raftcluster.backup.file import save
from raftcluster.backup.summary import Summary, verify
from raftcluster.backup.unfinished import check_finished
from raftcluster.builtin import FEATURES, PRODUCT, all_machines, schemas
from raftcluster.cluster import departure, destroy, moving
from raftcluster.cluster.admission import Admission
from raftcluster.cluster.api import Members, Tokens
from raftcluster.cluster.archive import Archive
from raftcluster.cluster.asking import administer
from raftcluster.cluster.certs import Certs
from raftcluster.cluster.features import check_understood, checked
from raftcluster.cluster.inquiry import Inquiry
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.reconcile import Reconciler
from raftcluster.cluster.statement import statement
from raftcluster.cluster.teardown import Teardown
from raftcluster.cluster.view import View, enabled
from raftcluster.codec import Value
from raftcluster.ending import Ending
from raftcluster.engine import seam
from raftcluster.engine.ports import Bounds, Observer, Ports, Timing
from raftcluster.engine.replica import Replica
from raftcluster.errors import RaftclusterError, Refusal, Rejected, Unavailable
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.firewall.nft import Nft
from raftcluster.host import Consistency
from raftcluster.logs import Logs
from raftcluster.machine import StateMachine
from raftcluster.push import artefact, software
from raftcluster.runtime import Runtime
from raftcluster.seats import Seats
from raftcluster.seeking import Seeker
from raftcluster.status import clock_alarms, member_rows, node_status
from raftcluster.storage.directory import DataDirectory, archive
from raftcluster.storage.local import LocalStore
from raftcluster.storage.log import LogStore
from raftcluster.storage.tables import TableStore
from raftcluster.transport import sockets
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.ports import Address
from raftcluster.transport.stream import Stream
from raftcluster.twins import twin
from raftcluster.verifying import Verifying, verifier

log = logging.getLogger("raftcluster.node")

T = TypeVar("T")

READY_SECONDS = 30.0
SPOOL = "snapshot.part"
STARTED = "STARTED"
"""Says that this node has run: from then on it must have a log."""


class Node(Logs, Verifying):
    """See the module. Use :meth:`open`. Every method is thread-safe.

    Errors of calls: `Unavailable` (not applied), `OutcomeUnknown` (may be), `Rejected` (never).
    """

    members: Members
    tokens: Tokens
    certs: Certs

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        product: str = PRODUCT,
        machines: Sequence[StateMachine] = (),
        features: Sequence[str] = (),
        timing: Timing | None = None,
        bounds: Bounds | None = None,
        allow_other_engine: bool = False,
        outlet: Outlet | None = None,
        nft: Nft | None = None,
    ) -> None:
        """Open the directory and start; does not wait for a leader. See `open` for the arguments and errors."""
        if destroy.is_marked(path):
            ending.finish(path, outlet=outlet, nft=nft)
            raise Refusal(
                f"the cluster of {path} was destroyed; what was left of it here has been removed",
                subject=str(path),
                remedy="raftcluster init or join makes a new one",
            )
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._ending = threading.Event()
        self._closed = False
        self._undo = ExitStack()
        """How to end what was begun, in reverse; each step is taken whatever another one raises."""
        self._alarms: dict[str, str] = {}
        try:
            self._build(
                Path(path),
                product,
                machines,
                checked([*FEATURES, *features]),
                timing,
                bounds,
                allow_other_engine,
                outlet,
                nft,
            )
        except BaseException:
            self._undo.close()
            raise

    def _build(
        self,
        path: Path,
        product: str,
        machines: Sequence[StateMachine],
        features: Sequence[str],
        timing: Timing | None,
        bounds: Bounds | None,
        allow_other_engine: bool,
        outlet: Outlet | None,
        nft: Nft | None,
    ) -> None:
        if not seam.check_package(allow_other=allow_other_engine):
            self._alarms["engine"] = "the installed pysyncobj is not the one that the guard was written against"
        self.directory = directory = DataDirectory.open(path)
        self._undo.callback(directory.close)
        check_finished(directory.path)
        self.facts = facts = directory.read_node()
        """node.json: who this node is, where it listens, of which cluster it is."""
        departure.check_not_removed(directory, facts)
        me = facts["node_id"]
        self._outlet, self._nft = outlet or Outlet(), nft
        self._recorder = Recorder(EventLog(directory.events), facts, self._outlet)
        self._undo.callback(self._recorder.close)
        self._log = LogStore(directory.log)
        self._undo.callback(self._log.close)
        self._store = TableStore(directory.tables, log=lambda: self._log.written)
        self._undo.callback(self._store.close)
        self._log.check_end(self._store.log())
        keystore = Keystore(directory, facts["cluster_id"], me)
        trust = keystore.trust()
        everything = all_machines(machines)
        self._schema = schemas(everything)
        self._admission: Admission | None = None
        hello = {"product": product, "schema": self._schema, "name": facts["name"], **statement(directory.path)}
        listen = (facts["listen"][0], facts["listen"][1])
        self.mesh = mesh = Mesh(keystore.identity(trust.presented), keystore.roots(trust.trusted), listen, hello, self)
        self._undo.callback(mesh.close)
        self._runtime = Runtime(mesh)
        started = directory.path / STARTED
        self._replica = Replica(
            me,
            [facts["founder"]],
            everything,
            self._log,
            self._store,
            Ports(
                send=mesh.send,
                post=self._runtime.post,
                fetch=self._fetch,
                now=time.monotonic,
                boot=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6,
                wall=lambda: time.time_ns() / 1e6,
                random=Random(),
                flush=mesh.flush,
            ),
            timing=timing,
            bounds=bounds,
            observer=Observer(self._runtime.applied, self._runtime.role, self._health_changed),
            has_run=started.exists(),
        )
        check_understood(enabled(self._replica.applier.tables("cluster")), features, me)
        if not started.exists():
            self._log.block()  # the log has its first entry before this node can be asked for a vote
            directory.write(STARTED, b"")
        self._role_changed = threading.Event()
        self._runtime.on_role(self._role_changed.set)
        self._offer(LocalStore(directory.local), directory.maillog)
        self._undo.callback(self.maillog.close)
        self._auditor = Auditor(self, directory, self._recorder, self._leadership)
        self._runtime.on_role(self._auditor.wake)
        self.teardown = Ending(self, self._outlet)
        self._teardown = Teardown(directory, keystore, me, self._recorder, self._outlet.sync, software.of(path))
        self._admission = Admission(self, on_refused=self._auditor.refused, answer=self.teardown.answer)
        seats = Seats(self._runtime)
        self.certs = Certs(self, directory.path, self._admission, self._schema)
        self._reconciler = Reconciler(
            self,
            directory,
            keystore,
            mesh,
            seats,
            teardown=self._teardown,
            on_destroyed=self._destroyed,
            on_removed=self._removed,
            hello=hello,
            features=features,
        )
        self._keeper = protection.keeper(
            self, directory, facts, keystore, self._recorder, nft, self._reconciler.address
        )
        resolve = sockets.addresses if self._keeper else None
        self.members, self.tokens = Members(self, resolve, seats.standing, self._moved), Tokens(self)
        self._verifier = verifier(self._runtime, self._replica, self._log, everything, self.members, mesh, self._ending)
        mesh.start()
        self._runtime.start(self._replica)
        self._auditor.post("node-started", version=product, listen="{}:{}".format(*mesh.address))
        if pushed := artefact.running():
            self._auditor.post("node-artefact", artefact=pushed)
        self._auditor.start()
        self._undo.callback(self._auditor.close)
        self._undo.callback(self._runtime.stop)
        if (keeper := self._keeper) is not None:
            self.on_apply("cluster", lambda index: keeper.wake())
            keeper.start()
            self._undo.callback(keeper.close)
        self._reconciler.start()
        self._undo.callback(self._reconciler.close)
        self._inquiry = Inquiry(self, mesh)
        seeker = Seeker(
            facts["cluster_id"],
            lambda: keystore.trust().peers.values(),
            lambda: not self._runtime.call(lambda replica: replica.led),
            self.bury,
            lambda: Archive(archive(path)).find(facts["cluster_id"]),
        )
        for each in (self._inquiry, moving.Move(self, directory, facts, mesh.open_stream), seeker):
            each.start()
            self._undo.callback(each.close)
        self._undo.callback(self._withdraw)
        self._founding = lab.Founding(self, self._ending, wanted=facts["lab"] and facts["founder"] == me)
        self._undo.callback(self._founding.join)
        self._undo.callback(self._ending.set)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        product: str = PRODUCT,
        ready_seconds: float = READY_SECONDS,
        **settings: Any,
    ) -> Node:
        """Open the node in `path` (made by `init` or `join`) and return when it can answer.

        `product` is "name/version" of what embeds it; nodes of another name do not form one cluster. `machines` are state
        machines of the embedder, `features` what this version of it understands (`members.features`). With `ready_seconds=0` it returns at once, also without a quorum.

        Raises `Refusal` and its kinds when the environment does not allow it, `Unavailable` when there is no leader within
        `ready_seconds`; then nothing is left running.
        """
        node = cls(path, product=product, **settings)
        try:
            node.wait_ready(ready_seconds)
        except BaseException:
            node.close()
            raise
        return node

    def wait_ready(self, seconds: float) -> None:
        """Wait until this node has applied what was committed before this call, the genesis at least; the founder of a lab cluster
        also until it is one, for settings that are made first make it none. Raises `Unavailable`."""
        end = time.monotonic() + seconds
        while seconds > 0:
            self._role_changed.clear()
            try:
                view = self._runtime.query("cluster", View.read, consistency="linearizable", deadline=1.0)
                if view.facts is not None:
                    self._founding.join(max(0.0, end - time.monotonic()))
                    return
                raise Unavailable("the cluster's genesis is not committed yet", subject=self.name)
            except Unavailable as error:
                if self._runtime.failure is not None or time.monotonic() >= end:
                    raise Unavailable(
                        f"no leader within {seconds:g} s",
                        subject=self.name,
                        remedy="start a majority of the members, or open with ready_seconds=0",
                    ) from error
                self._role_changed.wait(min(0.05, max(0.0, end - time.monotonic())))

    def close(self) -> None:
        """Hand leadership over, write the last checkpoint, end all threads. Idempotent. In a fork it does nothing: all of
        it is the parent's. Raises `Rejected` on the tick thread, which cannot wait for its own end."""
        if os.getpid() != self._pid:
            return
        if self._runtime.is_tick_thread():
            raise Rejected(
                "a callback on the tick thread must not close", subject="thread", remedy="use another thread"
            )
        with self._closing:
            if not self._closed:
                self._closed = True
                self._hand_over()
                if self._runtime.failure is None:
                    self._auditor.end_with("node-stopped")
                self._undo.close()

    @property
    def closed(self) -> bool:
        """Whether the node was closed, by its embedder or with its cluster."""
        return self._closed

    def _hand_over(self, seconds: float = 1.0) -> None:
        """A leader that leaves lets another one be elected first: a gap of milliseconds instead of an election time-out."""
        end = time.monotonic() + seconds
        try:
            if not self._runtime.call(lambda replica: replica.engine.is_leader and replica.leadership.transfer()):
                return
            while time.monotonic() < end and self._runtime.call(lambda replica: replica.engine.is_leader):
                self._role_changed.wait(0.01)
                self._role_changed.clear()
        except RaftclusterError as error:
            log.info("leadership was not handed over: %s", error)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- leadership, status

    def transfer(self, node: str | None = None, *, reason: str = "", author: str = "", deadline: float = 5.0) -> str:
        """Move leadership to the member `node` (name or id; by default whichever other voter has most); the new leader's id.
        That it was asked for is committed before, with `author` and `reason`.

        Raises `Rejected` when `node` is no voter, `Unavailable` when it has not come about within `deadline` seconds.
        """
        target = None if node is None else self.members.get(node).node_id
        before = self._runtime.call(lambda replica: replica.engine.leader)
        if target is not None and target == before:
            return target
        voters = self._runtime.call(lambda replica: replica.journal.voters())
        if target is not None and target not in voters:
            raise Rejected(f"{node} is no voter", subject=str(node), remedy="wait until it has caught up")
        if len(voters) == 1:
            raise Rejected("there is no other voter", subject=self.name, remedy="add a member first")
        administer(self, ["transfer", target or ""], author, reason)
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            self._role_changed.clear()
            self._runtime.call(lambda replica: replica.leadership.transfer(target))
            self._role_changed.wait(limits.ELECTION_MAX_SECONDS)
            leader = self._runtime.call(lambda replica: replica.engine.leader)
            if leader is not None and leader != before and target in (None, leader):
                return leader
        raise Unavailable(
            "leadership did not move in time", subject=str(node or "cluster"), remedy="see status, try again"
        )

    def status(self) -> dict[str, Value]:
        """This node's view of itself and of the cluster, as plain values. Times in seconds, cluster time in milliseconds."""
        own = self._runtime.call(lambda replica: node_status(replica, self.facts, self._runtime.failure))
        match = own.pop("match")
        own |= {
            "cluster": self.facts["cluster"],
            "config_revision": self.config.revision(),
            "config_applied": self.config.reports(),
            "maillog": self.maillog.status(),
        }
        with suppress(Unavailable):  # before the genesis is committed there is no hierarchy
            ends = min(each.not_after for each in self.certs.show().certificates)
            own["certificate_days"] = ends // 86_400 - time.time() // 86_400
        alarms = {**self._alarms, **clock_alarms(own)}
        for troubles in (self._reconciler.troubles, self._inquiry.troubles, self.maillog.troubles):
            alarms |= troubles()
        if self._keeper is not None:
            alarms |= self._keeper.troubles()
            own["firewall"] = self._keeper.state()
        return {**own, "alarms": alarms, "members": member_rows(self.members.list(), self.mesh.links(), own, match)}

    astatus, atransfer, await_ready, aclose = twin(status), twin(transfer), twin(wait_ready), twin(close)

    # ---- backups

    def backup(
        self,
        path: str | os.PathLike[str],
        *,
        consistency: Consistency = "linearizable",
        deadline: float = take.SECONDS,
    ) -> Summary:
        """Write the state of the whole cluster to the new file `path` (mode 0600), read it back and say what is in it.

        All that was acknowledged before the call is in it; with `consistency="local"` what this node has applied, also
        without a quorum. No private key is. The node works on meanwhile. `raftcluster.restore` makes a new cluster of it.

        Raises `Refusal` when `path` exists, `Unavailable`, `StorageFull`, `MissingPrivilege`; then no file is left.
        """
        save(path, self.backup_content(consistency=consistency, deadline=deadline))
        return verify(path)

    def backup_content(
        self, *, consistency: Consistency = "linearizable", deadline: float = take.SECONDS
    ) -> Iterator[bytes]:
        """The bytes of such a file, for whoever keeps them elsewhere. A read transaction is open until the last one."""
        mine = self._runtime, self._store, self.facts, self._schema, self._auditor.post
        return take.content(*mine, consistency=consistency, deadline=deadline)

    def _health_changed(self, health: str, detail: str) -> None:
        """Tick thread."""
        if health == "ok":
            self._alarms.pop("storage", None)
            log.warning("storage is well again")
            self._auditor.post("storage-well")
        else:
            self._alarms["storage"] = f"{health}: {detail}"
            log.error("storage is %s: %s", health, detail)
            self._auditor.post("storage-unhealthy", health=health, detail=detail)

    def _leadership(self) -> tuple[str | None, int]:
        return self._runtime.call(lambda replica: (replica.engine.leader, replica.engine.term))

    # ---- connections that are no links (transport.Services)

    def snapshot(self, peer: str, stream: Stream) -> None:
        """A member wants the tables. Called on a stream thread."""
        post = self._runtime.post
        snapshots.serve(self._store, peer, stream, lambda at: post(lambda: self._replica.holding.begin(peer, at)))

    def join(self, stream: Stream) -> None:
        """Somebody wants the public chain, a tombstone, or to join; a member has moved, or asks what a destruction would do
        here. Called on a stream thread."""
        if self._admission is None:
            raise Unavailable("the node is starting", subject=self.name, remedy="try again")
        if not stream.peer:
            self._admission.join(stream)
        elif (planned := self.teardown.answer_plan(asked := stream.receive())) is not None:
            stream.send(planned)
        else:
            moving.told(self, stream, asked, self._moved)

    def _moved(self, node_id: str, address: Address) -> None:
        self._reconciler.moved(node_id, address)
        if self._keeper is not None:
            self._keeper.wake()

    def _fetch(self, peer: str) -> None:
        """Tick thread: bring the peer's snapshot on a thread of its own."""
        spool, post, finish = self.directory.path / SPOOL, self._runtime.post, self._replica.snapshot_done
        snapshots.begin_fetch(self.mesh.open_stream, peer, spool, self._store, post, finish)

    # ---- the end

    def _removed(self) -> None:
        """Reconciler's thread: this node is a member no more. It stops for good, as after a failure, and says why."""
        stop = departure.depart(self.directory, self.facts)
        self._recorder.note("node-removed")
        self._runtime.post(stop)

    def destroy(
        self, confirm: str, *, every_node: bool = False, keep_software: bool = False, reason: str = "", author: str = ""
    ) -> str:
        """Dismantle the cluster named `confirm`; see `Ending.destroy`, and `teardown` for the plan and how far it is."""
        return self.teardown.destroy(
            confirm, every_node=every_node, keep_software=keep_software, reason=reason, author=author
        )

    def bury(self, tombstone: bytes, source: str = "a file") -> str:
        """Tear this node down: the tombstone proves that its cluster was destroyed while it was away. Returns at once, with the
        event's id. Raises `Rejected` when it proves no such thing."""
        said = self._teardown.verify(tombstone)
        self._reconciler.bury(tombstone, source)
        return said.event_id

    def _destroyed(self) -> None:
        """Reconciler's thread: the record is written, the directory is marked. Raises `Unavailable`."""
        ending.apart(self._finish)

    def _finish(self) -> None:
        self.close()
        try:
            ending.finish(self.directory.path, outlet=self._outlet, nft=self._nft)
        except RaftclusterError as error:
            log.error("the teardown is not finished, start the node again to go on: %s", error)
