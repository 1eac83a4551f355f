"""Several mail servers, one cluster: the same configuration and the same greylist on every MX host.

    raftcluster.init("/var/lib/raftcluster", cluster="mail", node="mx1.example.org", listen=("0.0.0.0", 9777))
    with raftcluster.Node.open("/var/lib/raftcluster", product="mail-gateway/4.2") as node:
        verdict = node.greylist.check(client="192.0.2.7", sender="a@example.net", recipient="b@example.org")

`Node` is the library, `Service` a node with its policy server and control socket. Importing changes nothing and starts
nothing; what needs the engine, the storage or TLS is imported when its name is first used, so that the minting child, which
needs none of them, begins at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftcluster.errors import (
    AddressInUse,
    BackupDamaged,
    BackupForeign,
    ChecksFailed,
    Damaged,
    DataVersion,
    LinkRefused,
    MissingPrivilege,
    MixedRealms,
    NotRunning,
    OtherCluster,
    OutcomeUnknown,
    PushFailed,
    RaftclusterError,
    Refusal,
    Rejected,
    Removed,
    StorageFailed,
    StorageFull,
    StorageRefusal,
    Unavailable,
)
from raftcluster.host import Consistency, Host
from raftcluster.machine import ReadTables, StateMachine, Tables

if TYPE_CHECKING:
    from raftcluster import backup
    from raftcluster.cluster.moving import readdress
    from raftcluster.config.api import Config
    from raftcluster.discovery.candidate import Candidate, Survey
    from raftcluster.discovery.checked import Checked
    from raftcluster.ending import bury
    from raftcluster.entry import (
        import_bundle,
        init,
        join,
        request_certificate,
        restore,
        verify_certificates,
        write_bundle,
    )
    from raftcluster.finding import Wanted, browse, discover, examine, known_hosts
    from raftcluster.greylist.api import Greylist
    from raftcluster.greylist.verdict import Verdict
    from raftcluster.history import read_events
    from raftcluster.lease.api import Leases
    from raftcluster.lease.holding import Lease
    from raftcluster.lease.rules import LeaseHeld, LeaseLost
    from raftcluster.logs import read_logs
    from raftcluster.node import Node
    from raftcluster.notifications.api import Notifications
    from raftcluster.notifications.machine import Notification
    from raftcluster.offline import scrub, verify_config
    from raftcluster.preflight.report import Report
    from raftcluster.pushing import (
        Artefact,
        Pushed,
        Way,
        artefact,
        install,
        installed_artefact,
        setup,
        uninstall,
        upgrade,
    )
    from raftcluster.quarantine.api import Quarantine
    from raftcluster.quarantine.delivery import SmtpDelivery
    from raftcluster.quarantine.envelope import Envelope
    from raftcluster.remote.hostkeys import HostKey
    from raftcluster.remote.ssh import Login
    from raftcluster.request_ids import once
    from raftcluster.service import Service
    from raftcluster.workers.client import Worker
    from raftcluster.workers.server import WorkerServer

__all__ = [
    "AddressInUse",
    "Artefact",
    "BackupDamaged",
    "BackupForeign",
    "Candidate",
    "Checked",
    "ChecksFailed",
    "Config",
    "Consistency",
    "Damaged",
    "DataVersion",
    "Envelope",
    "Greylist",
    "Host",
    "HostKey",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "Leases",
    "LinkRefused",
    "Login",
    "MissingPrivilege",
    "MixedRealms",
    "Node",
    "NotRunning",
    "Notification",
    "Notifications",
    "OtherCluster",
    "OutcomeUnknown",
    "PushFailed",
    "Pushed",
    "Quarantine",
    "RaftclusterError",
    "ReadTables",
    "Refusal",
    "Rejected",
    "Removed",
    "Report",
    "Service",
    "SmtpDelivery",
    "StateMachine",
    "StorageFailed",
    "StorageFull",
    "StorageRefusal",
    "Survey",
    "Tables",
    "Unavailable",
    "Verdict",
    "Wanted",
    "Way",
    "Worker",
    "WorkerServer",
    "artefact",
    "backup",
    "browse",
    "bury",
    "discover",
    "examine",
    "import_bundle",
    "init",
    "install",
    "installed_artefact",
    "join",
    "known_hosts",
    "once",
    "read_events",
    "read_logs",
    "readdress",
    "request_certificate",
    "restore",
    "scrub",
    "setup",
    "uninstall",
    "upgrade",
    "verify_certificates",
    "verify_config",
    "write_bundle",
]


def __getattr__(name: str) -> Any:
    """The names that are imported when they are first used."""
    home: Any
    match name:
        case "backup":
            import raftcluster.backup as home

            return home
        case "bury":
            from raftcluster import ending as home
        case "Candidate" | "Survey":
            from raftcluster.discovery import candidate as home
        case "Config":
            from raftcluster.config import api as home
        case (
            "import_bundle"
            | "init"
            | "join"
            | "request_certificate"
            | "restore"
            | "verify_certificates"
            | "write_bundle"
        ):
            from raftcluster import entry as home
        case "Wanted" | "browse" | "discover" | "examine" | "known_hosts":
            from raftcluster import finding as home
        case "Checked":
            from raftcluster.discovery import checked as home
        case "Report":
            from raftcluster.preflight import report as home
        case "HostKey":
            from raftcluster.remote import hostkeys as home
        case "Login":
            from raftcluster.remote import ssh as home
        case "Greylist":
            from raftcluster.greylist import api as home
        case "Verdict":
            from raftcluster.greylist import verdict as home
        case "Lease":
            from raftcluster.lease import holding as home
        case "LeaseHeld" | "LeaseLost":
            from raftcluster.lease import rules as home
        case "Leases":
            from raftcluster.lease import api as home
        case "Notification":
            from raftcluster.notifications import machine as home
        case "Notifications":
            from raftcluster.notifications import api as home
        case "read_events":
            from raftcluster import history as home
        case "read_logs":
            from raftcluster import logs as home
        case "Node":
            from raftcluster import node as home
        case "Envelope":
            from raftcluster.quarantine import envelope as home
        case "Quarantine":
            from raftcluster.quarantine import api as home
        case "SmtpDelivery":
            from raftcluster.quarantine import delivery as home
        case "readdress":
            from raftcluster.cluster import moving as home
        case "scrub" | "verify_config":
            from raftcluster import offline as home
        case (
            "Artefact"
            | "Pushed"
            | "Way"
            | "artefact"
            | "installed_artefact"
            | "install"
            | "setup"
            | "uninstall"
            | "upgrade"
        ):
            from raftcluster import pushing as home
        case "once":
            from raftcluster import request_ids as home
        case "Worker":
            from raftcluster.workers import client as home
        case "WorkerServer":
            from raftcluster.workers import server as home
        case "Service":
            from raftcluster import service as home
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(home, name)
    return found
