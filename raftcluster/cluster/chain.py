"""Following a chain of manifests offline: from what one knows to what is in force now.

Thread: functions of their arguments; any. Errors are `Rejected` with a stable code:

    chain-unknown     the chain does not begin where we know something: ask for a token
    chain-broken      a link does not belong to the one before
    chain-unendorsed  a link is endorsed by less than a majority of the voters before it: never trusted on first use
    chain-forked      two different links for one number, each endorsed: names who has signed both
"""

from __future__ import annotations

from collections.abc import Sequence

from raftcluster.cluster.manifests import Link, Manifest, endorsed, majority
from raftcluster.cluster.records import rejected
from raftcluster.errors import FrameError, Rejected
from raftcluster.transport.certificates import (
    certificate_hash,
    key_fingerprint,
    root_subject,
    verify_key,
    verify_manifest,
)

REMEDY = "ask for a new token and join again"


def first_of(links: Sequence[Link], root_hash: bytes) -> list[Link]:
    """The chain from the link whose root has this hash (a token names it); that root's signature vouches for the link."""
    for position, link in enumerate(links):
        if link.root and certificate_hash(link.root) == root_hash:
            _check_root(link, link.content())
            return list(links[position:])
    raise rejected("chain-unknown", "the chain of manifests has no such root", subject="chain", remedy=REMEDY)


def after(links: Sequence[Link], known: Link) -> list[Link]:
    """The chain from `known` on. Raises `chain-forked` when it has another link in its place, with its endorsers."""
    ours = known.content()
    for position, link in enumerate(links):
        theirs = link.content()
        if theirs.sequence == ours.sequence:
            if link.digest == known.digest:
                return list(links[position:])
            raise _forked(known, link)
    raise rejected(
        "chain-unknown",
        f"the chain of manifests does not hold number {ours.sequence}, the last one that is known here",
        subject="chain",
        remedy=REMEDY,
    )


def verify(links: Sequence[Link], *, cluster_id: str = "") -> Manifest:
    """The newest manifest of a chain whose first link is known to be good. Offline; dates of roots are not judged."""
    if not links:
        raise rejected("chain-unknown", "an empty chain of manifests", subject="chain", remedy=REMEDY)
    before, manifest = links[0], links[0].content()
    if cluster_id and manifest.cluster_id != cluster_id:
        raise _broken(manifest, f"is of cluster {manifest.cluster_id}, not of {cluster_id}")
    for link in links[1:]:
        current = link.content()
        _check_succession(before, manifest, link, current)
        before, manifest = link, current
    return manifest


def endorsers(link: Link, voters: dict[str, bytes] | Manifest) -> list[str]:
    """Those of `voters` (node id -> fingerprint of its key) who have truly endorsed the link."""
    pins = dict(voters.voters) if isinstance(voters, Manifest) else voters
    message = endorsed(link.digest)
    found = []
    for node_id, (key, signature) in sorted(link.endorsements.items()):
        if node_id in pins and key_fingerprint(key) == pins[node_id]:
            try:
                verify_key(key, message, signature)
            except Rejected:
                continue
            found.append(node_id)
    return found


def check_root(link: Link) -> None:
    """Raise `chain-broken` unless the link's root is of its generation and has signed its manifest."""
    _check_root(link, link.content())


def _check_succession(before: Link, known: Manifest, link: Link, current: Manifest) -> None:
    if current.cluster_id != known.cluster_id:
        raise _broken(current, f"is of cluster {current.cluster_id}")
    if current.previous != before.digest or current.sequence <= known.sequence:
        raise _broken(current, f"does not follow number {known.sequence}")
    if link.root:
        if current.generation <= known.generation:
            raise _broken(current, f"has a root of generation {current.generation} after {known.generation}")
        _check_root(link, current)
    elif current.generation != known.generation:
        raise _broken(current, "amends another generation")
    found, needed = endorsers(link, known), majority(len(known.voters))
    if len(found) < needed:
        raise rejected(
            "chain-unendorsed",
            f"generation {current.generation} is endorsed by {len(found)} of {len(known.voters)} voters before it, "
            f"{needed} are needed",
            subject="chain",
            remedy=REMEDY,
        )


def _check_root(link: Link, manifest: Manifest) -> None:
    try:
        subject = root_subject(link.root)
        verify_manifest(link.root, link.manifest, link.signature)
    except FrameError:
        raise
    except Rejected as error:
        raise _broken(manifest, f"is not signed by its root: {error.message}") from error
    if subject != (manifest.cluster_id, manifest.generation):
        raise _broken(manifest, f"has a root of cluster {subject[0]}, generation {subject[1]}")


def _forked(one: Link, other: Link) -> Rejected:
    both = sorted(set(one.endorsements) & set(other.endorsements))
    number = one.content().sequence
    return rejected(
        "chain-forked",
        f"there are two manifests number {number}; both are endorsed by: {', '.join(both) or 'nobody'}",
        subject="chain",
        remedy="one of the two clusters is not yours: trust neither before you know which",
    )


def _broken(manifest: Manifest, why: str) -> Rejected:
    return rejected(
        "chain-broken", f"manifest number {manifest.sequence} {why}", subject="chain", remedy="ask another member"
    )
