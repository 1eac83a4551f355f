"""The twins of the two stores, without a disk and without threads: for simulators and tests.

A :class:`MemoryDisk` is what survives; a :class:`MemoryLog` and a :class:`MemoryTables` are one process's way to it.
Nothing happens by itself: what is submitted waits in order until the owner lets it

* reach the disk (`write`): record by record for the log, unit by unit for the tables -- it survives a crash from then on;
* be reported (`notify`): the callback, any time later, or never when a crash comes first;
* `complete` is both.

`disk.crash(records, units)` lets the given number of waiting records and units reach the disk -- a write torn anywhere in
order, never inside a record or a unit -- loses the rest, and cuts the old process off: its callbacks are never called
again. `fill`, `empty` and `fail` are a full disk, one with space again, and an EIO. With `auto` everything is completed
within the call that submits it.

Costs: a record and a changed key O(1); opening and `snapshot` copy dictionaries (10 ns a row); a scanned table keeps its
keys in a sorted list.

Thread: none of its own; all calls from one thread.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import pairwise

from raftcluster import limits
from raftcluster.errors import StorageFailed, StorageFull, Unavailable
from raftcluster.storage.ports import Chunk, Entry, Health, LogImage, Record, Row, Snapshot, Unit
from raftcluster.storage.source import UnusableSource, checked

Rows = dict[bytes, bytes]


class MemoryDisk:
    """What is durable, of the log and of the tables. Their parts fill up and fail on their own, as two partitions do."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.term = 0
        self.vote: str | None = None
        self.commit = 0
        self.tables: dict[str, Rows] = {}
        self.index = 0
        self.anchor: bytes | None = None
        self.log: MemoryLog | None = None
        self.store: MemoryTables | None = None

    def crash(self, records: int = 0, units: int = 0) -> None:
        """Power loss: up to `records` waiting records and `units` waiting units or installs reached the disk."""
        if self.log is not None:
            self.log.write(records)
            self.log.detach()
        if self.store is not None:
            self.store.write(units)
            self.store.detach()

    def apply(self, record: Record) -> None:
        """Carry out one record. Raises `StorageFailed` for an append that does not follow the last entry."""
        entries = self.entries
        if record[0] == "append":
            if entries and record[2] != entries[-1][1] + 1:
                raise StorageFailed(f"append of entry {record[2]} after {entries[-1][1]}", subject="log")
            entries.append((record[1], record[2], record[3]))
        elif record[0] == "commit":
            self.commit = record[1]
        elif record[0] == "vote":
            self.term, self.vote = record[1], record[2]
        elif record[0] == "reset":
            entries.clear()
        elif entries:
            position = min(max(record[1] - entries[0][1], 0), len(entries))
            if record[0] == "truncate":
                del entries[position:]
            else:
                del entries[:position]


class _Health:
    """ok, full, failed, and how they change."""

    def __init__(self) -> None:
        self.health: Health = "ok"
        self.on_health: Callable[[Health, str], None] = lambda health, reason: None
        self.closed = False

    def _become(self, health: Health, reason: str) -> None:
        if health != self.health and self.health != "failed" and not self.closed:
            self.health = health
            self.on_health(health, reason)

    def fill(self) -> None:
        """From now on the disk is full."""
        self._become("full", "no space left")

    def fail(self) -> None:
        """A write failed: latched."""
        self._become("failed", "input/output error")

    def detach(self) -> None:
        """The process is gone: nothing reaches the disk and no callback is called any more."""
        self.closed = True


