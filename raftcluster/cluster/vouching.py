"""What a node checks before it trusts and endorses: its own certificate, the member set, the manifest. No IO but the keystore's.

Thread: the reconciler's. Raises `Rejected` with the code `bad-generation` when the record contradicts itself: that no leader
of this version makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from raftcluster.cluster.generations import expected_manifest
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.manifests import Manifest, link_digest
from raftcluster.cluster.records import Generation, rejected
from raftcluster.cluster.view import View
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.transport.certificates import (
    fingerprint,
    request_fingerprint,
    root_subject,
    verify_leaf,
    verify_manifest,
)


def manifest(view: View, requests: Mapping[str, bytes]) -> bytes:
    """What the root of the generation under way has to sign, when certificates are issued for these requests."""
    return _expected(view, {node_id: request_fingerprint(pem) for node_id, pem in requests.items()}).pack()


def endorsement(view: View, node_id: str, keystore: Keystore) -> list[Value]:
    """This node's endorsement of the generation under way, once it has checked all of it: [public key, signature], or []
    when it is no voter of the manifest before, or when the generation is endorsed already."""
    coming = view.pending
    assert coming is not None and view.active is not None and view.head is not None, "there is a generation to trust"
    _check(view, coming, node_id)
    if coming.phase != "trust" or node_id not in view.head.content().voters:
        return []
    return [*keystore.endorse(coming.sequence, link_digest(coming.manifest, coming.root), view.active.number)]


def amendment(view: View, node_id: str, keystore: Keystore) -> list[Value]:
    """This node's endorsement of the change of the chain's voters that is under way."""
    change = view.amendment
    assert change is not None and view.head is not None and view.active is not None, "there is one to endorse"
    wanted, known = Manifest.read(change.manifest), view.head.content()
    live = view.live()
    if wanted.previous != view.head.digest or wanted.generation != known.generation:
        raise _bad("the amendment does not follow the chain's newest manifest")
    for each, pin in wanted.voters.items():
        if known.voters.get(each) != pin and (each not in live or pin not in live[each].pins):
            raise _bad(f"the amendment names {each}, which is no member with that key")
    return [*keystore.endorse(change.sequence, link_digest(change.manifest, b""), view.active.number)]


def _check(view: View, coming: Generation, node_id: str) -> None:
    assert view.facts is not None
    pins = {each: fingerprint(pem) for each, pem in coming.certificates.items()}
    if coming.manifest != _expected(view, pins).pack():
        raise _bad(f"the manifest of generation {coming.number} is not what follows from the members")
    try:
        if root_subject(coming.root) != (view.facts.cluster_id, coming.number):
            raise _bad(f"the root of generation {coming.number} is another one's")
        verify_manifest(coming.root, coming.manifest, coming.signature)
        for each, pem in coming.certificates.items():
            if verify_leaf(pem, coming.root).node_id != each:
                raise _bad(f"the certificate of {each} names another node")
    except Rejected as error:
        if error.code == "bad-generation":
            raise
        raise _bad(f"generation {coming.number}: {error.message}") from error
    live = view.live()
    for each, pin in pins.items():
        if each in live and pin not in live[each].pins:
            raise _bad(f"{each} is not known by the key that its certificate is for")


def _expected(view: View, pins: Mapping[str, bytes]) -> Manifest:
    assert view.facts is not None and view.head is not None and view.pending is not None
    head = view.head if view.pending.phase in ("collect", "trust") else None
    if head is None:
        return Manifest.read(view.pending.manifest)  # it is in the chain already: a majority has endorsed it
    named = Manifest.read(view.pending.manifest).voters if view.pending.phase == "trust" else {}
    removed = [each for each in view.members.values() if each.role == "removed" and each.node_id in named]
    voters = [replace(each, role="voter") for each in removed]  # when this was signed, and counted for good
    return expected_manifest(view.facts, head, [*view.live().values(), *voters], view.pending, pins)


def _bad(why: str) -> Rejected:
    return rejected("bad-generation", why, subject="manifest", remedy="verify the cluster: raftcluster certs verify")
