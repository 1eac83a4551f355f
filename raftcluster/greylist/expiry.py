"""The expiry index: who is due for a look, and when.

    expiry    minute (4, big endian) + sequence (8) -> up to 64 keys, of records or clients
    state     "sequence" -> next sequence and keys in the index; "cursor" -> where in `expiry` the look goes on

A row is written once per log entry and due time, not per record: the random writes of a second index would cost as much
as the records. Renewing a record does not touch the index; when its time comes it is looked at, and deleted or entered
again under its later time. So every record is in the index exactly once, and a record may stay for up to an hour after it
expired -- which nobody can tell, because `decide` takes it for none. The work per entry is bounded by the entry's own
operations, so the clean-up keeps up with any load and never stops the world.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from raftcluster.greylist import clients
from raftcluster.greylist.record import HEAD
from raftcluster.greylist.rules import KEY_BYTES
from raftcluster.machine import ReadTables, Tables

RECORDS: Final = "records"
EXPIRY: Final = "expiry"
STATE: Final = "state"

MINUTE_MS: Final = 60_000
HOUR_MINUTES: Final = 60
DAY_MS: Final = 86_400_000
ROW_KEYS: Final = 64  # keys per row of the index: a row is 1 KB
PAGE_ROWS: Final = 16  # rows per scan of the index

Due = dict[int, list[bytes]]
"""Minute -> keys that are to be looked at then."""

_CURSOR: Final = b"cursor"
_SEQUENCE: Final = b"sequence"
_MINUTE: Final = Struct(">I")
_EXPIRY_KEY: Final = Struct(">IQ")
_SEQUENCE_ROW: Final = Struct(">QQ")


def due_minute(expires: int, time: int) -> int:
    """The first whole minute after `expires`; more than a day ahead the whole hour, so that rows are shared."""
    minute = expires // MINUTE_MS + 1
    return minute if expires - time <= DAY_MS else minute + -minute % HOUR_MINUTES


def look(tables: Tables, time: int, budget: int, due: Due) -> int:
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


def enter(tables: Tables, due: Due, taken: int) -> None:
    """Write the rows of `due`, and how many keys the index holds now that `taken` were taken out."""
    sequence, held = _SEQUENCE_ROW.unpack(tables.get(STATE, _SEQUENCE) or bytes(_SEQUENCE_ROW.size))
    entered = 0
    for minute, keys in due.items():
        for at in range(0, len(keys), ROW_KEYS):
            chunk = keys[at : at + ROW_KEYS]
            tables.put(EXPIRY, _EXPIRY_KEY.pack(minute, sequence), b"".join(chunk))
            sequence += 1
            entered += len(chunk)
    tables.put(STATE, _SEQUENCE, _SEQUENCE_ROW.pack(sequence, held + entered - taken))


def begun(tables: ReadTables) -> bool:
    """Whether there ever was a record."""
    return tables.get(STATE, _SEQUENCE) is not None


def read_held(tables: ReadTables) -> int:
    """How many keys the index holds: those of all records and of all clients."""
    row = tables.get(STATE, _SEQUENCE)
    return 0 if row is None else int(_SEQUENCE_ROW.unpack(row)[1])


def _look_at(tables: Tables, key: bytes, time: int, due: Due) -> None:
    row = tables.get(RECORDS, key)
    if row is not None:
        expires = HEAD.unpack_from(row)[2]
        if expires <= time:
            tables.delete(RECORDS, key)
            return
    elif (row := tables.get(clients.CLIENTS, key)) is not None:
        expires = clients.Client.unpack(row).expires
        if expires <= time:
            clients.remove(tables, key, row)
            return
    else:
        return
    due.setdefault(due_minute(expires, time), []).append(key)