class MemoryLog(_Health):
    """`Log` on a `MemoryDisk`."""

    def __init__(self, disk: MemoryDisk, *, auto: bool = False) -> None:
        super().__init__()
        self._disk = disk
        self._auto = auto
        self._waiting: deque[Record] = deque()
        self._ends: deque[tuple[int, int]] = deque()  # (ticket, records submitted up to its end), not yet durable
        self._submitted = 0
        self._written = 0
        self.ticket = 0  # the last one given out
        self.durable = 0  # the last one whose records are all on the disk
        self.notified = 0  # the last one reported
        self.on_durable: Callable[[int], None] = lambda ticket: None
        disk.log = self

    def load(self) -> LogImage:
        """What is durable now."""
        disk = self._disk
        return LogImage(disk.entries.copy(), disk.term, disk.vote, disk.commit)

    def scrub(self) -> int:
        """The twin of a disk without checksums: whether entries follow each other."""
        if self.closed:
            raise Unavailable("the log is closed", subject="log")
        entries = self._disk.entries
        for entry, following in pairwise(entries):
            if following[1] != entry[1] + 1:
                raise StorageFailed(f"entry {following[1]} does not follow", subject="log")
        return len(entries)

    def submit(self, records: Sequence[Record]) -> int:
        """Queue `records` and return their ticket."""
        self.ticket += 1
        if self.health != "failed" and not self.closed:
            self._waiting.extend(records)
            self._submitted += len(records)
            self._ends.append((self.ticket, self._submitted))
            if self._auto and self.health == "ok":
                self.complete()
        return self.ticket

    def block(self) -> int:
        """Complete all that was submitted and return the last ticket; raises when full or failed."""
        if self.health == "failed" or self.closed:
            raise StorageFailed("a write to the log failed", subject="log", remedy="restart the node")
        if self.health == "full":
            raise StorageFull("no space left for the log", subject="log", remedy="free space")
        self.complete()
        return self.ticket

    def close(self) -> None:
        """Complete what is queued if there is space, then detach. Idempotent."""
        self.complete()
        self.detach()

    # --- what the owner of the disk decides

    @property
    def records(self) -> int:
        """Records submitted that are not on the disk."""
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """Tickets given out and not yet reported."""
        return self.ticket - self.notified

    def write(self, records: int | None = None) -> None:
        """The next `records` waiting records (None: all) reach the disk."""
        if self.health != "ok" or self.closed:
            return
        waiting, apply = self._waiting, self._disk.apply
        for _ in range(len(waiting) if records is None else min(records, len(waiting))):
            try:
                apply(waiting.popleft())
            except StorageFailed as error:
                self._become("failed", str(error))
                return
            self._written += 1
        ends = self._ends
        while ends and ends[0][1] <= self._written:
            self.durable = ends.popleft()[0]

    def notify(self) -> None:
        """Report the last durable ticket, if it was not yet."""
        if self.durable > self.notified and not self.closed:
            self.notified = self.durable
            self.on_durable(self.durable)

    def complete(self, ticket: int | None = None) -> None:
        """All records up to `ticket` (None: the last) reach the disk and are reported."""
        if ticket is None:
            self.write()
        else:
            end = max((end for number, end in self._ends if number <= ticket), default=0)
            self.write(max(end - self._written, 0))
        self.notify()

    def empty(self) -> None:
        """There is space again; with `auto`, what waits is written."""
        self._become("ok", "")
        if self._auto:
            self.complete()


class _View:
    """One table as reads see it."""

    __slots__ = ("keys", "rows")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.keys: list[bytes] | None = None  # in order; None until the first scan

    def change(self, changes: Mapping[bytes, bytes | None]) -> None:
        rows, keys = self.rows, self.keys
        for key, value in changes.items():
            if value is None:
                if rows.pop(key, None) is not None and keys is not None:
                    del keys[bisect_left(keys, key)]
            else:
                if keys is not None and key not in rows:
                    insort(keys, key)
                rows[key] = value

    def scan(self, start: bytes, stop: bytes | None, limit: int) -> list[Row]:
        if self.keys is None:
            self.keys = sorted(self.rows)
        keys = self.keys
        first = bisect_left(keys, start)
        end = len(keys) if stop is None else bisect_left(keys, stop, first)
        rows = self.rows
        return [(key, rows[key]) for key in keys[first : min(end, first + max(limit, 0))]]


_Install = tuple[int, bytes, Iterable[Chunk]]


