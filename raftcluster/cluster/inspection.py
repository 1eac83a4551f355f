"""What a sound row of the cluster's tables looks like: for `verify`. Pure; raises `ValueError`, or what decoding raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftcluster.cluster.auditing import COUNT, Change
from raftcluster.cluster.features import checked
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.records import Amendment, Destruction, Facts, Generation, Invitation, Member
from raftcluster.codec import unpack


def inspect_member(key: bytes, value: bytes) -> None:
    """A row of `members`."""
    _same(Member.unpack(value).node_id.encode(), key)


def inspect_invitation(key: bytes, value: bytes) -> None:
    """A row of `tokens`."""
    _same(Invitation.unpack(value).token_id.encode(), key)


def inspect_generation(key: bytes, value: bytes) -> None:
    """A row of `generation`."""
    _same(Generation.unpack(value).number.to_bytes(4), key)


def inspect_link(key: bytes, value: bytes) -> None:
    """A row of `chain`."""
    _same(Link.read(value).content().sequence.to_bytes(8), key)


def inspect_change(key: bytes, value: bytes) -> None:
    """A row of `audit`."""
    _same(Change.unpack(value).number.to_bytes(8), key)


def inspect_fact(key: bytes, value: bytes) -> None:
    """A row of `facts`."""
    if not _FACTS[key](value):
        raise ValueError("the fact is of another kind")


def _same(named: bytes, key: bytes) -> None:
    if named != key:
        raise ValueError("the row is another one's")


def _names(value: object) -> bool:
    return isinstance(value, list) and checked(value) == value


def _number(value: bytes) -> bool:
    return type(unpack(value)) is int


_FACTS: Final[dict[bytes, Callable[[bytes], object]]] = {
    b"cluster": Facts.unpack,
    b"destroyed": Destruction.unpack,
    b"active": _number,
    b"last": _number,
    b"pending": _number,
    b"revision": _number,
    b"sequence": _number,
    b"head": _number,
    b"aborted": _number,
    COUNT: _number,
    b"amendment": Amendment.unpack,
    b"enabled": lambda value: _names(unpack(value)),
    b"features": lambda value: all(map(_names, dict(unpack(value)).values())),
    b"leaving": lambda value: type(unpack(value)) is str,
}
