"""What administrators have done to the greylist besides its settings: who, when, from where, why. Bounded, newest kept.

    acts      number (8) -> [what, detail, author, node, reason, time]
    state     "acts" -> the newest one's number

*what* is `forgotten` (detail: what was named) or `imported` (detail: how many records, of which file).
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables

ACTS: Final = "acts"
STATE: Final = "state"
NEWEST: Final = b"acts"

_NUMBER: Final = Struct(">Q")


class Act(NamedTuple):
    """`time` in milliseconds of cluster time."""

    number: int
    what: str
    detail: str
    author: str
    node: str
    reason: str
    time: int


def check_why(author: Value, node: Value, reason: Value) -> None:
    """Raise `Rejected` when they are no texts of a sensible length."""
    texts = (author, node, reason)
    if (
        not all(type(text) is str for text in texts)
        or sum(len(text.encode("utf-8", "replace")) for text in texts) > limits.KIB
    ):
        raise Rejected("author, node and reason take text, at most 1 KiB together", subject="greylist")


def record(tables: Tables, what: str, detail: str, author: str, node: str, reason: str, time: int) -> None:
    """Keep one more."""
    number = read_newest(tables) + 1
    tables.put(STATE, NEWEST, _NUMBER.pack(number))
    tables.put(ACTS, _NUMBER.pack(number), codec.pack([what, detail, author, node, reason, time]))
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
    """See `inspection`."""
    act = Act(_NUMBER.unpack(key)[0], *codec.unpack(value))
    if act.what not in ("forgotten", "imported") or type(act.time) is not int:
        raise ValueError("there is no such act")
    check_why(act.author, act.node, act.reason)
