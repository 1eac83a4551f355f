"""The only file that imports lmdb: how an environment is opened, and what its errors mean.

Sorted by what the store may do next:

* `StorageFull`: the transaction was aborted, nothing has changed, trying again later is safe. Map full, no space or quota
  left, and a file system within `DISK_RESERVE_BYTES` of it: LMDB reports a write that the last free bytes cut short as
  EIO, which must not look like a broken disk, so the edge is kept at a distance.
* `StorageFailed`: anything else, above all a failed fsync. What is on the disk is unknown to this process, for ever:
  after a failed fsync Linux marks the pages clean, and the next fsync reports a success that is none. Latched by callers.
* `Rejected`: a key or a table that LMDB cannot hold; only foreign input (a snapshot) gets that far.

Durability is LMDB's default: pages, fdatasync, then the root page through a descriptor opened with O_DSYNC.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import lmdb

from raftcluster import limits
from raftcluster.errors import MissingPrivilege, RaftclusterError, Rejected, StorageFailed, StorageRefusal
from raftcluster.storage import disk
from raftcluster.storage.directory import sync_directory

if TYPE_CHECKING:
    from lmdb import _Database

    Database: TypeAlias = _Database
    Transaction: TypeAlias = lmdb.Transaction[bytes]

LmdbError: Final = lmdb.Error

_NOT_OURS: Final = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError)
_FULL: Final = (lmdb.MapFullError, lmdb.DiskError)
_UNFIT: Final = (lmdb.BadValsizeError, lmdb.DbsFullError)


class Environment:
    """One LMDB environment in a directory of its own.

    Thread: one thread writes; any may read. `close` only when no other thread is inside a call. Not after a fork.
    """

    def __init__(self, path: Path, map_bytes: int, *, read_ahead: bool = True) -> None:
        """Open or create. Raises `StorageFailed` for a file that is no healthy environment, `StorageFull` when even an
        empty one does not fit, `MissingPrivilege` when this user may not."""
        self.path = path
        self._read_ahead = read_ahead
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except PermissionError as error:
            raise MissingPrivilege(f"cannot create {path}", subject=str(path), remedy="run as its owner") from error
        except OSError as error:
            raise StorageRefusal(f"cannot create {path}: {error.strerror}", subject=str(path)) from error
        self._env = self._opened(map_bytes)
        try:
            sync_directory(path)  # LMDB syncs its files and not their names, which POSIX wants apart
        except OSError as error:
            self._env.close()
            raise StorageFailed(f"{path} cannot be synced: {error.strerror}", subject=str(path)) from error

    @contextmanager
    def write(self, *, reserve: bool = True) -> Iterator[Transaction]:
        """A write transaction that is durable when the block ends, and aborted when it raises.

        `reserve=False` for a transaction that frees space: it may use what is kept in reserve.
        """
        if reserve and not self.has_space():
            raise disk.full(self.path, "the file system is nearly full")
        try:
            with self._env.begin(write=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise self.refusal(error) from error

    def read(self) -> Transaction:
        """A read transaction: the newest durable state, until it is aborted. Usable by one thread at a time."""
        return self._env.begin()

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A read transaction for the block. What LMDB finds corrupt is a `StorageFailed`."""
        try:
            with self._env.begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise self.refusal(error) from error

    def database(self, name: str, transaction: Transaction | None = None) -> Database:
        """The handle of a named database, created when absent. One thread at a time, the writing one; handles from an
        aborted transaction are void."""
        if transaction is not None:
            return self._env.open_db(name.encode(), txn=transaction)
        try:
            return self._env.open_db(name.encode())
        except lmdb.Error as error:
            raise self.refusal(error) from error

    def names(self) -> list[str]:
        """The named databases."""
        with self.reading() as transaction:
            return [key.decode() for key in transaction.cursor().iternext(keys=True, values=False)]

    def reopen(self) -> None:
        """Close and open. All transactions and handles are void; nobody else may be in a call meanwhile. Raises as opening does."""
        map_bytes = self.map_bytes
        self._env.close()
        self._env = self._opened(map_bytes)

    @property
    def map_bytes(self) -> int:
        """The size of the map."""
        return int(self._env.info()["map_size"])

    def has_space(self) -> bool:
        """Whether the file system has more free than the reserve."""
        return disk.has_space(self.path)

    def close(self) -> None:
        """Idempotent."""
        self._env.close()

    def _opened(self, map_bytes: int) -> lmdb.Environment:
        data = str(self.path / "data.mdb")
        # LMDB would wait for what comes out of a pipe. What the system does not tell us it tells LMDB.
        if os.path.exists(data) and not os.path.isfile(data):
            raise disk.corrupt(self.path, "data.mdb is no regular file")
        try:
            env = lmdb.open(
                str(self.path),
                map_size=map_bytes,
                max_dbs=limits.TABLES,
                max_spare_txns=1,
                readahead=self._read_ahead,
                mode=0o600,
            )
            env.reader_check()  # slots of killed processes would keep old pages from being reused
        except lmdb.Error as error:
            raise self.refusal(error) from error
        try:
            self._lengthen(env)
        except OSError as error:
            env.close()
            raise disk.corrupt(self.path, f"its length cannot be right: {error.strerror}") from error
        return env

    def _lengthen(self, env: lmdb.Environment) -> None:
        """A file cut short would kill the process with SIGBUS when its map is read; zeros are found to be corrupt.

        A healthy file may lack its last pages, when they were freed before they were ever written.
        """
        size = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        data = self.path / "data.mdb"
        if data.stat().st_size < size:
            os.truncate(data, size)

    def refusal(self, error: lmdb.Error) -> RaftclusterError:
        """What `error` means, sorted as above."""
        reason = str(error)
        if isinstance(error, _FULL) or reason.endswith(os.strerror(errno.EDQUOT)):
            return disk.full(self.path, reason)
        if reason.endswith(os.strerror(errno.EIO)) and not self.has_space():
            return disk.full(self.path, reason)
        if isinstance(error, _UNFIT):
            return Rejected(f"{self.path} cannot hold it: {reason}", subject=str(self.path))
        if isinstance(error, _NOT_OURS):
            return disk.corrupt(self.path, reason)
        if reason.endswith((os.strerror(errno.EACCES), os.strerror(errno.EPERM), os.strerror(errno.EROFS))):
            return disk.forbidden(self.path, reason)
        return disk.failed(self.path, f"writing {self.path} failed: {reason}")
