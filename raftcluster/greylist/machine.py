"""The replicated greylist.

Tables
    records   triplet key (16) -> record (see `record`)
    expiry    minute (4, big endian) + sequence (8) -> up to 64 triplet keys: who is due for a look when
    settings  "current" -> [revision, changes from the defaults]; revision (8) -> what was changed by whom and why
    state     "sequence" -> next sequence and keys in the index; "cursor" -> where in `expiry` the look goes on;
              "total" + node -> deferred, passed, passed for the first time

Commands
    bytes, see `check`: one check, answered in bytes
        -> ["settings", revision, changes]: it was made under other settings; nothing was done, ask again under these
    ["settings", changes, author, reason, expected revision or None]        -> revision

Expiry. A row of `expiry` is written once per log entry and due time, not per record: the random writes of a second index
would cost as much as the records. Renewing a record does not touch the index; when its time comes it is looked at, and
deleted or entered again under its later time. So every record is in the index exactly once, and a record may stay for
up to an hour after it expired -- which nobody can tell, because `decide` takes it for none. The work per entry is bounded
by the entry's own operations, so the clean-up keeps up with any load and never stops the world.

Between `apply` and `tick` the machine keeps what the entry's checks have in common: settings, new keys, counts. Nothing
outlives the entry: a snapshot may change the tables between two entries.
"""

from __future__ import annotations

from struct import Struct, error
from typing import Final

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist import check
from raftcluster.greylist.inspection import inspect_expiry, inspect_record, inspect_setting, inspect_state
from raftcluster.greylist.record import COUNT_MAX, FRESH, HEAD, NODE, NODE_BYTES, NODES_MAX, Record
from raftcluster.greylist.rules import DEFER, KEY_BYTES, decide
from raftcluster.greylist.settings import Settings, Waits, check_names
from raftcluster.machine import ReadTables, Tables

NAME: Final = "greylist"
RECORDS: Final = "records"
EXPIRY: Final = "expiry"
SETTINGS: Final = "settings"
STATE: Final = "state"

MINUTE_MS: Final = 60_000
HOUR_MINUTES: Final = 60
DAY_MS: Final = 86_400_000
ROW_KEYS: Final = 64  # keys per row of the index: a row is 1 KB
PAGE_ROWS: Final = 16  # rows per scan of the index
TICK_KEYS: Final = 64  # keys looked at per entry, and twice as many as the entry had checks

_INSPECTIONS: Final = {
    RECORDS: inspect_record,
    EXPIRY: inspect_expiry,
    SETTINGS: inspect_setting,
    STATE: inspect_state,
}
_CURRENT: Final = b"current"
_CURSOR: Final = b"cursor"
_SEQUENCE: Final = b"sequence"
_TOTAL: Final = b"total"
_MINUTE: Final = Struct(">I")
_REVISION: Final = Struct(">Q")
_EXPIRY_KEY: Final = Struct(">IQ")
_SEQUENCE_ROW: Final = Struct(">QQ")
_TOTAL_ROW: Final = Struct(">QQQ")
_CHECK: Final = check.HEAD
_TOLD: Final = check.RESULT


class _First:
    """What the first attempts have in common that one node saw within one entry."""

    __slots__ = ("count", "keys", "row", "told")

    def __init__(self, row: bytes, told: bytes, keys: list[bytes], count: list[int]) -> None:
        self.row = row
        """All but the triplet."""
        self.told, self.keys, self.count = told, keys, count


class GreylistMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 1
    tables = (RECORDS, EXPIRY, SETTINGS, STATE)

    def __init__(self) -> None:
        self._settings: tuple[int, Waits, dict[str, Value]] | None = None
        self._due: dict[int, list[bytes]] = {}
        self._firsts: dict[bytes, _First] = {}
        """By node."""
        self._counts: dict[bytes, list[int]] = {}
        """Node -> checks deferred, passed, passed for the first time."""

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        if type(command) is bytes:
            return self._check(command, tables, time)
        try:
            if command[0] == "settings":
                _, changes, author, reason, expected = command
                return self._change_settings(changes, author, reason, expected, tables, time)
        except (TypeError, ValueError, LookupError) as error:
            raise Rejected("malformed greylist command", subject=NAME) from error  # nothing of Python's own wording
        raise Rejected(f"the greylist knows no command {command[0]!r:.40}", subject=NAME)

    def tick(self, tables: Tables, time: int) -> None:
        """Write what the entry's checks had in common, then look at records whose time has come."""
        due, counts = self._due, self._counts
        self._settings, self._due, self._firsts, self._counts = None, {}, {}, {}
        checks = 0
        for node, count in counts.items():
            known = _TOTAL_ROW.unpack(tables.get(STATE, _TOTAL + node) or bytes(_TOTAL_ROW.size))
            checks += count[0] + count[1]
            total = (known[0] + count[0], known[1] + count[1], known[2] + count[2])
            tables.put(STATE, _TOTAL + node, _TOTAL_ROW.pack(*total))
        taken = _look(tables, time, TICK_KEYS + 2 * checks, due)
        if due or taken:
            _enter(tables, due, taken)

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """See `raftcluster.machine.Inspectable`."""
        _INSPECTIONS[table](key, value)

    def _check(self, command: bytes, tables: Tables, time: int) -> Value:
        try:
            revision, key, node, flags = _CHECK.unpack_from(command)
        except error:
            raise Rejected("malformed check", subject=NAME) from None
        current = self._settings
        if current is None:
            current = self._settings = _load(tables)
        if revision != current[0]:
            return ["settings", current[0], current[2]]
        if flags & ~check.FLAGS or len(command) > check.CHECK_BYTES:
            raise Rejected("malformed check", subject=NAME)
        triplet = command[_CHECK.size :]
        old = tables.get(RECORDS, key)
        if old is not None:
            return self._again(old, key, node, flags != 0, triplet, tables, time, current[1])
        first = self._firsts.get(node) or self._first(node, time, current[1])
        tables.put(RECORDS, key, first.row + triplet)
        first.keys.append(key)
        first.count[0] += 1
        return first.told

    def _first(self, node: bytes, time: int, waits: Waits) -> _First:
        _, first, expires, before, left, delayed = decide(0, 0, False, time, waits, False)
        row = FRESH.pack(first, time, expires, False, 1, node, 1, 0)
        keys = self._due.setdefault(_due_minute(expires, time), [])
        told = _TOLD.pack(False, before, first, left, delayed)
        made = self._firsts[node] = _First(row, told, keys, self._counts.setdefault(node, [0, 0, 0]))
        return made

    def _again(
        self,
        old: bytes,
        key: bytes,
        node: bytes,
        null_sender: bool,
        triplet: bytes,
        tables: Tables,
        time: int,
        waits: Waits,
    ) -> bytes:
        """A check of a triplet that has a record, alive or not."""
        first, _, expires, passed, nodes, known, deferrals, passes = FRESH.unpack_from(old)
        action, first, expires_now, before, left, delayed = decide(first, expires, passed, time, waits, null_sender)
        deferred = action is DEFER
        if time >= expires:  # it counts from nought, as if it had been cleaned up already
            row = FRESH.pack(first, time, expires_now, False, 1, node, 1, 0)
        elif nodes == 1 and known == node:
            if deferred:
                deferrals += deferrals < COUNT_MAX
            else:
                passes += passes < COUNT_MAX
            row = FRESH.pack(first, time, expires_now, not deferred, 1, node, deferrals, passes)
        else:
            row = _counted(old, first, time, expires_now, deferred, node)
        tables.put(RECORDS, key, row + triplet)
        count = self._counts.setdefault(node, [0, 0, 0])
        if deferred:
            count[0] += 1
        else:
            count[1] += 1
            if not before:
                count[2] += 1
        return _TOLD.pack(not deferred, before, first, left, delayed)

    def _change_settings(
        self, changes: Value, author: Value, reason: Value, expected: Value, tables: Tables, time: int
    ) -> int:
        self._settings = None
        self._firsts = {}
        revision, values = read_settings_row(tables)
        check_names(changes)
        if type(author) is not str or type(reason) is not str or len(author) + len(reason) > limits.KIB:
            raise Rejected("author and reason take text, at most 1 KiB together", subject=NAME)
        if expected is not None and expected != revision:
            error = Rejected(f"the greylist settings are at revision {revision}, not {expected!r:.40}", subject=NAME)
            error.code = "revision-mismatch"
            raise error
        if "lab" in changes and bool(changes["lab"]) != values.get("lab", False):
            if revision or tables.get(STATE, _SEQUENCE) is not None:
                raise Rejected("whether this is a lab cluster is decided when it is made", subject="lab")
        values = {**values, **changes}
        values = {name: values[name] for name in sorted(values) if values[name] is not None}
        Settings.of(values)  # raises when they do not fit together
        revision += 1
        tables.put(SETTINGS, _CURRENT, codec.pack([revision, values]))
        row = [revision, {name: changes[name] for name in sorted(changes)}, author, reason, time]
        tables.put(SETTINGS, _REVISION.pack(revision), codec.pack(row))
        if revision > limits.HISTORY_REVISIONS:
            tables.delete(SETTINGS, _REVISION.pack(revision - limits.HISTORY_REVISIONS))
        return revision


def read_settings_row(tables: ReadTables) -> tuple[int, dict[str, Value]]:
    """The settings' revision (0: never changed) and what differs from the defaults."""
    row = tables.get(SETTINGS, _CURRENT)
    if row is None:
        return 0, {}
    revision, values = codec.unpack(row)
    return revision, values


