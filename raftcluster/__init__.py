"""Several mail servers, one cluster: the same configuration and the same greylist on every MX host.

    raftcluster.init("/var/lib/raftcluster", cluster="mail", node="mx1.example.org", listen=("0.0.0.0", 9777))
    with raftcluster.Node.open("/var/lib/raftcluster", product="mail-gateway/4.2") as node:
        verdict = node.greylist.check(client="192.0.2.7", sender="a@example.net", recipient="b@example.org")

`Node` is the library, `Service` a node with its policy server and control socket. Importing changes nothing and starts
nothing.
"""

from raftcluster import backup
from raftcluster.cluster.moving import readdress
from raftcluster.config.api import Config
from raftcluster.entry import init, join, restore
from raftcluster.errors import (
    AddressInUse,
    BackupDamaged,
    BackupForeign,
    Damaged,
    DataVersion,
    LinkRefused,
    MissingPrivilege,
    NotRunning,
    OutcomeUnknown,
    RaftclusterError,
    Refusal,
    Rejected,
    Removed,
    StorageFailed,
    StorageFull,
    StorageRefusal,
    Unavailable,
)
from raftcluster.greylist.api import Greylist, Verdict
from raftcluster.history import read_events
from raftcluster.host import Consistency, Host
from raftcluster.machine import ReadTables, StateMachine, Tables
from raftcluster.node import Node
from raftcluster.offline import scrub
from raftcluster.service import Service

__all__ = [
    "AddressInUse",
    "BackupDamaged",
    "BackupForeign",
    "Config",
    "Consistency",
    "Damaged",
    "DataVersion",
    "Greylist",
    "Host",
    "LinkRefused",
    "MissingPrivilege",
    "Node",
    "NotRunning",
    "OutcomeUnknown",
    "RaftclusterError",
    "ReadTables",
    "Refusal",
    "Rejected",
    "Removed",
    "Service",
    "StateMachine",
    "StorageFailed",
    "StorageFull",
    "StorageRefusal",
    "Tables",
    "Unavailable",
    "Verdict",
    "backup",
    "init",
    "join",
    "read_events",
    "readdress",
    "restore",
    "scrub",
]
