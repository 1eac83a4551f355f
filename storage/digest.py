"""Whether two nodes' tables are equal, and if not, about where: digests of ranges of rows, one SHA-256 per table.

A table is divided where its *keys* say so: a range ends with each key whose CRC-32 has `RANGE_BITS` zero bits at its end,
so one in 256. A row that differs changes the digest of its range and no other; one that is missing or too many joins or
divides two ranges at most. So nodes whose tables are nearly equal find the few rows by exchanging 50 bytes per 256 rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from raftcluster.storage.ports import Row, Snapshot

RANGE_BITS: Final = 8
_INNER: Final = 2**RANGE_BITS - 1
_LENGTHS: Final = Struct(">HI")


class Range(NamedTuple):
    """The rows of a table from behind the range before to `last`."""

    last: bytes | None
    """Its last key; None for the last range of all, which is there in every table and may be empty."""
    rows: int
    digest: bytes
    """SHA-256 over its rows in key order, each with the lengths of key and value before it."""


class Ranges:
    """Divides the rows of one table, which are given in key order. About 1 us a row. Thread: any, one at a time."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._rows = 0

    def add(self, rows: Iterable[Row]) -> list[Range]:
        """The ranges that end among `rows`."""
        ended: list[Range] = []
        parts: list[bytes] = []
        lengths = _LENGTHS.pack
        for key, value in rows:
            parts += (lengths(len(key), len(value)), key, value)
            if not crc32(key) & _INNER:
                self._hash.update(b"".join(parts))
                ended.append(Range(key, self._rows + len(parts) // 3, self._hash.digest()))
                self._hash, self._rows, parts = hashlib.sha256(), 0, []
        self._hash.update(b"".join(parts))
        self._rows += len(parts) // 3
        return ended

    def end(self) -> Range:
        """The range to the table's end."""
        return Range(None, self._rows, self._hash.digest())


def table_digest(ranges: Iterable[Range]) -> str:
    """The digest of a table by those of all its ranges, in order: equal for equal tables and no others. Hexadecimal."""
    return hashlib.sha256(b"".join(each.digest for each in ranges)).hexdigest()


def digest(snapshot: Snapshot) -> dict[str, str]:
    """Table -> its digest; tables without rows are left out.

    Comparable between nodes at an equal `snapshot.index`, whatever their chunks. Consumes and closes the snapshot; about
    1 us a row. Thread: any.
    """
    open_ranges: dict[str, Ranges] = {}
    ended: dict[str, list[Range]] = {}
    with closing(snapshot.chunks) as chunks:
        for table, rows in chunks:
            ranges = open_ranges.setdefault(table, Ranges())
            ended.setdefault(table, []).extend(ranges.add(rows))
    return {table: table_digest([*ended[table], ranges.end()]) for table, ranges in open_ranges.items()}
