"""The APIs of a node on a host of one process, for what is written against a node's control socket."""

from __future__ import annotations

import threading

from raftcluster.auditlog import Audited, read_audit
from raftcluster.cluster.api import Members, Tokens
from raftcluster.cluster.asking import administer
from raftcluster.cluster.certs import Certs
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.tombstone import Tombstone
from raftcluster.codec import Value
from raftcluster.config.api import Config
from raftcluster.config.machine import ConfigMachine
from raftcluster.errors import Rejected
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.lease.api import Leases
from raftcluster.lease.machine import LeaseMachine
from raftcluster.notifications.api import Notifications
from raftcluster.notifications.machine import NotificationsMachine
from raftcluster.quarantine.api import Quarantine
from raftcluster.quarantine.machine import QuarantineMachine
from tests.local_host import LocalHost, MemoryRows


class LocalTeardown:
    """Of a node that destroys nothing."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id

    def plan(self, *, keep_software: bool = False) -> list[dict[str, Value]]:
        return [{"node": "mx1", "node_id": self._node_id, "reached": True, "steps": ["record the event", "stop"]}]

    def progress(self) -> dict[str, Value]:
        return {"event_id": None}


class LocalNode:
    """A single node that leads; `held` is set when a transfer may end, `broken` makes `status` fail as a bug would."""

    def __init__(self) -> None:
        self.host = LocalHost(
            [
                ClusterMachine(),
                ConfigMachine(),
                GreylistMachine(),
                ListsMachine(),
                LeaseMachine(),
                NotificationsMachine(),
                QuarantineMachine(),
            ]
        )
        self.id, self.name = self.host.id, self.host.name
        self.propose, self.query = self.host.propose, self.host.query
        self.config = Config(self.host, MemoryRows())
        self.greylist = Greylist(self.host)
        self.lease = Leases(self.host)
        self.notifications = Notifications(self.host)
        self.quarantine = Quarantine(self.host)
        self.members = Members(self.host)
        self.tokens = Tokens(self.host)
        self.certs = Certs(self.host)
        self.teardown = LocalTeardown(self.id)
        self.held = threading.Event()
        self.broken = False

    def bury(self, tombstone: bytes) -> str:
        return Tombstone.unpack(tombstone).content().event_id

    def destroy(
        self, confirm: str, *, every_node: bool = False, keep_software: bool = False, reason: str = "", author: str = ""
    ) -> str:
        command = ["destroy", "event-1", confirm, every_node, reason, keep_software]
        return str(administer(self.host, command, author, reason))

    def audit(self, limit: int = 100) -> list[Audited]:
        return read_audit(self.host, limit)

    def status(self) -> dict[str, Value]:
        if self.broken:
            raise RuntimeError("a bug")
        row = {"linked": True, "trails_by": 0, "generation": 1, "round_trip": 0.0012, "address": "127.0.0.1:1"}
        rows = [
            {"id": self.id, "name": "mx1", "role": "leader", "product": "raftcluster/0.1", **row},
            {"id": "node-2", "name": "mx2", "role": "voter", "product": "raftcluster/0.1", **row},
        ]
        return {
            "id": self.id,
            "name": "mx1",
            "cluster_id": "c1",
            "lab": True,
            "role": "leader",
            "leader": self.id,
            "term": 1,
            "commit_index": self.host.index,
            "applied_index": self.host.index,
            "cluster_time_ms": self.host.now,
            "storage": "ok",
            "failure": None,
            "alarms": {"clock": "off"},
            "members": rows,
        }

    def transfer(self, node: str | None = None, *, reason: str = "", author: str = "") -> str:
        if node is not None:
            raise Rejected(f"{node} is no voter", subject=node, remedy="wait until it has caught up")
        assert self.held.wait(60)
        return self.id
