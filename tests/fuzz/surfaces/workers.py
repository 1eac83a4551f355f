"""Bytes on the worker socket: what a worker sends to its node, and what a node sends to its workers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from raftcluster.codec import pack
from raftcluster.control.wire import describe, revive
from raftcluster.errors import FrameError, Rejected
from raftcluster.workers import wire
from tests.fuzz.source import Source

CHECK = ["192.0.2.1", "a@b", b"c@d", None, "1", False, True, "mx", 2.0]


def _frame(*messages: Any) -> bytes:
    return b"".join(wire.frames([pack(each) for each in messages]))


def seeds() -> Iterable[bytes]:
    yield b"\x03" + _frame([1, "check", CHECK, None], [2, "config.get", {"key": "a"}, bytes(16)])
    yield b"\xff" + _frame([0, wire.ITEM, {"version": 1}]) + _frame([1, wire.VALUE, ["pass", "known"]])
    yield b"\x01" + _frame([1, wire.ERROR, describe(Rejected("no", subject="x", remedy="y"))])
    yield b"\x07" + _frame([1, "more", 5, None]) * 3 + b"\0\0"
    for body in (b"\x91" * 40, b"\xdd\x00\x01\x00\x00" * 9, b"\xc1", b"\xdc\xff\xff", b""):
        yield b"\x02" + len(body).to_bytes(4, "big") + body


def run(data: bytes) -> None:
    """However the bytes are cut into pieces, the same messages come out, and the same refusal."""
    source = Source(data)
    step = 1 + source.byte()
    body = source.rest()
    whole, refused = _read([body])
    cut, refused_cut = _read([body[at : at + step] for at in range(0, len(body), step)])
    assert repr(whole) == repr(cut) and refused == refused_cut
    for message in whole:
        _as_said(message)


def _read(pieces: Iterable[bytes]) -> tuple[list[Any], str]:
    reader, messages = wire.Reader(), list[Any]()
    try:
        for piece in pieces:
            reader.feed(piece)
            while (found := reader.next()) is not None:
                messages += found
    except FrameError as error:
        return messages, str(error)
    return messages, ""


def _as_said(message: Any) -> None:
    """Whatever it is, it is a request or an answer, or refused as none."""
    with suppress(FrameError):
        asked = wire.request(message)
        assert asked.number > 0 and type(asked.method) is str
    with suppress(FrameError):
        _, kind, value = wire.answer(message)
        if kind == wire.ERROR:
            assert str(revive(value))
