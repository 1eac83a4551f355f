"""The tables on LMDB: one checkpoint thread writes, everybody reads consistent views.

    machine.table   key -> value, as the state machine wrote them: one named database per table
    checkpoint      "index" -> the log index the tables have reached (8 bytes, big-endian);  "anchor" -> the engine's

Any LMDB binding reads them (max_dbs must be given); `checkpoint` changes in the transaction that changes the tables.

**Handles.** LMDB's handle of a named database is valid in transactions that began after the one that created it had ended.
So the writer publishes handles after its commit, as a new dictionary; a reader begins, and when its view holds a database
without a published handle it waits for the publishing that must be under way. Databases are emptied, never dropped: a
dropped one's number is given to the next, under readers that still use it.

**Full**: a unit is kept and tried again, and so keeps its place before later ones; an install cannot be (its source is
consumed) and is answered with False. **Failed**: latched; the thread ends, `done` is never called again, reads go on.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from raftcluster import failpoints, limits
from raftcluster.errors import RaftclusterError, Rejected, StorageFull, StorageRefusal, Unavailable
from raftcluster.storage.environment import Environment, LmdbError
from raftcluster.storage.ports import Chunk, Health, Row, Snapshot, Unit
from raftcluster.storage.source import UnusableSource, checked

if TYPE_CHECKING:
    from raftcluster.storage.environment import Database, Transaction

    Handles = dict[str, Database]

RETRY_SECONDS: Final = 0.1  # while full
FIRST_PAGE: Final = 16  # rows a scan reads before it looks whether it has passed `stop`
_CHECKPOINT: Final = "checkpoint"

logger = logging.getLogger(__name__)

_Done = Callable[[bool], None]
_Job = tuple[Unit, _Done] | tuple[int, bytes, Iterable[Chunk], _Done]


class TableStore:
    """`ports.TableStore` in the directory `path`.

    Thread: see there. `done` and `on_health` are called on the checkpoint thread and must only signal.
    """

    def __init__(self, path: Path, *, map_bytes: int = limits.TABLES_MAP_BYTES) -> None:
        """Open or create. Raises as `Environment` does."""
        self.health: Health = "ok"
        self.on_health: Callable[[Health, str], None] = lambda health, reason: None
        self._env = Environment(path, map_bytes, read_ahead=False)  # the tables may outgrow the memory
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = threading.Event()
        self._closed = False
        self._guard = threading.Lock()  # held while a snapshot reads, so that `close` cannot unmap under it
        self._publishing = threading.Lock()  # held by the writer from begin to the publishing of new handles
        self._writer = threading.Thread(target=self._run, name="raftcluster-checkpoint", daemon=True)
        try:
            self._meta = self._env.database(_CHECKPOINT)
            self._handles: Handles = {name: self._env.database(name) for name in self._env.names()}
            self._view, self._view_handles, self._anchor = self._begin()
        except BaseException:
            self._env.close()
            raise
        self._writer.start()

    # --- reading, tick thread

    def anchor(self) -> tuple[int, bytes] | None:
        """(index, anchor) as of the last `refresh`."""
        return self._anchor

    def get(self, table: str, key: bytes) -> bytes | None:
        """As of the last `refresh`. Raises `StorageFailed` when LMDB finds its pages corrupt."""
        handle = self._view_handles.get(table)
        if handle is None:
            return None
        try:
            return self._view.get(key, None, handle)
        except LmdbError as error:
            raise self._env.refusal(error) from error

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = limits.SCAN_ROWS
    ) -> list[Row]:
        """As of the last `refresh`. 3 us, and 0.4 us a row."""
        handle = self._view_handles.get(table)
        if handle is None or limit <= 0:
            return []
        try:
            return self._scan(handle, start, stop, limit)
        except LmdbError as error:
            raise self._env.refusal(error) from error

    def refresh(self) -> None:
        """Let reads see the newest durable unit; the pages that only the old view used become free."""
        self._view.abort()
        self._view, self._view_handles, self._anchor = self._begin()

    # --- any thread

    def snapshot(self, chunk_bytes: int = limits.SNAPSHOT_CHUNK_BYTES) -> Snapshot | None:
        """The newest durable unit's tables, in a transaction of its own. Raises `Unavailable` when closed."""
        with self._guard:
            self._check_open()
            transaction, handles, reached = self._begin()
            if reached is None:
                transaction.abort()
                return None
            counts = {table: transaction.stat(handle)["entries"] for table, handle in handles.items()}
        del counts[_CHECKPOINT]
        return Snapshot(*reached, counts, self._chunks(transaction, handles, chunk_bytes))

    def checkpoint(self, unit: Unit, done: _Done) -> None:
        """Queue `unit`; its changes must not be changed any more."""
        self._queue.put((unit, done))

    def install(self, index: int, anchor: bytes, chunks: Iterable[Chunk], done: _Done) -> None:
        """Queue a replacement of everything."""
        self._queue.put((index, anchor, chunks, done))

    def close(self) -> None:
        """Finish what is queued, then close; what a full or failed disk does not take is not written, and its `done` never
        called. Snapshots under way end with `Unavailable`. Idempotent. Tick thread."""
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
            while (job := self._queue.get()) is not None:
                if not (self._checkpoint(*job) if len(job) == 2 else self._install(*job)):
                    return
        except Exception as error:
            logger.exception("the checkpoint thread stopped")
            self._become("failed", f"the checkpoint thread stopped: {error!r}")

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
            handles = dict(self._handles)
            with self._env.write() as transaction:
                reached = self._reached(transaction)
                if reached is not None and unit.index <= reached[0]:
                    return False
                for table in sorted(unit.changes):
                    changes = unit.changes[table]
                    keys = sorted(changes)  # neighbours share pages: a random order costs a page copy per key
                    handle = self._handle(table, handles, transaction)
                    kept = [(key, value) for key in keys if (value := changes[key]) is not None]
                    transaction.cursor(handle).putmulti(kept)
                    if len(kept) < len(keys):
                        for key in keys:
                            if changes[key] is None:
                                transaction.delete(key, db=handle)
                self._reach(transaction, unit.index, unit.anchor)
                failpoints.reach("tables.commit.before")
            failpoints.reach("tables.commit.after")
            self._handles = handles
        return True

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
            handles = dict(self._handles)
            with self._env.write() as transaction:
                reached = self._reached(transaction)
                if reached is not None and index < reached[0]:
                    return False
                for table, handle in handles.items():
                    if table != _CHECKPOINT:
                        transaction.drop(handle, delete=False)
                for table, rows in checked(chunks):
                    handle = self._handle(table, handles, transaction)
                    transaction.cursor(handle).putmulti(rows, append=True)
                self._reach(transaction, index, anchor)
                failpoints.reach("snapshot.install.before")
            failpoints.reach("snapshot.install.after")
            self._handles = handles
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

    def _begin(self) -> tuple[Transaction, Handles, tuple[int, bytes] | None]:
        """A read transaction, the handles of exactly the databases it sees, and what they have reached."""
        try:
            while True:
                handles = self._handles
                transaction = self._env.read()
                names = transaction.cursor().iternext(keys=True, values=False)
                if all(name.decode() in handles for name in names):
                    return transaction, handles, self._reached(transaction)
                transaction.abort()
                with self._publishing:
                    pass
        except LmdbError as error:
            raise self._env.refusal(error) from error

    def _reached(self, transaction: Transaction) -> tuple[int, bytes] | None:
        index = transaction.get(b"index", None, self._meta)
        anchor = transaction.get(b"anchor", None, self._meta)
        return None if index is None or anchor is None else (int.from_bytes(index), anchor)

    def _reach(self, transaction: Transaction, index: int, anchor: bytes) -> None:
        transaction.put(b"index", index.to_bytes(8), db=self._meta)
        transaction.put(b"anchor", anchor, db=self._meta)

    def _scan(self, handle: Database, start: bytes, stop: bytes | None, limit: int) -> list[Row]:
        cursor = self._view.cursor(handle)
        if not cursor.set_range(start[: limits.KEY_BYTES]) or (cursor.key() < start and not cursor.next()):
            return []
        rows = cursor.iternext()
        found: list[Row] = []
        page = FIRST_PAGE
        while True:
            asked = min(page, limit - len(found))
            before = len(found)
            found.extend(islice(rows, asked))
            if stop is not None and found and found[-1][0] >= stop:
                del found[bisect_left(found, (stop,), before) :]
                return found
            if len(found) < before + asked or len(found) == limit:
                return found
            page *= 4

    def _chunks(self, transaction: Transaction, handles: Handles, chunk_bytes: int) -> Generator[Chunk, None, None]:
        try:
            for table in sorted(handles.keys() - {_CHECKPOINT}):
                rows = transaction.cursor(handles[table]).iternext()
                while chunk := self._chunk(rows, chunk_bytes):
                    yield table, chunk
        except LmdbError as error:
            raise self._env.refusal(error) from error
        finally:
            transaction.abort()

    def _chunk(self, rows: Iterator[Row], chunk_bytes: int) -> list[Row]:
        with self._guard:
            self._check_open()
            chunk: list[Row] = []
            size = 0
            for row in rows:
                chunk.append(row)
                size += len(row[0]) + len(row[1])
                if size >= chunk_bytes:
                    break
            return chunk

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the tables are closed", subject=str(self._env.path))