class MemoryTables(_Health):
    """`TableStore` on a `MemoryDisk`."""

    def __init__(self, disk: MemoryDisk, *, auto: bool = False) -> None:
        super().__init__()
        self._disk = disk
        self._auto = auto
        self._waiting: deque[tuple[Unit | _Install, Callable[[bool], None]]] = deque()
        self._results: deque[tuple[Callable[[bool], None], bool]] = deque()  # written, not yet reported
        self._unseen: list[Unit] = []  # durable since the last refresh
        self._replaced = False  # an install since the last refresh
        self._view: dict[str, _View] = {}
        self._anchor: tuple[int, bytes] | None = None
        disk.store = self
        self._reload()

    def anchor(self) -> tuple[int, bytes] | None:
        """(index, anchor) as of the last `refresh`."""
        return self._anchor

    def get(self, table: str, key: bytes) -> bytes | None:
        """As of the last `refresh`."""
        view = self._view.get(table)
        return None if view is None else view.rows.get(key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = limits.SCAN_ROWS
    ) -> list[Row]:
        """As of the last `refresh`."""
        view = self._view.get(table)
        return [] if view is None else view.scan(start, stop, limit)

    def refresh(self) -> None:
        """Let reads see the newest durable unit."""
        if self._replaced:
            self._reload()
            return
        for unit in self._unseen:
            for table, changes in unit.changes.items():
                if table not in self._view:
                    self._view[table] = _View({})
                self._view[table].change(changes)
            self._anchor = (unit.index, unit.anchor)
        self._unseen.clear()

    def checkpoint(self, unit: Unit, done: Callable[[bool], None]) -> None:
        """Queue `unit`."""
        self._queue(unit, done)

    def install(self, index: int, anchor: bytes, chunks: Iterable[Chunk], done: Callable[[bool], None]) -> None:
        """Queue a replacement of everything."""
        self._queue((index, anchor, chunks), done)

    def snapshot(self, chunk_bytes: int = limits.SNAPSHOT_CHUNK_BYTES) -> Snapshot | None:
        """The newest durable unit's tables, copied."""
        disk = self._disk
        if disk.anchor is None:
            return None
        counts = {name: len(rows) for name, rows in disk.tables.items()}
        tables = {name: rows.copy() for name, rows in disk.tables.items()}
        return Snapshot(disk.index, disk.anchor, counts, self._chunks(tables, chunk_bytes))

    def close(self) -> None:
        """Complete what is queued if there is space, then detach. Idempotent."""
        self.complete()
        self.detach()

    # --- what the owner of the disk decides

    @property
    def units(self) -> int:
        """Units and installs submitted that are not on the disk."""
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """Units and installs not yet reported."""
        return len(self._waiting) + len(self._results)

    def write(self, units: int | None = None) -> None:
        """The next `units` waiting units or installs (None: all) reach the disk."""
        if self.health != "ok" or self.closed:
            return
        for _ in range(len(self._waiting) if units is None else min(units, len(self._waiting))):
            job, done = self._waiting.popleft()
            self._results.append((done, self._write(job) if isinstance(job, Unit) else self._replace(*job)))

    def notify(self, units: int | None = None) -> None:
        """Report the next `units` (None: all) written ones."""
        for _ in range(len(self._results) if units is None else min(units, len(self._results))):
            done, result = self._results.popleft()
            if not self.closed:
                done(result)

    def complete(self, units: int | None = None) -> None:
        """The next `units` (None: all) reach the disk; all that did are reported."""
        self.write(units)
        self.notify()

    def empty(self) -> None:
        """There is space again; with `auto`, what waits is written."""
        self._become("ok", "")
        if self._auto:
            self.complete()

    # --- parts

    def _queue(self, job: Unit | _Install, done: Callable[[bool], None]) -> None:
        if self.health != "failed" and not self.closed:
            self._waiting.append((job, done))
            if self._auto:
                self.complete()

    def _write(self, unit: Unit) -> bool:
        disk = self._disk
        if disk.anchor is not None and unit.index <= disk.index:
            return False
        for table, changes in unit.changes.items():
            rows = disk.tables.setdefault(table, {})
            for key, value in changes.items():
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
        disk.index, disk.anchor = unit.index, unit.anchor
        self._unseen.append(unit)
        return True

    def _replace(self, index: int, anchor: bytes, chunks: Iterable[Chunk]) -> bool:
        disk = self._disk
        if disk.anchor is not None and index < disk.index:
            return False
        tables: dict[str, Rows] = {}
        try:
            for table, rows in checked(chunks):
                tables.setdefault(table, {}).update(rows)
        except UnusableSource:
            return False
        disk.tables, disk.index, disk.anchor = tables, index, anchor
        self._replaced = True
        return True

    def _reload(self) -> None:
        disk = self._disk
        self._view = {name: _View(rows.copy()) for name, rows in disk.tables.items()}
        self._anchor = None if disk.anchor is None else (disk.index, disk.anchor)
        self._unseen.clear()
        self._replaced = False

    def _chunks(self, tables: dict[str, Rows], chunk_bytes: int) -> Generator[Chunk, None, None]:
        for table in sorted(tables):
            chunk: list[Row] = []
            size = 0
            for row in sorted(tables[table].items()):
                chunk.append(row)
                size += len(row[0]) + len(row[1])
                if size >= chunk_bytes:
                    self._check_open()
                    yield table, chunk
                    chunk, size = [], 0
            if chunk:
                self._check_open()
                yield table, chunk

    def _check_open(self) -> None:
        if self.closed:
            raise Unavailable("the store was closed", subject="tables")
