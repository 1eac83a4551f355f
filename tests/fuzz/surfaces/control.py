"""What a client of the control socket sends: the request, the method that it names, its arguments, and the answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.codec import pack, unpack
from raftcluster.control import server, wire
from raftcluster.errors import RaftclusterError
from tests.fuzz.source import Source
from tests.local_node import LocalNode

METHODS = sorted(server.CALLS | {"status", "members.invite"})
ARGUMENTS = (
    "key name value prefix node ttl_s author reason expect_revision consistency changes client sender recipient "
    "instance limit token_id host port confirm every_node since deadline"
).split()


def seeds() -> Iterable[bytes]:
    for number in range(len(METHODS)):
        yield bytes([0, number, 1, 0, 6, 3])
    yield b"\x01" + pack(["config.set", {"key": "a/b", "value": [1, {"x": 2.5}], "reason": "r"}])
    yield b"\x01" + pack(["greylist.explain", {"client": "192.0.2.1", "sender": "a@b", "recipient": "c@d"}])
    yield b"\x01" + pack(["members.invite", {"name": "mx2.example.org", "ttl_s": 60}])
    yield b"\x01" + pack(["\u0000", {"": b""}])


def run(data: bytes) -> None:
    """Every request has an answer that fits a frame, and a client reads it back."""
    source = Source(data)
    for _ in range(1 if source.flag() else 4):
        body = source.rest() if source.data[:1] and source.data[0] & 1 else pack(_request(source))
        answer = _answer(body)
        again = unpack(wire.frame(answer)[wire.LENGTH_BYTES :])
        if again[0] == "error":
            assert str(wire.revive(again[1])) == str(wire.revive(answer[1]))
        if not source.more:
            break


def _request(source: Source) -> Any:
    chosen = {source.choice(ARGUMENTS): source.value() for _ in range(source.below(5))}
    return source.spoilt([source.spoilt(source.choice(METHODS), 32), source.spoilt(chosen)], 32)


def _answer(body: bytes) -> list[Any]:
    node = LocalNode()
    node.held.set()
    control = server.ControlServer(node, "unused")
    try:
        name, arguments = wire.request(body)
        call = control._method(name, arguments)
        return ["value", wire.plain(server.made(name, call))]
    except RaftclusterError as error:
        return ["error", wire.describe(error)]
