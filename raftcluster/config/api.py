"""The configuration as a program sees it: `node.config`.

Keys are segments joined by `/`; values are None, bool, int, float, str, bytes, lists and dicts of these. Every change
gets the next revision of the cluster, and is kept with who made it, where, when and why. A key has one of three classes:

    a/b            the cluster's: the same on every node
    nodes/mx2/a/b  an override: what a/b is on the node mx2; kept and seen by all nodes
    local/a/b      a node's own (`node.config.local`): not in the log, and refused for the cluster (R6)

`get` gives what applies on this node.

Errors: changes raise `Unavailable` (not made), `OutcomeUnknown` (may be), `Rejected` (never), whose kinds are in
`config.rules`: `RevisionMismatch` when it was conditional and the key has changed, `InvalidValue`, `ValueTooLarge`,
`CyclicValue`, `NodeLocal`. Reads raise `Unavailable` when they cannot be as fresh as asked for.

Thread: every method may be called from any thread, but never from a node's callback: they wait.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.config.applying import Apply, Applying
from raftcluster.config.local import Local, LocalRows
from raftcluster.config.machine import NAME
from raftcluster.config.past import Difference, Past, way_back
from raftcluster.config.reading import (
    Entry,
    Page,
    Report,
    Schema,
    read_changes,
    read_entry,
    read_history,
    read_keys,
    read_reports,
    read_revision,
)
from raftcluster.config.rules import check_key, check_note, is_local, named, override, pack_value
from raftcluster.config.typed import Typed
from raftcluster.config.watch import AsyncWatch, ReadPage, Watch
from raftcluster.errors import Rejected
from raftcluster.host import Consistency, Host
from raftcluster.machine import ReadTables


class Config:
    """See the head of the file. `deadline` is in seconds everywhere."""

    def __init__(self, host: Host, local: LocalRows) -> None:
        """`local` is where the keys below `local/` are kept; `close` closes it."""
        self._host = host
        self._rows = local
        self._typed, self._past, self._applying = Typed(host), Past(host), Applying(host)
        self.local = Local(local)
        self._watches: WeakSet[Watch | AsyncWatch] = WeakSet()  # one that nobody holds any more is gone
        self._lock = threading.Lock()
        host.on_apply(NAME, self._applied)

    def set(
        self,
        key: str,
        value: Value,
        *,
        node: str | None = None,
        reason: str = "",
        author: str = "",
        expect_revision: int | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Set `key` on all nodes, or with `node` on the node of that name only; the revision of this change.

        With `expect_revision` only if the key is at that revision still (0: not set). A key below `local/` is refused
        (`NodeLocal`).
        """
        key = _at(node, key)
        conditions = [] if expect_revision is None else [[key, "revision", expect_revision]]
        return self.transact(conditions, [["set", key, value]], reason=reason, author=author, deadline=deadline)

    def delete(
        self,
        key: str,
        *,
        node: str | None = None,
        reason: str = "",
        author: str = "",
        expect_revision: int | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Remove `key`, or with `node` that node's override; its history stays. The revision of this change.

        `Rejected` when it is not set.
        """
        key = _at(node, key)
        conditions = [] if expect_revision is None else [[key, "revision", expect_revision]]
        return self.transact(conditions, [["delete", key]], reason=reason, author=author, deadline=deadline)

    def transact(
        self,
        conditions: Sequence[Sequence[Value]],
        changes: Sequence[Sequence[Value]],
        *,
        reason: str = "",
        author: str = "",
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Make all of `changes` when all of `conditions` hold, or nothing; the one revision of them all.

        A condition is (key, "revision", the key's revision; 0 when it is not set) or (key, "value", its value), a change
        ("set", key, value) or ("delete", key); at most `TRANSACTION_KEYS` of each, 256 KiB together. Raises
        `RevisionMismatch` when a condition does not hold, `InvalidValue` when a schema does not take a value.
        """
        wanted = [list(each) for each in changes]
        for kind, key, *value in wanted:
            check_key(key)
            if kind == "set" and len(value) == 1:
                pack_value(value[0])
            elif kind != "delete" or value:
                raise Rejected(f"{kind!r:.40} is no change of a key", subject=key, remedy="set or delete it")
        check_note(author, reason)
        self._typed.check(wanted)
        command = ["transact", [list(each) for each in conditions], wanted, author, reason, self._host.name]
        try:
            return int(self._host.propose(NAME, command, deadline=deadline))
        except Rejected as error:
            raise named(error) from error

    def register(self, prefix: str, model: type, *, version: int = 1, deadline: float = 10.0) -> int:
        """Let the keys below `prefix` be the fields of `model`, a msgspec struct or a pydantic model, on all nodes.

        From then on every node refuses what the type does not take. Give a changed type a higher `version`: the highest
        holds, so nodes may be upgraded one by one; the version in force is returned. What must hold between fields is
        judged where a change is made, by the processes that have registered the type, against what they have applied.
        Raises `InvalidValue` when values that are set do not fit, when the type is recursive, or is another one of the
        same version.
        """
        try:
            return self._typed.register(prefix, model, version, deadline)
        except Rejected as error:
            raise named(error) from error

    def load(self, prefix: str, *, node: str | None = None, consistency: Consistency = "local") -> Any:
        """The registered type of `prefix` with what applies on this node, or on `node`, and its defaults for the rest."""
        return self._typed.load(prefix, self._host.name if node is None else node, consistency)

    def schemas(self, *, consistency: Consistency = "local") -> list[Schema]:
        """What was registered, by prefix."""
        return self._typed.schemas(consistency)

    def apply(self, prefix: str, apply: Apply) -> None:
        """Have `apply(values, revision)` called with all values that apply on this node below `prefix`, by key: soon, and
        after each change, in a thread of this node. What it raises all nodes see as the reason why this one trails
        (`reports`); it is called again then, after 1 s and later ones. It must bear the same values twice."""
        self._applying.add(prefix, apply)

    def reports(self, *, consistency: Consistency = "local") -> list[Report]:
        """How far each node that applies anything (`apply`) has come, and why no farther."""
        return self._host.query(NAME, lambda tables, _: read_reports(tables), consistency=consistency)

    def log(self, prefix: str = "", *, limit: int = 100, before: int | None = None) -> list[Entry]:
        """The newest `limit` changes of keys with `prefix`, newest first; with `before` those of earlier revisions."""
        return self._past.log(prefix, limit, before)

    def revision_at(self, time: float) -> int:
        """The newest revision that was made until `time`, seconds since the epoch in cluster time."""
        return self._past.revision_at(math.floor(time * 1000))

    def at(self, revision: int, prefix: str = "") -> dict[str, Entry]:
        """What was set at `revision`, by key. Raises `Forgotten` when that is no longer kept."""
        return self._past.at(revision, prefix)

    def diff(self, first: int, second: int | None = None, prefix: str = "") -> list[Difference]:
        """The keys whose values are not the same at two revisions; `second` is the newest by default."""
        return self._past.diff(first, second, prefix)

    def rollback(
        self,
        revision: int,
        prefix: str = "",
        *,
        reason: str = "",
        author: str = "",
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Make all keys with `prefix` what they were at `revision`, as one change whose revision is returned; 0 when they
        are that. Raises `RevisionMismatch`, and changes nothing, when somebody changes one of them meanwhile."""
        conditions, changes = way_back(self.diff(revision, None, prefix))
        if not changes:
            return 0
        return self.transact(conditions, changes, reason=reason, author=author, deadline=deadline)

    def get(self, key: str, default: Value = None, *, consistency: Consistency = "local") -> Value:
        """What `key` is on this node: its override, else the cluster's value, else `default`."""
        if is_local(key):
            return self.local.get(key, default)
        entry = self.effective(key, consistency=consistency)
        return default if entry is None else entry.value

    def effective(self, key: str, *, node: str | None = None, consistency: Consistency = "local") -> Entry | None:
        """What applies on `node` (a name; by default this one); `Entry.key` tells an override from the cluster's value."""
        own = override(self._host.name if node is None else node, key)
        check_key(key)

        def read(tables: ReadTables, now: int) -> Entry | None:
            return read_entry(tables, own) or read_entry(tables, key)

        return self._host.query(NAME, read, consistency=consistency)

    def entry(self, key: str, *, consistency: Consistency = "local") -> Entry | None:
        """The cluster's value of `key` with its revision, author, reason, node and time."""
        check_key(key)
        return self._host.query(NAME, lambda tables, _: read_entry(tables, key), consistency=consistency)

    def history(
        self, key: str, limit: int = limits.HISTORY_REVISIONS, *, consistency: Consistency = "local"
    ) -> list[Entry]:
        """The newest `limit` versions of `key`, newest first; `deleted` is true where it was removed."""
        check_key(key)
        return self._host.query(NAME, lambda tables, _: read_history(tables, key, limit), consistency=consistency)

    def keys(self, prefix: str = "", *, consistency: Consistency = "local") -> list[str]:
        """All keys that begin with `prefix`, in order: the cluster's and all overrides, or below `local/` this node's.

        With more than `SCAN_ROWS` of them, not of one moment.
        """
        if is_local(prefix):
            return self.local.keys(prefix)
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
        """End all watches, and what is kept for this node alone. Idempotent; `Node.close` does it."""
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.close()
        self._applying.close()
        self._rows.close()

    def _follow(self, watch: Watch | AsyncWatch) -> None:
        with self._lock:
            self._watches.add(watch)

    def _applied(self, index: int) -> None:
        with self._lock:
            for watch in self._watches:
                watch.signal()
        self._applying.wake()

    def _reader(self, prefix: str) -> ReadPage:
        def read(after: int, limit: int) -> Page | None:
            return self._host.query(NAME, lambda tables, _: read_changes(tables, prefix, after, limit))

        return read


def _at(node: str | None, key: str) -> str:
    return key if node is None else override(node, key)


def _keys_after(prefix: str, after: str) -> Callable[[ReadTables, int], list[str]]:
    return lambda tables, _: read_keys(tables, prefix, after, limits.SCAN_ROWS)
