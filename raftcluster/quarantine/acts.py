"""What was done to held messages: who released or discarded which one, for which recipient, when, from which node. Bounded, newest kept.

    acts      number (8) -> the fields of `Act` behind the number
    state     "acts" -> the newest one's number

One row when a release is claimed, one with its outcome, one for what is discarded. That messages expire is nobody's doing.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.machine import ReadTables, Tables

ACTS: Final = "acts"
STATE: Final = "state"
NEWEST: Final = b"acts"
KINDS: Final = ("claimed", "delivered", "failed", "discarded")

_NUMBER: Final = Struct(">Q")


class Act(NamedTuple):
    """`time` in milliseconds of cluster time."""

    number: int
    what: str
    """One of `KINDS`."""
    message: bytes
    """Its id."""
    recipient: int
    """His number, from 1; 0: all of them."""
    address: bytes
    """His, as it was captured; empty for all."""
    author: str
    node: str
    """The name of the node at which it was asked."""
    time: int
    deliveries: int
    """How often somebody has said by now that he has delivered it to this recipient; of what is discarded, to how many it was."""
    detail: str
    """What the server said."""


def record(tables: Tables, act: Act) -> None:
    """Keep one more; its number is given here."""
    number = read_newest(tables) + 1
    tables.put(STATE, NEWEST, _NUMBER.pack(number))
    tables.put(ACTS, _NUMBER.pack(number), codec.pack(list(act[1:])))
    if number > limits.HISTORY_REVISIONS:
        tables.delete(ACTS, _NUMBER.pack(number - limits.HISTORY_REVISIONS))


def read_newest(tables: ReadTables) -> int:
    """The newest one's number; 0: there was none."""
    row = tables.get(STATE, NEWEST)
    return 0 if row is None else int(_NUMBER.unpack(row)[0])


def read_acts(tables: ReadTables, after: int, limit: int) -> list[Act]:
    """Up to `limit` of them behind the number `after`, in order."""
    rows = tables.scan(ACTS, _NUMBER.pack(after + 1), limit=limit)
    return [Act(_NUMBER.unpack(key)[0], *codec.unpack(row)) for key, row in rows]


def inspect_act(key: bytes, value: bytes) -> None:
    """Raise `ValueError` or `struct.error` for a row that is none."""
    act = Act(_NUMBER.unpack(key)[0], *codec.unpack(value))
    if [type(each) for each in act[2:]] != [bytes, int, bytes, str, str, int, int, str] or act.what not in KINDS:
        raise ValueError("the act's fields are of other kinds")
