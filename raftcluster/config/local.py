"""The keys below `local/`: a node's own, kept beside the cluster's configuration and never in the log (R6)."""

from __future__ import annotations

from typing import Protocol

from raftcluster.codec import Value, unpack
from raftcluster.config.rules import check_local_key, pack_value
from raftcluster.errors import Rejected


class LocalRows(Protocol):
    """Where they are kept: `storage.local.LocalStore`."""

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> bool: ...

    def keys(self, prefix: bytes) -> list[bytes]: ...

    def close(self) -> None: ...


class Local:
    """Values of one node: user-interface settings, schedules. `node.config.local`.

    They have no revision and no history. Thread: any; a change is on this node's disk when its call returns. Raises
    `Rejected` for other keys and values, and what the disk raises (`StorageFull`, `StorageFailed`).
    """

    def __init__(self, rows: LocalRows) -> None:
        self._rows = rows

    def set(self, key: str, value: Value) -> None:
        """Set `key`, which begins with `local/`, on this node."""
        check_local_key(key)
        self._rows.put(key.encode(), pack_value(value))

    def delete(self, key: str) -> None:
        """Remove `key` on this node. `Rejected` when it is not set."""
        check_local_key(key)
        if not self._rows.delete(key.encode()):
            raise Rejected(f"{key} is not set on this node", subject=key)

    def get(self, key: str, default: Value = None) -> Value:
        """The value of `key`, or `default` when it is not set."""
        check_local_key(key)
        row = self._rows.get(key.encode())
        return default if row is None else unpack(row)

    def keys(self, prefix: str = "local/") -> list[str]:
        """The keys that are set here and begin with `prefix`, in order."""
        return [key.decode() for key in self._rows.keys(prefix.encode())]
