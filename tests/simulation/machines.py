"""The ledger: the state machine of the simulation. What it holds shows order, repetition, loss and undone writes."""

from __future__ import annotations

from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables

LINES = "lines"
STATE = "state"


class Ledger:
    """A `raftcluster.machine.StateMachine`. Commands: ["add", number], ["refuse", number], ["break", number]."""

    name = "ledger"
    schema = 1
    tables = (LINES, STATE)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """Write a line; then refuse, or fail, when asked to: the line must be gone again. Returns the line's position."""
        kind, number = command
        position = count(tables) + 1
        tables.put(LINES, position.to_bytes(8, "big"), number.to_bytes(8, "big"))
        tables.put(STATE, b"count", position.to_bytes(8, "big"))
        if kind == "refuse":
            raise Rejected(f"refusing {number}", subject="ledger", remedy="none")
        if kind == "break":
            raise KeyError(number)
        return position

    def tick(self, tables: Tables, time: int) -> None:
        """Count the entries and keep the last stamp."""
        ticks = int.from_bytes(tables.get(STATE, b"ticks") or b"", "big") + 1
        tables.put(STATE, b"ticks", ticks.to_bytes(8, "big"))
        tables.put(STATE, b"time", time.to_bytes(8, "big"))


def count(tables: ReadTables) -> int:
    """How many lines there are."""
    return int.from_bytes(tables.get(STATE, b"count") or b"", "big")
