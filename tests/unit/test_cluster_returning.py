"""The way back, as far as it needs no certificates: whom a lonely node asks for what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest

from raftcluster.cluster import returning
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.manifests import MANIFEST, Link, Manifest
from raftcluster.cluster.returning import Return
from raftcluster.errors import Removed
from raftcluster.transport.ports import Peer

CHAIN = [Link(Manifest(MANIFEST, "c1", 1, 1, "x", b"", {"n1": b"p" * 32}).pack(), b"root-1", b"sig", {})]
PEER = Peer("n1", ("192.0.2.1", 9777), frozenset())


class Kept:
    """The keystore of a node that has the roots of all generations."""

    def chain(self) -> list[Link]:
        return CHAIN

    def roots(self, numbers: Iterable[int]) -> list[bytes]:
        return [f"root-{number}".encode() for number in numbers]


class Answering:
    """A stream to a member."""

    def __init__(self, answer: Any) -> None:
        self.answers = [{"nonce": b""}, answer]

    def receive(self) -> Any:
        return self.answers.pop(0)

    def send(self, message: Any) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("presented", [1, 2])
def test_who_was_let_in_by_a_generation_that_is_still_endorsed_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, presented: int
) -> None:
    """A joiner has a certificate of it before the chain does. Without a quorum it asked, found no root after its own, and its
    reconciler ended with an IndexError."""
    dialled: list[bytes] = []
    answer: dict[str, Any] = {"member": True}

    def dial_rooted(address: Any, root: bytes, hello: Any) -> Answering:
        dialled.append(root)
        return Answering(answer)

    monkeypatch.setattr(returning, "ask_chain", lambda *asked, **more: CHAIN)
    monkeypatch.setattr(returning, "dial_rooted", dial_rooted)
    way_back = Return(cast(Keystore, Kept()), "c1", "n2", {})
    assert way_back.attempt([PEER], presented) is None
    assert dialled == [b"root-1"], "what the members show"
    answer = {"refused": Removed.code, "text": "n2 was removed", "remedy": ""}
    with pytest.raises(Removed):
        way_back.attempt([PEER], presented)
