"""The tables of the configuration, and how they are read. Pure.

Tables
    values   key -> version: [revision, kind, content, author, reason, node, time, number]; number counts the key's changes.
             content is the value, None when it was deleted, or [digest, size] of a large one: see `config.blobs`
    history  key + 0 + revision (8, big endian) -> version; of each key the newest HISTORY_REVISIONS, HISTORY_BYTES together
    kept     key -> [changes, forgotten, bytes]: how often it has changed, how many of its versions were dropped from the
             history, and what the others take
    changes  revision -> [digest of the change before, time, [[key, number, digest of the version], ...]]: what happened in
             which order, for whom watches, each bound to all that was before: see `config.chain`. The newest CONFIG_CHANGES
    schemas  prefix -> [version, document]: what the values below it may be, see `config.schema`
    reports  node id -> [node, revision, problem, time]: how far each node says that it has applied it, and why no farther
    state    "revision" -> the last one; "forgotten" -> the greatest that was dropped from a history or from `changes`
    and those of `config.blobs`

Who reads `changes` from a revision on sees each later change once, unless that revision is below "forgotten": then
something in between may be gone, and he must start again from the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config.blobs import STATE, read_value
from raftcluster.config.rules import Forgotten, override, shared_key
from raftcluster.machine import ReadTables

VALUES: Final = "values"
HISTORY: Final = "history"
KEPT: Final = "kept"
CHANGES: Final = "changes"
SCHEMAS: Final = "schemas"
REPORTS: Final = "reports"

PLAIN, DELETED, BLOB = range(3)
"""Kinds of versions."""
LAST: Final = b"revision"
FORGOTTEN: Final = b"forgotten"
STAMP: Final = Struct(">Q")
_END: Final = b"\xff"  # greater than any character of a key


class Kept(NamedTuple):
    """What is known of a key's history beside the versions themselves."""

    changes: int = 0
    forgotten: int = 0
    bytes: int = 0


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


class Schema(NamedTuple):
    """What the values below `prefix` may be."""

    prefix: str
    version: int
    document: dict[str, Value]


class Report(NamedTuple):
    """How far a node has applied the configuration."""

    node_id: str
    node: str
    revision: int
    """What holds there, in all that it has registered."""
    problem: str
    """Why not more of it; empty when nothing has failed."""
    time: int
    """Cluster time in milliseconds."""


def read_reports(tables: ReadTables) -> list[Report]:
    """Of all nodes that apply anything, by node id."""
    return [Report(key.decode(), *codec.unpack(row)) for key, row in tables.scan(REPORTS, limit=limits.SCAN_ROWS)]


def read_effective(tables: ReadTables, prefix: str, node: str) -> dict[str, tuple[str, int]]:
    """By key with `prefix`, without what makes it an override: the key whose value applies on `node`, and its revision."""
    found: dict[str, tuple[str, int]] = {}
    for start in (prefix, override(node, prefix)):
        for key, row in _values(tables, start):
            if start != prefix or shared_key(key) == key:
                found[shared_key(key)] = (key, codec.unpack(row)[0])
    return found


def read_revision(tables: ReadTables) -> int:
    """The revision of the newest change; 0 when there was none."""
    return _number(tables, LAST)


def read_kept(tables: ReadTables, name: bytes) -> Kept:
    """Of the key `name`; zeros when it has no history."""
    row = tables.get(KEPT, name)
    return Kept() if row is None else Kept(*codec.unpack(row))


def read_entry(tables: ReadTables, key: str) -> Entry | None:
    """What `key` is now."""
    row = tables.get(VALUES, key.encode())
    return None if row is None else entry_of(tables, key, row)


def entry_of(tables: ReadTables, key: str, row: bytes) -> Entry:
    """The version in a row of `values` or `history`, with its value, however large."""
    revision, kind, content, author, reason, node, time, number = codec.unpack(row)
    value = read_value(tables, content[0]) if kind == BLOB else content
    return Entry(key, revision, value, author, reason, node, time, number, kind == DELETED)


def size_of(row: bytes) -> int:
    """Bytes of a version with its value."""
    _, kind, content, *_ = codec.unpack(row)
    return len(row) + (content[1] if kind == BLOB else 0)


def read_keys(tables: ReadTables, prefix: str, after: str, limit: int) -> list[str]:
    """Up to `limit` keys that begin with `prefix` and come after `after`, in order."""
    start = max(prefix.encode(), after.encode() + b"\0" if after else b"")
    return [key.decode() for key, _ in tables.scan(VALUES, start, prefix.encode() + _END, limit=limit)]


def read_history(tables: ReadTables, key: str, limit: int) -> list[Entry]:
    """The newest `limit` versions of `key`, newest first."""
    start = key.encode() + b"\0"
    rows = tables.scan(HISTORY, start, key.encode() + b"\1", limit=limits.HISTORY_REVISIONS)
    return [entry_of(tables, key, row) for _, row in rows[::-1][: max(0, limit)]]


