"""What travels over the worker socket. Pure.

A frame is a length (4 bytes, big endian) and one msgpack array of messages: whatever was ready at one moment travels together.

    from the worker   [number, method, arguments, request id]    a call, or a stream when the method is one
                      [number, "check", fields, None]            a greylist check; fields as in `CHECK_FIELDS`
                      [number, "more", count, None]              so many items of this stream were taken
                      [number, "cancel", None, None]             no more of this stream
    from the node     [number, kind, value]                      kind: VALUE, ERROR, ITEM or END
                      [0, ITEM, {...}]                           of the node itself: first thing, and when it changes

Numbers are the worker's own, from 1 on, each used once per connection. Answers come in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from types import NoneType
from typing import Any, Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.control.wire import describe
from raftcluster.errors import FrameError

VERSION: Final = 2
LENGTH_BYTES: Final = 4
VALUE, ERROR, ITEM, END = range(4)
CHECK, MORE, CANCEL = "check", "more", "cancel"
CHECK_FIELDS: Final = tuple(
    "client sender recipient client_name instance authenticated spf_pass helo deadline".split(),
)
_CHECK_TYPES: Final = frozenset(
    product((str,), (str, bytes), (str, bytes), (str, NoneType), (str, NoneType), (bool,), (bool,), (str,), (float,))
)
_VALUE: Final = codec.pack(VALUE)


class Request(NamedTuple):
    """One message from a worker."""

    number: int
    method: str
    arguments: Any
    id: bytes | None


class Reader:
    """Frames out of a stream of bytes. Holds one that is not complete, at most."""

    def __init__(self, limit: int = limits.WORKER_FRAME_BYTES) -> None:
        self._buffer, self._limit = bytearray(), limit

    @property
    def unfinished(self) -> bool:
        """Whether a frame has begun."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """More bytes have come."""
        self._buffer += data

    def next(self) -> list[Value] | None:
        """The next frame's messages; None when it is not complete. Raises `FrameError`, then the stream is of no use."""
        buffer = self._buffer
        if len(buffer) < LENGTH_BYTES:
            return None
        size = int.from_bytes(buffer[:LENGTH_BYTES], "big")
        if size > self._limit:
            raise FrameError(f"{size} bytes where at most {self._limit} are allowed", subject="worker frame")
        end = LENGTH_BYTES + size
        if len(buffer) < end:
            return None
        messages = codec.unpack(bytes(memoryview(buffer)[LENGTH_BYTES:end]), limit_bytes=self._limit)
        del buffer[:end]
        if type(messages) is not list or len(messages) > limits.WORKER_MESSAGES:
            raise FrameError("a malformed frame", subject="worker frame")
        return messages


def frames(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Messages that are packed already, as few frames as may be."""
    batch, size = list[bytes](), 0
    for each in packed:
        if batch and (size + len(each) > limits.WORKER_FRAME_BYTES // 4 or len(batch) == limits.WORKER_MESSAGES):
            yield _frame(batch)
            batch, size = [], 0
        batch.append(each)
        size += len(each)
    if batch:
        yield _frame(batch)


def _frame(batch: list[bytes]) -> bytes:
    body = codec.join(batch)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def packed_request(number: int, method: str, arguments: Value, ident: bytes | None) -> bytes:
    """One message of a worker. Raises `FrameError` when it is no plain value, or too large."""
    return _packed([number, method, arguments, ident])


def packed_answer(number: int, kind: int, value: Value) -> bytes:
    """One message of a node; when it cannot travel, an error that says so."""
    try:
        return _packed([number, kind, value])
    except FrameError as error:
        return codec.pack([number, ERROR, describe(error)])


def packed_result(number: int, value: bytes) -> bytes:
    """`packed_answer` of a VALUE that is packed already: many checks have the same."""
    return codec.join((codec.pack(number), _VALUE, value))


def request(message: Value) -> Request:
    """What a worker has said. Raises `FrameError`."""
    if type(message) is list and len(message) == 4:
        number, method, arguments, ident = message
        if (
            type(number) is int
            and 0 < number < 2**63
            and type(method) is str
            and (ident is None or type(ident) is bytes)
        ):
            return Request(number, method, arguments, ident)
    raise FrameError("a malformed message", subject="worker frame")


def is_check(fields: Value) -> bool:
    """Whether these are `CHECK_FIELDS`, by their types."""
    return type(fields) is list and tuple(map(type, fields)) in _CHECK_TYPES


def answer(message: Value) -> tuple[int, int, Value]:
    """What a node has said. Raises `FrameError`."""
    if type(message) is list and len(message) == 3:
        number, kind, value = message
        if type(number) is int and type(kind) is int and VALUE <= kind <= END:
            return number, kind, value
    raise FrameError("a malformed message", subject="worker frame")


def _packed(message: list[Value]) -> bytes:
    try:
        packed = codec.pack(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise FrameError(f"this cannot travel: {error}", subject="worker frame", remedy="use plain values") from error
    if len(packed) > limits.WORKER_FRAME_BYTES - 16:
        raise FrameError(
            f"{len(packed)} bytes, a frame has at most {limits.WORKER_FRAME_BYTES}",
            subject="worker frame",
            remedy="ask for less at once, or in the node's own process",
        )
    return packed
