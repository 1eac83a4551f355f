"""What a sound row of the greylist's tables looks like: for `verify`, which reads rows that nobody may have asked for in
weeks. Pure; raises `ValueError`, or what decoding raises."""

from __future__ import annotations

from raftcluster.codec import unpack
from raftcluster.greylist.record import HEAD, NODE, NODE_BYTES
from raftcluster.greylist.rules import KEY_BYTES, key_of
from raftcluster.greylist.settings import Settings

_PASSED = HEAD.size - 2
_EXPIRY_KEY_BYTES = 12
_ROW_KEYS = 64
_NUMBER_BYTES = 8
_STATE_BYTES = {b"sequence": (16,), b"cursor": (4, 13), b"clients": (24,), b"acts": (8,), b"forgotten": (16,)}


def inspect_record(key: bytes, value: bytes) -> None:
    """A row of `records`: times in order, nodes in order, and a triplet whose key this is. 2 us."""
    first, last, expires, _, nodes = HEAD.unpack_from(value)
    end = HEAD.size + nodes * NODE.size
    if len(key) != KEY_BYTES or nodes == 0 or len(value) < end:
        raise ValueError("the record is cut short")
    if not first <= last <= expires or value[_PASSED] > 1:
        raise ValueError("the record's times are out of order")
    if nodes > 1:
        labels = [value[at : at + NODE_BYTES] for at in range(HEAD.size, end, NODE.size)]
        if labels != sorted(set(labels)):
            raise ValueError("the record's nodes are out of order")
    if len(value) > end and key_of(value[end:]) != key:
        raise ValueError("the record is not that of its triplet")


def inspect_expiry(key: bytes, value: bytes) -> None:
    """A row of `expiry`: whole keys, as many as a row takes."""
    if len(key) != _EXPIRY_KEY_BYTES or len(value) % KEY_BYTES or not 0 < len(value) <= _ROW_KEYS * KEY_BYTES:
        raise ValueError("the row of the index does not hold whole keys")


def inspect_setting(key: bytes, value: bytes) -> None:
    """A row of `settings`: what is in force fits together; a change is a change."""
    if key == b"current":
        revision, values = unpack(value)
        Settings.of(values)
    else:
        revision, _, _, _, _, _ = unpack(value)
        if revision.to_bytes(_NUMBER_BYTES) != key:
            raise ValueError("the change is of another revision")


def inspect_state(key: bytes, value: bytes) -> None:
    """A row of `state`: its length says what it can be."""
    if key == b"sweep":
        if not unpack(value) or not all(type(each) is bytes for each in unpack(value)):
            raise ValueError("nothing is swept")
        return
    lengths = _STATE_BYTES.get(key, (32,) if key.startswith(b"total") else ())
    if len(value) not in lengths:
        raise ValueError("the counter has a wrong length")
