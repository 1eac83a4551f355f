"""The replicated configuration: typed values with one revision counter for all of them. Its tables: `config.reading`.

Commands
    ["set", key, value, author, reason, node, expected revision or None]            -> revision
    ["delete", key, author, reason, node, expected revision or None]                -> revision
    ["transact", [[key, "revision" | "value", expected], ...],
                 [["set", key, value] | ["blob", key, digest] | ["delete", key], ...], author, reason, node] -> revision
    ["part", digest, size, number, bytes]                                           -> whether all parts are there
    ["schema", prefix, version, document]                                           -> version in force
    ["report", node id, node, revision, problem]                                    -> None
The expected revision is the key's own; 0 means that there is no such key. All changes of a transaction have one revision;
when a condition does not hold or a change is refused, none of them is made. `blob` sets a value that was uploaded in parts.

A schema is data of the cluster, so all nodes judge a value by the same one, whatever their programs are. One of a lower
version changes nothing: while nodes are upgraded one by one the newest holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config import blobs, chain
from raftcluster.config.inspection import INSPECTIONS
from raftcluster.config.reading import (
    BLOB,
    CHANGES,
    DELETED,
    HISTORY,
    KEPT,
    LAST,
    PLAIN,
    REPORTS,
    SCHEMAS,
    STAMP,
    VALUES,
    read_entry,
    read_kept,
    read_reports,
    read_revision,
    read_schema,
    size_of,
)
from raftcluster.config.rules import (
    NODES,
    InvalidValue,
    RevisionMismatch,
    ValueTooLarge,
    canonical,
    check_key,
    check_note,
    override,
    pack_value,
    shared_key,
    weigh,
)
from raftcluster.config.schema import Judge, check_document, check_setting
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables

NAME: Final = "config"


class ConfigMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 3
    tables = (
        VALUES, HISTORY, KEPT, CHANGES, blobs.BLOBS, blobs.PARTS, blobs.UPLOADS, SCHEMAS, REPORTS, blobs.STATE
    )  # fmt: skip

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        match command:
            case ["set", key, value, author, reason, node, expected]:
                return _transact(tables, time, _unchanged(key, expected), [["set", key, value]], author, reason, node)
            case ["delete", key, author, reason, node, expected]:
                return _transact(tables, time, _unchanged(key, expected), [["delete", key]], author, reason, node)
            case ["transact", list(conditions), list(changes), author, reason, node]:
                return _transact(tables, time, conditions, changes, author, reason, node)
            case ["part", digest, size, number, part]:
                return blobs.add_part(tables, time, digest, size, number, part)
            case ["schema", prefix, version, document]:
                return _register(tables, prefix, version, document)
            case ["report", str(node_id), str(node), int(revision), str(problem)]:
                return _report(tables, node_id, [node, revision, problem, time])
            case _:
                raise _malformed()

    def tick(self, tables: Tables, time: int) -> None:
        """Remove what was uploaded and given up; histories are cut when they grow."""
        blobs.sweep(tables, time)

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """See `raftcluster.machine.Inspectable`."""
        INSPECTIONS[table](key, value)


def _unchanged(key: Value, expected: Value) -> list[Value]:
    return [] if expected is None else [[key, "revision", expected]]


def _transact(
    tables: Tables, time: int, conditions: list[Value], changes: list[Value], author: Value, reason: Value, node: Value
) -> int:
    check_note(author, reason)
    if type(node) is not str or len(node) > limits.NAME_BYTES or not changes:
        raise _malformed()
    if max(len(conditions), len(changes)) > limits.TRANSACTION_KEYS:
        raise Rejected(f"more than {limits.TRANSACTION_KEYS} keys in a transaction", subject=NAME)
    for condition in conditions:
        _check_condition(tables, condition)
    _check_size(tables, changes)
    revision, judge = read_revision(tables) + 1, Judge()
    changed: dict[str, list[Value]] = {}
    kind: int
    content: Value
    for change in changes:
        match change:
            case ["set", key, value]:
                _check_change(tables, key, changed)
                kind, content = PLAIN, value
            case ["blob", key, bytes(digest)]:
                _check_change(tables, key, changed)
                kind, content = BLOB, [digest, blobs.read_whole(tables, digest).size]
            case ["delete", key]:
                _check_change(tables, key, changed)
                kind, content = DELETED, None
            case _:
                raise _malformed()
        if kind != DELETED and (schema := read_schema(tables, key)) is not None:
            value = blobs.read_value(tables, content[0]) if kind == BLOB else content
            check_setting(schema.document, schema.prefix, shared_key(key), value, judge)
        changed[key] = _store(tables, key, [revision, kind, content, author, reason, node, time])
    for key in changed:  # at last: a value that goes from one key's history may have come to another key
        _trim(tables, key.encode())
    chain.append(tables, revision, time, list(changed.values()))
    tables.put(blobs.STATE, LAST, STAMP.pack(revision))
    return revision


def _check_size(tables: ReadTables, changes: list[Value]) -> None:
    """Each value, and all of them: every node looks through them between two log entries."""
    size = items = 0
    for change in changes:
        match change:
            case ["set", _, value]:
                items += weigh(value, limits.CONFIG_INLINE_BYTES)[1]
            case ["blob", _, bytes(digest)]:
                blob = blobs.read_whole(tables, digest)
                size, items = size + blob.size, items + blob.items
        if size > limits.TRANSACTION_BYTES or items > limits.TRANSACTION_ITEMS:
            raise ValueTooLarge(
                f"more than {limits.TRANSACTION_ITEMS} items, or {limits.TRANSACTION_BYTES} bytes of large values, "
                "in one transaction",
                subject=NAME,
                remedy="change fewer keys at once",
            )


def _check_condition(tables: ReadTables, condition: Value) -> None:
    match condition:
        case [key, "revision", expected]:
            check_key(key)
            row = tables.get(VALUES, key.encode())
            revision = 0 if row is None else codec.unpack(row)[0]
            if type(expected) is not int or expected != revision:
                found = f"at revision {revision}" if revision else "not set"
                raise RevisionMismatch(f"{key} is {found}, not at the expected revision {expected!a:.40}", subject=key)
        case [key, "value", expected]:
            check_key(key)
            pack_value(expected, limits.CONFIG_INLINE_BYTES)
            entry = read_entry(tables, key)  # its size does not matter: only one that is equal is followed by another
            if entry is None or canonical(entry.value) != canonical(expected):
                raise RevisionMismatch(f"{key} has not the expected value", subject=key)
        case _:
            raise _malformed()


def _check_change(tables: ReadTables, key: Value, changed: dict[str, list[Value]]) -> None:
    check_key(key)
    if key in changed:
        raise Rejected(f"{key} is changed twice in one transaction", subject=key)


def _store(tables: Tables, key: str, version: list[Value]) -> list[Value]:
    """One version of one key, which becomes what it is: [key, number, digest] of it."""
    name, stamp = key.encode(), STAMP.pack(version[0])
    deleted = version[1] == DELETED
    if deleted and tables.get(VALUES, name) is None:
        raise Rejected(f"{key} is not set", subject=key)
    changes, forgotten, size = read_kept(tables, name)
    row = codec.pack([*version, changes + 1])
    if version[1] == BLOB:
        blobs.refer(tables, version[2][0])
    if deleted:
        tables.delete(VALUES, name)
    else:
        tables.put(VALUES, name, row)
    tables.put(HISTORY, name + b"\0" + stamp, row)
    tables.put(KEPT, name, codec.pack([changes + 1, forgotten, size + size_of(row)]))
    return [key, changes + 1, chain.digest_of(row)]


def _trim(tables: Tables, name: bytes) -> None:
    """Drop what is too much of a key's history."""
    changes, forgotten, size = read_kept(tables, name)
    while changes - forgotten > 1 and (changes - forgotten > limits.HISTORY_REVISIONS or size > limits.HISTORY_BYTES):
        size -= _forget_oldest(tables, name)
        forgotten += 1
        tables.put(KEPT, name, codec.pack([changes, forgotten, size]))


