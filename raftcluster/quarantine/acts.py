"""What was done to held messages: who released or discarded which one, for which recipient, when, from which node. Bounded, newest kept.

Fields in the `trail`: those of `Act` behind the number. One act when a release is claimed, one with its outcome, one for what
is discarded. That messages expire is nobody's doing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from raftcluster import trail
from raftcluster.machine import ReadTables, Tables

KINDS: Final = ("claimed", "delivered", "failed", "discarded")


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
    trail.record(tables, act[1:])


def read_acts(tables: ReadTables, after: int, limit: int) -> list[Act]:
    """Up to `limit` of them behind the number `after`, in order."""
    return [Act(*fields) for fields in trail.read(tables, after, limit)]


def inspect_act(key: bytes, value: bytes) -> None:
    """Raise `ValueError` or `struct.error` for a row that is none."""
    act = Act(*trail.decode(key, value))
    if [type(each) for each in act[2:]] != [bytes, int, bytes, str, str, int, int, str] or act.what not in KINDS:
        raise ValueError("the act's fields are of other kinds")
