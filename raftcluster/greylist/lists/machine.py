"""The replicated lists of the greylist.

Tables
    entries   list (opt, rule) + / + kind + / + pattern -> [effect, comment, author, node, added, expires or None]
    changes   revision (8) -> [added or removed, [effect, kind, pattern, comment] of up to 20 entries, how many entries,
              author, node, reason, time]: the newest `limits.HISTORY_REVISIONS`
    state     "revision" -> how often they were changed; "entries" -> how many there are, expired ones included

Commands; each is carried out as a whole or not at all
    ["add", [[effect, kind, pattern, comment, lifetime in ms or None], ...], author, node, reason, replace]   -> revision
    ["remove", [[list, kind, pattern], ...], author, node, reason]                                            -> revision

Patterns come in normal form. An expired entry is none, whether its row was cleaned up already or not; rows are cleaned up
when entries are added to lists that are nearly full, so that lists at rest cost an entry of the log nothing.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist.lists.rules import (
    COMMENT_CHARACTERS,
    Entry,
    check_effect,
    is_printable,
    list_of,
    normal_pattern,
)
from raftcluster.machine import ReadTables, Tables

NAME: Final = "lists"
ENTRIES: Final = "entries"
CHANGES: Final = "changes"
STATE: Final = "state"

ENTRIES_MAX: Final = 10_000  # every node holds them in memory, and reads them again after a change
CHANGE_ENTRIES: Final = 20  # that a change names; the others it counts
COMMAND_ENTRIES: Final = 500  # per command: they fit an operation, and an apply is bounded
LIFETIME_MAX: Final = 10 * 365 * 86_400_000  # ten years

_COUNT: Final = Struct(">Q")
_REVISION: Final = b"revision"
_HELD: Final = b"entries"


class Change(NamedTuple):
    """One change of the lists. `time` in milliseconds of cluster time."""

    revision: int
    what: str
    """added or removed"""
    entries: list[list[str]]
    """[effect, kind, pattern, comment] of the first ones."""
    number: int
    """How many they were."""
    author: str
    node: str
    reason: str
    time: int


class ListsMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 2
    tables = (ENTRIES, CHANGES, STATE)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        match command:
            case ["add", list(items), author, node, reason, bool(replace)] if 0 < len(items) <= COMMAND_ENTRIES:
                _check_why(author, node, reason)
                revision = _add(tables, time, items, author, node, replace)
                named = [item[:4] for item in items]
                _keep(tables, revision, "added", named, author, node, reason, time)
                return revision
            case ["remove", list(items), author, node, reason] if 0 < len(items) <= COMMAND_ENTRIES:
                _check_why(author, node, reason)
                revision, named = _remove(tables, time, items)
                _keep(tables, revision, "removed", named, author, node, reason, time)
                return revision
            case _:
                raise Rejected(
                    f"malformed lists command, or not of 1 to {COMMAND_ENTRIES} entries", subject="greylist lists"
                )

    def tick(self, tables: Tables, time: int) -> None:
        """Nothing: see the file's head."""

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """See `raftcluster.machine.Inspectable`."""
        if table == STATE:
            if key not in (_REVISION, _HELD) or len(value) != _COUNT.size:
                raise ValueError("there is no such counter")
            return
        if table == CHANGES:
            if len(key) != _COUNT.size:
                raise ValueError("the change has no revision")
            change = Change(_COUNT.unpack(key)[0], *codec.unpack(value))
            _check_why(change.author, change.node, change.reason)
            if change.what not in ("added", "removed") or not 0 < len(change.entries) <= min(
                CHANGE_ENTRIES, change.number
            ):
                raise ValueError("the change is none")
            return
        entry = _entry(key, value)
        check_effect(entry.effect, entry.kind)
        if _key(entry.list, entry.kind, entry.pattern) != key:  # what is normal was another thing in earlier versions
            raise ValueError("the entry is not in its place")
        for text in (entry.comment, entry.author, entry.node):
            _check_text("text", text, COMMENT_CHARACTERS)
        if type(entry.added) is not int or not (entry.expires is None or type(entry.expires) is int):
            raise ValueError("the entry's times are none")


def read_revision(tables: ReadTables) -> int:
    """How often the lists were changed."""
    return _number(tables, _REVISION)


def read_changes(tables: ReadTables, after: int, limit: int) -> list[Change]:
    """Up to `limit` changes behind the revision `after`, in order."""
    rows = tables.scan(CHANGES, _COUNT.pack(after + 1), limit=limit)
    return [Change(_COUNT.unpack(key)[0], *codec.unpack(row)) for key, row in rows]


def read_entries(tables: ReadTables, after: bytes, limit: int) -> tuple[list[Entry], bytes]:
    """Up to `limit` entries behind the key `after`, in order of list, kind and pattern; and the key to go on behind."""
    rows = tables.scan(ENTRIES, after + b"\0" if after else b"", limit=limit)
    return [_entry(key, row) for key, row in rows], rows[-1][0] if rows else after


