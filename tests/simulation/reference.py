"""The one history that all nodes must have: every committed entry, carried out once, by a plain reading of the rules.

Written from docs/architecture.md and the descriptions of the formats, without the engine's code: dictionaries for
tables, a list for the ring of results. The machines are the nodes' own; that they are right is their own tests' matter,
that every node gets the same out of them is this one's.

A *digest* is the sum of the hashes of all rows. It is comparable within one Python process only, and that is where it is
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from raftcluster import codec
from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError, Rejected
from raftcluster.machine import ReadTables, StateMachine
from raftcluster.storage.ports import Entry

MASK: Final = (1 << 64) - 1
RING: Final = "engine.ring"
DONE, REJECTED, FAILED, UNKNOWN = 0, 1, 2, 3

Told = Callable[[int, str, bytes, Value, list[Any], int], None]
"""(index, machine, id, command, result, stamp) of every command that was carried out."""


def digest(tables: Mapping[str, Mapping[bytes, bytes]]) -> int:
    """Of full table names and their rows."""
    return sum(hash((name, key, value)) for name, rows in tables.items() for key, value in rows.items()) & MASK


class _Rows:
    """One machine's tables, and how to undo what an operation wrote."""

    def __init__(self, machine: str, tables: dict[str, dict[bytes, bytes]]) -> None:
        self._machine, self._tables = machine, tables
        self.undo: list[tuple[str, bytes, bytes | None]] = []
        self.change = 0
        """By how much the digest has changed."""

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables[f"{self._machine}.{table}"].get(key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        rows = self._tables[f"{self._machine}.{table}"]
        keys = sorted(k for k in rows if k >= start and (stop is None or k < stop))
        return [(k, rows[k]) for k in keys[:limit]]

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._set(f"{self._machine}.{table}", key, value)

    def delete(self, table: str, key: bytes) -> None:
        self._set(f"{self._machine}.{table}", key, None)

    def _set(self, name: str, key: bytes, value: bytes | None) -> None:
        rows = self._tables[name]
        old = rows.get(key)
        self.undo.append((name, key, old))
        if old is not None:
            self.change -= hash((name, key, old))
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
            self.change += hash((name, key, value))

    def rollback(self) -> None:
        for name, key, old in reversed(self.undo):
            if old is None:
                self._tables[name].pop(key, None)
            else:
                self._tables[name][key] = old
        self.undo.clear()
        self.change = 0

    def commit(self) -> int:
        change, self.change = self.change, 0
        self.undo.clear()
        return change


class Reference:
    """Fed with each committed entry once, in order. Everything by index; index 1 is the empty beginning."""

    def __init__(self, machines: Iterable[StateMachine], founders: Iterable[str], ring: int, told: Told) -> None:
        self._machines = {m.name: m for m in machines}
        self.tables: dict[str, dict[bytes, bytes]] = {
            f"{m.name}.{t}": {} for m in self._machines.values() for t in m.tables
        }
        self.tables[RING] = {}
        self._views = {name: _Rows(name, self.tables) for name in (*self._machines, "engine")}
        self._capacity, self._told = ring, told
        self._kept: list[tuple[int, list[bytes]]] = []
        self._recent: dict[bytes, list[list[Any]]] = {}
        """Id -> results, one a command."""
        self._floor = 0
        self.entries: list[Entry] = [(b"", 0, 0), (b"", 1, 0)]
        self.digests = [0, 0]
        self.stamps = [0, 0]
        self.voters = [frozenset(founders)] * 2
        self.results: dict[bytes, list[list[Any]]] = {}
        """All results there ever were, the last ones of each id."""

    @property
    def head(self) -> int:
        return len(self.entries) - 1

    def view(self, machine: str) -> ReadTables:
        """A machine's tables, as of now."""
        return self._views[machine]

    def apply(self, entry: Entry) -> None:
        """Carry out the entry after the head."""
        command, index, _ = entry
        assert index == self.head + 1
        stamp, voters, change = self.stamps[-1], self.voters[-1], 0
        if command[:1] == b"\x02":
            action, node = unpack(command[1:])
            voters = voters | {node} if action == "add" else voters - {node}
        elif command[:1] == b"\x00":
            stamp = max(stamp, int.from_bytes(command[1:9], "big"))
            change = self._carry_out(index, unpack(command[9:]), stamp)
        self.entries.append(entry)
        self.digests.append((self.digests[-1] + change) & MASK)
        self.stamps.append(stamp)
        self.voters.append(voters)

    def _carry_out(self, index: int, operations: list[bytes], stamp: int) -> int:
        change, new = 0, []
        for packed in operations:
            machine, ident, born, commands = unpack(packed)
            if ident in self._recent:
                continue
            results: list[list[Any]] = []
            for command in commands:
                if born < self._floor:
                    results.append([UNKNOWN])
                    continue
                result, by = self._operation(machine, command, stamp)
                change += by
                results.append(result)
                self._told(index, machine, ident, command, result, stamp)
            if born >= self._floor:
                self.results[ident] = results
            self._recent[ident] = results
            new.append((ident, results))
        for name, state_machine in self._machines.items():
            view = self._views[name]
            state_machine.tick(view, stamp)
            change += view.commit()
        if new:
            change += self._remember(index, new)
        return change

    def _operation(self, name: str, command: Value, stamp: int) -> tuple[list[Any], int]:
        view = self._views[name]
        try:
            result = [DONE, self._machines[name].apply(command, view, stamp)]
        except Rejected as error:
            view.rollback()
            return [REJECTED, error.code, error.message, error.subject, error.remedy], 0
        except Exception as error:  # noqa: BLE001 - any failure of a machine is a result
            view.rollback()
            return [FAILED, type(error).__name__], 0
        return result, view.commit()

    def _remember(self, index: int, new: list[tuple[bytes, list[list[Any]]]]) -> int:
        """A row per entry; the oldest rows go as long as there are more results than the ring takes."""
        view = self._views["engine"]
        rows = [(ident, len(results), pack(results)) for ident, results in new]
        view.put("ring", index.to_bytes(8, "big"), pack(rows))
        self._kept.append((index, [ident for ident, _ in new]))
        while sum(map(len, self._recent.values())) > self._capacity and len(self._kept) > 1:
            oldest, idents = self._kept.pop(0)
            for ident in idents:
                self._recent.pop(ident, None)
            view.delete("ring", oldest.to_bytes(8, "big"))
            self._floor = oldest + 1
            view.put("ring", b"floor", pack(self._floor))
        return view.commit()


def membership_change(command: bytes) -> tuple[str, str] | None:
    """(action, node) of a membership entry."""
    if command[:1] != b"\x02":
        return None
    try:
        action, node = codec.unpack(command[1:])
    except (FrameError, ValueError, TypeError):
        return None
    return action, node
