"""A snapshot that comes from elsewhere, checked before it may replace the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from raftcluster import limits
from raftcluster.storage.ports import Chunk, Row, check_table


class UnusableSource(Exception):
    """What `install` was given is no snapshot, or broke off; the message says why."""


def checked(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """`chunks`, rows as tuples, as long as they are what a snapshot is: named tables, bytes, keys of 1 to 511 in ascending
    order. Whatever else they are, and whatever they raise, is an `UnusableSource`. 0.2 us a row.
    """
    last: dict[str, bytes] = {}
    try:
        for table, rows in chunks:
            previous = last.get(check_table(table), b"")
            clean: list[Row] = []
            for key, value in rows:
                if type(key) is not bytes or type(value) is not bytes or len(key) > limits.KEY_BYTES or key <= previous:
                    raise UnusableSource(f"row {len(clean)} of a chunk of {table} is out of order or cannot be stored")
                clean.append((key, value))
                previous = key
            last[table] = previous
            yield table, clean
    except UnusableSource:
        raise
    except Exception as error:
        raise UnusableSource(repr(error)) from error
