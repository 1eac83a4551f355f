"""Values that are too large for a command: kept once each, by the SHA-256 of what is in them. Pure.

A large value is uploaded in parts, each of which is a command that may be repeated, and becomes visible with the change that
sets it to a key. Who refers to it are versions of keys, those in the history among them; with the last of these it goes. What
nobody has come to refer to goes `limits.CONFIG_UPLOAD_SECONDS` after its last part has come, in cluster time.

Tables
    blobs    digest (32) -> [size, parts present, items, references, expires]; items is 0 until all parts are there and right
    parts    digest + number (4) -> its bytes: `limits.CONFIG_PART_BYTES`, the last one what is left
    uploads  expires (8) + digest -> "", of those that nobody refers to
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config.rules import BlobMissing, ValueTooLarge, weigh
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables

BLOBS: Final = "blobs"
PARTS: Final = "parts"
UPLOADS: Final = "uploads"
STATE: Final = "state"
UPLOADING: Final = b"uploading"
"""In `state`: bytes of all that nobody refers to."""
DIGEST_BYTES: Final = 32
SWEEP: Final = 16  # uploads that one tick removes, of some parts each

_NUMBER: Final = Struct(">Q")
_PART: Final = Struct(">I")


class Blob(NamedTuple):
    """What is known of one."""

    size: int
    present: int
    """How many of its parts have come."""
    items: int
    """How many items the value has; 0 while it is not whole."""
    references: int
    expires: int
    """Cluster time in milliseconds; means nothing while somebody refers to it."""


def parts_of(packed: bytes) -> list[bytes]:
    """How a packed value is cut."""
    return [
        packed[start : start + limits.CONFIG_PART_BYTES] for start in range(0, len(packed), limits.CONFIG_PART_BYTES)
    ]


def read_blob(tables: ReadTables, digest: bytes) -> Blob | None:
    """What is known of it; None when nothing is."""
    row = tables.get(BLOBS, digest)
    return None if row is None else Blob(*codec.unpack(row))


def read_whole(tables: ReadTables, digest: bytes) -> Blob:
    """Of one that is whole. Raises `BlobMissing`."""
    blob = read_blob(tables, digest)
    if blob is None or not blob.items:
        raise BlobMissing(
            f"the large value {digest.hex()[:16]} is not uploaded, or no more",
            subject="value",
            remedy="upload it again, then set it",
        )
    return blob


def read_packed(tables: ReadTables, digest: bytes) -> bytes:
    """Its bytes, as far as they are there."""
    return b"".join(part for _, part in tables.scan(PARTS, digest, _after(digest), limit=limits.SCAN_ROWS))


def read_value(tables: ReadTables, digest: bytes) -> Value:
    """The value, of a blob that is whole."""
    return codec.unpack(read_packed(tables, digest))


def add_part(tables: Tables, time: int, digest: Value, size: Value, number: Value, part: Value) -> bool:
    """One part of an upload; whether all of them are there now. May be repeated.

    The last one is refused when all of them together are not what the digest says, or no value: then they are uploaded again.
    """
    _check_part(digest, size, number, part)
    blob = read_blob(tables, digest)
    if blob is None:
        _claim(tables, size)
        blob = Blob(size, 0, 0, 0, 0)
    elif blob.size != size:
        raise Rejected(f"that value has {blob.size} bytes, not {size}", subject="value")
    if not blob.items:
        key = digest + _PART.pack(number)
        present = blob.present + (tables.get(PARTS, key) is None)
        tables.put(PARTS, key, part)
        whole = present == _count(size)
        items = _items_of(read_packed(tables, digest), digest) if whole else 0
        blob = blob._replace(present=present, items=items)
    if not blob.references:
        tables.delete(UPLOADS, _NUMBER.pack(blob.expires) + digest)
        blob = blob._replace(expires=time + int(limits.CONFIG_UPLOAD_SECONDS * 1000))
        tables.put(UPLOADS, _NUMBER.pack(blob.expires) + digest, b"")
    tables.put(BLOBS, digest, codec.pack(list(blob)))
    return blob.items > 0


def refer(tables: Tables, digest: bytes) -> None:
    """One more version has this value. Raises `BlobMissing`."""
    blob = read_whole(tables, digest)
    if not blob.references:
        tables.delete(UPLOADS, _NUMBER.pack(blob.expires) + digest)
        _claim(tables, -blob.size)
    tables.put(BLOBS, digest, codec.pack(list(blob._replace(references=blob.references + 1))))


def release(tables: Tables, digest: bytes) -> None:
    """One version that had this value is forgotten."""
    blob = read_whole(tables, digest)
    if blob.references > 1:
        tables.put(BLOBS, digest, codec.pack(list(blob._replace(references=blob.references - 1))))
    else:
        _remove(tables, digest)


def sweep(tables: Tables, time: int) -> None:
    """Remove some of what was uploaded, and nobody has come to refer to in time."""
    for key, _ in tables.scan(UPLOADS, stop=_NUMBER.pack(time + 1), limit=SWEEP):
        digest = key[_NUMBER.size :]
        blob = read_blob(tables, digest)
        assert blob is not None, "an upload lives as long as its expiry"
        tables.delete(UPLOADS, key)
        _claim(tables, -blob.size)
        _remove(tables, digest)


def _check_part(digest: Value, size: Value, number: Value, part: Value) -> None:
    good = type(digest) is bytes and len(digest) == DIGEST_BYTES and type(part) is bytes
    if not good or type(size) is not int or type(number) is not int or size <= 0:
        raise Rejected("malformed part of a value", subject="value")
    if size > limits.CONFIG_VALUE_BYTES:
        raise ValueTooLarge(f"the value has {size} bytes, more than {limits.CONFIG_VALUE_BYTES}", subject="value")
    length = min(limits.CONFIG_PART_BYTES, size - number * limits.CONFIG_PART_BYTES)
    if not 0 <= number < _count(size) or len(part) != length:
        raise Rejected(f"malformed part {number!a:.20} of a value", subject="value")


def _items_of(packed: bytes, digest: bytes) -> int:
    if sha256(packed).digest() != digest:
        raise Rejected(
            "the parts of a value are not what was to be uploaded", subject="value", remedy="upload it again"
        )
    again, items = weigh(codec.unpack(packed))
    if again != packed:
        raise Rejected("the value is not packed as every node packs it", subject="value")
    return items


def _claim(tables: Tables, size: int) -> None:
    row = tables.get(STATE, UPLOADING)
    claimed = size + (0 if row is None else int(_NUMBER.unpack(row)[0]))
    if size > 0 and claimed > limits.CONFIG_UPLOAD_BYTES:
        raise Rejected(
            f"{limits.CONFIG_UPLOAD_BYTES} bytes are uploaded and not set to any key",
            subject="value",
            remedy=f"what was given up is removed within {limits.CONFIG_UPLOAD_SECONDS:g} s",
        )
    tables.put(STATE, UPLOADING, _NUMBER.pack(claimed))


def _remove(tables: Tables, digest: bytes) -> None:
    for key, _ in tables.scan(PARTS, digest, _after(digest), limit=limits.SCAN_ROWS):
        tables.delete(PARTS, key)
    tables.delete(BLOBS, digest)


def _count(size: int) -> int:
    return -(-size // limits.CONFIG_PART_BYTES)


def _after(digest: bytes) -> bytes:
    return digest + b"\xff" * (_PART.size + 1)
