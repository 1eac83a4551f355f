"""The tables of the configuration, and how they are read. Pure.

Tables
    values   key -> [revision, value, author, reason, node, time, number]; number counts the changes of this key
    history  key + 0 + revision (8, big endian) -> the same + [deleted]; the newest HISTORY_REVISIONS of each key
    changes  revision -> the keys that changed with it: what happened in which order, for whom watches
    deleted  key -> number, of keys that have a history and no value
    schemas  prefix -> [version, document]: what the values below it may be, see `config.schema`
    reports  node id -> [node, revision, problem, time]: how far each node says that it has applied it, and why no farther
    state    "revision" -> the last one; "forgotten" -> the greatest that was dropped from a history

Who reads `changes` from a revision on sees each later change once, unless that revision is below "forgotten": then
something in between may be gone, and he must start again from the values.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config.rules import Forgotten, override, shared_key
from raftcluster.machine import ReadTables

VALUES: Final = "values"
HISTORY: Final = "history"
CHANGES: Final = "changes"
DELETED: Final = "deleted"
SCHEMAS: Final = "schemas"
REPORTS: Final = "reports"
STATE: Final = "state"

LAST: Final = b"revision"
FORGOTTEN: Final = b"forgotten"
STAMP: Final = Struct(">Q")
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


def read_effective(tables: ReadTables, prefix: str, node: str) -> dict[str, Value]:
    """All values of keys with `prefix` that apply on `node`, by the key without what makes it an override."""
    found: dict[str, Value] = {}
    for start in (prefix, override(node, prefix)):
        keys: list[str] = []
        while len(page := read_keys(tables, start, keys[-1] if keys else "", limits.SCAN_ROWS)):
            keys += page
        for key in keys:
            entry = read_entry(tables, key)
            assert entry is not None, "it was just seen"
            if start != prefix or shared_key(key) == key:
                found[shared_key(key)] = entry.value
    return found


def read_revision(tables: ReadTables) -> int:
    """The revision of the newest change; 0 when there was none."""
    return _number(tables, LAST)


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
    """Some `limit` changes of keys with `prefix` since revision `after`, oldest first; None when some are forgotten.

    What changed with one revision is never parted.
    """
    if after < _number(tables, FORGOTTEN):
        return None
    last = read_revision(tables)
    found: list[Entry] = []
    for stamp, keys in tables.scan(CHANGES, STAMP.pack(after + 1), limit=limits.SCAN_ROWS):
        (after,) = STAMP.unpack(stamp)
        found += _changed(tables, stamp, keys, prefix)
        if len(found) >= limit:
            break
    return Page(found, after, last)


def read_log(tables: ReadTables, prefix: str, before: int, limit: int) -> Page:
    """Changes of keys with `prefix` at revisions below `before`, newest first: those of some `SCAN_ROWS` revisions.

    `reached` is the revision to read on before; 1 is the end.
    """
    first = max(1, before - limits.SCAN_ROWS)
    found: list[Entry] = []
    for stamp, keys in reversed(tables.scan(CHANGES, STAMP.pack(first), STAMP.pack(before), limit=limits.SCAN_ROWS)):
        found += _changed(tables, stamp, keys, prefix)
        if len(found) >= limit:
            return Page(found, STAMP.unpack(stamp)[0], before)
    return Page(found, first, before)


def read_at(tables: ReadTables, prefix: str, revision: int, after: str, limit: int) -> list[Entry]:
    """What each of up to `limit` keys after `after` was at `revision`, in order: the key's last version until then.

    Keys that were not set are in it, as `deleted`, with revision 0 when they had never been. Raises `Forgotten` when what
    one of them was is no longer kept.
    """
    found: list[Entry] = []
    start = max(prefix.encode(), after.encode() + b"\1" if after else b"")
    while len(found) < limit:
        rows = tables.scan(HISTORY, start, prefix.encode() + _END, limit=1)
        if not rows:
            break
        name, _, _ = rows[0][0].partition(b"\0")
        key = name.decode()
        until = tables.scan(HISTORY, name + b"\0", name + b"\0" + STAMP.pack(revision + 1), limits.HISTORY_REVISIONS)
        oldest = Entry(key, *codec.unpack(rows[0][1]))
        if until:
            found.append(Entry(key, *codec.unpack(until[-1][1])))
        elif oldest.number > 1:
            raise Forgotten(f"what {key} was at revision {revision} is no longer kept", subject=key)
        else:
            found.append(Entry(key, 0, None, "", "", "", 0, 0, True))
        start = name + b"\1"
    return found


def read_revision_at(tables: ReadTables, time: int) -> int:
    """The newest revision that was made until `time`, cluster time in milliseconds."""
    low, high = 0, read_revision(tables)  # the answer is in low..high; times never decrease with revisions
    while low < high:
        middle = (low + high) // 2
        (stamp, keys), *_ = tables.scan(CHANGES, STAMP.pack(middle + 1), limit=1)
        made = _changed(tables, stamp, keys, "")[0].time
        if made > time:
            high = middle
        else:
            (low,) = STAMP.unpack(stamp)
    return low


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


def _changed(tables: ReadTables, stamp: bytes, keys: bytes, prefix: str) -> list[Entry]:
    found = []
    for key in codec.unpack(keys):
        if key.startswith(prefix):
            row = tables.get(HISTORY, key.encode() + b"\0" + stamp)
            assert row is not None, "a change is listed as long as its history row lives"
            found.append(Entry(key, *codec.unpack(row)))
    return found


def _number(tables: ReadTables, key: bytes) -> int:
    row = tables.get(STATE, key)
    return 0 if row is None else int(STAMP.unpack(row)[0])
