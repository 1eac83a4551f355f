"""What a sound row of the configuration's tables looks like: for `verify`. Pure; raises `ValueError` or `Rejected`, or what
decoding raises."""

from __future__ import annotations

from typing import Final

from raftcluster.codec import unpack
from raftcluster.config.rules import check_key, check_note, pack_value
from raftcluster.config.schema import check_document

_REVISION_BYTES = 8


def inspect_value(key: bytes, value: bytes) -> None:
    """A row of `values`."""
    check_key(key.decode())
    _check_version(unpack(value))


def inspect_history(key: bytes, value: bytes) -> None:
    """A row of `history`: its revision is in its key, too."""
    name, stamp = key[: -_REVISION_BYTES - 1], key[-_REVISION_BYTES:]
    check_key(name.decode())
    *version, deleted = unpack(value)
    _check_version(version)
    if type(deleted) is not bool or version[0].to_bytes(_REVISION_BYTES) != stamp:
        raise ValueError("the version is of another revision")


def inspect_change(key: bytes, value: bytes) -> None:
    """A row of `changes`."""
    keys = unpack(value)
    if len(key) != _REVISION_BYTES or not keys:
        raise ValueError("the key is no revision, or nothing has changed with it")
    for each in keys:
        check_key(each)


def inspect_deleted(key: bytes, value: bytes) -> None:
    """A row of `deleted`."""
    check_key(key.decode())
    if type(unpack(value)) is not int:
        raise ValueError("the number of changes is none")


def inspect_schema(key: bytes, value: bytes) -> None:
    """A row of `schemas`."""
    check_key(key.decode())
    version, document = unpack(value)
    check_document(document)
    if type(version) is not int:
        raise ValueError("the version is none")


def inspect_report(key: bytes, value: bytes) -> None:
    """A row of `reports`."""
    node, revision, problem, time = unpack(value)
    check_note(node, problem)
    if not key.decode().isascii() or type(revision) is not int or type(time) is not int:
        raise ValueError("the report's fields are of other kinds")


def inspect_state(key: bytes, value: bytes) -> None:
    """A row of `state`."""
    if key not in (b"revision", b"forgotten") or len(value) != _REVISION_BYTES:
        raise ValueError("there is no such revision")


def _check_version(version: list[object]) -> None:
    revision, value, author, reason, node, time, number = version
    if not all(type(each) is int for each in (revision, time, number)) or type(node) is not str:
        raise ValueError("the version's fields are of other kinds")
    check_note(author, reason)
    pack_value(value)


INSPECTIONS: Final = {
    "values": inspect_value,
    "history": inspect_history,
    "changes": inspect_change,
    "deleted": inspect_deleted,
    "schemas": inspect_schema,
    "reports": inspect_report,
    "state": inspect_state,
}
"""By table."""
