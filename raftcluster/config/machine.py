"""The replicated configuration: typed values with one revision counter for all of them. Its tables: `config.reading`.

Commands
    ["set", key, value, author, reason, node, expected revision or None]            -> revision
    ["delete", key, author, reason, node, expected revision or None]                -> revision
    ["transact", [[key, "revision" | "value", expected], ...],
                 [["set", key, value] | ["delete", key], ...], author, reason, node] -> revision
    ["schema", prefix, version, document]                                           -> version in force
    ["report", node id, node, revision, problem]                                    -> None
The expected revision is the key's own; 0 means that there is no such key. All changes of a transaction have one revision;
when a condition does not hold or a change is refused, none of them is made.

A schema is data of the cluster, so all nodes judge a value by the same one, whatever their programs are. One of a lower
version changes nothing: while nodes are upgraded one by one the newest holds.
"""

from __future__ import annotations

from typing import Final

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config.inspection import INSPECTIONS
from raftcluster.config.reading import (
    CHANGES,
    DELETED,
    FORGOTTEN,
    HISTORY,
    LAST,
    REPORTS,
    SCHEMAS,
    STAMP,
    STATE,
    VALUES,
    read_entry,
    read_reports,
    read_revision,
    read_schema,
)
from raftcluster.config.rules import (
    InvalidValue,
    RevisionMismatch,
    check_key,
    check_note,
    pack_value,
    shared_key,
)
from raftcluster.config.schema import check_document, check_setting
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables

NAME: Final = "config"


class ConfigMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 2
    tables = (VALUES, HISTORY, CHANGES, DELETED, SCHEMAS, REPORTS, STATE)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        match command:
            case ["set", key, value, author, reason, node, expected]:
                return _transact(tables, time, _unchanged(key, expected), [["set", key, value]], author, reason, node)
            case ["delete", key, author, reason, node, expected]:
                return _transact(tables, time, _unchanged(key, expected), [["delete", key]], author, reason, node)
            case ["transact", list(conditions), list(changes), author, reason, node]:
                return _transact(tables, time, conditions, changes, author, reason, node)
            case ["schema", prefix, version, document]:
                return _register(tables, prefix, version, document)
            case ["report", str(node_id), str(node), int(revision), str(problem)]:
                return _report(tables, node_id, [node, revision, problem, time])
            case _:
                raise _malformed()

    def tick(self, tables: Tables, time: int) -> None:
        """Nothing: histories are cut when they grow."""

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
    revision = read_revision(tables) + 1
    stamp = STAMP.pack(revision)
    changed: list[str] = []
    for change in changes:
        match change:
            case ["set", key, value]:
                _check_change(tables, key, changed)
                pack_value(value)
                if (schema := read_schema(tables, key)) is not None:
                    check_setting(schema.document, schema.prefix, shared_key(key), value)
                _store(tables, key, [revision, value, author, reason, node, time], deleted=False)
            case ["delete", key]:
                _check_change(tables, key, changed)
                _store(tables, key, [revision, None, author, reason, node, time], deleted=True)
            case _:
                raise _malformed()
        changed.append(key)
    tables.put(CHANGES, stamp, codec.pack(changed))
    tables.put(STATE, LAST, stamp)
    return revision


def _check_condition(tables: ReadTables, condition: Value) -> None:
    match condition:
        case [key, "revision", expected]:
            check_key(key)
            entry = read_entry(tables, key)
            if expected != (0 if entry is None else entry.revision):
                found = "not set" if entry is None else f"at revision {entry.revision}"
                raise RevisionMismatch(f"{key} is {found}, not at the expected revision {expected!r:.40}", subject=key)
        case [key, "value", expected]:
            check_key(key)
            entry = read_entry(tables, key)
            if entry is None or pack_value(entry.value) != pack_value(expected):
                raise RevisionMismatch(f"{key} has not the expected value", subject=key)
        case _:
            raise _malformed()


def _check_change(tables: ReadTables, key: Value, changed: list[str]) -> None:
    check_key(key)
    if key in changed:
        raise Rejected(f"{key} is changed twice in one transaction", subject=key)


def _store(tables: Tables, key: str, version: list[Value], *, deleted: bool) -> None:
    """One version of one key, which becomes what it is."""
    name, stamp = key.encode(), STAMP.pack(version[0])
    entry = read_entry(tables, key)
    if entry is None and deleted:
        raise Rejected(f"{key} is not set", subject=key)
    gone = tables.get(DELETED, name) if entry is None else None
    number = 1 + (int(codec.unpack(gone)) if gone else entry.number if entry else 0)
    version = [*version, number]
    if deleted:
        tables.delete(VALUES, name)
        tables.put(DELETED, name, codec.pack(number))
    else:
        tables.put(VALUES, name, codec.pack(version))
        if gone:
            tables.delete(DELETED, name)
    tables.put(HISTORY, name + b"\0" + stamp, codec.pack([*version, deleted]))
    if number > limits.HISTORY_REVISIONS:
        _forget_oldest(tables, name)


def _forget_oldest(tables: Tables, name: bytes) -> None:
    ((oldest, _),) = tables.scan(HISTORY, name + b"\0", name + b"\1", limit=1)
    stamp = oldest[len(name) + 1 :]
    tables.delete(HISTORY, oldest)
    row = tables.get(CHANGES, stamp)
    assert row is not None, "a change is listed as long as its history row lives"
    if left := [key for key in codec.unpack(row) if key != name.decode()]:
        tables.put(CHANGES, stamp, codec.pack(left))
    else:
        tables.delete(CHANGES, stamp)
    if stamp > (tables.get(STATE, FORGOTTEN) or b""):
        tables.put(STATE, FORGOTTEN, stamp)


def _register(tables: Tables, prefix: Value, version: Value, document: Value) -> int:
    check_key(prefix)
    if shared_key(prefix) != prefix or type(version) is not int or not 0 < version < 2**31:
        raise _malformed()
    pack_value(document)
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
    for key, _ in tables.scan(VALUES, *below, limit=limits.SCAN_ROWS):
        entry = read_entry(tables, key.decode())
        assert entry is not None, "it was just seen"
        check_setting(document, prefix, entry.key, entry.value)
    tables.put(SCHEMAS, prefix.encode(), codec.pack([version, document]))
    return version


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
