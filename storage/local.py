"""What a node keeps for itself, in an LMDB environment of its own: never in the log, a snapshot or a backup."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raftcluster import limits
from raftcluster.errors import Unavailable
from raftcluster.storage.environment import Environment

if TYPE_CHECKING:
    from raftcluster.storage.environment import Database

_VALUES: Final = "values"


class LocalStore:
    """Rows by key; each write is durable when its call returns. The environment is opened when it is first used.

    Thread: any; calls wait for each other. `close` ends it for good. Raises `StorageFull`, `StorageFailed`,
    `MissingPrivilege`, and `Unavailable` once it is closed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._opened: tuple[Environment, Database] | None = None
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        with self._lock:
            environment, values = self._open()
            with environment.reading() as transaction:
                return transaction.get(key, db=values)

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`."""
        with self._lock:
            environment, values = self._open()
            with environment.write() as transaction:
                transaction.put(key, value, db=values)

    def delete(self, key: bytes) -> bool:
        """Remove `key`; whether it was there."""
        with self._lock:
            environment, values = self._open()
            with environment.write(reserve=False) as transaction:
                return transaction.delete(key, db=values)

    @property
    def begun(self) -> bool:
        """Whether there is an environment: nothing was ever kept where there is none."""
        return self._opened is not None or (self._path / "data.mdb").exists()

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Set all of these keys, or remove those that have None, in one transaction."""
        with self._lock:
            environment, values = self._open()
            with environment.write() as transaction:
                for key, value in rows.items():
                    if value is None:
                        transaction.delete(key, db=values)
                    else:
                        transaction.put(key, value, db=values)

    def keys(self, prefix: bytes) -> list[bytes]:
        """The keys that begin with `prefix`, in order."""
        with self._lock:
            environment, values = self._open()
            found = []
            with environment.reading() as transaction:
                cursor = transaction.cursor(db=values)
                if cursor.set_range(prefix):
                    for key in cursor.iternext(keys=True, values=False):
                        if not key.startswith(prefix):
                            break
                        found.append(bytes(key))
            return found

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._closed = True
            if self._opened is not None:
                self._opened[0].close()
                self._opened = None

    def _open(self) -> tuple[Environment, Database]:
        if self._closed:
            raise Unavailable("the node is closed", subject=str(self._path))
        if self._opened is None:
            environment = Environment(self._path, limits.LOCAL_MAP_BYTES)
            try:
                self._opened = environment, environment.database(_VALUES)
            except BaseException:
                environment.close()
                raise
        return self._opened
