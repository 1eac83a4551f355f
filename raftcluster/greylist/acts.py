"""What administrators have done to the greylist besides its settings: who, when, from where, why. Bounded, newest kept.

Fields in the `trail`: what, detail, author, node, reason, time. *what* is `forgotten` (detail: what was named) or `imported`
(detail: how many records, of which file).
"""

from __future__ import annotations

from typing import NamedTuple

from raftcluster import limits, trail
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables


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
    trail.record(tables, (what, detail, author, node, reason, time))


def read_acts(tables: ReadTables, after: int, limit: int) -> list[Act]:
    """Up to `limit` of them behind the number `after`, in order."""
    return [Act(*fields) for fields in trail.read(tables, after, limit)]


def inspect_act(key: bytes, value: bytes) -> None:
    """See `inspection`."""
    act = Act(*trail.decode(key, value))
    if act.what not in ("forgotten", "imported") or type(act.time) is not int:
        raise ValueError("there is no such act")
    check_why(act.author, act.node, act.reason)