def _forget_oldest(tables: Tables, name: bytes) -> int:
    """Drop one version of a key from its history; how many bytes it had."""
    ((oldest, row),) = tables.scan(HISTORY, name + b"\0", name + b"\1", limit=1)
    tables.delete(HISTORY, oldest)
    size = size_of(row)
    _, kind, content, *_ = codec.unpack(row)
    if kind == BLOB:
        blobs.release(tables, content[0])
    chain.forget(tables, oldest[len(name) + 1 :])
    return size


def _register(tables: Tables, prefix: Value, version: Value, document: Value) -> int:
    check_key(prefix)
    if shared_key(prefix) != prefix or type(version) is not int or not 0 < version < 2**31:
        raise _malformed()
    pack_value(document, limits.CONFIG_INLINE_BYTES)
    check_document(document)
    known = read_schema(tables, prefix)
    if known is not None and known.prefix == prefix:
        if version < known.version:
            return known.version
        if version == known.version:
            if known.document != document:
                raise InvalidValue(
                    f"the schema of {prefix} has version {version} and is another",
                    subject=prefix,
                    remedy="raise its version",
                )
            return version
    below = prefix.encode() + b"/", prefix.encode() + b"0"
    if (known is not None and known.prefix != prefix) or tables.scan(SCHEMAS, *below, limit=1):
        raise Rejected(f"a part of {prefix}, or what it is a part of, has a schema", subject=prefix)
    for start in (prefix, *(override(node, prefix) for node in _overriding(tables))):
        for key in _below(tables, start):
            entry = read_entry(tables, key)
            assert entry is not None, "it was just seen"
            try:
                check_setting(document, prefix, shared_key(key), entry.value, Judge())
            except InvalidValue as error:
                problem = error.message if start == prefix else f"{key}: {error.message}"
                raise InvalidValue(problem, subject=key, remedy=error.remedy) from error
    tables.put(SCHEMAS, prefix.encode(), codec.pack([version, document]))
    return version


