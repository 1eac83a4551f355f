"""Bringing in records that were written elsewhere: by a node that was cut off, or in a file.

Each comes as [key, began, row]: `began` is when the one that brings it began to keep it by itself. What has expired by now, and
what was forgotten since it was first seen, is dropped *before* the join; and no first attempt is taken to be earlier than
`began`, unless the cluster itself knows better. So nothing that has expired or was forgotten comes back, no wait that is
under way begins anew, and no count is lost. At one moment merging is commutative, associative and idempotent, for it is
`record.join` over what is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import error
from typing import Final

from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist.clients import Client, bring, inspect_client
from raftcluster.greylist.expiry import RECORDS, Due, due_minute
from raftcluster.greylist.forgetting import Forgotten
from raftcluster.greylist.inspection import inspect_record
from raftcluster.greylist.record import NODES_MAX, Record, join
from raftcluster.greylist.settings import Waits
from raftcluster.machine import Tables

ROWS_MAX: Final = 500  # that come in one command


def check_rows(rows: Value) -> list[tuple[bytes, int, Record]]:
    """What came, unpacked. Raises `Rejected` when a record is none."""
    if type(rows) is not list or not 0 < len(rows) <= ROWS_MAX:
        raise Rejected(f"1 to {ROWS_MAX} records come at once", subject="records")
    found = []
    for each in rows:
        match each:
            case [bytes(key), int(began), bytes(row)] if began >= 0 and type(began) is int:
                try:
                    inspect_record(key, row)
                    found.append((key, began, Record.unpack(row)))
                except (ValueError, error):
                    raise Rejected(f"the record {key.hex():.40} is none", subject="records") from None
            case _:
                raise Rejected("malformed record", subject="records")
    return found


def check_clients(rows: Value) -> list[tuple[bytes, Client]]:
    """What clients came, unpacked. Raises `Rejected` when one is none."""
    if type(rows) is not list or not 0 < len(rows) <= ROWS_MAX:
        raise Rejected(f"1 to {ROWS_MAX} clients come at once", subject="clients")
    found = []
    for each in rows:
        match each:
            case [bytes(key), bytes(row)]:
                try:
                    inspect_client(key, row)
                    found.append((key, Client.unpack(row)))
                except (ValueError, error):
                    raise Rejected(f"the client {key.hex():.40} is none", subject="clients") from None
            case _:
                raise Rejected("malformed client", subject="clients")
    return found


def merge_clients(
    tables: Tables, rows: Iterable[tuple[bytes, Client]], time: int, waits: Waits, needed: int, privacy: bool, due: Due
) -> list[int]:
    """How many were joined, had expired, were forgotten. New ones' keys are entered into `due`."""
    forgotten = Forgotten(tables, time)
    joined = expired = dropped = 0
    for key, client in rows:
        if client.expires <= time:
            expired += 1
        elif forgotten.covers_client(client.sequence, client.network):
            dropped += 1
        else:
            client = client._replace(network=b"") if privacy else client
            expires = bring(tables, key, client, time, waits.life, needed)
            if expires is not None:
                due.setdefault(due_minute(expires, time), []).append(key)
            joined += 1
    return [joined, expired, dropped]


def merge(
    tables: Tables, rows: Iterable[tuple[bytes, int, Record]], time: int, life: int, privacy: bool, due: Due
) -> list[int]:
    """How many were joined, had expired, were forgotten. New records' keys are entered into `due`."""
    forgotten = Forgotten(tables, time)
    joined = expired = dropped = 0
    for key, began, record in rows:
        if record.expires <= time or record.last + life <= time or (began + life <= time and began):
            expired += 1  # or kept apart for longer than tombstones are: nobody knows any more what was forgotten
            continue
        if forgotten.covers(key, record.first, record.triplet):
            dropped += 1
            continue
        first = min(max(record.first, began), time)
        last = min(max(record.last, first), time)
        record = record._replace(
            first=first,
            last=last,
            expires=min(record.expires, last + life),
            triplet=b"" if privacy else record.triplet,
        )
        row = tables.get(RECORDS, key)
        known = None if row is None else Record.unpack(row)
        if known is None:
            due.setdefault(due_minute(record.expires, time), []).append(key)
        elif time < known.expires:
            record = join(known, record)
            record = record._replace(counters=record.counters[:NODES_MAX])
        tables.put(RECORDS, key, record.pack())
        joined += 1
    return [joined, expired, dropped]
