"""The replicated greylist.

Tables
    records   triplet key (16) -> record (see `record`)
    expiry    see `expiry`
    clients, allowed   see `clients`
    forgotten see `forgetting`
    acts      see `acts`
    settings  "current" -> [revision, changes from the defaults]; revision (8) -> what was changed by whom, why and where
    state     "total" + node -> deferred, passed, passed for the first time, passed because the client is allowed;
              counters and cursors of the others

Commands
    bytes, see `check`: one check, answered in bytes
        -> ["settings", revision, changes]: it was made under other settings; nothing was done, ask again under these
    ["settings", changes, author, reason, expected revision or None, node]  -> revision
    ["forget", selection, author, node, reason]                             -> [tombstone's key, whether it is done]
    ["sweep"]: forget on, for some milliseconds                             -> None
    ["merge", [[key, began, record], ...]]: see `merging`                   -> [joined, expired, forgotten]
    ["clients", [[key, client], ...]]: the same of clients                  -> [joined, expired, forgotten]
    ["import", [[key, 0, record], ...], None or [detail, author, node, reason]]: the same; the first part says why

Between `apply` and `tick` the machine keeps what the entry's checks have in common: settings, new keys, counts. Nothing
outlives the entry: a snapshot may change the tables between two entries.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct, error
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist import acts, check, clients, forgetting
from raftcluster.greylist.acts import check_why, inspect_act
from raftcluster.greylist.clients import ALLOWED, CLIENTS, inspect_allowed, inspect_client
from raftcluster.greylist.expiry import EXPIRY, RECORDS, STATE, Due, begun, due_minute, enter, look, read_held
from raftcluster.greylist.forgetting import FORGOTTEN, inspect_forgotten
from raftcluster.greylist.inspection import inspect_expiry, inspect_record, inspect_setting, inspect_state
from raftcluster.greylist.merging import check_clients, check_rows, merge, merge_clients
from raftcluster.greylist.record import COUNT_MAX, FRESH, HEAD, NODE, NODE_BYTES, NODES_MAX, Record
from raftcluster.greylist.rules import DEFER, KEY_BYTES, decide, network_in
from raftcluster.greylist.selection import Selection
from raftcluster.greylist.settings import Settings, Waits, check_names
from raftcluster.machine import ReadTables, Tables
from raftcluster.trail import ACTS

NAME: Final = "greylist"
SETTINGS: Final = "settings"

TICK_KEYS: Final = 64  # keys looked at per entry, besides as many as it had checks: no check makes more than one due

_INSPECTIONS: Final = {
    RECORDS: inspect_record,
    EXPIRY: inspect_expiry,
    SETTINGS: inspect_setting,
    STATE: inspect_state,
    CLIENTS: inspect_client,
    ALLOWED: inspect_allowed,
    FORGOTTEN: inspect_forgotten,
    ACTS: inspect_act,
}
_CURRENT: Final = b"current"
_TOTAL: Final = b"total"
_REVISION: Final = Struct(">Q")
_TOTAL_ROW: Final = Struct(">QQQQ")
_CHECK: Final = check.HEAD
_TOLD: Final = check.RESULT


class _InForce(NamedTuple):
    """What the checks of an entry need of the settings."""

    revision: int
    waits: Waits
    passes: int
    """That allow a client."""
    privacy: bool
    values: dict[str, Value]
    """What differs from the defaults."""


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
    schema = 2
    tables = (RECORDS, EXPIRY, SETTINGS, STATE, CLIENTS, ALLOWED, FORGOTTEN, ACTS)

    def __init__(self) -> None:
        self._settings: _InForce | None = None
        self._due: Due = {}
        self._firsts: dict[bytes, _First] = {}
        """By node."""
        self._counts: dict[bytes, list[int]] = {}
        """Node -> as in `state`."""

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        if type(command) is bytes:
            return self._check(command, tables, time)
        try:
            match command[0]:
                case "settings":
                    return self._change_settings(tables, time, *_parts(command, 5))
                case "forget":
                    return self._forget(tables, time, *_parts(command, 4))
                case "sweep":
                    _parts(command, 0)
                    return forgetting.sweep(tables, time, forgetting.SWEEP_ROWS)
                case "merge":
                    return self._merge(tables, time, *_parts(command, 1))
                case "clients":
                    return self._merge_clients(tables, time, *_parts(command, 1))
                case "import":
                    return self._import(tables, time, *_parts(command, 2))
        except (TypeError, ValueError, LookupError) as error:
            raise Rejected("malformed greylist command", subject=NAME) from error  # nothing of Python's own wording
        raise Rejected(f"the greylist knows no command {command[0]!a:.40}", subject=NAME)

    def tick(self, tables: Tables, time: int) -> None:
        """Write what the entry's checks had in common, then look at records whose time has come."""
        due, counts = self._due, self._counts
        self._settings, self._due, self._firsts, self._counts = None, {}, {}, {}
        checks = 0
        for node, count in counts.items():
            known = _TOTAL_ROW.unpack(tables.get(STATE, _TOTAL + node) or bytes(_TOTAL_ROW.size))
            checks += count[0] + count[1]
            total = [before + more for before, more in zip(known, count, strict=True)]
            tables.put(STATE, _TOTAL + node, _TOTAL_ROW.pack(*total))
        taken = look(tables, time, TICK_KEYS + checks, due)
        if due or taken:
            enter(tables, due, taken)
        forgetting.sweep(tables, time, forgetting.ENTRY_ROWS)

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
            current = self._settings = _in_force(tables.get(SETTINGS, _CURRENT))
        if revision != current.revision:
            return ["settings", current.revision, current.values]
        rest = command[_CHECK.size :]
        wrong = flags & check.HASHED and len(rest) != KEY_BYTES
        if flags & ~check.FLAGS or wrong or len(command) > check.CHECK_BYTES:
            raise Rejected("malformed check", subject=NAME)
        life, passes = current.waits.life, current.passes
        if flags & check.CLIENT and clients.serve(tables, _client(rest, flags), time, life, passes):
            count = self._counted_at(node)
            count[1] += 1
            count[3] += 1
            return _TOLD.pack(check.SERVED, True, 0, 0, 0)
        old = tables.get(RECORDS, key)
        if old is not None:
            return self._again(old, key, node, flags, rest, tables, time, current)
        first = self._firsts.get(node) or self._first(node, time, current.waits)
        tables.put(RECORDS, key, first.row + (b"" if flags & check.HASHED else rest))
        first.keys.append(key)
        first.count[0] += 1
        return first.told

    def _first(self, node: bytes, time: int, waits: Waits) -> _First:
        _, first, expires, before, left, delayed = decide(0, 0, False, time, waits, False)
        row = FRESH.pack(first, time, expires, False, 1, node, 1, 0)
        keys = self._due.setdefault(due_minute(expires, time), [])
        told = _TOLD.pack(check.DEFERRED, before, first, left, delayed)
        made = self._firsts[node] = _First(row, told, keys, self._counted_at(node))
        return made

    def _again(
        self,
        old: bytes,
        key: bytes,
        node: bytes,
        flags: int,
        rest: bytes,
        tables: Tables,
        time: int,
        current: _InForce,
    ) -> bytes:
        """A check of a triplet that has a record, alive or not."""
        first, _, expires, passed, nodes, known, deferrals, passes = FRESH.unpack_from(old)
        action, first, expires_now, before, left, delayed = decide(
            first, expires, passed, time, current.waits, flags & check.NULL_SENDER != 0
        )
        deferred = action is DEFER
        if (
            flags & check.ANSWERED and not deferred
        ):  # nobody has heard that it passes: it still has its first pass before it
            deferred, expires_now = True, expires
        else:
            passed = not deferred
        if time >= expires:  # it counts from nought, as if it had been cleaned up already
            row = FRESH.pack(first, time, expires_now, False, 1, node, 1, 0)
        elif nodes == 1 and known == node:
            if deferred:
                deferrals += deferrals < COUNT_MAX
            else:
                passes += passes < COUNT_MAX
            row = FRESH.pack(first, time, expires_now, passed, 1, node, deferrals, passes)
        else:
            row = _counted(old, first, time, expires_now, passed, deferred, node)
        tables.put(RECORDS, key, row + (b"" if flags & check.HASHED else rest))
        count = self._counted_at(node)
        if deferred:
            count[0] += 1
            return _TOLD.pack(check.DEFERRED, before, first, left, delayed)
        count[1] += 1
        if not before:
            count[2] += 1
            if current.passes:
                self._count_client(rest, flags, tables, time, current)
        return _TOLD.pack(check.PASSED, before, first, left, delayed)

    def _count_client(self, rest: bytes, flags: int, tables: Tables, time: int, current: _InForce) -> None:
        """A triplet has waited and passes."""
        key, network = _client(rest, flags), b"" if flags & check.HASHED else network_in(rest)
        expires = clients.count(tables, key, network, time, current.waits.life, current.passes)
        if expires is not None:
            self._due.setdefault(due_minute(expires, time), []).append(key)

    def _counted_at(self, node: bytes) -> list[int]:
        return self._counts.setdefault(node, [0, 0, 0, 0])

    def _forget(self, tables: Tables, time: int, named: Value, author: Value, node: Value, reason: Value) -> Value:
        check_why(author, node, reason)
        selection, current = Selection(named), _in_force(tables.get(SETTINGS, _CURRENT))
        if current.privacy and selection.key is None:
            raise Rejected(
                "under privacy no record holds an address",
                subject="selection",
                remedy="name client, sender and recipient",
            )
        key, stone = forgetting.forget(tables, selection, time, current.waits.life)
        acts.record(tables, "forgotten", str(selection), author, node, reason, time)
        return [key, stone.place is None]

    def _merge(self, tables: Tables, time: int, rows: Value) -> Value:
        current = _in_force(tables.get(SETTINGS, _CURRENT))
        return merge(tables, check_rows(rows), time, current.waits.life, current.privacy, self._due)

    def _merge_clients(self, tables: Tables, time: int, rows: Value) -> Value:
        current, found = _in_force(tables.get(SETTINGS, _CURRENT)), check_clients(rows)
        return merge_clients(tables, found, time, current.waits, current.passes, current.privacy, self._due)

    def _import(self, tables: Tables, time: int, rows: Value, why: Value) -> Value:
        records = check_rows(rows)
        if why is not None:
            detail, author, node, reason = why
            check_why(author, node, reason)
            if type(detail) is not str or len(detail) > limits.KIB:
                raise Rejected("malformed import", subject=NAME)
            acts.record(tables, "imported", detail, author, node, reason, time)
        current = _in_force(tables.get(SETTINGS, _CURRENT))
        return merge(tables, records, time, current.waits.life, current.privacy, self._due)

    def _change_settings(
        self, tables: Tables, time: int, changes: Value, author: Value, reason: Value, expected: Value, node: Value
    ) -> int:
        self._settings = None
        self._firsts = {}
        revision, values = read_settings_row(tables)
        check_names(changes)
        check_why(author, node, reason)
        if expected is not None and expected != revision:
            error = Rejected(f"the greylist settings are at revision {revision}, not {expected!a:.40}", subject=NAME)
            error.code = "revision-mismatch"
            raise error
        if "lab" in changes and bool(changes["lab"]) != values.get("lab", False):
            if revision or begun(tables):
                raise Rejected("whether this is a lab cluster is decided when it is made", subject="lab")
        values = {**values, **changes}
        values = {name: values[name] for name in sorted(values) if values[name] is not None}
        Settings.of(values)  # raises when they do not fit together
        revision += 1
        tables.put(SETTINGS, _CURRENT, codec.pack([revision, values]))
        row = [revision, {name: changes[name] for name in sorted(changes)}, author, reason, time, node]
        tables.put(SETTINGS, _REVISION.pack(revision), codec.pack(row))
        if revision > limits.HISTORY_REVISIONS:
            tables.delete(SETTINGS, _REVISION.pack(revision - limits.HISTORY_REVISIONS))
        return revision


