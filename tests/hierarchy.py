"""Identities and certificates for tests, in any number of clusters and generations, with keys made once per process."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

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


class Forge:
    """A hierarchy whose root key is kept, so that it can issue what no minting child would."""

    def __init__(self, *, cluster_id: str = "mail", generation: int = 1) -> None:
        self.cluster_id = cluster_id
        self.generation = generation
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = certificates.issue_root(self._key, cluster_id, generation, _now())
        self.root = self._root.public_bytes(serialization.Encoding.PEM)

    def identity(
        self, node: str, *, uri: str | None = None, age: datetime.timedelta = datetime.timedelta()
    ) -> Identity:
        """A member's identity with a fresh key; its certificate says `uri` and was issued `age` ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        uri = uri or f"raftcluster://{self.cluster_id}/{self.generation}/{node}"
        return self._signed(
            node, key, certificates.issue_leaf(self._key, self._root, key.public_key(), uri, _now() - age)
        )

    def named(self, node: str, names: Sequence[x509.GeneralName]) -> Identity:
        """An identity whose certificate has these alternative names, or none."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, node)])
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder(
            self._root.subject, subject, key.public_key(), x509.random_serial_number(), _now() - day, _now() + day
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return self._signed(node, key, builder.sign(self._key, hashes.SHA256()))

    def _signed(self, node: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Identity:
        encoding = serialization.Encoding.PEM
        secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Identity(self.cluster_id, node, self.generation, certificate.public_bytes(encoding), secret)


def member(identity: Identity, address: Address = ("127.0.0.1", 1)) -> Peer:
    """The node that shows this identity, as the others know it."""
    return Peer(identity.node_id, address, frozenset([certificates.fingerprint(identity.certificate)]))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
