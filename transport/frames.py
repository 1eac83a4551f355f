"""Frames: 4 bytes of length, big-endian, then one msgpack value of that many bytes. Pure.

A frame of a stranger is at most `HELLO_BYTES` long and its containers at most `HELLO_ITEMS`; `FRAME_BYTES` after
authorisation (:meth:`Decoder.authorised`). A length above the limit is refused when its four bytes are read, before
anything is kept for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import FrameError

HEADER_BYTES: Final = 4
_LENGTH: Final = struct.Struct(">I")
_ROOM: Final = 16 * limits.KIB  # a TLS record's content: each read has room for one whole record
_INITIAL: Final = 2 * _ROOM
_KEPT: Final = 256 * limits.KIB  # a buffer up to this size stays


def encode(value: Value) -> bytes:
    """One frame. Raises `FrameError` when it would be longer than any peer accepts."""
    body = codec.pack(value)
    if len(body) > limits.FRAME_BYTES:
        raise FrameError(f"{len(body)} bytes where at most {limits.FRAME_BYTES} are allowed", subject="frame")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes in, values out, each byte copied a bounded number of times.

    The caller reads into :meth:`room`, tells how many bytes came with :meth:`advance`, and takes :meth:`values`. The
    buffer holds at most one unfinished frame plus one read. After a `FrameError` the connection must be closed.
    """

    def __init__(self, limit_bytes: int = limits.HELLO_BYTES, items: int | None = limits.HELLO_ITEMS) -> None:
        self._limit = limit_bytes
        self._items = items
        self._buffer = bytearray(_INITIAL)
        self._view = memoryview(self._buffer)
        self._start = 0  # of the first byte that belongs to no value yet
        self._end = 0  # of the bytes received

    def authorised(self) -> None:
        """From now on frames may be as long as members send them."""
        self._limit, self._items = limits.FRAME_BYTES, None

    @property
    def unfinished(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._end > self._start

    def room(self) -> memoryview:
        """Where the next bytes go; valid until the next call of any method."""
        if len(self._buffer) - self._end < _ROOM:
            self._make_room()
        return self._view[self._end :]

    def advance(self, count: int) -> None:
        """`count` bytes were written at the beginning of :meth:`room`."""
        self._end += count

    def feed(self, data: bytes) -> None:
        """Copy `data` in: for callers that have the bytes already. Take the values before feeding much more."""
        rest = memoryview(data)
        while rest:
            room = self.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self.advance(count)
            rest = rest[count:]

    def values(self) -> Iterator[Value]:
        """The values whose frames are complete. Raises `FrameError` at the first frame that is none."""
        while (length := self._pending()) is not None and self._end - self._start >= HEADER_BYTES + length:
            begin = self._start + HEADER_BYTES
            self._start = begin + length
            value = codec.unpack(self._view[begin : self._start], limit_bytes=self._limit, items=self._items)
            codec.check_nesting(value)
            yield value
        if self._start == self._end:
            self._start = self._end = 0

    def trim(self) -> None:
        """Give back a buffer that a large frame has left behind."""
        if not self.unfinished and len(self._buffer) > _KEPT:
            self._buffer = bytearray(_INITIAL)
            self._view = memoryview(self._buffer)

    def _pending(self) -> int | None:
        """The length of the first frame, once its header is here."""
        if self._end - self._start < HEADER_BYTES:
            return None
        length: int = _LENGTH.unpack_from(self._buffer, self._start)[0]
        if length > self._limit:
            raise FrameError(f"a frame of {length} bytes where at most {self._limit} are allowed", subject="frame")
        return length

    def _make_room(self) -> None:
        """Move the unfinished frame to the front; double the buffer while that is not enough. Amortised: each move frees
        at least half the buffer or is followed by doubling it."""
        held = self._end - self._start
        size = max(len(self._buffer), HEADER_BYTES + (self._pending() or 0) + _ROOM)
        while size - held < max(_ROOM, size // 2):
            size *= 2
        if size == len(self._buffer):
            self._view[:held] = self._view[self._start : self._end]
        else:
            grown = bytearray(size)
            grown[:held] = self._view[self._start : self._end]
            self._buffer = grown
            self._view = memoryview(grown)
        self._start, self._end = 0, held
