"""The configuration as a program sees it: `node.config`.

Keys are segments joined by `/`; values are None, bool, int, float, str, bytes, lists and dicts of these. Every change
gets the next revision of the cluster, and is kept with who made it, where, when and why. A key has one of three classes:

    a/b            the cluster's: the same on every node
    nodes/mx2/a/b  an override: what a/b is on the node mx2; kept and seen by all nodes
    local/a/b      a node's own (`node.config.local`): not in the log, and refused for the cluster (R6)

`get` gives what applies on this node.

Errors: changes raise `Unavailable` (not made), `OutcomeUnknown` (may be), `Rejected` (never), whose kinds are in
`config.rules`: `RevisionMismatch` when it was conditional and the key has changed, `InvalidValue`, `ValueTooLarge`,
`CyclicValue`, `NodeLocal`. A value of more than `CONFIG_INLINE_BYTES` is uploaded in parts first, which takes its time from
the same deadline; nobody sees any of it before the change is made, and then all of it. Reads raise `Unavailable` when they cannot be as fresh as asked for.

Thread: every method may be called from any thread, but never from a node's callback: they wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config.applying import Apply, Applying
from raftcluster.config.chain import Proof
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
from raftcluster.config.rules import (
    BlobMissing,
    RevisionMismatch,
    ValueTooLarge,
    canonical,
    check_key,
    check_note,
    check_prefix,
    check_revision,
    is_local,
    named,
    override,
    pack_value,
    weigh,
)
from raftcluster.config.typed import Typed
from raftcluster.config.uploads import Uploads
from raftcluster.config.watch import AsyncWatch, Changes, ReadPage, Watch
from raftcluster.errors import Rejected, Unavailable
from raftcluster.host import Consistency, Host
from raftcluster.iteration import Followers
from raftcluster.machine import ReadTables
from raftcluster.twins import twin


class Config:
    """See the head of the file. `deadline` is in seconds everywhere; of a change by default `CALL_SECONDS`, and one more for
    each `CONFIG_PART_BYTES` that it sets."""

    def __init__(self, host: Host, local: LocalRows) -> None:
        """`local` is where the keys below `local/` are kept; `close` closes it."""
        self._host = host
        self._rows = local
        self._typed, self._past, self._applying, self._uploads = Typed(host), Past(host), Applying(host), Uploads(host)
        self.local = Local(local)
        self._followers = Followers()
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
        deadline: float | None = None,
    ) -> int:
        """Set `key` on all nodes, or with `node` on the node of that name only; the revision of this change.

        With `expect_revision` only if the key is at that revision still (0: not set). A key below `local/` is refused
        (`NodeLocal`).
        """
        key = _at(node, key)
        conditions = [] if expect_revision is None else [[key, "revision", expect_revision]]
        return self.transact(conditions, [["set", key, value]], reason=reason, author=author, deadline=deadline)

    aset = twin(set)  # noqa: A003

    def delete(
        self,
        key: str,
        *,
        node: str | None = None,
        reason: str = "",
        author: str = "",
        expect_revision: int | None = None,
        deadline: float | None = None,
    ) -> int:
        """Remove `key`, or with `node` that node's override; its history stays. The revision of this change.

        `Rejected` when it is not set.
        """
        key = _at(node, key)
        conditions = [] if expect_revision is None else [[key, "revision", expect_revision]]
        return self.transact(conditions, [["delete", key]], reason=reason, author=author, deadline=deadline)

    adelete = twin(delete)

    def transact(
        self,
        conditions: Sequence[Sequence[Value]],
        changes: Sequence[Sequence[Value]],
        *,
        reason: str = "",
        author: str = "",
        deadline: float | None = None,
    ) -> int:
        """Make all of `changes` when all of `conditions` hold, or nothing; the one revision of them all.

        A condition is (key, "revision", the key's revision; 0 when it is not set) or (key, "value", its value), a change
        ("set", key, value) or ("delete", key); at most `TRANSACTION_KEYS` of each, `TRANSACTION_BYTES` together. Raises
        `RevisionMismatch` when a condition does not hold, `InvalidValue` when a schema does not take a value.
        """
        started = time.monotonic()
        wanted, packed = _checked(changes)
        if deadline is None:
            deadline = limits.CALL_SECONDS + sum(map(len, packed.values())) / limits.CONFIG_PART_BYTES
        end = started + deadline
        compared = self._compared(conditions)
        check_note(author, reason)
        self._typed.check(wanted)
        while True:
            sent = self._uploads.uploaded(wanted, packed, len(codec.pack(compared)), end)
            command = ["transact", compared, sent, author, reason, self._host.name]
            left = end - time.monotonic()
            if left <= 0:
                raise Unavailable("the time for a change was over before it was sent", subject=NAME, remedy="ask again")
            try:
                return int(self._host.propose(NAME, command, deadline=left))
            except Rejected as error:
                if error.code != BlobMissing.code:  # else somebody was the last to refer to it, a moment ago
                    raise named(error) from error

    atransact = twin(transact)

    def _compared(self, conditions: Sequence[Sequence[Value]]) -> list[list[Value]]:
        """`conditions` as they are proposed. A large value is compared here, and stands for its revision then."""
        compared: list[list[Value]] = []
        for condition in conditions:
            match condition:
                case [key, "revision", expected]:
                    check_key(key)
                    check_revision(expected)
                case [key, "value", expected]:
                    check_key(key)
                    if len(pack_value(expected)) > limits.CONFIG_INLINE_BYTES:
                        entry = self.entry(key, consistency="linearizable")
                        if entry is None or canonical(entry.value) != canonical(expected):
                            raise RevisionMismatch(f"{key} has not the expected value", subject=key)
                        condition = [key, "revision", entry.revision]
                case _:
                    raise Rejected(
                        f"{condition!r:.80} is no condition", subject=NAME, remedy="compare revision or value"
                    )
            compared.append(list(condition))
        return compared

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

    aregister = twin(register)

    def load(self, prefix: str, *, node: str | None = None, consistency: Consistency = "local") -> Any:
        """The registered type of `prefix` with what applies on this node, or on `node`, and its defaults for the rest."""
        return self._typed.load(prefix, self._host.name if node is None else node, consistency)

    aload = twin(load)

    def schemas(self, *, consistency: Consistency = "local") -> list[Schema]:
        """What was registered, by prefix."""
        return self._typed.schemas(consistency)

    aschemas = twin(schemas)

    def apply(self, prefix: str, apply: Apply) -> None:
        """Have `apply(values, revision)` called with all values that apply on this node below `prefix`, by key: soon, and
        after each change, in a thread of this node. What it raises all nodes see as the reason why this one trails
        (`reports`); it is called again then, after 1 s and later ones. It must bear the same values twice."""
        self._applying.add(prefix, apply)

    def reports(self, *, consistency: Consistency = "local") -> list[Report]:
        """How far each node that applies anything (`apply`) has come, and why no farther."""
        return self._host.query(NAME, lambda tables, _: read_reports(tables), consistency=consistency)

    areports = twin(reports)

    def log(self, prefix: str = "", *, limit: int = 100, before: int | None = None) -> list[Entry]:
        """The newest `limit` changes of keys with `prefix`, newest first; with `before` those of earlier revisions. What was
        changed by one revision is never parted, so there may be more: go on before the last one's revision."""
        return self._past.log(prefix, limit, before)

    alog = twin(log)

    def verify(self) -> Proof:
        """Whether all that this node has of the configuration's past is what it was: each change is bound to the one before
        by its digest (`config.chain`). `Proof.digest` is the same on every node at the same revision."""
        return self._past.verify()

    averify = twin(verify)

    def revision_at(self, moment: float) -> int:
        """The newest revision that was made until `moment`, seconds since the epoch in cluster time. Raises `Forgotten` when
        that is no longer listed."""
        if not 0 <= moment < limits.TIME_MS / 1000:
            raise Rejected(f"{moment!r:.40} is no time", subject="time", remedy="seconds since 1970")
        return self._past.revision_at(math.floor(moment * 1000))

    arevision_at = twin(revision_at)

    def at(self, revision: int, prefix: str = "") -> dict[str, Entry]:
        """What was set at `revision`, by key. Raises `Forgotten` when that is no longer kept."""
        return self._past.at(revision, prefix)

    aat = twin(at)

    def diff(self, first: int, second: int | None = None, prefix: str = "") -> list[Difference]:
        """The keys whose values are not the same at two revisions; `second` is the newest by default."""
        return self._past.diff(first, second, prefix)

    adiff = twin(diff)

    def rollback(
        self,
        revision: int,
        prefix: str = "",
        *,
        reason: str = "",
        author: str = "",
        deadline: float | None = None,
    ) -> int:
        """Make all keys with `prefix` what they were at `revision`, as one change whose revision is returned; 0 when they
        are that. Raises `RevisionMismatch`, and changes nothing, when somebody changes one of them meanwhile."""
        conditions, changes = way_back(self.diff(revision, None, prefix))
        if not changes:
            return 0
        return self.transact(conditions, changes, reason=reason, author=author, deadline=deadline)

    arollback = twin(rollback)

    def get(self, key: str, default: Value = None, *, consistency: Consistency = "local") -> Value:
        """What `key` is on this node: its override, else the cluster's value, else `default`."""
        if is_local(key):
            return self.local.get(key, default)
        entry = self.effective(key, consistency=consistency)
        return default if entry is None else entry.value

    aget = twin(get)

    def effective(self, key: str, *, node: str | None = None, consistency: Consistency = "local") -> Entry | None:
        """What applies on `node` (a name; by default this one); `Entry.key` tells an override from the cluster's value."""
        check_key(key)
        own = override(self._host.name if node is None else node, key)

        def read(tables: ReadTables, now: int) -> Entry | None:
            return read_entry(tables, own) or read_entry(tables, key)

        return self._host.query(NAME, read, consistency=consistency)

    aeffective = twin(effective)

    def entry(self, key: str, *, consistency: Consistency = "local") -> Entry | None:
        """The cluster's value of `key` with its revision, author, reason, node and time."""
        check_key(key)
        return self._host.query(NAME, lambda tables, _: read_entry(tables, key), consistency=consistency)

    aentry = twin(entry)

    def history(
        self, key: str, limit: int = limits.HISTORY_REVISIONS, *, consistency: Consistency = "local"
    ) -> list[Entry]:
        """The newest `limit` versions of `key`, newest first; `deleted` is true where it was removed."""
        check_key(key)
        return self._host.query(NAME, lambda tables, _: read_history(tables, key, limit), consistency=consistency)

    ahistory = twin(history)

    def keys(self, prefix: str = "", *, consistency: Consistency = "local") -> list[str]:
        """All keys that begin with `prefix`, in order: the cluster's and all overrides, or below `local/` this node's.

        With more than `SCAN_ROWS` of them, not of one moment.
        """
        check_prefix(prefix)
        if is_local(prefix):
            return self.local.keys(prefix)
        found: list[str] = []
        while True:
            after = found[-1] if found else ""
            page = self._host.query(NAME, _keys_after(prefix, after), consistency=consistency)
            found += page
            if len(page) < limits.SCAN_ROWS:
                return found

    akeys = twin(keys)

    def revision(self, *, consistency: Consistency = "local") -> int:
        """The revision of the newest change of any key; 0 when there was none."""
        return self._host.query(NAME, lambda tables, _: read_revision(tables), consistency=consistency)

    arevision = twin(revision)

    def watch(self, prefix: str = "", since: int | None = None) -> Watch:
        """Every change of keys that begin with `prefix`, in order, once, after revision `since` (default: from now on).

        Iterating waits for the next change. It ends when the watch or the node is closed, and raises `FellBehind` when
        changes that were not seen yet are no longer kept, or `Rejected` when there is no revision `since` in the cluster yet:
        what happens until then would be missed. A node that trails waits until it can tell.
        """
        return self._followers.add(Watch(self._changes(prefix, since)))

    def awatch(self, prefix: str = "", since: int | None = None) -> AsyncWatch:
        """The same for `async for`, in a running loop. It begins with `async with` or the first step."""
        return self._followers.add(AsyncWatch(self._changes(prefix, since)))

    def close(self) -> None:
        """End all watches, and what is kept for this node alone. Idempotent; `Node.close` does it."""
        self._followers.close()
        self._applying.close()
        self._rows.close()

    def _applied(self, index: int) -> None:
        self._followers.signal()
        self._applying.wake()

    def _changes(self, prefix: str, since: int | None) -> Changes:
        check_prefix(prefix)
        if since is not None:
            check_revision(since)

        def confirm(revision: int) -> None:
            if revision > self.revision() and revision > (last := self.revision(consistency="linearizable")):
                raise Rejected(f"there is no revision {revision} yet", subject="watch", remedy=f"the newest is {last}")

        return Changes(self._reader(prefix), self.revision if since is None else lambda: since, confirm)

    def _reader(self, prefix: str) -> ReadPage:
        def read(after: int, limit: int) -> Page | None:
            return self._host.query(NAME, lambda tables, _: read_changes(tables, prefix, after, limit))

        return read


def _checked(changes: Sequence[Sequence[Value]]) -> tuple[list[list[Value]], dict[int, bytes]]:
    """`changes` as lists, and the values of those that set something, packed, by number."""
    packed: dict[int, bytes] = {}
    total = 0
    for number, change in enumerate(changes):
        match change:
            case ["set", key, value]:
                check_key(key)
                packed[number], items = weigh(value)
                total += items
            case ["delete", key]:
                check_key(key)
            case _:
                raise Rejected(f"{change!r:.80} is no change of a key", subject=NAME, remedy="set or delete one")
    if sum(map(len, packed.values())) > limits.TRANSACTION_BYTES or total > limits.TRANSACTION_ITEMS:
        raise ValueTooLarge(
            f"more than {limits.TRANSACTION_BYTES} bytes or {limits.TRANSACTION_ITEMS} items in one transaction",
            subject=NAME,
            remedy="change fewer keys at once",
        )
    return [list(each) for each in changes], packed


def _at(node: str | None, key: str) -> str:
    return key if node is None else override(node, key)


def _keys_after(prefix: str, after: str) -> Callable[[ReadTables, int], list[str]]:
    return lambda tables, _: read_keys(tables, prefix, after, limits.SCAN_ROWS)
