"""Manifests: who the voters of each generation are, linked to a chain that anybody can follow offline. Pure.

A root's key is gone when its generation begins, so a root cannot vouch for the next one. What does:

* a *manifest* -- cluster, generation, position in the chain, hash of the link before, the voters' ids and key fingerprints --
  is signed by the generation's root key in the minting child: nobody can make another one for that root;
* a majority of the voters that the link **before** names endorse it with their node keys.

A link without a root is an *amendment*: the same generation, other voters, since a learner has become one. Without it a
cluster that has grown could never replace its roots again when one of its first members dies. `chain` verifies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from raftcluster.cluster.records import Record
from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError

MANIFEST: Final = "raftcluster-manifest-v1"
ENDORSEMENT: Final = "raftcluster-endorsement-v1"
LINK: Final = "raftcluster-link-v1"


@dataclass(frozen=True, slots=True)
class Manifest(Record):
    """What a root signs and the voters before it endorse."""

    context: str
    """`MANIFEST`."""
    cluster_id: str
    generation: int
    sequence: int
    """Position in the chain: greater than any before, never used twice. A node endorses one manifest per number."""
    txid: str
    previous: bytes
    """Hash of the link before; empty in the first."""
    voters: Mapping[str, bytes]
    """node id -> SHA-256 of its public key in this generation, in the order of the ids."""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The manifest in these bytes. Raises `FrameError` when they are none."""
        found = cls.unpack(data)
        kinds = (str, str, int, int, str, bytes, dict)
        voters = found.voters.items() if isinstance(found.voters, dict) else ()
        if (
            not _are(found.values(), kinds)
            or found.context != MANIFEST
            or not all(_are(list(voter), (str, bytes)) for voter in voters)
        ):
            raise FrameError("not a manifest", subject="manifest")
        return found


@dataclass(frozen=True, slots=True)
class Link(Record):
    """One step of the chain, as it is stored and sent. All of it is public."""

    manifest: bytes
    root: bytes
    """PEM; empty in an amendment."""
    signature: bytes
    """The root key's, of the manifest; empty in an amendment."""
    endorsements: Mapping[str, Sequence[bytes]]
    """node id -> [public key (DER), its signature], of voters of the link before."""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The link in these bytes. Raises `FrameError` when they are none."""
        return cls.check(unpack(data))

    @classmethod
    def check(cls, values: Value) -> Self:
        """The link with these fields. Raises `FrameError` when they are of other kinds."""
        found = cls.of(values)
        given = found.endorsements.items() if isinstance(found.endorsements, dict) else ()
        if not _are(found.values(), (bytes, bytes, bytes, dict)) or not all(
            isinstance(node_id, str) and _are(endorsement, (bytes, bytes)) for node_id, endorsement in given
        ):
            raise FrameError("not a link of a chain of manifests", subject="chain")
        return found

    @property
    def digest(self) -> bytes:
        """What the next manifest names, and what is endorsed: manifest and root together."""
        return link_digest(self.manifest, self.root)

    def content(self) -> Manifest:
        """The manifest. Raises `FrameError`."""
        return Manifest.read(self.manifest)


def link_digest(manifest: bytes, root: bytes) -> bytes:
    """See `Link.digest`."""
    return hashlib.sha256(pack([LINK, manifest, root])).digest()


def endorsed(digest: bytes) -> bytes:
    """What an endorsement signs."""
    return pack([ENDORSEMENT, digest])


def majority(voters: int) -> int:
    """How many of so many voters decide: 1 of 1, 2 of 2, 2 of 3."""
    return voters // 2 + 1


def is_endorsed(voters: Collection[str], endorsers: Collection[str]) -> bool:
    """Whether a majority of `voters` is among `endorsers`."""
    return len(set(voters) & set(endorsers)) >= majority(len(voters))


def _are(values: Value, kinds: tuple[type, ...]) -> bool:
    """Whether it is a list of these kinds; numbers are counts, and a bool is none."""
    return (
        isinstance(values, list)
        and len(values) == len(kinds)
        and all(
            isinstance(value, kind) and not isinstance(value, bool) for value, kind in zip(values, kinds, strict=True)
        )
        and all(value >= 0 for value in values if isinstance(value, int))
    )
