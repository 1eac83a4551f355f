"""Nodes of a cluster as far as the cluster room reaches: real directories, certificates, TLS and links, one shared log.

`Engine` stands in for Raft: what is proposed anywhere is applied at once, and everybody reads the same tables.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from raftcluster.cluster.admission import Admission
from raftcluster.cluster.api import Members, Tokens
from raftcluster.cluster.certs import Certs
from raftcluster.cluster.create import init
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.reconcile import Reconciler
from raftcluster.cluster.standing import Seating
from raftcluster.cluster.teardown import Teardown
from raftcluster.cluster.view import View
from raftcluster.errors import Unavailable
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.ports import Address, Down, Up
from raftcluster.transport.stream import Stream
from tests.helpers import eventually, free_ports
from tests.local_host import LocalHost

SCHEMA = {"cluster": 1}
PRODUCT = "mta/1.0"


class Engine(LocalHost):
    """The log, and who leads and votes."""

    def __init__(self) -> None:
        super().__init__([ClusterMachine()])
        self.leading = ""
        self.seats: set[str] = set()
        self.commands: list[Any] = []

    def propose(self, machine: str, command: Any, **options: Any) -> Any:
        self.commands.append(command)
        return super().propose(machine, command, **options)


class Access(LocalHost):
    """One node's access to the engine."""

    def __init__(self, engine: Engine, node_id: str) -> None:
        self.engine = engine
        self.id = node_id
        self.lagging = False
        """No learner ever catches up."""
        self.name = f"{node_id[:8]}.example.org"
        self.propose = engine.propose  # type: ignore[method-assign]
        self.query = engine.query  # type: ignore[method-assign]
        self.on_apply = engine.on_apply  # type: ignore[method-assign]

    def freeze(self, linked: Callable[[], bool]) -> None:
        """From now on this node has applied nothing new, and can have nothing decided, as long as it has no link."""
        old = copy.deepcopy(self.engine.tables["cluster"])

        def query(machine: str, read: Callable[[Any, int], Any], **options: Any) -> Any:
            return self.engine.query(machine, read, **options) if linked() else read(old, self.engine.now)

        def propose(machine: str, command: Any, **options: Any) -> Any:
            if not linked():
                raise Unavailable("nobody who leads is linked")
            return self.engine.propose(machine, command, **options)

        self.query = query  # type: ignore[method-assign]
        self.propose = propose  # type: ignore[method-assign]

    def look(self, learners: Collection[str]) -> Seating:
        leading = self.engine.leading
        return Seating(
            leading == self.id, bool(leading), frozenset(self.engine.seats), False, self._caught_up(learners)
        )

    def _caught_up(self, learners: Collection[str]) -> frozenset[str]:
        return frozenset() if self.lagging else frozenset(learners)

    def promote(self, node_id: str) -> None:
        self.engine.seats.add(node_id)

    def expel(self, node_id: str) -> None:
        self.engine.seats.discard(node_id)

    def hand_over(self) -> None:
        self.engine.leading = next(each for each in sorted(self.engine.seats) if each != self.id)


class Services:
    """Only joining is served."""

    def __init__(self, admission: Admission) -> None:
        self.join = admission.join

    def snapshot(self, peer: str, stream: Stream) -> None:
        raise AssertionError(peer)

    def recall(self, peer: str, stream: Stream) -> None:
        raise AssertionError(peer)

    def examine(self, peer: str, stream: Stream) -> None:
        raise AssertionError(peer)


class Running:
    """A started node, polled by a thread of its own."""

    def __init__(self, path: Path, engine: Engine, clock_skew_s: float = 0.0) -> None:
        self.path, self.engine = path, engine
        self.directory = DataDirectory.open(path)
        node = self.directory.read_node()
        self.id, self.cluster_id = node["node_id"], node["cluster_id"]
        self.keystore = Keystore(self.directory, self.cluster_id, self.id)
        self.host = Access(engine, self.id)
        trust = self.keystore.trust()
        identity, roots = self.keystore.identity(trust.presented), self.keystore.roots(trust.trusted)
        self.admission = admission = Admission(self.host, clock=lambda: time.time() + clock_skew_s)
        self.about = about = {"product": node["product"], "schema": SCHEMA}
        self.mesh = Mesh(identity, roots, tuple(node["listen"]), about, Services(admission))
        self.destroyed = threading.Event()
        self.removed = threading.Event()
        self.recorder = Recorder(EventLog(self.directory.events), node, Outlet(None, None))
        self.teardown = Teardown(self.directory, self.keystore, self.id, self.recorder)
        self.reconciler = self._reconciler()
        self.ups: list[str] = []
        self.gaps: list[float] = []
        """For how many seconds a peer was without a link, each time that one was lost and came back."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def start(self) -> Running:
        self.mesh.start()
        self._thread.start()
        self.reconciler.start()
        return self

    def stop(self) -> None:
        self.reconciler.close()
        self._stopped.set()
        self.mesh.wake()
        self._thread.join()
        self.mesh.close()
        self.directory.close()

    def reconcile_again(self) -> None:
        """A new reconciler, as after a restart."""
        self.reconciler.close()
        self.reconciler = self._reconciler()
        self.reconciler.start()

    def _reconciler(self) -> Reconciler:
        return Reconciler(
            self.host, self.directory, self.keystore, self.mesh, self.host, teardown=self.teardown,
            on_destroyed=self.destroyed.set, on_removed=self.removed.set, hello=self.about, interval_s=0.1,
        )  # fmt: skip

    def _poll(self) -> None:
        down: dict[str, float] = {}
        while not self._stopped.is_set():
            for event in self.mesh.poll(0.05):
                if isinstance(event, Up):
                    self.ups.append(event.peer)
                    if event.peer in down:
                        self.gaps.append(time.monotonic() - down.pop(event.peer))
                elif isinstance(event, Down):
                    down[event.peer] = time.monotonic()


def port() -> int:
    """A port that is free now."""
    return free_ports(1)[0]


class Cluster:
    """A founder, and whoever joins. Close it."""

    def __init__(
        self, folder: Path, clock_skew_s: float = 0.0, *, address: Address | None = None, **options: Any
    ) -> None:
        self.folder = folder
        self.engine = Engine()
        self.nodes: list[Running] = []
        self.address: Address = address or ("127.0.0.1", port())
        path = folder / "mx1"
        init(path, "mx1.example.org", self.address, self.address, PRODUCT, cluster="mail", **options)
        founder = self.add(path, clock_skew_s)
        self.engine.leading = founder.id
        self.engine.seats = {founder.id}
        founder.start()
        self.members, self.tokens = Members(founder.host), Tokens(founder.host)
        self.certs = Certs(founder.host, path, founder.admission, SCHEMA)
        try:
            eventually(lambda: self.view().facts is not None, what=f"the genesis: {founder.reconciler.troubles()}")
        except BaseException:
            self.close()
            raise

    def add(self, path: Path, clock_skew_s: float = 0.0) -> Running:
        self.nodes.append(Running(path, self.engine, clock_skew_s))
        return self.nodes[-1]

    def view(self) -> View:
        return self.engine.query("cluster", View.read)

    def settled(self, number: int) -> bool:
        """Whether every node presents and trusts this generation alone, and is linked with it to all others."""
        view = self.view()
        if view.pending is not None or view.active is None or view.active.number != number:
            return False
        for node in self.nodes:
            links = node.mesh.links()
            if node.keystore.trust().trusted != (number,) or node.keystore.on_disk() != {number}:
                return False
            if len(links) != len(self.nodes) - 1 or {info.generation for info in links.values()} - {number}:
                return False
        return True

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
