"""What is applied but not yet checkpointed: the tables as the state machines see them.

Three layers, the upper one wins: *active* takes the writes; *frozen* is the generation that the checkpoint thread is
writing (at most one); below is the store, as of its last `refresh`. A removed key is a None in an upper layer.

    begin -> writes -> commit | rollback        one operation; rollback undoes exactly it
    freeze -> Unit -> (durable) -> release      O(1) per table: dicts are handed on, never copied
    replace                                     after an install: the store alone is true

**Scans** must merge keys that dicts do not order. Keys of a table that is scanned at all are kept in sorted runs: the
keys added since the last scan become a run, and runs of similar length are merged, so that a scan costs one bisection
per run (about log2 of the overlay's size) and a key about log2 merge steps in its life, 25 ns each; tables that are never
scanned pay nothing. What remains is one step per row passed over, 0.3 us; to keep that from growing where rows are
removed from the front of an index (expiry), each table remembers one *gap*: a range found to hold no live row.

Thread: all of it belongs to the tick thread. A frozen dict is read by the checkpoint thread and written by nobody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Final

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.storage.image import Image
from raftcluster.storage.ports import Row, TableStore, Unit, check_table

GAP_ROWS: Final = 16  # removed rows passed over before a gap is worth remembering

Changes = dict[bytes, bytes | None]


class _Absent(Enum):
    """Not in this layer, as opposed to removed (None). An enumeration, because checkers narrow `is` on its members."""

    ABSENT = 0


ABSENT: Final = _Absent.ABSENT


class SortedKeys:
    """Keys in sorted runs, each more than twice as long as the next. A key may occur twice, and may have been undone."""

    __slots__ = ("fresh", "runs")

    def __init__(self, keys: Iterator[bytes]) -> None:
        self.fresh: list[bytes] = list(keys)
        self.runs: list[list[bytes]] = []

    def between(self, start: bytes, stop: bytes | None) -> list[Iterator[bytes]]:
        """For each run that has some, its keys with start <= key < stop."""
        if self.fresh:
            run, self.fresh = sorted(self.fresh), []
            while self.runs and len(self.runs[-1]) <= 2 * len(run):
                run = sorted(self.runs.pop() + run)
            self.runs.append(run)
        found: list[Iterator[bytes]] = []
        for run in self.runs:
            first = bisect_left(run, start)
            end = len(run) if stop is None else bisect_left(run, stop, first)
            if first < end:
                found.append(map(run.__getitem__, range(first, end)))
        return found


class _Layers:
    """The upper layers of one table."""

    __slots__ = ("active", "active_keys", "frozen", "frozen_keys", "gap", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.active: Changes = {}
        self.frozen: Changes = {}
        self.active_keys: SortedKeys | None = None  # None until the first scan
        self.frozen_keys: SortedKeys | None = None
        self.gap: tuple[bytes, bytes] | None = None  # no live row with gap[0] <= key < gap[1]

    def freeze(self) -> None:
        self.frozen, self.active = self.active, {}
        if self.active_keys is not None:
            self.frozen_keys, self.active_keys = self.active_keys, SortedKeys(iter(()))

    def release(self) -> None:
        self.frozen = {}
        self.frozen_keys = None

    def clear(self) -> None:
        self.release()
        self.active = {}
        self.active_keys = None
        self.gap = None

    def value(self, key: bytes) -> bytes | _Absent | None:
        value = self.active.get(key, ABSENT)
        return self.frozen.get(key, ABSENT) if value is ABSENT else value

    def keys(self, start: bytes, stop: bytes | None) -> Iterator[bytes] | None:
        """The keys of both layers in order, each once; None when there are none."""
        if self.active_keys is None:
            self.active_keys = SortedKeys(iter(self.active))
        if self.frozen_keys is None and self.frozen:
            self.frozen_keys = SortedKeys(iter(self.frozen))
        found = self.active_keys.between(start, stop)
        if self.frozen_keys is not None:
            found += self.frozen_keys.between(start, stop)
        return map(itemgetter(0), groupby(merge(*found))) if found else None


class Overlay:
    """See above. `store` must not be refreshed by anybody else."""

    def __init__(self, store: TableStore) -> None:
        self._store = store
        self._layers: dict[str, _Layers] = {}
        self._undo: list[tuple[_Layers, bytes, bytes | _Absent | None]] = []
        self._open = False
        self._frozen = False
        self.active_keys = self._frozen_keys = 0
        """Keys of all tables in the active and in the frozen layers: every step asks for them, and there are many tables."""

    # --- one operation

    def begin(self) -> None:
        """Open an operation: what is written from here on can be undone as a whole."""
        if self._open:
            raise RuntimeError("an operation is open already")
        self._open = True

    def commit(self) -> None:
        """Keep what the open operation wrote."""
        self._undo.clear()
        self._open = False

    def rollback(self) -> None:
        """Undo what the open operation wrote, and close it."""
        for layers, key, old in reversed(self._undo):
            if old is ABSENT:
                del layers.active[key]
                self.active_keys -= 1
            else:
                layers.active[key] = old
            layers.gap = None
        self._undo.clear()
        self._open = False

    # --- generations

    @property
    def keys(self) -> int:
        """Changed keys held in memory, both generations."""
        return self.active_keys + self._frozen_keys

    @property
    def frozen(self) -> bool:
        """True from `freeze` to `release`: the next unit must wait."""
        return self._frozen

    def freeze(self, index: int, anchor: bytes) -> Unit:
        """The changes up to log index `index`, for `TableStore.checkpoint`; they stay visible until `release`."""
        if self._open or self._frozen:
            raise RuntimeError("a unit is under way" if self._frozen else "an operation is open")
        self._frozen = True
        self._frozen_keys, self.active_keys = self.active_keys, 0
        changes = {}
        for name, layers in self._layers.items():
            layers.freeze()
            if layers.frozen:
                changes[name] = layers.frozen
        return Unit(index, changes, anchor)

    def release(self) -> None:
        """The frozen unit is durable: read it from the store."""
        self._store.refresh()
        for layers in self._layers.values():
            layers.release()
        self._frozen = False
        self._frozen_keys = 0

    def replace(self) -> None:
        """The store was replaced under us (an install): forget all changes and read it afresh."""
        if self._open:
            raise RuntimeError("an operation is open")
        self._store.refresh()
        for layers in self._layers.values():
            layers.clear()
        self._frozen = False
        self.active_keys = self._frozen_keys = 0

    def image(self, index: int) -> Image:
        """The tables as they are now, at log index `index`, for another thread to read. Copies what was written since the
        last `freeze`: 20 ns a key."""
        if self._open:
            raise RuntimeError("an operation is open")
        layers = {
            name: (each.frozen, each.active.copy()) for name, each in self._layers.items() if each.frozen or each.active
        }
        return Image(index, self._store.snapshot(limits.IMAGE_CHUNK_BYTES), layers)

    # --- reading by full table name, for the engine and the tools

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key` in `machine.table`."""
        value = self._table(table).value(key)
        return self._store.get(table, key) if value is ABSENT else value

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = limits.SCAN_ROWS
    ) -> list[Row]:
        """Up to `limit` live rows of `machine.table` with start <= key < stop, in key order. Costs: see above."""
        return self.scan_layers(self._table(table), start, stop, limit)

    # --- one machine's tables

    def view(self, machine: str, tables: Sequence[str]) -> View:
        """`raftcluster.machine.Tables` of `machine`. Raises `Rejected` for names that cannot be."""
        return View(self, self._named(machine, tables), self._store.get, self._undo)

    def reader(self, machine: str, tables: Sequence[str]) -> Reader:
        """`raftcluster.machine.ReadTables` of `machine`: what a query gets."""
        return Reader(self, self._named(machine, tables), self._store.get)

    def _named(self, machine: str, tables: Sequence[str]) -> dict[str, _Layers]:
        return {table: self._table(check_table(f"{machine}.{table}")) for table in tables}

    def _table(self, name: str) -> _Layers:
        layers = self._layers.get(name)
        if layers is None:
            layers = self._layers[name] = _Layers(name)
        return layers

    # --- merging

    def scan_layers(self, layers: _Layers, start: bytes, stop: bytes | None, limit: int) -> list[Row]:
        if limit <= 0:
            return []
        origin = None
        if (gap := layers.gap) is not None and gap[0] <= start < gap[1]:
            origin, start = gap
            if stop is not None and start >= stop:
                return []
        keys = layers.keys(start, stop)
        if keys is None:
            return self._store.scan(layers.name, start, stop, limit)
        rows, passed = self._merge(layers, keys, start, stop, limit)
        if passed >= GAP_ROWS or (passed and origin is not None):
            end = rows[0][0] if rows else stop
            if end is not None:
                layers.gap = (start if origin is None else origin, end)
        return rows

    def _merge(
        self, layers: _Layers, keys: Iterator[bytes], start: bytes, stop: bytes | None, limit: int
    ) -> tuple[list[Row], int]:
        """The rows, and how many removed ones were passed over before the first."""
        rows: list[Row] = []
        passed = 0
        key = next(keys, None)
        for row in self._stored(layers.name, start, stop, limit):
            while key is not None and key < row[0]:
                value = layers.value(key)
                if value is None or value is ABSENT:
                    passed += not rows
                else:
                    rows.append((key, value))
                    if len(rows) == limit:
                        return rows, passed
                key = next(keys, None)
            if key == row[0]:
                value = layers.value(row[0])
                key = next(keys, None)
                if value is None:
                    passed += not rows
                    continue
                rows.append(row if value is ABSENT else (row[0], value))
            else:
                rows.append(row)
            if len(rows) == limit:
                return rows, passed
        while key is not None and len(rows) < limit:
            value = layers.value(key)
            if value is None or value is ABSENT:
                passed += not rows
            else:
                rows.append((key, value))
            key = next(keys, None)
        return rows, passed

    def _stored(self, table: str, start: bytes, stop: bytes | None, page: int) -> Iterator[Row]:
        """All rows of the store in range, a page at a time."""
        while True:
            rows = self._store.scan(table, start, stop, page)
            yield from rows
            if len(rows) < page:
                return
            start = rows[-1][0] + b"\0"
            page = min(4 * page, limits.SCAN_ROWS)


