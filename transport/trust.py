"""What this node shows, whom it trusts, and what it says of itself: the one place that every thread looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.transport import handshake
from raftcluster.transport.handshake import Refused
from raftcluster.transport.ports import Identity, Peer
from raftcluster.transport.stream import Stream
from raftcluster.transport.tls import Credentials, Shown


@dataclass(frozen=True, slots=True)
class Connection:
    """An authenticated connection to a member, after both hellos."""

    stream: Stream
    shown: Shown
    hello: Mapping[str, Value]
    own_generation: int
    dialled: bool


class Trust:
    """Any thread replaces its parts as a whole; a reader takes a part once and works with that."""

    def __init__(self, identity: Identity, roots: Sequence[bytes], about: Mapping[str, Any]) -> None:
        self.credentials = Credentials(identity, roots)
        self.peers: Mapping[str, Peer] = {}
        self.changed = False
        """Set after each replacement; the tick thread clears it, then judges its links again."""
        self._about = dict(about)

    @property
    def node_id(self) -> str:
        """This node's."""
        return self.credentials.identity.node_id

    @property
    def cluster_id(self) -> str:
        """This node's."""
        return self.credentials.identity.cluster_id

    def configure(self, peers: Mapping[str, Peer]) -> None:
        """Replace the members."""
        self.peers = {node_id: peer for node_id, peer in peers.items() if node_id != self.node_id}
        self.changed = True

    def use(self, identity: Identity, roots: Sequence[bytes]) -> None:
        """Replace the credentials. Raises `Rejected`, then nothing has changed."""
        if (identity.cluster_id, identity.node_id) != (self.cluster_id, self.node_id):
            raise Rejected(f"{identity} is not of {self.node_id} in {self.cluster_id}", subject=identity.node_id)
        self.credentials = Credentials(identity, roots, self.credentials)
        self.changed = True

    def hello(self, kind: str) -> dict[str, Value]:
        """Our first frame on a connection of this kind."""
        return handshake.hello(self.cluster_id, kind, self._about)

    def admit(self, shown: Shown) -> Peer:
        """The member that has shown this certificate. Raises `Refused` when it is none, or none any more."""
        if shown.subject.generation not in self.credentials.roots:
            raise Refused(
                "untrusted",
                f"{shown.subject.node_id} shows generation {shown.subject.generation}, "
                f"trusted are {', '.join(map(str, sorted(self.credentials.roots)))}",
                subject=shown.subject.node_id,
            )
        return handshake.admit(shown.subject, shown.pin, self.cluster_id, self.peers)
