"""The tables on LMDB: one checkpoint thread writes, everybody reads consistent views.

    machine.table   key -> value, as the state machine wrote them: one named database per table
    machine.table@N what a burst of changes has left on its way there: `runs`
    checkpoint      "index" -> the log index the tables have reached (8 bytes, big-endian);  "anchor" -> the engine's;
                    "log" -> how many frames of this node's log were durable before (8 bytes, big-endian)

Any LMDB binding reads them (max_dbs must be given); `checkpoint` changes in the transaction that changes the tables.

**Handles.** LMDB's handle of a named database is valid in transactions that began after the one that created it had ended.
So the writer publishes handles, and which runs there are, after its commit, as new dictionaries; a reader begins, and when
its view holds something else than what is published it waits for the publishing that must be under way; when something was published
while it began, it begins anew. Databases are emptied, never dropped: a dropped one's number is given to the next, under readers that still use it.

**Memory.** LMDB keeps a page of memory for every page that its largest transaction has changed, until the environment is closed:
after a snapshot was installed as much as all tables have. So the environment is opened anew then, between two reads of the tick
thread, as soon as neither the writer nor a snapshot's reader is in it.

**Full**: a unit is kept and tried again, and so keeps its place before later ones; an install cannot be (its source is
consumed) and is answered with False. **Failed**: latched; the thread ends, `done` is never called again, reads go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from raftcluster import failpoints, limits
from raftcluster.errors import RaftclusterError, Rejected, StorageFull, StorageRefusal, Unavailable
from raftcluster.storage import disk, runs
from raftcluster.storage.environment import Environment, LmdbError
from raftcluster.storage.filter import Filter
from raftcluster.storage.ports import Chunk, Health, Row, Snapshot, Unit
from raftcluster.storage.source import UnusableSource, checked
from raftcluster.storage.view import ANCHOR, CHECKPOINT, INDEX, LOG, RUNS, TableView, reached

if TYPE_CHECKING:
    from raftcluster.storage.environment import Database, Transaction
    from raftcluster.storage.view import Handles

RETRY_SECONDS: Final = 0.1  # while full
QUIET_SECONDS: Final = 3.0  # without a burst, after which a generation is swept before it is full
REST_SECONDS: Final = 0.1  # between two slices of such a sweep
REST_SHARE: Final = 8  # of a usual slice's keys: a page each, and the log is on the same disk
CLOSE_SECONDS: Final = 5.0  # for moving what is in runs: the next one who opens the tables goes on
SWEEP_DEBT: Final = 8  # slices a sweep may be behind before a unit waits for it

logger = logging.getLogger(__name__)

_Done = Callable[[bool], None]
_Job = tuple[Unit, _Done] | tuple[int, bytes, Iterable[Chunk], _Done]


class _State(NamedTuple):
    """What a transaction of the writer has left, published when it had ended."""

    handles: Handles
    generations: runs.Generations
    row: bytes | None
    """The generations' row, by which a reader knows that they are what it sees."""
    rests: Mapping[str, Filter | None]
    """What is at rest in the tables that have runs: see `runs.resting`. Invariant: holds every key of the table as of this
    transaction and of all later ones."""


