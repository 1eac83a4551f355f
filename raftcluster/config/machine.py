"""The replicated configuration: typed values with one revision counter for all of them.

Tables
    values   key -> [revision, value, author, reason, node, time, number]; number counts the changes of this key
    history  key + 0 + revision (8, big endian) -> the same + [deleted]; the newest HISTORY_REVISIONS of each key
    changes  revision -> key: what happened in which order, for whom watches
    deleted  key -> number, of keys that have a history and no value
    state    "revision" -> the last one; "forgotten" -> the greatest that was dropped from a history

Commands
    ["set", key, value, author, reason, node, expected revision or None]   -> revision
    ["delete", key, author, reason, node, expected revision or None]       -> revision
The expected revision is the key's own; 0 means that there is no such key.

Who reads `changes` from a revision on sees each later change once, unless that revision is below "forgotten": then
something in between may be gone, and he must start again from the values.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config.inspection import (
    inspect_change,
    inspect_deleted,
    inspect_history,
    inspect_state,
    inspect_value,
)
from raftcluster.config.rules import check_key, check_note, pack_value
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables

NAME: Final = "config"
VALUES: Final = "values"
HISTORY: Final = "history"
CHANGES: Final = "changes"
DELETED: Final = "deleted"
STATE: Final = "state"

_INSPECTIONS: Final = {
    VALUES: inspect_value,
    HISTORY: inspect_history,
    CHANGES: inspect_change,
    DELETED: inspect_deleted,
    STATE: inspect_state,
}
_LAST: Final = b"revision"
_FORGOTTEN: Final = b"forgotten"
_REVISION: Final = Struct(">Q")
_END: Final = b"\xff"  # greater than any character of a key


class Entry(NamedTuple):
    """One version of one key."""

    key: str
    revision: int
    value: Value
    author: str
    reason: str
    node: str
    """Where it was changed: the node's name."""
    time: int
    """Cluster time in milliseconds."""
    number: int
    """The how manieth change of this key."""
    deleted: bool = False


class Page(NamedTuple):
    """A part of what happened."""

    changes: list[Entry]
    reached: int
    """Nothing up to this revision is missing."""
    last: int
    """The newest revision."""


class ConfigMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 1
    tables = (VALUES, HISTORY, CHANGES, DELETED, STATE)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        match command:
            case ["set", key, value, author, reason, node, expected]:
                return _change(tables, time, key, value, False, author, reason, node, expected)
            case ["delete", key, author, reason, node, expected]:
                return _change(tables, time, key, None, True, author, reason, node, expected)
            case _:
                raise Rejected("malformed or unknown configuration command", subject=NAME)

    def tick(self, tables: Tables, time: int) -> None:
        """Nothing: histories are cut when they grow."""

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """See `raftcluster.machine.Inspectable`."""
        _INSPECTIONS[table](key, value)


def read_revision(tables: ReadTables) -> int:
    """The revision of the newest change; 0 when there was none."""
    return _number(tables, _LAST)


def read_entry(tables: ReadTables, key: str) -> Entry | None:
    """What `key` is now."""
    row = tables.get(VALUES, key.encode())
    return None if row is None else Entry(key, *codec.unpack(row))


def read_keys(tables: ReadTables, prefix: str, after: str, limit: int) -> list[str]:
    """Up to `limit` keys that begin with `prefix` and come after `after`, in order."""
    start = max(prefix.encode(), after.encode() + b"\0" if after else b"")
    return [key.decode() for key, _ in tables.scan(VALUES, start, prefix.encode() + _END, limit=limit)]


def read_history(tables: ReadTables, key: str, limit: int) -> list[Entry]:
    """The newest `limit` versions of `key`, newest first."""
    start = key.encode() + b"\0"
    rows = tables.scan(HISTORY, start, key.encode() + b"\1", limit=limits.HISTORY_REVISIONS)
    return [Entry(key, *codec.unpack(row)) for _, row in reversed(rows[-limit:])]


def read_changes(tables: ReadTables, prefix: str, after: int, limit: int) -> Page | None:
    """Up to `limit` changes of keys with `prefix` since revision `after`, oldest first; None when some are forgotten."""
    if after < _number(tables, _FORGOTTEN):
        return None
    last = read_revision(tables)
    found: list[Entry] = []
    rows = tables.scan(CHANGES, _REVISION.pack(after + 1), limit=limits.SCAN_ROWS)
    wanted = prefix.encode()
    for revision, key in rows:
        (after,) = _REVISION.unpack(revision)
        if key.startswith(wanted):
            row = tables.get(HISTORY, key + b"\0" + revision)
            assert row is not None, "a change is listed as long as its history row lives"
            found.append(Entry(key.decode(), *codec.unpack(row)))
            if len(found) == limit:
                break
    return Page(found, after, last)


def _change(
    tables: Tables,
    time: int,
    key: Value,
    value: Value,
    deleted: bool,
    author: Value,
    reason: Value,
    node: Value,
    expected: Value,
) -> int:
    check_key(key)
    check_note(author, reason)
    pack_value(value)
    if type(node) is not str or len(node) > limits.NAME_BYTES:
        raise Rejected("malformed configuration command", subject=NAME)
    name = key.encode()
    row = tables.get(VALUES, name)
    current = number = 0
    if row is not None:
        current, *_, number = codec.unpack(row)
    elif (row := tables.get(DELETED, name)) is not None:
        number = int(codec.unpack(row))
    if expected is not None and expected != current:
        found = f"at revision {current}" if current else "not set"
        error = Rejected(f"{key} is {found}, not at the expected revision {expected!r:.40}", subject=key)
        error.code = "revision-mismatch"
        raise error
    if deleted and not current:
        raise Rejected(f"{key} is not set", subject=key)

    revision = read_revision(tables) + 1
    number += 1
    version = [revision, value, author, reason, node, time, number]
    stamp = _REVISION.pack(revision)
    if deleted:
        tables.delete(VALUES, name)
        tables.put(DELETED, name, codec.pack(number))
    else:
        tables.put(VALUES, name, codec.pack(version))
        if not current and number > 1:
            tables.delete(DELETED, name)
    tables.put(HISTORY, name + b"\0" + stamp, codec.pack([*version, deleted]))
    tables.put(CHANGES, stamp, name)
    tables.put(STATE, _LAST, stamp)
    if number > limits.HISTORY_REVISIONS:
        _forget_oldest(tables, name)
    return revision


def _forget_oldest(tables: Tables, name: bytes) -> None:
    ((oldest, _),) = tables.scan(HISTORY, name + b"\0", name + b"\1", limit=1)
    stamp = oldest[len(name) + 1 :]
    tables.delete(HISTORY, oldest)
    tables.delete(CHANGES, stamp)
    if stamp > (tables.get(STATE, _FORGOTTEN) or b""):
        tables.put(STATE, _FORGOTTEN, stamp)


def _number(tables: ReadTables, key: bytes) -> int:
    row = tables.get(STATE, key)
    return 0 if row is None else int(_REVISION.unpack(row)[0])
