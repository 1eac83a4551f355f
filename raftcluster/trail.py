"""The trail of a state machine: what was done to it, numbered from 1; the newest `limits.HISTORY_REVISIONS` are kept.

    acts      number (8) -> the act's fields
    state     "acts" -> the newest one's number

A machine with a trail declares both tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.machine import ReadTables, Tables

ACTS: Final = "acts"
NEWEST: Final = b"acts"

_STATE: Final = "state"
_NUMBER: Final = Struct(">Q")


def record(tables: Tables, fields: Sequence[Value]) -> None:
    """Keep one more act."""
    number = read_newest(tables) + 1
    tables.put(_STATE, NEWEST, _NUMBER.pack(number))
    tables.put(ACTS, _NUMBER.pack(number), codec.pack(list(fields)))
    if number > limits.HISTORY_REVISIONS:
        tables.delete(ACTS, _NUMBER.pack(number - limits.HISTORY_REVISIONS))


def read_newest(tables: ReadTables) -> int:
    """The newest act's number; 0: there was none."""
    row = tables.get(_STATE, NEWEST)
    return 0 if row is None else int(_NUMBER.unpack(row)[0])


def read(tables: ReadTables, after: int, limit: int) -> list[list[Any]]:
    """Up to `limit` acts behind the number `after`, in order: each one's number and its fields."""
    return [decode(*row) for row in tables.scan(ACTS, _NUMBER.pack(after + 1), limit=limit)]


def decode(key: bytes, value: bytes) -> list[Any]:
    """A row of `acts`: number and fields. Raises `ValueError`, `TypeError` or `struct.error` for what is none."""
    return [_NUMBER.unpack(key)[0], *codec.unpack(value)]
