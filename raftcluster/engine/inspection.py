"""What a sound row of the ring of results looks like: for `verify`. Pure; raises `ValueError`, or what decoding raises."""

from __future__ import annotations

from raftcluster.codec import unpack
from raftcluster.engine.operations import ID_BYTES

_INDEX_BYTES = 8


def inspect_ring(table: str, key: bytes, value: bytes) -> None:
    """A row of `engine.ring`: results by request id, under the index of their entry. 1 us a result."""
    if key == b"floor":
        sound = type(unpack(value)) is int
    else:
        rows = unpack(value)
        sound = len(key) == _INDEX_BYTES and bool(rows)
        for ident, count, packed in rows:
            sound = sound and isinstance(ident, bytes) and len(ident) == ID_BYTES and len(unpack(packed)) == count
    if not sound:
        raise ValueError("the results are cut short")
