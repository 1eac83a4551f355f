"""What the APIs of this room share: reading the record, proposing to it, and how names are spelled."""

from __future__ import annotations

from raftcluster.cluster.auditing import attributed
from raftcluster.cluster.records import Facts
from raftcluster.cluster.view import View
from raftcluster.codec import Value
from raftcluster.errors import Rejected, Unavailable
from raftcluster.host import Host

MACHINE = "cluster"


def read(host: Host) -> View:
    """The record as this node has applied it."""
    return host.query(MACHINE, View.read)


def facts_of(view: View) -> Facts:
    """What makes this cluster this cluster. Raises `Unavailable` before genesis."""
    if view.facts is None:
        raise unfounded()
    return view.facts


def unfounded() -> Unavailable:
    """The error of everything that is asked before genesis."""
    return Unavailable("the cluster has no genesis yet", subject="cluster", remedy="ask again in a moment")


def propose(host: Host, command: Value) -> Value:
    """The result of a command of the cluster machine. Raises `Rejected`; before genesis `Unavailable`."""
    try:
        return host.propose(MACHINE, command)
    except Rejected as error:
        if error.code == "no-cluster":
            raise unfounded() from error
        raise


def administer(host: Host, command: Value, author: str, reason: str) -> Value:
    """The same, with who has decided it, here and why: see `auditing`."""
    return propose(host, attributed(command, author, host.name, reason))


def plain_name(name: str) -> str:
    """Host names are compared in lower case, without the root's dot."""
    return name.strip().lower().rstrip(".")