def read_settings_row(tables: ReadTables) -> tuple[int, dict[str, Value]]:
    """The settings' revision (0: never changed) and what differs from the defaults."""
    return _settings(tables.get(SETTINGS, _CURRENT))


def read_settings_history(tables: ReadTables, limit: int) -> list[list[Value]]:
    """The newest `limit` changes of settings, newest first: [revision, changes, author, reason, time, node]."""
    newest, _ = read_settings_row(tables)
    start = _REVISION.pack(max(1, newest - limit + 1))
    rows = tables.scan(SETTINGS, start, _REVISION.pack(newest + 1), limit=limit)
    return [codec.unpack(row) for _, row in reversed(rows)]


def read_totals(tables: ReadTables) -> dict[bytes, tuple[int, int, int, int]]:
    """Per node label: checks deferred, passed, passed for the first time, passed because their client is allowed."""
    rows = tables.scan(STATE, _TOTAL, _TOTAL + b"\xff" * (NODE_BYTES + 1))
    return {key[len(_TOTAL) :]: _TOTAL_ROW.unpack(row) for key, row in rows}


def read_record_count(tables: ReadTables) -> int:
    """How many records there are, expired ones that were not looked at yet included."""
    return read_held(tables) - clients.read_client_counts(tables)[0]


def read_record(tables: ReadTables, key: bytes) -> Record | None:
    """The record of a triplet, alive or not."""
    row = tables.get(RECORDS, key)
    return None if row is None else Record.unpack(row)


