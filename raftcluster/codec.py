"""msgpack, strictly: the only file that imports it.

What is decoded comes from disks and networks, so decoding is bounded (size, nesting, container lengths), refuses
extension types and non-UTF-8 text, and raises :class:`FrameError` for anything else than one whole value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import msgpack

from raftcluster import limits
from raftcluster.errors import FrameError

CLAIMS_BYTES = 256
"""Beyond this a value is read once without keeping anything, before anything is allocated: see `unpack`."""

Value = Any  # None | bool | int | float | str | bytes | list | dict


def pack(value: Value) -> bytes:
    """One value as msgpack bytes. Deterministic for equal values whose dicts were filled in the same order."""
    return msgpack.Packer(use_bin_type=True).pack(value)  # type: ignore[no-any-return]  # `packb` takes twice as long


def unpack(
    data: bytes | bytearray | memoryview, *, limit_bytes: int = limits.FRAME_BYTES, items: int | None = None
) -> Value:
    """The one value that `data` holds.

    Raises `FrameError` when it is longer than `limit_bytes`, malformed, nested too deeply, holds an extension type, has
    bytes left over, or has a container longer than `items` (None: than its bytes could hold). The decoder allocates what
    a container claims before it reads it, 8 bytes an item and up to 1,024 levels deep -- 5 kB take it 50 ms: bound it for
    strangers; without `items` claims are compared with what is there first.
    """
    if len(data) > limit_bytes:
        raise FrameError(f"{len(data)} bytes where at most {limit_bytes} are allowed", subject="frame")
    try:
        if items is None and len(data) > CLAIMS_BYTES:
            reader = msgpack.Unpacker(max_buffer_size=len(data), read_size=1)
            reader.feed(data)
            reader.skip()
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            ext_hook=_no_extension,
            max_array_len=len(data) if items is None else items,
            max_map_len=len(data) // 2 if items is None else items,
        )
    except FrameError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError, MemoryError, msgpack.UnpackException) as error:
        raise FrameError(f"malformed value: {_why(error)}", subject="frame") from error
    return value


def unpack_rows(data: bytes, *, most: int) -> tuple[str, list[tuple[bytes, bytes]]]:
    """[text, [[bytes, bytes], ...]] with at most `most` pairs, without allocating for anything else that it may be.

    For values that are larger than a frame may be. 1 us a pair. Raises `FrameError` when it is something else.
    """
    scalars = msgpack.Unpacker(
        raw=False, max_buffer_size=max(1, len(data)), max_array_len=0, max_map_len=0, max_ext_len=0
    )
    scalars.feed(data)
    try:
        if scalars.read_array_header() != 2:
            raise ValueError("no pair")
        name, count = scalars.unpack(), scalars.read_array_header()
        rows = []
        for _ in range(min(count, most + 1)):
            if scalars.read_array_header() != 2:
                raise ValueError("no row")
            rows.append((scalars.unpack(), scalars.unpack()))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FrameError(f"malformed rows: {_why(error)}", subject="frame") from error
    if count > most or type(name) is not str or scalars.tell() != len(data):
        raise FrameError(f"malformed rows: {count} of them", subject="frame")
    return name, rows


def check_nesting(value: Value, depth: int = limits.NESTING) -> None:
    """Raise `FrameError` when `value` nests deeper than `depth` or holds a float that is no number (NaN, infinity), or a
    timestamp, the one extension type that the decoder knows by itself."""
    level: list[Value] = [value]
    for _ in range(depth + 1):
        types = set(map(type, level))  # most levels hold plain items only: one pass in C settles those
        if float in types and not all(map(math.isfinite, (item for item in level if type(item) is float))):
            raise FrameError("a float that is no number", subject="frame")
        if msgpack.Timestamp in types:
            raise FrameError("extension type -1 is not used here", subject="frame")
        deeper: list[Value] = []
        if list in types:
            deeper.extend(chain.from_iterable(item for item in level if type(item) is list))
        if dict in types:
            for item in level:
                if type(item) is dict:
                    deeper.extend(item)
                    deeper.extend(item.values())
        if not deeper:
            return
        level = deeper
    raise FrameError(f"nested deeper than {depth}", subject="frame")


def array_header(length: int) -> bytes:
    """The bytes that begin an array of `length` values, so that packed values can be joined without packing again."""
    packer = msgpack.Packer(use_bin_type=True, autoreset=True)
    return packer.pack_array_header(length)  # type: ignore[no-any-return]


def join(packed: Iterable[bytes]) -> bytes:
    """An array of values that are packed already."""
    items = list(packed)
    return array_header(len(items)) + b"".join(items)


def _no_extension(code: int, data: bytes) -> None:
    raise FrameError(f"extension type {code} is not used here", subject="frame")


def _why(error: Exception) -> str:
    """Never its `repr`: that of some errors has all the bytes in it, and what others send belongs in no log."""
    return f"{type(error).__name__}: {str(error)[:100]}"