def read_settings_history(tables: ReadTables, limit: int) -> list[list[Value]]:
    """The newest `limit` changes of settings, newest first: [revision, changes, author, reason, time]."""
    newest, _ = read_settings_row(tables)
    start = _REVISION.pack(max(1, newest - limit + 1))
    rows = tables.scan(SETTINGS, start, _REVISION.pack(newest + 1), limit=limit)
    return [codec.unpack(row) for _, row in reversed(rows)]


def read_totals(tables: ReadTables) -> dict[bytes, tuple[int, int, int]]:
    """Per node label: checks deferred, checks passed, checks passed for the first time."""
    rows = tables.scan(STATE, _TOTAL, _TOTAL + b"\xff" * (NODE_BYTES + 1))
    return {key[len(_TOTAL) :]: _TOTAL_ROW.unpack(row) for key, row in rows}


def read_record_count(tables: ReadTables) -> int:
    """How many records there are, expired ones that were not looked at yet included."""
    row = tables.get(STATE, _SEQUENCE)
    return 0 if row is None else int(_SEQUENCE_ROW.unpack(row)[1])


def read_record(tables: ReadTables, key: bytes) -> Record | None:
    """The record of a triplet, alive or not."""
    row = tables.get(RECORDS, key)
    return None if row is None else Record.unpack(row)


def _load(tables: ReadTables) -> tuple[int, Waits, dict[str, Value]]:
    revision, values = read_settings_row(tables)
    return revision, Settings.of(values).waits(), values


def _counted(old: bytes, first: int, time: int, expires: int, deferred: bool, node: bytes) -> bytes:
    """The row of `old` without its triplet, with one more check at `node`: nodes stay in order."""
    nodes = old[HEAD.size - 1]
    end = HEAD.size + nodes * NODE.size
    at = HEAD.size
    while at < end and old[at : at + NODE_BYTES] < node:
        at += NODE.size
    after = at
    deferrals = passes = 0
    if at < end and old[at : at + NODE_BYTES] == node:
        after = at + NODE.size
        _, deferrals, passes = NODE.unpack_from(old, at)
    elif nodes == NODES_MAX:
        return HEAD.pack(first, time, expires, not deferred, nodes) + old[HEAD.size : end]
    else:
        nodes += 1
    if deferred:
        deferrals += deferrals < COUNT_MAX
    else:
        passes += passes < COUNT_MAX
    head = HEAD.pack(first, time, expires, not deferred, nodes)
    return head + old[HEAD.size : at] + NODE.pack(node, deferrals, passes) + old[after:end]


def _due_minute(expires: int, time: int) -> int:
    """The first whole minute after `expires`; more than a day ahead the whole hour, so that rows are shared."""
    minute = expires // MINUTE_MS + 1
    return minute if expires - time <= DAY_MS else minute + -minute % HOUR_MINUTES


def _look(tables: Tables, time: int, budget: int, due: dict[int, list[bytes]]) -> int:
    """Look at the keys that are due, about `budget` of them, and enter the living into `due`; how many were taken."""
    stop = _MINUTE.pack(time // MINUTE_MS + 1)
    cursor = tables.get(STATE, _CURSOR) or b""
    if cursor >= stop:
        return 0
    taken = 0
    while budget > 0 and cursor < stop:
        rows = tables.scan(EXPIRY, cursor, stop, limit=PAGE_ROWS)
        for row_key, keys in rows:
            for at in range(0, len(keys), KEY_BYTES):
                _look_at(tables, keys[at : at + KEY_BYTES], time, due)
            tables.delete(EXPIRY, row_key)
            cursor = row_key + b"\0"
            taken += len(keys) // KEY_BYTES
            budget -= len(keys) // KEY_BYTES
            if budget <= 0:
                break
        else:
            if len(rows) < PAGE_ROWS:
                cursor = stop
    tables.put(STATE, _CURSOR, cursor)
    return taken


def _look_at(tables: Tables, key: bytes, time: int, due: dict[int, list[bytes]]) -> None:
    row = tables.get(RECORDS, key)
    if row is None:
        return
    expires = HEAD.unpack_from(row)[2]
    if expires <= time:
        tables.delete(RECORDS, key)
    else:
        due.setdefault(_due_minute(expires, time), []).append(key)


def _enter(tables: Tables, due: dict[int, list[bytes]], taken: int) -> None:
    """Write the rows of `due`, and how many keys the index holds now."""
    sequence, held = _SEQUENCE_ROW.unpack(tables.get(STATE, _SEQUENCE) or bytes(_SEQUENCE_ROW.size))
    entered = 0
    for minute, keys in due.items():
        for at in range(0, len(keys), ROW_KEYS):
            chunk = keys[at : at + ROW_KEYS]
            tables.put(EXPIRY, _EXPIRY_KEY.pack(minute, sequence), b"".join(chunk))
            sequence += 1
            entered += len(chunk)
    tables.put(STATE, _SEQUENCE, _SEQUENCE_ROW.pack(sequence, held + entered - taken))
