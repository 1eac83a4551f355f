"""A small state machine that gives every named operation its place in the order, and counts how often it is carried out."""

from __future__ import annotations

from typing import Final

from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables

NAME: Final = "ledger"
DONE: Final = "done"
STATE: Final = "state"
_TOTAL: Final = b"total"
PAGE: Final = 500


class Ledger:
    """A `raftcluster.machine.StateMachine`. Command: ["add", name] -> its place; a second one would be counted."""

    name = NAME
    schema = 1
    tables = (DONE, STATE)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        match command:
            case ["add", str(name)]:
                row = tables.get(DONE, name.encode())
                total = tables.get(STATE, _TOTAL)
                count, place = (0, 1 + (unpack(total) if total else 0)) if row is None else unpack(row)
                if row is None:
                    tables.put(STATE, _TOTAL, pack(place))
                tables.put(DONE, name.encode(), pack([count + 1, place]))
                return place
            case _:
                raise Rejected("the ledger knows no such command", subject=NAME)

    def tick(self, tables: Tables, time: int) -> None:
        """Nothing."""


def read_page(tables: ReadTables, after: str) -> list[tuple[str, int, int]]:
    """Up to `PAGE` operations whose names come after `after`: name, how often it was carried out, its place."""
    rows = tables.scan(DONE, after.encode() + b"\0", limit=PAGE)
    return [(name.decode(), *unpack(row)) for name, row in rows]
