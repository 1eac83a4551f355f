"""The greylist's lists as a program sees them: `node.greylist.lists`.

Who is never greylisted, who always is, and which recipients have it at all: see `lists.rules`. The entries are the
cluster's; each node holds those that it has applied in memory, so that a check costs no look-up elsewhere, and works
without a quorum, too. A change is seen by the next check at the node that made it, at the others when they have applied it.

Errors: changes raise `Rejected` (code `entry-exists` where it matters), `Unavailable` or `OutcomeUnknown`.
Thread: every method may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import OutcomeUnknown, Rejected, StorageRefusal, Unavailable
from raftcluster.greylist.lists.book import Book, Ruling
from raftcluster.greylist.lists.judging import Judged, judge
from raftcluster.greylist.lists.machine import (
    LIFETIME_MAX,
    NAME,
    Change,
    has_entry,
    read_changes,
    read_entries,
    read_revision,
)
from raftcluster.greylist.lists.rules import Entry, Question, check_effect, list_of, normal_name, normal_pattern
from raftcluster.greylist.rules import normal_recipient, normal_sender
from raftcluster.host import Consistency, Host
from raftcluster.machine import ReadTables
from raftcluster.twins import twin

CLOCK_SECONDS: Final = 60.0  # within it the node's clock and the cluster's differ by 3 s at most (limits.CLOCK_SLEW)
READ_SECONDS: Final = 0.2  # a check waits no longer for the lists than this ...
RETRY_SECONDS: Final = 1.0  # ... and goes on with those that it knows for so long

_CANNOT_READ: Final = (Unavailable, OutcomeUnknown, StorageRefusal)


class Lists:
    """See the head of the file. `deadline` is in seconds."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        """Never held while the tick thread is waited for: checks come from there, too."""
        self._book = Book((), 0)
        self._read_at = (-1, 0)
        """Revision and cluster time of the book."""
        self._stale = True
        self.speak = True
        """False: there is certainly no entry, `rule` need not be asked."""
        self._retry = 0.0
        """After a failure: when to try again, by the node's own clock."""
        self._look: float | None = None
        """When the time must be looked at again, by the node's own clock: an entry may have expired."""
        host.on_apply(NAME, self._applied)

    def add(
        self,
        effect: str,
        kind: str,
        pattern: str,
        *,
        comment: str = "",
        author: str = "",
        reason: str = "",
        lifetime: float | None = None,
        replace: bool = False,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Add an entry that lives for `lifetime` seconds, or for ever; the lists' new revision.

        Where there is one with this kind and pattern -- allow and greylist exclude each other, opt-in and opt-out too --
        it must be said that it is replaced.
        """
        entry = {"effect": effect, "kind": kind, "pattern": pattern, "comment": comment, "lifetime": lifetime}
        return self.add_all([entry], author=author, reason=reason, replace=replace, deadline=deadline)

    aadd = twin(add)

    def add_all(
        self,
        entries: Iterable[Mapping[str, Value]],
        *,
        author: str = "",
        reason: str = "",
        replace: bool = False,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Add up to 500 entries, all or none: `effect`, `kind`, `pattern`, and if wanted `comment`, `lifetime`."""
        command = ["add", [_item(entry) for entry in entries], author, self._host.name, reason, replace]
        return self._change(command, deadline)

    aadd_all = twin(add_all)

    def remove(
        self,
        effect: str,
        kind: str,
        pattern: str,
        *,
        author: str = "",
        reason: str = "",
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Remove an entry; the new revision. `Rejected` when there is none."""
        check_effect(effect, kind)
        which = list_of(effect)  # an entry of an earlier version may be written as none can be added any more
        kept = self._host.query(NAME, lambda tables, _: has_entry(tables, which, kind, pattern))
        items = [[which, kind, pattern if kept else normal_pattern(kind, pattern)]]
        return self._change(["remove", items, author, self._host.name, reason], deadline)

    aremove = twin(remove)

    def changes(self, *, after: int = 0, limit: int = limits.SCAN_ROWS) -> list[Change]:
        """Up to `limit` changes of the lists behind the revision `after`, in order: who, when, from where, why."""
        return self._host.query(NAME, lambda tables, _: read_changes(tables, after, limit))

    achanges = twin(changes)

    def show(
        self, *, after: str = "", limit: int = limits.SCAN_ROWS, consistency: Consistency = "local"
    ) -> dict[str, Value]:
        """A page of up to `limit` entries, expired ones too: `entries`, and `next`, to be given as `after` for the next
        page, empty behind the last one."""
        if not 0 < limit <= limits.SCAN_ROWS:
            raise Rejected(f"a page has 1 to {limits.SCAN_ROWS} entries, not {limit}", subject="limit")

        def read(tables: ReadTables, now: int) -> tuple[list[Entry], bytes, int]:
            return *read_entries(tables, after.encode("utf-8", "replace"), limit), now

        entries, reached, now = self._host.query(NAME, read, consistency=consistency)
        more = reached.decode() if len(entries) == limit else ""
        return {"entries": [_shown(entry, now) for entry in entries], "next": more}

    ashow = twin(show)

    def test(
        self,
        *,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        client_name: str | None = None,
        opted_in_only: bool = False,
    ) -> dict[str, Value]:
        """What the lists say about such a mail: `rule`, as in `book.Ruling`, and every entry with `matches`, `decides` and
        `why`: those that match first."""
        question = _question(client, client_name, sender, recipient)
        entries, _, now = self._read()
        ruling = Book(entries, now).rule(question, opted_in_only)
        judged = sorted((judge(entry, question, ruling, now) for entry in entries), key=_interest)
        return {"rule": ruling.rule, "entries": [_told(each, now) for each in judged]}

    atest = twin(test)

    def ruling(
        self,
        client: str,
        client_name: str | None,
        sender: str | bytes,
        recipient: str | bytes,
        opted_in_only: bool,
        consistency: Consistency = "local",
    ) -> Ruling:
        """What the lists say about such a mail, read from the tables."""
        entries, _, now = self._read(consistency=consistency)
        return Book(entries, now).rule(_question(client, client_name, sender, recipient), opted_in_only)

    def revision(self, *, consistency: Consistency = "local") -> int:
        """How often the lists were changed."""
        return self._host.query(NAME, lambda tables, _: read_revision(tables), consistency=consistency)

    @property
    def due(self) -> bool:
        """Whether `refresh` has something to do."""
        if self._stale:
            return time.monotonic() >= self._retry
        return self._look is not None and time.monotonic() > self._look

    def rule(
        self, client: str, name: str | None, sender: bytes, recipient: bytes, opted_in_only: bool
    ) -> Ruling | None:
        """What the lists say about a check, or None when there is nothing in them. The addresses are in normal form.

        Waits only for the first check after a change, until the tick thread has a moment. Raises `Rejected` when the
        client is no address.
        """
        if self.due:
            self.refresh()
        book = self._book
        if book.empty and not opted_in_only:
            return None
        return book.rule(Question(client, normal_name(name), sender, recipient), opted_in_only)

    def _change(self, command: Value, deadline: float) -> int:
        revision: int = self._host.propose(NAME, command, deadline=deadline)
        self._applied(0)  # whoever was told of the change first: the next check here sees it
        return revision

    def _applied(self, index: int) -> None:
        self._stale = self.speak = True

    def refresh(self) -> None:
        """Read the entries that are in force now; until the node can read, those that were stay."""
        stale, self._stale = self._stale, False  # before it is read: a change meanwhile makes it stale again
        try:
            book, read_at = self._book, self._read_at
            now = self._host.query(NAME, lambda _, now: now, deadline=READ_SECONDS)
            if stale or (book.expires is not None and now >= book.expires):
                entries, revision, now = self._read(READ_SECONDS)
                book, read_at = Book(entries, now), (revision, now)
        except _CANNOT_READ:
            self._retry = time.monotonic() + RETRY_SECONDS
            self._stale = self._stale or stale
            return
        with self._lock:
            if read_at >= self._read_at:  # else somebody has read later, and was faster
                self._book, self._read_at = book, read_at
                left = None if book.expires is None else min((book.expires - now) / 1000, CLOCK_SECONDS)
                self._look = None if left is None else time.monotonic() + left
                self.speak = not book.empty
                if self._stale:  # asked after it was set: a change between the two is not lost
                    self.speak = True

    def _read(
        self, deadline: float = limits.CALL_SECONDS, consistency: Consistency = "local"
    ) -> tuple[list[Entry], int, int]:
        """All entries, the revision to which they were read at least, and cluster time."""
        found: list[Entry] = []
        after, oldest = b"", None
        while True:
            page, after, revision, now = self._host.query(
                NAME, _page(after), consistency=consistency, deadline=deadline
            )
            oldest = revision if oldest is None else oldest
            found += page
            if len(page) < limits.SCAN_ROWS:
                return found, oldest, now


def _question(client: str, name: str | None, sender: str | bytes, recipient: str | bytes) -> Question:
    return Question(client, normal_name(name), normal_sender(sender), normal_recipient(recipient))


def _page(after: bytes) -> Callable[[ReadTables, int], tuple[list[Entry], bytes, int, int]]:
    return lambda tables, now: (*read_entries(tables, after, limits.SCAN_ROWS), read_revision(tables), now)


def _item(entry: Mapping[str, Value]) -> list[Value]:
    unknown = set(entry) - {"effect", "kind", "pattern", "comment", "lifetime"}
    if unknown or not {"effect", "kind", "pattern"} <= set(entry):
        raise Rejected("an entry has effect, kind, pattern, and if wanted comment and lifetime", subject="entry")
    effect, kind, lifetime = entry["effect"], entry["kind"], entry.get("lifetime")
    check_effect(effect, kind)
    if lifetime is not None:
        if type(lifetime) not in (int, float) or not 0 < lifetime <= LIFETIME_MAX / 1000:
            raise Rejected(f"an entry lives above 0, at most {LIFETIME_MAX // 1000} s", subject="lifetime")
        lifetime = max(1, round(lifetime * 1000))
    return [effect, kind, normal_pattern(kind, entry["pattern"]), entry.get("comment", ""), lifetime]


def _interest(judged: Judged) -> tuple[bool, bool]:
    return not judged.decides, not judged.matches


def _shown(entry: Entry, now: int) -> dict[str, Value]:
    shown = {"effect": entry.effect, "kind": entry.kind, "pattern": entry.pattern, "comment": entry.comment}
    times = {"added_ms": entry.added, "expires_ms": entry.expires, "expired": not entry.alive(now)}
    return {**shown, "author": entry.author, "node": entry.node, **times}


def _told(judged: Judged, now: int) -> dict[str, Value]:
    return {**_shown(judged.entry, now), "matches": judged.matches, "decides": judged.decides, "why": judged.why}