def has_entry(tables: ReadTables, which: str, kind: str, pattern: str) -> bool:
    """Whether there is an entry that is written so, alive or not."""
    key = _key(which, kind, pattern)
    return len(key) <= limits.KEY_BYTES and tables.get(ENTRIES, key) is not None


def _add(tables: Tables, time: int, items: list[Value], author: str, node: str, replace: bool) -> int:
    held = _number(tables, _HELD) - _clean(tables, time)
    for item in items:
        match item:
            case [effect, kind, pattern, comment, lifetime]:
                check_effect(effect, kind)
            case _:
                raise Rejected("malformed entry", subject="greylist lists")
        if normal_pattern(kind, pattern) != pattern:
            raise Rejected(f"{kind} {pattern} is not in its normal form", subject=kind)
        _check_text("comment", comment, COMMENT_CHARACTERS)
        if lifetime is not None and not (type(lifetime) is int and 0 < lifetime <= LIFETIME_MAX):
            raise Rejected(f"an entry lives above 0, at most {LIFETIME_MAX // 1000} s", subject="expires")
        key = _key(list_of(effect), kind, pattern)
        row = tables.get(ENTRIES, key)
        if row is None:
            held += 1
        elif not replace and (known := _entry(key, row)).alive(time):
            error = Rejected(
                f"there is an entry: {known.effect} {kind} {pattern}",
                subject=pattern,
                remedy="replace it, or remove it",
            )
            error.code = "entry-exists"
            raise error
        expires = None if lifetime is None else time + lifetime
        tables.put(ENTRIES, key, codec.pack([effect, comment, author, node, time, expires]))
    if held > ENTRIES_MAX:
        raise Rejected(f"the lists take {ENTRIES_MAX} entries, not {held}", subject="greylist lists")
    return _changed(tables, held)


def _remove(tables: Tables, time: int, items: list[Value]) -> tuple[int, list[list[str]]]:
    """The new revision, and what was removed."""
    held = _number(tables, _HELD)
    removed = []
    for item in items:
        match item:
            case [str(which), str(kind), str(pattern)]:
                key = _key(which, kind, pattern)
            case _:
                raise Rejected("malformed entry", subject="greylist lists")
        row = tables.get(ENTRIES, key) if len(key) <= limits.KEY_BYTES else None
        entry = None if row is None else _entry(key, row)
        if entry is None or not entry.alive(time):
            raise Rejected(f"there is no {which} entry {kind} {pattern:.80}", subject="greylist lists")
        tables.delete(ENTRIES, key)
        removed.append([entry.effect, kind, pattern, entry.comment])
        held -= 1
    return _changed(tables, held), removed


def _keep(
    tables: Tables, revision: int, what: str, named: list[Value], author: str, node: str, reason: str, time: int
) -> None:
    row = [what, named[:CHANGE_ENTRIES], len(named), author, node, reason, time]
    tables.put(CHANGES, _COUNT.pack(revision), codec.pack(row))
    if revision > limits.HISTORY_REVISIONS:
        tables.delete(CHANGES, _COUNT.pack(revision - limits.HISTORY_REVISIONS))


def _clean(tables: Tables, time: int) -> int:
    """Delete what has expired, if the lists are full enough for it to matter; how many rows went."""
    if _number(tables, _HELD) + COMMAND_ENTRIES <= ENTRIES_MAX:
        return 0
    gone = 0
    for key, row in tables.scan(ENTRIES, limit=ENTRIES_MAX):
        if not _entry(key, row).alive(time):
            tables.delete(ENTRIES, key)
            gone += 1
    return gone


def _changed(tables: Tables, held: int) -> int:
    revision = _number(tables, _REVISION) + 1
    tables.put(STATE, _REVISION, _COUNT.pack(revision))
    tables.put(STATE, _HELD, _COUNT.pack(held))
    return revision


def _check_why(author: Value, node: Value, reason: Value) -> None:
    _check_text("author", author, limits.NAME_BYTES)
    _check_text("node", node, limits.NAME_BYTES)
    _check_text("reason", reason, COMMENT_CHARACTERS)


def _check_text(what: str, text: Value, characters: int) -> None:
    if type(text) is not str or len(text) > characters or not is_printable(text):
        raise Rejected(f"{what} takes one line of at most {characters} printable characters", subject=what)


def _key(which: str, kind: str, pattern: str) -> bytes:
    return f"{which}/{kind}/{pattern}".encode("utf-8", "replace")


def _entry(key: bytes, row: bytes) -> Entry:
    _, kind, pattern = key.decode().split("/", 2)
    effect, comment, author, node, added, expires = codec.unpack(row)
    return Entry(effect, kind, pattern, comment, author, node, added, expires)


def _number(tables: ReadTables, key: bytes) -> int:
    row = tables.get(STATE, key)
    return 0 if row is None else int(_COUNT.unpack(row)[0])