def _settings(row: bytes | None) -> tuple[int, dict[str, Value]]:
    if row is None:
        return 0, {}
    revision, values = codec.unpack(row)
    return revision, values


@lru_cache(maxsize=2)
def _in_force(row: bytes | None) -> _InForce:
    """What a row of settings means: remembered, because every entry with a check asks and the row hardly ever changes."""
    revision, values = _settings(row)
    settings = Settings.of(values)
    return _InForce(revision, settings.waits(), settings.auto_allow, settings.privacy, values)


def _parts(command: Value, count: int) -> list[Value]:
    """What follows a command's name, so many parts. Raises `ValueError`."""
    parts: list[Value] = list(command[1:])
    if len(parts) != count:
        raise ValueError(count)
    return parts


def _client(rest: bytes, flags: int) -> bytes:
    """The key of a check's client; `rest` is what follows its head."""
    return rest if flags & check.HASHED else clients.client_key(network_in(rest))


def _counted(old: bytes, first: int, time: int, expires: int, passed: bool, deferred: bool, node: bytes) -> bytes:
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
        return HEAD.pack(first, time, expires, passed, nodes) + old[HEAD.size : end]
    else:
        nodes += 1
    if deferred:
        deferrals += deferrals < COUNT_MAX
    else:
        passes += passes < COUNT_MAX
    head = HEAD.pack(first, time, expires, passed, nodes)
    return head + old[HEAD.size : at] + NODE.pack(node, deferrals, passes) + old[after:end]
