"""The certificate hierarchies as an administrator's program sees them, on any node. Threads and errors: see `api`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from raftcluster.cluster.asking import facts_of, propose, read, unfounded
from raftcluster.cluster.records import Generation
from raftcluster.host import Host
from raftcluster.transport.certificates import certificate_hash, fingerprint, validity


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
        view = read(self._host)
        facts, active = facts_of(view), view.active
        if active is None:
            raise unfounded()
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
        return int(propose(self._host, ["begin", str(uuid.uuid4()), None]))