def read_changes(tables: ReadTables, prefix: str, after: int, limit: int) -> Page | None:
    """Some `limit` changes of keys with `prefix` since revision `after`, oldest first; None when some are forgotten.

    What changed with one revision is never parted; beyond `CONFIG_PAGE_BYTES` no further revision is read.
    """
    if after < _number(tables, FORGOTTEN):
        return None
    last = read_revision(tables)
    found: list[Entry] = []
    size = 0
    for stamp, change in tables.scan(CHANGES, STAMP.pack(after + 1), limit=limits.SCAN_ROWS):
        (after,) = STAMP.unpack(stamp)
        for key, row in _changed(tables, stamp, change, prefix):
            found.append(entry_of(tables, key, row))
            size += size_of(row)
        if len(found) >= limit or size >= limits.CONFIG_PAGE_BYTES:
            break
    return Page(found, after, last)


def read_log(tables: ReadTables, prefix: str, before: int, limit: int) -> Page:
    """Changes of keys with `prefix` at revisions below `before`, newest first: those of some `SCAN_ROWS` revisions at most.

    `reached` is the revision to read on before; 1 is the end. What changed with one revision is never parted.
    """
    first = max(1, before - limits.SCAN_ROWS)
    found: list[Entry] = []
    size = 0
    for stamp, change in reversed(tables.scan(CHANGES, STAMP.pack(first), STAMP.pack(before), limit=limits.SCAN_ROWS)):
        for key, row in _changed(tables, stamp, change, prefix):
            found.append(entry_of(tables, key, row))
            size += size_of(row)
        if len(found) >= limit or size >= limits.CONFIG_PAGE_BYTES:
            return Page(found, STAMP.unpack(stamp)[0], before)
    return Page(found, first, before)


def read_at(tables: ReadTables, prefix: str, revision: int, after: str, limit: int) -> list[Entry]:
    """What each of some keys after `after` was at `revision`, in order: the key's last version until then. Of `limit` keys,
    or fewer of large values; none is the end.

    Keys that were not set are in it, as `deleted`, with revision 0 when they had never been. Raises `Forgotten` when what
    one of them was is no longer kept.
    """
    found: list[Entry] = []
    size = 0
    start = max(prefix.encode(), after.encode() + b"\1" if after else b"")
    while len(found) < limit and size < limits.CONFIG_PAGE_BYTES:
        rows = tables.scan(KEPT, start, prefix.encode() + _END, limit=1)
        if not rows:
            break
        name, key = rows[0][0], rows[0][0].decode()
        until = tables.scan(HISTORY, name + b"\0", name + b"\0" + STAMP.pack(revision + 1), limits.HISTORY_REVISIONS)
        if until:
            found.append(entry_of(tables, key, until[-1][1]))
            size += size_of(until[-1][1]) + sum(len(row) for _, row in until)
        elif Kept(*codec.unpack(rows[0][1])).forgotten:
            raise Forgotten(f"what {key} was at revision {revision} is no longer kept", subject=key)
        else:
            found.append(Entry(key, 0, None, "", "", "", 0, 0, True))
        start = name + b"\0"
    return found


def read_revision_at(tables: ReadTables, time: int) -> int:
    """The newest revision that was made until `time`, cluster time in milliseconds. Raises `Forgotten` when that is one of
    those that are no longer listed."""
    high = read_revision(tables)
    if not high:
        return 0
    ((stamp, change),) = tables.scan(CHANGES, limit=1)
    (oldest,) = STAMP.unpack(stamp)
    if codec.unpack(change)[1] > time:
        if oldest > 1:
            raise Forgotten(f"changes before revision {oldest} are no longer listed", subject="time")
        return 0
    low = oldest  # the answer is in low..high; times never decrease with revisions, and none is missing
    while low < high:
        middle = (low + high + 1) // 2
        row = tables.get(CHANGES, STAMP.pack(middle))
        assert row is not None, "changes are dropped oldest first"
        low, high = (low, middle - 1) if codec.unpack(row)[1] > time else (middle, high)
    return int(low)


def read_schema(tables: ReadTables, key: str) -> Schema | None:
    """The schema that `key`, or what it overrides, is subject to."""
    name = shared_key(key)
    while name:
        row = tables.get(SCHEMAS, name.encode())
        if row is not None:
            return Schema(name, *codec.unpack(row))
        name = name.rpartition("/")[0]
    return None


def read_schemas(tables: ReadTables) -> list[Schema]:
    """All of them, by prefix."""
    return [Schema(key.decode(), *codec.unpack(row)) for key, row in tables.scan(SCHEMAS, limit=limits.SCAN_ROWS)]


def _values(tables: ReadTables, prefix: str) -> Iterator[tuple[str, bytes]]:
    start = prefix.encode()
    while rows := tables.scan(VALUES, start, prefix.encode() + _END, limit=limits.SCAN_ROWS):
        yield from ((name.decode(), row) for name, row in rows)
        start = rows[-1][0] + b"\0"


def _changed(tables: ReadTables, stamp: bytes, change: bytes, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Key and version of what changed with one revision, but for what was forgotten since."""
    for key, _, _ in codec.unpack(change)[2]:
        if key.startswith(prefix):
            row = tables.get(HISTORY, key.encode() + b"\0" + stamp)
            if row is not None:
                yield key, row


def _number(tables: ReadTables, key: bytes) -> int:
    row = tables.get(STATE, key)
    return 0 if row is None else int(STAMP.unpack(row)[0])
