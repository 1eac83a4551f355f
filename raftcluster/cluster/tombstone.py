"""The tombstone: the proof that a cluster was destroyed, signed by a majority of its voters with their node keys.

It is public. Who holds it may be anybody, for it proves itself offline: it carries the chain of manifests, and a node that
was away follows that from the last manifest it knows (see `chain`), whatever generations it has slept through. Nothing here
does IO.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from raftcluster.cluster import chain
from raftcluster.cluster.manifests import Link, Manifest, majority
from raftcluster.cluster.records import Record, rejected
from raftcluster.cluster.view import View
from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError, Rejected
from raftcluster.transport.certificates import key_fingerprint, public_key, sign, verify_key

CONTEXT: Final = "raftcluster-tombstone-v1"


@dataclass(frozen=True, slots=True)
class Statement(Record):
    """What is signed: that this cluster was destroyed."""

    context: str
    """`CONTEXT`."""
    cluster_id: str
    cluster: str
    event_id: str
    """The same in the event record of every node."""
    reason: str
    decided: int
    """Cluster time, milliseconds."""
    head: bytes
    """Digest of the newest link of the chain: its voters sign."""
    members: Mapping[str, Sequence[Value]]
    """node id -> [name, host, port] of each member, for who comes to ask for this."""
    keep_software: bool
    """What `push` has installed on the hosts stays there."""

    @classmethod
    def of_view(cls, view: View) -> Self:
        """The statement of a cluster whose end is decided: the same on every node, for nothing changes any more."""
        assert view.facts is not None and view.destruction is not None and view.head is not None
        decided = view.destruction
        members = {each.node_id: [each.name, each.host, each.port] for each in view.live().values()}
        return cls(
            CONTEXT,
            view.facts.cluster_id,
            view.facts.name,
            decided.event_id,
            decided.reason,
            decided.at,
            view.head.digest,
            {node_id: members[node_id] for node_id in sorted(members)},
            decided.keep_software,
        )

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The statement in these bytes. Raises `FrameError` when they are none."""
        found = cls.unpack(data)
        kinds = (str, str, str, str, str, int, bytes, dict, bool)
        if found.context != CONTEXT or not all(map(isinstance, found.values(), kinds)):
            raise FrameError("not a tombstone's statement", subject="tombstone")
        for node_id, about in found.members.items():
            held = list(map(type, about)) if isinstance(about, list) else []
            if type(node_id) is not str or held != [str, str, int]:
                raise FrameError("not a tombstone's member", subject="tombstone")
        return found


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A statement, its signatures, and the chain that says whose they have to be."""

    statement: bytes
    signatures: Mapping[str, Sequence[bytes]]
    """node id -> [public key (DER), its signature of the statement]."""
    links: Sequence[Link]

    def pack(self) -> bytes:
        """As it is stored and sent."""
        return pack([CONTEXT, self.statement, dict(self.signatures), [each.values() for each in self.links]])

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """What `pack` made. Raises `FrameError` when it is none."""
        remedy = "hand over a file *.tombstone as another host keeps it beside its data directory (DIR-destroyed)"
        try:
            parts = unpack(data)
        except FrameError as error:
            raise FrameError(
                f"not a tombstone, or a damaged one: {error}", subject="tombstone", remedy=remedy
            ) from error
        if not isinstance(parts, list) or len(parts) != 4 or parts[0] != CONTEXT:
            raise FrameError("not a tombstone", subject="tombstone", remedy=remedy)
        _, statement, signatures, links = parts
        if not isinstance(statement, bytes) or not isinstance(signatures, dict) or not isinstance(links, list):
            raise FrameError("not a tombstone", subject="tombstone")
        for node_id, given in signatures.items():
            if (
                not isinstance(node_id, str)
                or not isinstance(given, list)
                or [type(each) for each in given] != [bytes] * 2
            ):
                raise FrameError("not a tombstone's signature", subject="tombstone")
        return cls(statement, signatures, [Link.check(values) for values in links])

    def content(self) -> Statement:
        """The statement. Raises `FrameError`."""
        return Statement.read(self.statement)

    def verify(self, known: Link, cluster_id: str) -> Statement:
        """The statement, when it proves to who knows the link `known` that this cluster was destroyed. Offline.

        Raises `Rejected`: `tombstone-other` (another cluster's), `tombstone-unsigned` (less than a majority), or the
        chain's codes when it does not follow from what is known.
        """
        found = self.content()
        if found.cluster_id != cluster_id:
            raise rejected(
                "tombstone-other",
                f"the tombstone is of cluster {found.cluster_id} ({found.cluster}), this node is of {cluster_id}",
                subject=found.cluster_id,
            )
        links = chain.after(self.links, known)
        manifest = chain.verify(links, cluster_id=cluster_id)
        if links[-1].digest != found.head:
            raise rejected(
                "tombstone-unsigned", "the tombstone's chain ends elsewhere than it says", subject="tombstone"
            )
        count, needed = len(signers(manifest, self.statement, self.signatures)), majority(len(manifest.voters))
        if count < needed:
            raise rejected(
                "tombstone-unsigned",
                f"the tombstone is signed by {count} of {len(manifest.voters)} voters, {needed} are needed",
                subject="tombstone",
                remedy="ask another former member",
            )
        return found


def signature(key: bytes, statement: bytes) -> list[bytes]:
    """[public key, signature] with a node's private key (PEM)."""
    return [public_key(key), sign(key, statement)]


def signers(manifest: Manifest, statement: bytes, signatures: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Those of the manifest's voters who have truly signed the statement."""
    found = []
    for node_id, (public, given) in sorted(signatures.items()):
        if manifest.voters.get(node_id) == key_fingerprint(public):
            try:
                verify_key(public, statement, given)
            except Rejected:
                continue
            found.append(node_id)
    return found