def _below(tables: ReadTables, prefix: str) -> Iterator[str]:
    start, stop = prefix.encode() + b"/", prefix.encode() + b"0"
    while rows := tables.scan(VALUES, start, stop, limit=limits.SCAN_ROWS):
        yield from (key.decode() for key, _ in rows)
        start = rows[-1][0] + b"\0"


def _overriding(tables: ReadTables) -> Iterator[str]:
    """The names of nodes that have values of their own, of which there may be no more than `SCAN_ROWS`."""
    start, stop = f"{NODES}/".encode(), f"{NODES}0".encode()
    for _ in range(limits.SCAN_ROWS):
        rows = tables.scan(VALUES, start, stop, limit=1)
        if not rows:
            return
        node = rows[0][0].decode().split("/")[1]
        yield node
        start = f"{NODES}/{node}0".encode()
    raise Rejected(f"more than {limits.SCAN_ROWS} nodes have values of their own", subject=NODES, remedy="delete some")


def _report(tables: Tables, node_id: str, row: list[Value]) -> None:
    check_note(row[0], row[2])
    good = 0 < len(node_id) <= limits.NAME_BYTES and node_id.isascii()
    if not good or type(row[1]) is not int or not 0 <= row[1] <= read_revision(tables):
        raise _malformed()
    known = read_reports(tables)
    if len(known) >= limits.CONFIG_REPORTS and all(each.node_id != node_id for each in known):
        tables.delete(REPORTS, min(known, key=lambda each: each.time).node_id.encode())
    tables.put(REPORTS, node_id.encode(), codec.pack(row))


def _malformed() -> Rejected:
    return Rejected("malformed or unknown configuration command", subject=NAME)
