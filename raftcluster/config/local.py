"""The keys below `local/`: a node's own, kept beside the cluster's configuration and never in the log (R6)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from raftcluster.codec import Value, unpack
from raftcluster.config.rules import check_local_key, pack_value
from raftcluster.errors import Rejected


class LocalRows(Protocol):
    """Where they are kept: `storage.local.LocalStore`."""

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> bool: ...

    def keys(self, prefix: bytes) -> list[bytes]: ...

    @property
    def begun(self) -> bool: ...

    def close(self) -> None: ...


class Guard(NamedTuple):
    """Who judges the keys below a prefix, and is told when they have changed."""

    prefix: str
    check: Callable[[Mapping[str, Value]], object]
    changed: Callable[[], None]


class Local:
    """Values of one node: user-interface settings, schedules. `node.config.local`.

    They have no revision and no history. Thread: any; a change is on this node's disk when its call returns. Raises
    `Rejected` for other keys and values, and what the disk raises (`StorageFull`, `StorageFailed`).
    """

    def __init__(self, rows: LocalRows) -> None:
        self._rows = rows
        self._guards: list[Guard] = []
        self._lock = threading.RLock()  # what was judged is what is written

    def guard(self, prefix: str, check: Callable[[Mapping[str, Value]], object], changed: Callable[[], None]) -> None:
        """From now on `check` judges what would be set below `prefix`, all of it, before each change there: it raises `Rejected`.
        `changed` is called behind it, on the thread of who has changed it."""
        self._guards.append(Guard(prefix, check, changed))

    def set(self, key: str, value: Value) -> None:
        """Set `key`, which begins with `local/`, on this node. Raises `Rejected` when whom it is for does not take it."""
        check_local_key(key)
        packed = pack_value(value)
        with self._lock:
            guards = self._judge(key, {key: unpack(packed)})
            self._rows.put(key.encode(), packed)
        for each in guards:
            each.changed()

    def delete(self, key: str) -> None:
        """Remove `key` on this node. `Rejected` when it is not set."""
        check_local_key(key)
        with self._lock:
            guards = self._judge(key, {})
            if not self._rows.delete(key.encode()):
                raise Rejected(f"{key} is not set on this node", subject=key)
        for each in guards:
            each.changed()

    def get(self, key: str, default: Value = None) -> Value:
        """The value of `key`, or `default` when it is not set."""
        check_local_key(key)
        row = self._rows.get(key.encode())
        return default if row is None else unpack(row)

    def keys(self, prefix: str = "local/") -> list[str]:
        """The keys that are set here and begin with `prefix`, in order."""
        return [key.decode() for key in self._rows.keys(prefix.encode())]

    def values(self, prefix: str) -> dict[str, Value]:
        """All that is set here below `prefix`. Where nothing was ever set, nothing is opened for it."""
        rows = self._rows.keys(prefix.encode()) if self._rows.begun else []
        found = ((key, self._rows.get(key)) for key in rows)
        return {key.decode(): unpack(row) for key, row in found if row is not None}

    def _judge(self, key: str, change: Mapping[str, Value]) -> list[Guard]:
        """Those whom a change of `key` concerns, all of whom agree."""
        guards = [each for each in self._guards if key.startswith(each.prefix)]
        for each in guards:
            kept = self.values(each.prefix)
            kept.pop(key, None)
            each.check({**kept, **change})
        return guards
