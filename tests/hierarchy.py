"""Identities and certificates for tests, in any number of clusters and generations, with keys made once per process."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import lru_cache

from raftcluster.transport import certificates
from raftcluster.transport.certificates import Minted
from raftcluster.transport.ports import Address, Identity, Peer


@lru_cache(maxsize=256)
def key(cluster_id: str, node_id: str, generation: int) -> bytes:
    """A node's private key."""
    assert cluster_id and node_id and generation
    return certificates.new_key()


class Hierarchy:
    """One generation of one cluster, minted in this process."""

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        cluster_id: str = "mail",
        generation: int = 1,
        at: datetime.datetime | None = None,
    ) -> None:
        self.cluster_id = cluster_id
        self.generation = generation
        self.keys = {node: key(cluster_id, node, generation) for node in nodes}
        requests = {node: certificates.make_request(pem, node) for node, pem in self.keys.items()}
        self.minted: Minted = certificates.issue(cluster_id, generation, requests, at=at)
        self.root = self.minted.root_pem

    def identity(self, node: str) -> Identity:
        """What the node shows."""
        return Identity(self.cluster_id, node, self.generation, self.minted.certificates[node], self.keys[node])

    def pin(self, node: str) -> bytes:
        """What the others know it by."""
        return certificates.fingerprint(self.minted.certificates[node])

    def peer(self, node: str, address: Address) -> Peer:
        """The node as a member."""
        return Peer(node, address, frozenset([self.pin(node)]))
