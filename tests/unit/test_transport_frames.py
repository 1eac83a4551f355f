"""Frames: what goes in comes out, whatever the pieces; what is no frame is refused before it costs anything."""

from __future__ import annotations

import struct
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import codec, limits
from raftcluster.errors import FrameError
from raftcluster.transport import frames
from raftcluster.transport.frames import Decoder

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=50)
    | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def decoded(decoder: Decoder, data: bytes, piece: int = 1 << 30) -> list[Any]:
    values: list[Any] = []
    for begin in range(0, len(data), piece):
        decoder.feed(data[begin : begin + piece])
        values.extend(decoder.values())
    return values


def authorised() -> Decoder:
    decoder = Decoder()
    decoder.authorised()
    return decoder


@given(st.lists(VALUES, max_size=8), st.integers(1, 200))
def test_values_survive_any_cutting_into_pieces(values: list[Any], piece: int) -> None:
    stream = b"".join(map(frames.encode, values))
    decoder = authorised()
    assert decoded(decoder, stream, piece) == values
    assert not decoder.unfinished


def test_large_and_small_frames_in_turn() -> None:
    values = [
        {"n": n, "body": bytes(size)} for n, size in enumerate([0, 1, 10_000, 3_900_000, 5, 500_000, 31, 4_000_000])
    ]
    stream = b"".join(map(frames.encode, values * 2))
    assert decoded(authorised(), stream, 16_384) == values * 2
    assert decoded(authorised(), stream, 262_144) == values * 2


def test_a_torn_frame_is_unfinished_and_gives_nothing() -> None:
    frame = frames.encode({"body": bytes(1000)})
    for cut in (1, 3, 4, 5, len(frame) - 1):
        decoder = Decoder()
        assert decoded(decoder, frame[:cut]) == []
        assert decoder.unfinished
        assert decoded(decoder, frame[cut:]) == [{"body": bytes(1000)}]
        assert not decoder.unfinished


@pytest.mark.parametrize("length", [limits.HELLO_BYTES + 1, limits.FRAME_BYTES, 2**31, 2**32 - 1])
def test_a_strangers_long_frame_is_refused_by_its_header_alone(length: int) -> None:
    decoder = Decoder()
    decoder.feed(struct.pack(">I", length))
    with pytest.raises(FrameError, match=str(length)):
        list(decoder.values())


def test_a_members_frame_may_be_longer_but_not_endless() -> None:
    decoder = authorised()
    decoder.feed(struct.pack(">I", limits.FRAME_BYTES))
    assert list(decoder.values()) == []
    decoder = authorised()
    decoder.feed(struct.pack(">I", limits.FRAME_BYTES + 1))
    with pytest.raises(FrameError):
        list(decoder.values())


def test_what_is_too_long_is_not_sent_either() -> None:
    with pytest.raises(FrameError):
        frames.encode(bytes(limits.FRAME_BYTES))
    assert len(frames.encode(bytes(limits.FRAME_BYTES - 5))) == limits.FRAME_BYTES + 4


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [nested(limits.NESTING + 1), nested(500), float("nan"), {"a": [float("inf")]}, {"a": {"b": -float("inf")}}],
    ids=["nested", "nested deeply", "nan", "infinity", "minus infinity"],
)
def test_values_that_are_nonsense(value: Any) -> None:
    decoder = authorised()
    decoder.feed(frames.encode(value))
    with pytest.raises(FrameError):
        list(decoder.values())
    assert decoded(authorised(), frames.encode(nested(limits.NESTING))) == [nested(limits.NESTING)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0\xc0",
        b"\x91",
        b"\xa1\xff",
        b"\xd4\x05x",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x90\xc0",
        b"\x91" * 2000 + b"\xc0",
    ],
    ids=[
        "empty",
        "reserved",
        "two",
        "torn",
        "not utf-8",
        "extension",
        "timestamp",
        "list",
        "map",
        "bytes",
        "list as key",
        "deep",
    ],
)
@pytest.mark.parametrize("decoder", [Decoder, authorised], ids=["stranger", "member"])
def test_bodies_that_are_no_value(body: bytes, decoder: Any) -> None:
    one: Decoder = decoder()
    one.feed(struct.pack(">I", len(body)) + body)
    with pytest.raises(FrameError):
        list(one.values())


@given(st.binary(max_size=300))
def test_any_bytes_are_values_or_a_frame_error(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoded(decoder, data, 7)
    except FrameError:
        pass


def test_a_stranger_cannot_make_us_allocate_what_it_only_claims() -> None:
    """Lists in lists, each claiming 16,368 items, cost the decoder's caller 16 KiB and an unbounded one 130 MB."""
    body = (b"\xdd\x00\x00\x3f\xf0" * 1000).ljust(limits.HELLO_BYTES, b"\xc0")
    decoder = Decoder()
    decoder.feed(struct.pack(">I", len(body)) + body)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            list(decoder.values())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 * limits.MIB


def test_the_buffer_holds_no_more_than_a_frame_and_a_read() -> None:
    decoder = authorised()
    frame = frames.encode(bytes(limits.FRAME_BYTES - 5))
    for _ in range(3):
        assert decoded(decoder, frame, 16_384) == [bytes(limits.FRAME_BYTES - 5)]
    assert len(decoder._buffer) <= 4 * limits.FRAME_BYTES
    decoder.trim()
    assert len(decoder._buffer) <= 64 * limits.KIB
    assert decoded(decoder, frames.encode({"n": 1})) == [{"n": 1}]
    small = Decoder()
    for _ in range(1000):
        decoded(small, frames.encode({"n": 1}))
    assert len(small._buffer) <= 64 * limits.KIB


def test_the_cost_grows_with_the_bytes_not_with_their_square() -> None:
    """Four times the frame in pieces of 16 KiB takes about four times as long; copying all of it each time takes 16."""

    def seconds(size: int) -> float:
        frame = frames.encode(bytes(size))
        best = float("inf")
        for _ in range(5):
            begin = time.thread_time()
            decoded(authorised(), frame, 16_384)
            best = min(best, time.thread_time() - begin)
        return best

    assert seconds(4_000_000) < 10 * max(seconds(1_000_000), 0.0005)


def test_ten_thousand_small_frames_are_quick_to_take_apart() -> None:
    stream = frames.encode({"type": "append", "term": 5, "commit": 7}) * 10_000
    begin = time.thread_time()
    assert len(decoded(authorised(), stream, 65_536)) == 10_000
    assert time.thread_time() - begin < 2.0


def test_the_codec_bounds_containers_when_it_is_told_to() -> None:
    packed = codec.pack(list(range(100)))
    assert codec.unpack(packed, items=100) == list(range(100))
    with pytest.raises(FrameError):
        codec.unpack(packed, items=99)
