"""Members, tokens and certificates as an administrator's program sees them, on any node.

Thread: any. Errors: `Unavailable` (also while a cluster that was just made has not committed its genesis), `OutcomeUnknown`,
`Rejected` with a stable code (see `machine`).
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from dataclasses import dataclass

from raftcluster.cluster import view as tables
from raftcluster.cluster.records import Facts, Generation, Invitation, Member, rejected
from raftcluster.cluster.view import View
from raftcluster.codec import Value
from raftcluster.errors import Rejected, Unavailable
from raftcluster.host import Host
from raftcluster.transport.certificates import Token, certificate_hash, fingerprint, validity

MACHINE = "cluster"
INVITE_SECONDS = 3600.0
"""Default life of a token."""
SETTLE_SECONDS = 10.0
"""A generation takes a second or two when all members are up."""
LOOK_SECONDS = 0.05


class Members:
    """Who belongs to the cluster."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def facts(self) -> Facts:
        """What makes this cluster this cluster: id, name, product, trust realm. Raises `Unavailable` before genesis."""
        return _facts(_view(self._host))

    def list(self, *, removed: bool = False) -> list[Member]:
        """The members by name; with `removed` also those that were."""
        view = _view(self._host)
        rows = view.members.values() if removed else view.live().values()
        return sorted(rows, key=lambda member: (member.name, member.joined_at))

    def get(self, name: str) -> Member:
        """The member of that name or node id. Raises `Rejected` when there is none."""
        member = _view(self._host).named(_plain(name))
        if member is None:
            raise rejected("no-member", f"{name} is no member", subject=name)
        return member

    def invite(self, name: str, ttl_s: float = INVITE_SECONDS, *, settle_s: float = SETTLE_SECONDS) -> Token:
        """A token with which the host `name` may join once, within `ttl_s` seconds. `str(token)` is what it needs.

        Waits up to `settle_s` seconds for a change of certificates to end: the token names the root. Only here and in the
        hands of whom you give it to is the secret: what is replicated is its public half.
        """
        view = _view(self._host)
        if view.active is None:
            raise _unfounded()
        end = time.monotonic() + settle_s
        while view.pending is not None and view.pending.root and time.monotonic() < end:
            threading.Event().wait(LOOK_SECONDS)
            view = _view(self._host)
        if view.pending is not None and view.pending.root:
            raise rejected(
                "generation-under-way",
                f"generation {view.pending.number} is replacing the root that a token names",
                remedy="try again in a moment",
            )
        assert view.active is not None, "a cluster that was founded stays so"
        token = Token.new(view.active.root)
        _propose(self._host, ["invite", token.id, token.public_key(), _plain(name), math.ceil(ttl_s)])
        return token

    def remove(self, name: str) -> Member:
        """Shut a member out. From the commit on its links are closed; a new certificate generation follows."""
        member = self.get(name)
        _propose(self._host, ["removed", member.node_id])
        return member

    def move(self, name: str, host: str, port: int) -> None:
        """Tell all members that `name` is at another address now. Its identity stays."""
        _propose(self._host, ["address", self.get(name).node_id, host, port])

    def destroy(self, confirm: str, *, every_node: bool = False, reason: str = "") -> str:
        """Dismantle the cluster named `confirm`; the result is the event id that every node records before it wipes.

        Raises `Rejected` when the name differs, or when there are other members and not `every_node`.
        """
        event_id = str(uuid.uuid4())
        return str(_propose(self._host, ["destroy", event_id, confirm, every_node, reason]))


class Tokens:
    """The invitations. Their secrets are known to nobody here."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def list(self) -> list[Invitation]:
        """All that are remembered: open, used, revoked, and expired for less than a day."""
        return self._host.query(MACHINE, lambda rows, time: tables.invitations(rows))

    def revoke(self, token_id: str) -> None:
        """Make a token worthless. Raises `Rejected` when it is unknown or was used."""
        _propose(self._host, ["revoke", token_id])


@dataclass(frozen=True, slots=True)
class Certificate:
    """One node's certificate of the generation in force."""

    node_id: str
    name: str
    pin: str
    """SHA-256 of the public key, hexadecimal."""
    not_before: float
    not_after: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The generation in force, and what is on its way."""

    cluster_id: str
    generation: int
    root_hash: str
    """SHA-256 of the root certificate, hexadecimal: the end of a token."""
    root: bytes
    certificates: list[Certificate]
    pending: Generation | None


class Certs:
    """The certificate hierarchy."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def show(self) -> Hierarchy:
        """What is in force. Raises `Unavailable` before genesis."""
        view = _view(self._host)
        facts, active = _facts(view), view.active
        if active is None:
            raise _unfounded()
        rows = []
        for node_id, pem in active.certificates.items():
            member = view.members.get(node_id)
            begin, end = validity(pem)
            name = member.name if member else node_id
            rows.append(Certificate(node_id, name, fingerprint(pem).hex(), begin.timestamp(), end.timestamp()))
        root_hash = certificate_hash(active.root).hex()
        return Hierarchy(facts.cluster_id, active.number, root_hash, active.root, rows, view.pending)

    def rotate(self) -> int:
        """Begin a new hierarchy; the result is its number. Returns at once, `show` tells how far it is."""
        return int(_propose(self._host, ["begin", str(uuid.uuid4()), None]))


def _view(host: Host) -> View:
    return host.query(MACHINE, View.read)


def _facts(view: View) -> Facts:
    if view.facts is None:
        raise _unfounded()
    return view.facts


def _unfounded() -> Unavailable:
    return Unavailable("the cluster has no genesis yet", subject="cluster", remedy="ask again in a moment")


def _propose(host: Host, command: Value) -> Value:
    try:
        return host.propose(MACHINE, command)
    except Rejected as error:
        if error.code == "no-cluster":
            raise _unfounded() from error
        raise


def _plain(name: str) -> str:
    """Host names are compared in lower case, without the root's dot."""
    return name.strip().lower().rstrip(".")
