"""A `Host` of one process: every command is applied at once on tables in memory, one log entry each.

As strict as the real one where it matters to an API: commands and results go through the codec, a rejected command's
writes are undone, a result is remembered by request id, and callbacks run on the applying thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from raftcluster import codec
from raftcluster.codec import Value
from raftcluster.errors import RaftclusterError, Rejected
from raftcluster.host import Completion, Consistency
from raftcluster.machine import ReadTables, StateMachine
from raftcluster.request_ids import request_id

T = TypeVar("T")
Rows = dict[str, dict[bytes, bytes]]


class LocalTables:
    """One machine's tables, which remember how to take an operation back."""

    def __init__(self, names: Sequence[str]) -> None:
        self.rows: Rows = {name: {} for name in names}
        self._undo: list[tuple[str, bytes, bytes | None]] = []
        self.writes = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.rows[table].get(key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        rows = self.rows[table]
        keys = sorted(key for key in rows if key >= start and (stop is None or key < stop))
        return [(key, rows[key]) for key in keys[:limit]]

    def put(self, table: str, key: bytes, value: bytes) -> None:
        assert type(key) is bytes and type(value) is bytes and 0 < len(key) <= 511
        self._set(table, key, value)

    def delete(self, table: str, key: bytes) -> None:
        self._set(table, key, None)

    def begin(self) -> None:
        self._undo.clear()

    def rollback(self) -> None:
        for table, key, old in reversed(self._undo):
            if old is None:
                self.rows[table].pop(key, None)
            else:
                self.rows[table][key] = old
        self.begin()

    def image(self) -> bytes:
        """All rows of all tables as bytes: equal images, equal tables."""
        return codec.pack([[name, *([key, rows[key]] for key in sorted(rows))] for name, rows in self.rows.items()])

    def _set(self, table: str, key: bytes, value: bytes | None) -> None:
        rows = self.rows[table]
        self._undo.append((table, key, rows.get(key)))
        self.writes += 1
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


class MemoryRows:
    """`raftcluster.config.local.LocalRows`, in memory."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.closed = False

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.rows[key] = value

    def delete(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    @property
    def begun(self) -> bool:
        return bool(self.rows)

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        for key, value in rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def keys(self, prefix: bytes) -> list[bytes]:
        return sorted(key for key in self.rows if key.startswith(prefix))

    def close(self) -> None:
        self.closed = True


class LocalHost:
    """See the head of the file. `now` is the cluster time in milliseconds; set it at will, forwards."""

    def __init__(self, machines: Iterable[StateMachine], now: int = 1_750_000_000_000, id: str = "node-1") -> None:
        self.id = id
        self.name = f"{id}.example.org"
        self.now = now
        self.index = 0
        self.machines = {machine.name: machine for machine in machines}
        self.tables = {name: LocalTables(machine.tables) for name, machine in self.machines.items()}
        self.failure: RaftclusterError | None = None
        """When set: what every way to propose fails with, as if there were no quorum."""
        self.staleness = 0.0
        """What `glance` says, in seconds."""
        self.proposals = 0
        self._results: OrderedDict[bytes, tuple[Value, RaftclusterError | None]] = OrderedDict()
        self._listeners: dict[str, list[Callable[[int], None]]] = {}
        self._lock = threading.RLock()

    def entry(self, machine: str, commands: Sequence[Value]) -> list[Value | Rejected]:
        """One log entry of several operations."""
        with self._lock:
            tables, state_machine = self.tables[machine], self.machines[machine]
            self.index += 1
            before = tables.writes
            outcomes = [self._apply(state_machine, tables, command) for command in commands]
            tables.begin()
            state_machine.tick(tables, self.now)
            if tables.writes != before:
                for listener in self._listeners.get(machine, []):
                    listener(self.index)
            return outcomes

    def propose(self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = 2.0) -> Value:
        named = request_id(id)
        assert deadline > 0 and (named is None or len(named) == 16)
        with self._lock:
            self.proposals += 1
            if self.failure is not None:
                raise self.failure
            if named is None or named not in self._results:
                outcome = self.entry(machine, [command])[0]
                if named is None:
                    return _raised(outcome)
                self._results[named] = (None, outcome) if isinstance(outcome, Rejected) else (outcome, None)
            result, error = self._results[named]
            if error is not None:
                raise error
            return result

    async def apropose(self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = 2.0) -> Value:
        return self.propose(machine, command, id=id, deadline=deadline)

    def submit(
        self,
        machine: str,
        command: Value,
        callback: Completion,
        *,
        id: bytes | None = None,
        deadline: float = 2.0,
    ) -> None:
        try:
            result = self.propose(machine, command, id=id, deadline=deadline)
        except RaftclusterError as error:
            callback(None, error)
        else:
            callback(result, None)

    def query(
        self,
        machine: str,
        read: Callable[[ReadTables, int], T],
        *,
        consistency: Consistency = "local",
        deadline: float = 2.0,
    ) -> T:
        with self._lock:
            if self.failure is not None and consistency != "local":
                raise self.failure
            return read(self.tables[machine], self.now)

    def glance(
        self,
        machine: str,
        read: Callable[[ReadTables, int, float], T],
        callback: Callable[[T], None],
        refused: Callable[[RaftclusterError], None],
    ) -> None:
        with self._lock:
            seen = read(self.tables[machine], self.now, self.staleness)
        callback(seen)

    def on_apply(self, machine: str, callback: Callable[[int], None]) -> None:
        self._listeners.setdefault(machine, []).append(callback)

    def _apply(self, machine: StateMachine, tables: LocalTables, command: Value) -> Value | Rejected:
        tables.begin()
        try:
            return codec.unpack(codec.pack(machine.apply(codec.unpack(codec.pack(command)), tables, self.now)))
        except Rejected as error:
            tables.rollback()
            again = Rejected(error.message, subject=error.subject, remedy=error.remedy)  # as it comes out of the ring
            again.code = error.code
            return again


def _raised(outcome: Value | Rejected) -> Value:
    if isinstance(outcome, Rejected):
        raise outcome
    return outcome
