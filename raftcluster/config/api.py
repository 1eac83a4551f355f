"""The configuration as a program sees it: `node.config`.

Keys are segments joined by `/`; values are None, bool, int, float, str, bytes, lists and dicts of these. Every change
gets the next revision of the cluster, and is kept with who made it, where, when and why. Keys below `local/` are not
shared (R6): setting one for the cluster is refused.

Errors: changes raise `Unavailable` (not made), `OutcomeUnknown` (may be), `Rejected` (never; code `revision-mismatch`
when it was conditional and the key has changed). Reads raise `Unavailable` when they cannot be as fresh as asked for.

Thread: every method may be called from any thread, but never from a node's callback: they wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakSet

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.config.machine import (
    NAME,
    Entry,
    Page,
    read_changes,
    read_entry,
    read_history,
    read_keys,
    read_revision,
)
from raftcluster.config.rules import check_key, check_note, pack_value
from raftcluster.config.watch import AsyncWatch, ReadPage, Watch
from raftcluster.host import Consistency, Host
from raftcluster.machine import ReadTables


class Config:
    """See the head of the file. `deadline` is in seconds everywhere."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._watches: WeakSet[Watch | AsyncWatch] = WeakSet()  # one that nobody holds any more is gone
        self._lock = threading.Lock()
        host.on_apply(NAME, self._applied)

    def set(
        self,
        key: str,
        value: Value,
        *,
        reason: str = "",
        author: str = "",
        expect_revision: int | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Set `key` on all nodes; the revision of this change.

        With `expect_revision` only if the key is at that revision still (0: not set).
        """
        check_key(key)
        check_note(author, reason)
        pack_value(value)
        command = ["set", key, value, author, reason, self._host.name, expect_revision]
        revision: int = self._host.propose(NAME, command, deadline=deadline)
        return revision

    def delete(
        self,
        key: str,
        *,
        reason: str = "",
        author: str = "",
        expect_revision: int | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Remove `key` on all nodes, its history stays; the revision of this change. `Rejected` when it is not set."""
        check_key(key)
        check_note(author, reason)
        command = ["delete", key, author, reason, self._host.name, expect_revision]
        revision: int = self._host.propose(NAME, command, deadline=deadline)
        return revision

    def get(self, key: str, default: Value = None, *, consistency: Consistency = "local") -> Value:
        """The value of `key`, or `default` when it is not set."""
        entry = self.entry(key, consistency=consistency)
        return default if entry is None else entry.value

    def entry(self, key: str, *, consistency: Consistency = "local") -> Entry | None:
        """The value of `key` with its revision, author, reason, node and time."""
        check_key(key)
        return self._host.query(NAME, lambda tables, _: read_entry(tables, key), consistency=consistency)

    def history(
        self, key: str, limit: int = limits.HISTORY_REVISIONS, *, consistency: Consistency = "local"
    ) -> list[Entry]:
        """The newest `limit` versions of `key`, newest first; `deleted` is true where it was removed."""
        check_key(key)
        return self._host.query(NAME, lambda tables, _: read_history(tables, key, limit), consistency=consistency)

    def keys(self, prefix: str = "", *, consistency: Consistency = "local") -> list[str]:
        """All keys that begin with `prefix`, in order. With more than `SCAN_ROWS` of them, not of one moment."""
        found: list[str] = []
        while True:
            after = found[-1] if found else ""
            page = self._host.query(NAME, _keys_after(prefix, after), consistency=consistency)
            found += page
            if len(page) < limits.SCAN_ROWS:
                return found

    def revision(self, *, consistency: Consistency = "local") -> int:
        """The revision of the newest change of any key; 0 when there was none."""
        return self._host.query(NAME, lambda tables, _: read_revision(tables), consistency=consistency)

    def watch(self, prefix: str = "", since: int | None = None) -> Watch:
        """Every change of keys that begin with `prefix`, in order, once, after revision `since` (default: from now on).

        Iterating waits for the next change. It ends when the watch or the node is closed, and raises `FellBehind` when
        changes that were not seen yet are no longer kept.
        """
        watch = Watch(self._reader(prefix), self.revision() if since is None else since)
        self._follow(watch)
        return watch

    def awatch(self, prefix: str = "", since: int | None = None) -> AsyncWatch:
        """The same for `async for`, in a running loop. Without `since`, from `async with` or the first step on."""
        watch = AsyncWatch(self._reader(prefix), self.revision, since)
        self._follow(watch)
        return watch

    def close(self) -> None:
        """End all watches. Idempotent; `Node.close` does it."""
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.close()

    def _follow(self, watch: Watch | AsyncWatch) -> None:
        with self._lock:
            self._watches.add(watch)

    def _applied(self, index: int) -> None:
        with self._lock:
            for watch in self._watches:
                watch.signal()

    def _reader(self, prefix: str) -> ReadPage:
        def read(after: int, limit: int) -> Page | None:
            return self._host.query(NAME, lambda tables, _: read_changes(tables, prefix, after, limit))

        return read


def _keys_after(prefix: str, after: str) -> Callable[[ReadTables, int], list[str]]:
    return lambda tables, _: read_keys(tables, prefix, after, limits.SCAN_ROWS)
