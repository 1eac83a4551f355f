"""What a joiner makes of a member's answers: a hostile member's bundle is a typed error, and makes no node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from raftcluster.cluster import join
from raftcluster.cluster.conversation import await_bundle
from raftcluster.cluster.keystore import UNNUMBERED, Keystore
from raftcluster.cluster.manifests import MANIFEST, Manifest
from raftcluster.errors import Rejected
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport import certificates
from raftcluster.transport.stream import Stream
from tests.hierarchy import Hierarchy

OLD = Hierarchy(["id-1"], cluster_id="c1")
MANIFEST_1 = Manifest(MANIFEST, "c1", 1, 1, "genesis", b"", {"id-1": OLD.pin("id-1")}).pack()
FIRST = certificates.issue("c1", 1, {"id-1": certificates.make_request(OLD.keys["id-1"], "id-1")}, MANIFEST_1)
NODE = "id-2"


class Answer:
    """A stream that brings one value."""

    address = "192.0.2.1:9777"

    def __init__(self, value: Any) -> None:
        self.value = value

    def receive(self, timeout: float) -> Any:
        return self.value


def sound(request: bytes) -> dict[str, Any]:
    minted = certificates.issue("c1", 2, {NODE: request})
    return {
        "facts": ["c1", "mail", True, "mta/1", 1, "standalone", "id-1"],
        "generation": 2,
        "certificate": minted.certificates[NODE],
        "roots": {1: FIRST.root_pem, 2: minted.root_pem},
        "members": [
            ["id-1", "mx1.example.org", "192.0.2.1", 9777, "voter", [OLD.pin("id-1")], 1, "mta/1", 0, 0],
            [NODE, "mx2.example.org", "192.0.2.2", 9777, "learner", [], 2, "mta/1", 0, 0],
        ],
        "revision": 7,
        "chain": [[MANIFEST_1, FIRST.root_pem, FIRST.manifest_signature, {}]],
    }


def put(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a bundle: `value` at this place."""

    def change(bundle: dict[str, Any]) -> None:
        inner: Any = bundle
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return change


SPOILT = {
    "an id that is a list": put([1], "members", 0, 0),
    "a port beyond all": put(70_000, "members", 0, 3),
    "a key that is text": put(["x"], "members", 0, 5),
    "keys that are a number": put(5, "members", 0, 5),
    "nobody with the joiner's id": lambda bundle: bundle["members"].pop(),
    "members that are text": put("members", "members"),
    "a flag that is a list": put([], "facts", 2),
    "a generation that is true": lambda bundle: bundle["roots"].update({True: bundle["roots"].pop(1)}),
    "a root of text": put("root", "roots", 1),
    "a chain that is text": put("chain", "chain"),
    "a chain of another root": put(OLD.root, "chain", 0, 1),
    "no chain": put([], "chain"),
    "a revision that is text": put("7", "revision"),
}


def receive(directory: DataDirectory, bundle: Any, keystore: Keystore) -> join.Joined:
    node = {"name": "mx2.example.org", "listen": ["192.0.2.2", 9777], "product": "mta/1"}
    taken = await_bundle(cast("Stream", Answer({"bundle": bundle})), lambda text: None)
    return join.settle(taken, directory, keystore, NODE, node, list)


@pytest.mark.parametrize("name", SPOILT)
def test_a_bundle_that_is_none_makes_no_node(tmp_path: Path, name: str) -> None:
    with DataDirectory.create(tmp_path / "node") as directory:
        keystore = Keystore(directory, "c1", NODE)
        bundle = sound(keystore.request(UNNUMBERED))
        SPOILT[name](bundle)
        with pytest.raises(Rejected):
            receive(directory, bundle, keystore)
        assert not (directory.path / "node.json").exists()
        joined = receive(directory, sound(keystore.request(UNNUMBERED)), keystore)
    assert joined.members == ["mx1.example.org", "mx2.example.org"]