class TableStore:
    """`ports.TableStore` in the directory `path`.

    Thread: see there. `done` and `on_health` are called on the checkpoint thread and must only signal.
    """

    def __init__(
        self,
        path: Path,
        *,
        map_bytes: int = limits.TABLES_MAP_BYTES,
        bounds: runs.Bounds = runs.DEFAULT,
        log: Callable[[], int] | None = None,
    ) -> None:
        """Open or create. `log`, if somebody writes to it meanwhile, says how many frames of it are durable, to any thread. Raises as
        `Environment` does."""
        self.health: Health = "ok"
        self.on_health: Callable[[Health, str], None] = lambda health, reason: None
        self._env = Environment(path, map_bytes, read_ahead=False)  # the tables may outgrow the memory
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = threading.Event()
        self._closed = False
        self._installed = False
        """Whether a snapshot has been installed since the environment was opened."""
        self._opened = 1
        """How often that was: views of before are void."""
        self._guard = threading.Lock()  # held while a snapshot reads, so that `close` cannot unmap under it
        self._publishing = threading.Lock()  # held by the writer from begin to the publishing of what it has done
        self._writer = threading.Thread(target=self._run, name="raftcluster-checkpoint", daemon=True)
        self._runs = runs.Writer(bounds)
        self._log = log
        self._gathered = 0.0
        """When the last burst was written, by the monotonic clock. Thread: checkpoint thread only."""
        self._behind: float = 0
        """Keys that the sweep has to move to keep pace with the units. Thread: checkpoint thread only."""
        try:
            self._meta = self._env.database(CHECKPOINT)
            self._state = self._load()
            self._view = self._begin()
        except BaseException:
            self._env.close()
            raise
        self._writer.start()

    # --- reading, tick thread

    def anchor(self) -> tuple[int, bytes] | None:
        """(index, anchor) as of the last `refresh`."""
        return self._view.reached

    def log(self) -> int:
        """How many frames of this node's log were durable before the newest unit was: fewer are never left of it. 0: unknown."""
        with self._env.reading() as transaction:
            return int.from_bytes(transaction.get(LOG, b"", self._meta))

    def get(self, table: str, key: bytes) -> bytes | None:
        """As of the last `refresh`. Raises `StorageFailed` when LMDB finds its pages corrupt."""
        try:
            return self._view.get(table, key)
        except LmdbError as error:
            raise self._env.refusal(error) from error

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = limits.SCAN_ROWS
    ) -> list[Row]:
        """As of the last `refresh`. Costs: `TableView.scan`."""
        try:
            return self._view.scan(table, start, stop, limit)
        except LmdbError as error:
            raise self._env.refusal(error) from error

    def refresh(self) -> None:
        """Let reads see the newest durable unit; the pages that only the old view used become free."""
        self._view.abort()
        if self._installed:
            self._reopen()
        self._view = self._begin()

    def _reopen(self) -> None:
        """Unless somebody is in the environment: then the next time. See above, Memory."""
        if not self._guard.acquire(blocking=False):
            return
        try:
            if self._publishing.acquire(blocking=False):
                try:
                    self._installed = False
                    self._opened += 1
                    self._env.reopen()
                    self._meta = self._env.database(CHECKPOINT)
                    self._state = self._state._replace(handles=self._handles())
                finally:
                    self._publishing.release()
        finally:
            self._guard.release()

    # --- any thread

    def snapshot(self, chunk_bytes: int = limits.SNAPSHOT_CHUNK_BYTES) -> Snapshot | None:
        """The newest durable unit's tables, in a transaction of its own. Raises `Unavailable` when closed."""
        with self._guard:
            self._check_open(self._opened)
            view = self._begin()
            if view.reached is None:
                view.abort()
                return None
            counts, opened = view.counts(), self._opened
        return Snapshot(*view.reached, counts, self._chunks(view, chunk_bytes, opened))

    def checkpoint(self, unit: Unit, done: _Done) -> None:
        """Queue `unit`; its changes must not be changed any more."""
        self._queue.put((unit, done))

    def install(self, index: int, anchor: bytes, chunks: Iterable[Chunk], done: _Done) -> None:
        """Queue a replacement of everything."""
        self._queue.put((index, anchor, chunks, done))

    def close(self) -> None:
        """Finish what is queued and move what is in runs, for a while, then close; what a full or failed disk does not take is
        not written, and its `done` never called. Snapshots under way end with `Unavailable`. Idempotent. Tick thread."""
        if not self._closing.is_set():
            self._closing.set()
            self._queue.put(None)
            self._writer.join()
            with self._guard:
                self._closed = True
                self._view.abort()
                self._env.close()

    # --- the checkpoint thread

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                if not (self._checkpoint(*job) if len(job) == 2 else self._install(*job)):
                    return
                while self._behind > 0 and (self._queue.empty() or self._behind > self._most_behind()):
                    moved = self._sweep(self._runs.bounds.slice_keys, all_of_it=False)
                    self._behind = self._behind - moved if moved else 0
            until = time.monotonic() + CLOSE_SECONDS
            while time.monotonic() < until and self._sweep(self._runs.bounds.slice_keys, all_of_it=True):
                pass
        except RaftclusterError as error:
            self._become("failed", str(error))
        except Exception as error:
            logger.exception("the checkpoint thread stopped")
            self._become("failed", f"the checkpoint thread stopped: {error!r}")

    def _next(self) -> _Job | None:
        """The next job; when no burst has come for a while, slices of runs are moved until there are none, slowly."""
        while self._state.generations:
            try:
                return self._queue.get(timeout=REST_SECONDS)
            except Empty:
                if time.monotonic() - self._gathered > QUIET_SECONDS:
                    self._sweep(self._runs.bounds.slice_keys // REST_SHARE, all_of_it=True)
        return self._queue.get()

    def _checkpoint(self, unit: Unit, done: _Done) -> bool:
        """False: nothing may be written any more, since this was not."""
        while True:
            try:
                written = self._write(unit)
            except StorageFull as error:
                self._become("full", str(error))
                if self._closing.wait(RETRY_SECONDS):
                    return False
            except RaftclusterError as error:
                self._become("failed", str(error))
                return False
            else:
                self._become("ok", "")
                done(written)
                return True

    def _write(self, unit: Unit) -> bool:
        with self._publishing:
            handles, generations = dict(self._state.handles), dict(self._state.generations)
            rests = dict(self._state.rests)
            due, bursts = 0.0, 0
            with self._env.write() as transaction:
                before = reached(transaction, self._meta)
                if before is not None and unit.index <= before[0]:
                    return False
                for table in sorted(unit.changes):
                    changes = unit.changes[table]
                    handle = self._handle(table, handles, transaction)
                    found = generations.get(table, ())
                    rows = transaction.stat(handle)["entries"]
                    is_burst = self._runs.is_burst(rows, len(changes))
                    most = self._most_runs(table, handles, rows) if found or is_burst else 0
                    if found or most >= self._runs.bounds.runs:
                        most = max(1, most)
                        bursts += is_burst
                        generations[table] = self._gather(transaction, table, found, handles, changes, most)
                        rest = rests.get(table)
                        if not found or table not in rests or (rest is not None and rest.left < 0):
                            keys = transaction.cursor(handle).iternext(keys=True, values=False)
                            rests[table] = runs.resting(keys, rows, most * self._runs.bounds.run_keys)
                        due += self._runs.due(transaction, handles, generations[table][0], len(changes), most)
                    else:
                        self._put(transaction, handle, changes)
                row = self._reach(transaction, unit.index, unit.anchor, generations)
                failpoints.reach("tables.commit.before")
            failpoints.reach("tables.commit.after")
            self._state = _State(handles, generations, row, rests)
        self._behind += due
        if bursts:
            self._gathered = time.monotonic()
        return True

    def _put(self, transaction: Transaction, handle: Database, changes: runs.Changes) -> None:
        keys = sorted(changes)  # neighbours share pages: a random order costs a page copy per key
        kept = [(key, value) for key in keys if (value := changes[key]) is not None]
        transaction.cursor(handle).putmulti(kept)
        if len(kept) < len(keys):
            for key in keys:
                if changes[key] is None:
                    transaction.delete(key, db=handle)

    def _gather(
        self,
        transaction: Transaction,
        table: str,
        found: tuple[runs.Generation, ...],
        handles: Handles,
        changes: runs.Changes,
        most: int,
    ) -> tuple[runs.Generation, ...]:
        """Write `changes` into a run; the generations of `table`, each of `most` runs, afterwards."""
        rows = transaction.stat(handles[found[-1].runs[-1]])["entries"] if found else 0
        found = self._runs.target(table, found, rows, most)
        run = self._handle(found[-1].runs[-1], handles, transaction)
        self._runs.gather(transaction, run, found[-1], changes)
        return self._runs.closed(found, transaction.stat(run)["entries"], most)

    def _most_runs(self, table: str, handles: Handles, rows: int) -> int:
        """Of each of the two generations of `table`: runs, emptied ones too, must not take the databases that other tables need."""
        others = sum(not name.startswith(table + runs.MARK) for name in handles)
        return min(self._runs.bounds.full_runs(rows), (limits.TABLES // 2 - others) // 2)

    def _most_behind(self) -> int:
        return SWEEP_DEBT * self._runs.bounds.slice_keys

    def _sweep(self, keys: int, *, all_of_it: bool) -> int:
        """Move a slice of about so many keys of a full generation, or of any when `all_of_it`, into its table: how many keys, at least 1, and 0 when
        there is nothing to move or no space to do it. Raises what else the disk does."""
        generations = dict(self._state.generations)
        table = next((t for t, found in generations.items() if all_of_it or runs.is_due(found)), None)
        if table is None:
            return 0
        oldest, *newer = generations[table]
        try:
            with self._publishing:
                state = self._state
                row, rests = state.row, dict(state.rests)
                rest = rests.get(table)
                with self._env.write() as transaction:
                    left, moved = self._runs.sweep(transaction, state.handles, table, oldest, keys, rest)
                    generations[table] = (*([left] if left else []), *newer)
                    if left is None:
                        for run in oldest.runs:
                            transaction.drop(state.handles[run], delete=False)
                        if not newer:
                            del generations[table]
                            rests.pop(table, None)
                        row = self._note_runs(transaction, generations)
                self._state = _State(state.handles, generations, row, rests)
        except StorageFull:
            return 0
        return max(1, moved)

    def _install(self, index: int, anchor: bytes, chunks: Iterable[Chunk], done: _Done) -> bool:
        """False: as above."""
        installed = False
        try:
            installed = self._replace(index, anchor, chunks)
        except StorageFull as error:
            self._become("full", str(error))
        except StorageRefusal as error:
            self._become("failed", str(error))
            return False
        except (UnusableSource, Rejected) as error:
            logger.warning("a snapshot of index %d was not installed: %s", index, error)
        done(installed)
        while self.health == "full":
            if self._env.has_space():
                self._become("ok", "")
            elif self._closing.wait(RETRY_SECONDS):
                return False
        return True

    def _replace(self, index: int, anchor: bytes, chunks: Iterable[Chunk]) -> bool:
        with self._publishing:
            handles = dict(self._state.handles)
            with self._env.write() as transaction:
                before = reached(transaction, self._meta)
                if before is not None and index < before[0]:
                    return False
                for table, handle in handles.items():
                    if table != CHECKPOINT:
                        transaction.drop(handle, delete=False)
                for table, rows in checked(chunks):
                    handle = self._handle(table, handles, transaction)
                    transaction.cursor(handle).putmulti(rows, append=True)
                row = self._reach(transaction, index, anchor, {})
                failpoints.reach("snapshot.install.before")
            failpoints.reach("snapshot.install.after")
            self._state = _State(handles, {}, row, {})
            self._installed = True
        return True

    def _handle(self, table: str, handles: Handles, transaction: Transaction) -> Database:
        """The handle of `table`, created and added to `handles` when it is a new one."""
        handle = handles.get(table)
        if handle is None:
            handle = handles[table] = self._env.database(table, transaction)
        return handle

    def _become(self, health: Health, reason: str) -> None:
        if self.health != health:
            self.health = health
            self.on_health(health, reason)

    # --- parts

    def _handles(self) -> Handles:
        return {name: self._env.database(name) for name in self._env.names()}

    def _load(self) -> _State:
        """What the last writer left. With runs: all of their keys are read, 0.4 us each."""
        handles = self._handles()
        with self._env.reading() as transaction:
            row = transaction.get(RUNS, None, self._meta)
            if row is None:
                return _State(handles, {}, None, {})
            try:
                decoded = runs.decode(row)
                generations = {
                    table: self._entered(transaction, handles, table, found) for table, found in decoded.items()
                }
            except (ValueError, TypeError, LookupError, RaftclusterError) as error:
                raise disk.corrupt(self._env.path, f"what it says of its runs cannot be: {error!r}") from error
        return _State(handles, generations, row, {})

    def _entered(
        self, transaction: Transaction, handles: Handles, table: str, found: Iterable[runs.Generation]
    ) -> tuple[runs.Generation, ...]:
        """The generations of `table` with all of their keys in their filters and slots."""
        bounds = self._runs.bounds
        room = bounds.full_runs(transaction.stat(handles[table])["entries"]) * bounds.run_keys
        entered = tuple(each.emptied(room) for each in found)
        for generation in entered:
            for ordinal, run in enumerate(generation.runs, 1):
                keys = transaction.cursor(handles[run]).iternext(keys=True, values=False)
                generation.enter(keys, ordinal)
        return entered

    def _begin(self) -> TableView:
        """A read transaction, with the handles and runs of exactly what it sees."""
        try:
            while True:
                handles, generations, row, rests = state = self._state
                transaction = self._env.read()
                if state is not self._state:  # of several commits: other runs may have the same names
                    transaction.abort()
                    continue
                names = transaction.cursor().iternext(keys=True, values=False)
                if transaction.get(RUNS, None, self._meta) == row and all(name.decode() in handles for name in names):
                    return TableView(transaction, handles, generations, rests)
                transaction.abort()
                with self._publishing:
                    pass
        except LmdbError as error:
            raise self._env.refusal(error) from error

    def _reach(
        self, transaction: Transaction, index: int, anchor: bytes, generations: runs.Generations
    ) -> bytes | None:
        transaction.put(INDEX, index.to_bytes(8), db=self._meta)
        transaction.put(ANCHOR, anchor, db=self._meta)
        if self._log is not None:
            transaction.put(LOG, self._log().to_bytes(8), db=self._meta)
        return self._note_runs(transaction, generations)

    def _note_runs(self, transaction: Transaction, generations: runs.Generations) -> bytes | None:
        if not generations:
            transaction.delete(RUNS, db=self._meta)
            return None
        row = runs.encode(generations)
        transaction.put(RUNS, row, db=self._meta)
        return row

    def _chunks(self, view: TableView, chunk_bytes: int, opened: int) -> Generator[Chunk, None, None]:
        try:
            for table in view.tables():
                with self._guard:
                    self._check_open(opened)
                    rows = view.rows(table)
                while chunk := self._chunk(rows, chunk_bytes, opened):
                    yield table, chunk
        except LmdbError as error:
            raise self._env.refusal(error) from error
        finally:
            view.abort()

    def _chunk(self, rows: Iterator[Row], chunk_bytes: int, opened: int) -> list[Row]:
        with self._guard:
            self._check_open(opened)
            chunk: list[Row] = []
            size = 0
            for row in rows:
                chunk.append(row)
                size += len(row[0]) + len(row[1])
                if size >= chunk_bytes:
                    break
            return chunk

    def _check_open(self, opened: int) -> None:
        if self._closed:
            raise Unavailable("the tables are closed", subject=str(self._env.path))
        if opened != self._opened:
            raise Unavailable("a snapshot has replaced the tables", subject=str(self._env.path), remedy="ask again")
