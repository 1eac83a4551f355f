"""Bytes inside TLS, before and after authorisation: transport/frames.py, and the hello that comes in the first frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from raftcluster import codec, limits
from raftcluster.errors import FrameError
from raftcluster.transport import frames, handshake
from raftcluster.transport.handshake import Refused
from tests.fuzz.source import Source

OURS = handshake.hello("mail", handshake.RAFT, {"product": "mta/1", "schema": {"counter": 1}})
SLACK = 64 * limits.KIB
"""What a buffer may hold besides one frame: it doubles."""


def seeds() -> Iterable[bytes]:
    hello = frames.encode(OURS)
    yield bytes(2) + hello + frames.encode({"type": "term", "term": 3})
    yield b"\x01\x03" + hello[:20] + bytes(20)
    yield bytes(2) + frames.encode({"refused": "rate", "text": "x", "remedy": "y"})
    yield bytes(2) + frames.encode([[[[0, 1.5]]], {"k": b"v"}]) * 3
    for body in (
        b"\x91" * 40,
        b"\xdd\x00\x01\x00\x00" * 9,
        b"\x91" + codec.pack(float("nan")),
        b"\xd4\x01\x00",
        b"\xa1\xff",
    ):
        yield bytes(2) + len(body).to_bytes(4, "big") + body


def run(data: bytes) -> None:
    """However the bytes are cut into pieces, the same values come out, and the same refusal."""
    source = Source(data)
    authorised, step = source.flag(), 1 + source.byte()
    body = source.rest()
    whole, refused = _decode(authorised, [body[at : at + 16_384] for at in range(0, len(body), 16_384)])
    cut, refused_cut = _decode(authorised, [body[at : at + step] for at in range(0, len(body), step)])
    assert codec.pack(whole) == codec.pack(cut) and refused == refused_cut
    for value in whole:
        again = codec.unpack(frames.encode(value)[frames.HEADER_BYTES :])
        assert codec.pack(again) == codec.pack(value)
        refusal = _refusal(value)
        assert refusal is None or (refusal.reason in handshake.REASONS and len(str(refusal)) < 4 * limits.HELLO_BYTES)


def _decode(authorised: bool, pieces: Iterable[bytes]) -> tuple[list[Any], str]:
    decoder = frames.Decoder()
    if authorised:
        decoder.authorised()
    values: list[Any] = []
    try:
        for piece in pieces:
            decoder.feed(piece)
            values.extend(_bounded(decoder.values()))
            assert authorised or len(decoder._buffer) <= 4 * (limits.HELLO_BYTES + SLACK)
    except FrameError as error:
        return values, str(error)
    return values, ""


def _refusal(value: Any) -> Refused | None:
    """Why the first frame is no hello that this node answers."""
    try:
        handshake.check_hello(OURS, value, (handshake.RAFT,))
    except Refused as error:
        return error
    return None


def _bounded(values: Iterator[Any]) -> Iterator[Any]:
    for value in values:
        codec.check_nesting(value)
        yield value
