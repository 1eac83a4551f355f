"""The replicated lists of the greylist.

Tables
    entries   list (opt, rule) + / + kind + / + pattern -> [effect, comment, author, node, added, expires or None]
    state     "revision" -> how often they were changed; "entries" -> how many there are, expired ones included

Commands; each is carried out as a whole or not at all
    ["add", [[effect, kind, pattern, comment, lifetime in ms or None], ...], author, node, replace]   -> revision
    ["remove", [[list, kind, pattern], ...]]                                                          -> revision

Patterns come in normal form. An expired entry is none, whether its row was cleaned up already or not; rows are cleaned up
when entries are added to lists that are nearly full, so that lists at rest cost an entry of the log nothing.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist.lists.rules import (
    COMMENT_CHARACTERS,
    Entry,
    check_effect,
    list_of,
    normal_pattern,
)
from raftcluster.machine import ReadTables, Tables

NAME: Final = "lists"
ENTRIES: Final = "entries"
STATE: Final = "state"

ENTRIES_MAX: Final = 10_000  # every node holds them in memory, and reads them again after a change
COMMAND_ENTRIES: Final = 500  # per command: they fit an operation, and an apply is bounded
LIFETIME_MAX: Final = 10 * 365 * 86_400_000  # ten years

_COUNT: Final = Struct(">Q")
_REVISION: Final = b"revision"
_HELD: Final = b"entries"


class ListsMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 1
    tables = (ENTRIES, STATE)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        match command:
            case ["add", list(items), author, node, bool(replace)] if 0 < len(items) <= COMMAND_ENTRIES:
                _check_text("author", author, limits.NAME_BYTES)
                _check_text("node", node, limits.NAME_BYTES)
                return _add(tables, time, items, author, node, replace)
            case ["remove", list(items)] if 0 < len(items) <= COMMAND_ENTRIES:
                return _remove(tables, time, items)
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
        entry = _entry(key, value)
        check_effect(entry.effect, entry.kind)
        if _key(entry.list, entry.kind, normal_pattern(entry.kind, entry.pattern)) != key:
            raise ValueError("the entry is not in its place")
        for text in (entry.comment, entry.author, entry.node):
            _check_text("text", text, COMMENT_CHARACTERS)
        if type(entry.added) is not int or not (entry.expires is None or type(entry.expires) is int):
            raise ValueError("the entry's times are none")


def read_revision(tables: ReadTables) -> int:
    """How often the lists were changed."""
    return _number(tables, _REVISION)


def read_entries(tables: ReadTables, after: bytes, limit: int) -> tuple[list[Entry], bytes]:
    """Up to `limit` entries behind the key `after`, in order of list, kind and pattern; and the key to go on behind."""
    rows = tables.scan(ENTRIES, after + b"\0" if after else b"", limit=limit)
    return [_entry(key, row) for key, row in rows], rows[-1][0] if rows else after


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


def _remove(tables: Tables, time: int, items: list[Value]) -> int:
    held = _number(tables, _HELD)
    for item in items:
        match item:
            case [str(which), str(kind), str(pattern)]:
                key = _key(which, kind, pattern)
            case _:
                raise Rejected("malformed entry", subject="greylist lists")
        row = tables.get(ENTRIES, key) if len(key) <= limits.KEY_BYTES else None
        if row is None or not _entry(key, row).alive(time):
            raise Rejected(f"there is no {which} entry {kind} {pattern:.80}", subject="greylist lists")
        tables.delete(ENTRIES, key)
        held -= 1
    return _changed(tables, held)


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


def _check_text(what: str, text: Value, characters: int) -> None:
    if type(text) is not str or len(text) > characters or not all(sign.isprintable() for sign in text):
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
