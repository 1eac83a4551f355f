"""What travels over the control socket. Pure.

A frame is a length (4 bytes, big endian) and one msgpack value. The client sends one request, `[method, arguments]`; the
server answers `["value", value]`, or `["item", value]` as often as there is one and then `["end", None]`, or
`["error", {...}]`. One call, one connection: a client that has gone takes its call with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from raftcluster import errors, limits
from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError, RaftclusterError

LENGTH_BYTES: Final = 4
CLASSES: Final = {
    each.__name__: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, RaftclusterError)
}


def frame(value: Value) -> bytes:
    """`value` as a frame. Raises `FrameError` when it is too large."""
    packed = pack(value)
    if len(packed) > limits.FRAME_BYTES:
        raise FrameError(f"{len(packed)} bytes where at most {limits.FRAME_BYTES} are allowed", subject="control frame")
    return len(packed).to_bytes(LENGTH_BYTES, "big") + packed


def length(prefix: bytes) -> int:
    """The length of the value that follows. Raises `FrameError` when it is too large."""
    size = int.from_bytes(prefix, "big")
    if size > limits.FRAME_BYTES:
        raise FrameError(f"{size} bytes where at most {limits.FRAME_BYTES} are allowed", subject="control frame")
    return size


def plain(value: object) -> Value:
    """`value` as msgpack has it: records become dicts, sequences lists, sets sorted lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(named := getattr(value, "_asdict", None)):
        return plain(named())
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(each) for each in value)
    return value


def describe(error: RaftclusterError) -> Value:
    """An error as it travels: the nearest class that every client knows, and everything it says."""
    known = next(each.__name__ for each in type(error).__mro__ if CLASSES.get(each.__name__) is each)
    return {
        "class": known,
        "code": error.code,
        "message": error.message,
        "subject": error.subject,
        "remedy": error.remedy,
    }


def revive(described: Value) -> RaftclusterError:
    """The error that `describe` described. Raises `FrameError` when it is none."""
    if not isinstance(described, dict) or not isinstance(described.get("message"), str):
        raise FrameError("a malformed error", subject="control frame")
    kind = CLASSES.get(str(described.get("class")), RaftclusterError)
    error = kind(
        described["message"], subject=str(described.get("subject", "")), remedy=str(described.get("remedy", ""))
    )
    error.code = str(described.get("code", kind.code))
    return error


def request(value: bytes) -> tuple[str, dict[str, Value]]:
    """Method and arguments of a request. Raises `FrameError` when it is none."""
    parts = unpack(value)
    if (
        not isinstance(parts, list)
        or len(parts) != 2
        or not isinstance(parts[0], str)
        or not isinstance(parts[1], dict)
    ):
        raise FrameError("a malformed request", subject="control frame")
    return parts[0], parts[1]
