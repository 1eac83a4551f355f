"""What a sound row of the configuration's tables looks like: for `verify`. Pure; raises `ValueError` or `Rejected`, or what
decoding raises."""

from __future__ import annotations

from typing import Final

from raftcluster import limits
from raftcluster.codec import unpack
from raftcluster.config.blobs import DIGEST_BYTES
from raftcluster.config.reading import BLOB, DELETED, PLAIN
from raftcluster.config.rules import check_key, check_note, pack_value
from raftcluster.config.schema import check_document

_NUMBER_BYTES: Final = 8
_PART_BYTES: Final = 4
_NUMBERS: Final = (b"revision", b"forgotten", b"dropped", b"listed", b"uploading")


def inspect_value(key: bytes, value: bytes) -> None:
    """A row of `values`."""
    check_key(key.decode())
    _check_version(unpack(value))
    if unpack(value)[1] == DELETED:
        raise ValueError("a deleted key has no value")


def inspect_history(key: bytes, value: bytes) -> None:
    """A row of `history`: its revision is in its key, too."""
    name, stamp = key[: -_NUMBER_BYTES - 1], key[-_NUMBER_BYTES:]
    check_key(name.decode())
    version = unpack(value)
    _check_version(version)
    if version[0].to_bytes(_NUMBER_BYTES) != stamp:
        raise ValueError("the version is of another revision")


def inspect_kept(key: bytes, value: bytes) -> None:
    """A row of `kept`."""
    check_key(key.decode())
    changes, forgotten, size = unpack(value)
    _check_numbers(changes, forgotten, size)
    if forgotten >= changes:
        raise ValueError("nothing is left of the key's history")


def inspect_change(key: bytes, value: bytes) -> None:
    """A row of `changes`."""
    before, time, changed = unpack(value)
    _check_numbers(time)
    if len(key) != _NUMBER_BYTES or len(before) != DIGEST_BYTES or not changed:
        raise ValueError("the key is no revision, or nothing has changed with it")
    for name, number, digest in changed:
        check_key(name)
        _check_numbers(number)
        _check_digest(digest)


def inspect_blob(key: bytes, value: bytes) -> None:
    """A row of `blobs`."""
    _check_digest(key)
    size, present, items, references, expires = unpack(value)
    _check_numbers(size, present, items, references, expires)


def inspect_part(key: bytes, value: bytes) -> None:
    """A row of `parts`."""
    _check_digest(key[:-_PART_BYTES])
    if not 0 < len(value) <= limits.CONFIG_PART_BYTES:
        raise ValueError("the part has another size")


def inspect_upload(key: bytes, value: bytes) -> None:
    """A row of `uploads`."""
    _check_digest(key[_NUMBER_BYTES:])
    if value:
        raise ValueError("the row has a value")


def inspect_schema(key: bytes, value: bytes) -> None:
    """A row of `schemas`."""
    check_key(key.decode())
    version, document = unpack(value)
    check_document(document)
    _check_numbers(version)


def inspect_report(key: bytes, value: bytes) -> None:
    """A row of `reports`."""
    node, revision, problem, time = unpack(value)
    check_note(node, problem)
    _check_numbers(revision, time)
    if not key.decode().isascii():
        raise ValueError("the key is no node's id")


def inspect_state(key: bytes, value: bytes) -> None:
    """A row of `state`."""
    if key == b"head":
        _check_digest(value)
    elif key not in _NUMBERS or len(value) != _NUMBER_BYTES:
        raise ValueError("there is no such number")


def _check_version(version: list[object]) -> None:
    revision, kind, content, author, reason, node, time, number = version
    _check_numbers(revision, time, number)
    if type(node) is not str:
        raise ValueError("the version's fields are of other kinds")
    check_note(author, reason)
    if kind == BLOB and isinstance(content, list):
        digest, size = content
        _check_digest(digest)
        _check_numbers(size)
    elif kind == PLAIN:
        pack_value(content, limits.CONFIG_INLINE_BYTES)
    elif kind != DELETED or content is not None:
        raise ValueError("the version is of no kind")


def _check_numbers(*numbers: object) -> None:
    if not all(type(each) is int and each >= 0 for each in numbers):
        raise ValueError("a field is no number")


def _check_digest(digest: object) -> None:
    if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
        raise ValueError("that is no digest")


INSPECTIONS: Final = {
    "values": inspect_value,
    "history": inspect_history,
    "kept": inspect_kept,
    "changes": inspect_change,
    "blobs": inspect_blob,
    "parts": inspect_part,
    "uploads": inspect_upload,
    "schemas": inspect_schema,
    "reports": inspect_report,
    "state": inspect_state,
}
"""By table."""
