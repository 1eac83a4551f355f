"""What a node checks before it endorses, with real certificates."""

from __future__ import annotations

from typing import cast

from raftcluster.cluster import vouching
from raftcluster.cluster.keystore import Keystore
from raftcluster.transport.certificates import fingerprint, issue, make_request
from tests.cluster_log import Log
from tests.cluster_log import key as stand_in
from tests.cluster_world import three
from tests.hierarchy import key


class Signing:
    """A keystore that signs whatever it is asked to."""

    def endorse(self, sequence: int, digest: bytes, signing: int) -> list[bytes]:
        return [b"key", b"signature"]


def rotating() -> Log:
    """Three voters, and a generation that is to be trusted."""
    log = three()
    number = log.apply("rotate", "x", [], True)
    for node in log.pending().members:
        log.apply("csr", number, node, make_request(key("c1", node, number), node))
    requests = dict(log.pending().requests)
    manifest = vouching.manifest(log.view, requests)
    made = issue("c1", number, requests, manifest)
    issued = {
        node: [request, made.certificates[node], fingerprint(made.certificates[node])]
        for node, request in requests.items()
    }
    log.apply("minted", number, made.root_pem, manifest, made.manifest_signature, issued)
    return log


def test_a_member_that_is_removed_while_its_generation_is_endorsed_does_not_keep_the_others_from_it() -> None:
    """The manifest names it, as it did when it was signed: the others took it for one that contradicts the members, for ever."""
    log = rotating()
    assert log.apply("removed", "n3") is None and log.pending().phase == "trust"
    for node in ("n1", "n2"):
        assert vouching.endorsement(log.view, node, cast(Keystore, Signing())) == [b"key", b"signature"]
        log.apply("trusted", log.pending().number, node, [stand_in(log.head().generation, node), b"signature"])
    assert log.pending().phase == "switch"