class Reader:
    """One machine's tables, for reading."""

    __slots__ = ("_overlay", "_stored", "_tables")

    def __init__(
        self, overlay: Overlay, tables: dict[str, _Layers], stored: Callable[[str, bytes], bytes | None]
    ) -> None:
        self._overlay = overlay
        self._tables = tables
        self._stored = stored

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        layers = self._tables.get(table) or self._unknown(table)
        value = layers.active.get(key, ABSENT)
        if value is ABSENT:
            value = layers.frozen.get(key, ABSENT)
            if value is ABSENT:
                if not 0 < len(key) <= limits.KEY_BYTES:
                    raise _bad_key(table, key)
                return self._stored(layers.name, key)
        return value

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = limits.SCAN_ROWS
    ) -> list[Row]:
        """Up to `limit` rows with start <= key < stop, in key order. Costs: see the module."""
        return self._overlay.scan_layers(self._tables.get(table) or self._unknown(table), start, stop, limit)

    def _unknown(self, table: str) -> _Layers:
        raise Rejected(f"no table {table!a}", subject=table, remedy=f"declared are {sorted(self._tables)}")


class View(Reader):
    """One machine's tables, for reading and writing within an open operation."""

    __slots__ = ("_undo",)

    def __init__(
        self,
        overlay: Overlay,
        tables: dict[str, _Layers],
        stored: Callable[[str, bytes], bytes | None],
        undo: list[tuple[_Layers, bytes, bytes | _Absent | None]],
    ) -> None:
        super().__init__(overlay, tables, stored)
        self._undo = undo

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set `key`. Raises `Rejected` for a key that is empty or too long, and for anything else than bytes, or too many."""
        if type(value) is not bytes or len(value) > limits.VALUE_BYTES:
            raise _bad_value(table, value)
        layers = self._note(table, key)
        if (gap := layers.gap) is not None and gap[0] <= key < gap[1]:
            layers.gap = None
        layers.active[key] = value

    def delete(self, table: str, key: bytes) -> None:
        """Remove `key`; nothing happens when it is absent."""
        self._note(table, key).active[key] = None

    def _note(self, table: str, key: bytes) -> _Layers:
        """Remember how to undo the write that follows."""
        layers = self._tables.get(table) or self._unknown(table)
        if type(key) is not bytes or not 0 < len(key) <= limits.KEY_BYTES:
            raise _bad_key(table, key)
        old = layers.active.get(key, ABSENT)
        self._undo.append((layers, key, old))
        if old is ABSENT:
            self._overlay.active_keys += 1
            if layers.active_keys is not None:
                layers.active_keys.fresh.append(key)
        return layers


def _bad_value(table: str, value: object) -> Rejected:
    what = f"{len(value)} bytes long" if isinstance(value, bytes) else f"{type(value).__name__}, not bytes"
    return Rejected(f"a value in {table!a} is {what}", subject=table, remedy=f"up to {limits.VALUE_BYTES} bytes")


def _bad_key(table: str, key: object) -> Rejected:
    length = len(key) if isinstance(key, bytes) else type(key).__name__
    return Rejected(f"a key of {length} bytes in {table!a}", subject=table, remedy=f"1 to {limits.KEY_BYTES} bytes")
