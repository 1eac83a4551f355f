"""The log on LMDB: one writer thread, one durable transaction for all records that wait (group commit).

    entries   index (8 bytes, big-endian) -> term (8) + CRC-32 of index, term and command (4) + command
    meta      "vote" -> term (8) + CRC-32 (4) + candidate, absent for none;  "commit" -> commit index (8) + CRC-32 (4)

LMDB's transactions leave no torn tail: whatever fails its checksum was corrupted later, and that is never repaired.

Full: the transaction is aborted, its records stay queued in order, and all that waits is tried again until there is space.
Records that cut the log may use the reserve of the disk, and of the map, that appends may not: otherwise a full log could
never be cut. Failed: latched; no ticket becomes durable any more, and queued records are dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from raftcluster import failpoints, limits
from raftcluster.errors import RaftclusterError, StorageFailed, StorageFull, Unavailable
from raftcluster.storage.environment import Environment, corrupt
from raftcluster.storage.ports import Entry, Health, LogImage, Record

if TYPE_CHECKING:
    from raftcluster.storage.environment import Database, Transaction

RETRY_SECONDS: Final = 0.1  # while full
MAP_RESERVE_BYTES: Final = 64 * limits.MIB  # by which a full map grows so that it can be cut

_NUMBER: Final = Struct(">Q")
_HEAD: Final = Struct(">QI")

logger = logging.getLogger(__name__)


class LogStore:
    """`Log` in the directory `path`.

    Thread: see `Log`. `on_durable` and `on_health` are called on the writer thread and must only signal; before `block`
    returns, `on_durable` was called for its ticket.
    """

    def __init__(self, path: Path, *, map_bytes: int = limits.LOG_MAP_BYTES) -> None:
        """Open or create. Raises as `Environment` does."""
        self.health: Health = "ok"
        self.on_durable: Callable[[int], None] = lambda ticket: None
        self.on_health: Callable[[Health, str], None] = lambda health, reason: None
        self._path = path
        self._env = Environment(path, map_bytes)
        self._ticket = 0
        self._durable = 0
        self._last: int | None = None  # index of the last entry, the writer's
        self._reason = ""
        self._settled = threading.Condition()  # `block` waits for _durable or health
        self._queue: SimpleQueue[tuple[int, Sequence[Record]] | None] = SimpleQueue()
        self._closed = False
        self._closing = threading.Event()
        self._mapped = threading.Lock()  # held while `scrub` reads, so that nobody unmaps under it
        self._writer = threading.Thread(target=self._run, name="raftcluster-log", daemon=True)
        try:
            self._entries, self._meta = self._databases()
            with self._env.reading() as transaction:
                cursor = transaction.cursor(self._entries)
                if cursor.last():
                    self._last = int.from_bytes(cursor.key())
        except BaseException:
            self._env.close()
            raise
        self._writer.start()

    def load(self) -> LogImage:
        """Read what is there. Raises `StorageFailed` for an entry or a vote that fails its checksum, or a gap."""
        with self._env.reading() as transaction:
            entries = list(self._read(transaction))
            term, vote, commit = self._numbers(transaction)
        return LogImage(entries, term, vote, commit)

    def scrub(self) -> int:
        """What `load` checks, of what is durable now; how many entries. Thread: any; a map that must grow waits for it."""
        with self._mapped:
            if self._closed:
                raise Unavailable("the log is closed", subject=str(self._path))
            count = 0
            with self._env.reading() as transaction:
                for _ in self._read(transaction):
                    count += 1
                    if self._closing.is_set():
                        raise Unavailable("the log is closed", subject=str(self._path))
                self._numbers(transaction)
        return count

    def submit(self, records: Sequence[Record]) -> int:
        """Queue `records` and return their ticket. Never waits."""
        self._ticket += 1
        if self.health != "failed" and not self._closed:
            self._queue.put((self._ticket, records))
        return self._ticket

    def block(self) -> int:
        """Wait until all that was submitted is durable and return the last ticket."""
        with self._settled:
            self._settled.wait_for(lambda: self._durable >= self._ticket or self.health != "ok" or self._closed)
            if self._durable >= self._ticket:
                return self._ticket
            if self.health == "full":
                raise StorageFull(self._reason, subject=str(self._path), remedy="free disk space")
            raise StorageFailed(self._reason or "the log is closed", subject=str(self._path), remedy="restart the node")

    def close(self) -> None:
        """Write what is queued, then close. What a full or failed disk does not take is not written, and its tickets never
        become durable. Idempotent."""
        if not self._closed:
            self._closed = True
            self._closing.set()
            self._queue.put(None)
            self._writer.join()
            with self._mapped:
                self._env.close()

    # --- the writer thread

    def _run(self) -> None:
        waiting: list[tuple[int, Sequence[Record]]] = []
        try:
            more = True
            while more and self.health != "failed":
                more = self._gather(waiting)
                if waiting:
                    self._attempt(waiting)
        except Exception as error:
            logger.exception("the log writer stopped")
            self._become("failed", f"the log writer stopped: {error!r}")

    def _gather(self, waiting: list[tuple[int, Sequence[Record]]]) -> bool:
        """Add all that is queued to `waiting`; waits for something, or a while when the disk is full. False: close."""
        if waiting:
            self._closing.wait(RETRY_SECONDS)
        try:
            submitted = self._queue.get(block=not waiting)
            while submitted is not None:
                waiting.append(submitted)
                submitted = self._queue.get_nowait()
        except Empty:
            return True
        return False

    def _attempt(self, waiting: list[tuple[int, Sequence[Record]]]) -> None:
        """Write all of `waiting` in one transaction; it is empty afterwards unless there is no space."""
        try:
            try:
                last = self._write(waiting)
            except StorageFull:
                if not any(record[0] in ("cut", "reset") for _, records in waiting for record in records):
                    raise
                if self._env.has_space():
                    with self._mapped:
                        self._env.grow(self._env.map_bytes + MAP_RESERVE_BYTES)
                    self._entries, self._meta = self._databases()
                last = self._write(waiting, reserve=False)
        except StorageFull as error:
            self._become("full", str(error))
            return
        except RaftclusterError as error:
            self._become("failed", str(error))
            return
        failpoints.reach("log.commit.after")
        self._last = last
        ticket = waiting[-1][0]
        waiting.clear()
        self._durable = ticket
        self.on_durable(ticket)
        if self.health == "full":
            self._become("ok", "")
        with self._settled:
            self._settled.notify_all()

    def _write(self, waiting: list[tuple[int, Sequence[Record]]], *, reserve: bool = True) -> int | None:
        """One durable transaction; returns the index of the last entry after it."""
        last = self._last
        with self._env.write(reserve=reserve) as transaction:
            for _, records in waiting:
                for record in records:
                    if record[0] == "append":
                        _, command, index, term = record
                        if last is not None and index != last + 1:
                            raise StorageFailed(f"append of entry {index} after {last}", subject=str(self._path))
                        key, value = sealed_entry((command, index, term))
                        transaction.put(key, value, append=True, db=self._entries)
                        last = index
                    elif record[0] == "commit":
                        transaction.put(b"commit", _sealed(record[1], b""), db=self._meta)
                    elif record[0] == "vote":
                        vote = b"" if record[2] is None else record[2].encode()
                        transaction.put(b"vote", _sealed(record[1], vote), db=self._meta)
                    else:
                        last = self._shorten(transaction, record, last)
            failpoints.reach("log.commit.before")
        return last

    def _shorten(self, transaction: Transaction, record: Record, last: int | None) -> int | None:
        """Carry out a truncate, a cut or a reset; returns the index of the last entry after it."""
        if record[0] == "reset" or last is None:
            transaction.drop(self._entries, delete=False)
            failpoints.reach("log.reset")
            return None
        cursor = transaction.cursor(self._entries)
        if record[0] == "truncate":
            if record[1] <= last and cursor.set_range(_NUMBER.pack(max(record[1], 0))):
                while cursor.delete():
                    pass
        elif record[0] == "cut":
            bound = _NUMBER.pack(max(record[1], 0))
            present = cursor.first()
            while present and cursor.key() < bound:
                cursor.delete()
                present = bool(cursor.key())
            failpoints.reach("log.cut")
        return int.from_bytes(cursor.key()) if cursor.last() else None

    def _become(self, health: Health, reason: str) -> None:
        if self.health != health:
            with self._settled:
                self.health = health
                self._reason = reason
                self._settled.notify_all()
            self.on_health(health, reason)

    # --- parts

    def _databases(self) -> tuple[Database, Database]:
        return self._env.database("entries"), self._env.database("meta")

    def _read(self, transaction: Transaction) -> Iterator[Entry]:
        """All entries in order, each checked."""
        last: int | None = None
        for key, value in transaction.cursor(self._entries):
            entry = read_entry(self._path, key, value, last)
            last = entry[1]
            yield entry

    def _numbers(self, transaction: Transaction) -> tuple[int, str | None, int]:
        """Term, vote and commit index, checked."""
        term, vote = read_number(self._path, "vote", transaction.get(b"vote", db=self._meta))
        commit, _ = read_number(self._path, "commit", transaction.get(b"commit", db=self._meta))
        return term, vote, commit


def read_entry(path: Path, key: bytes, value: bytes, last: int | None) -> Entry:
    """The entry in a row of the log at `path`, which must follow index `last`. Raises `StorageFailed`."""
    index = int.from_bytes(key)
    if len(key) != _NUMBER.size or len(value) < _HEAD.size or index < 1 or (last is not None and index != last + 1):
        raise corrupt(path, f"entry {index} is torn or does not follow")
    term, checksum = _HEAD.unpack_from(value)
    command = value[_HEAD.size :]
    if crc32(command, crc32(value[:8], crc32(key))) != checksum:
        raise corrupt(path, f"entry {index} fails its checksum")
    return command, index, term


def read_number(path: Path, name: str, value: bytes | None) -> tuple[int, str | None]:
    """The number and the text in the row `name`; 0 and None without one. Raises `StorageFailed`."""
    if value is None:
        return 0, None
    if len(value) < _HEAD.size or _sealed(_NUMBER.unpack_from(value)[0], value[_HEAD.size :]) != value:
        raise corrupt(path, f"the {name} fails its checksum")
    try:
        return _NUMBER.unpack_from(value)[0], value[_HEAD.size :].decode() or None
    except UnicodeDecodeError as error:
        raise corrupt(path, f"the {name} names nobody") from error


def sealed_entry(entry: Entry) -> tuple[bytes, bytes]:
    """The row of an entry: key and value."""
    command, index, term = entry
    key = _NUMBER.pack(index)
    return key, _HEAD.pack(term, crc32(command, crc32(_NUMBER.pack(term), crc32(key)))) + command


def _sealed(number: int, text: bytes) -> bytes:
    return _HEAD.pack(number, crc32(text, crc32(_NUMBER.pack(number)))) + text
