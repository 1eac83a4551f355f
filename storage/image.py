"""The tables as applied up to one log index, for another thread to read while the node goes on.

A snapshot of the store, and over it the changes that were applied and not yet checkpointed when the image was taken. The
store may have been ahead of its reader by then -- a unit was durable already and not yet released: carrying the changes
out once more on what holds them gives the same tables.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter, lt
from typing import Final

from raftcluster.errors import StorageFailed
from raftcluster.storage.ports import Chunk, Row, Snapshot

PIECE_ROWS: Final = 64  # of those that the store has not

Changes = Mapping[bytes, bytes | None]
"""key -> new value, None removes."""


class Image:
    """Made by `Overlay.image` on the tick thread; everything else belongs to one reader on any thread."""

    def __init__(self, index: int, snapshot: Snapshot | None, layers: Mapping[str, Sequence[Changes]]) -> None:
        """`layers` by table, each over the one before. They must not be changed any more."""
        self.index = index
        """The log index that the tables have reached."""
        self.read: Counter[str] = Counter()
        """Table -> rows of the snapshot that were read so far."""
        self._snapshot = snapshot
        self._layers = layers

    @property
    def counts(self) -> Mapping[str, int]:
        """Table -> rows of the snapshot by the store's own count."""
        return {} if self._snapshot is None else self._snapshot.counts

    def close(self) -> None:
        """Give the snapshot up. Idempotent."""
        if self._snapshot is not None:
            self._snapshot.chunks.close()

    def chunks(self) -> Generator[Chunk, None, None]:
        """All rows, once, in small pieces: a table's chunks follow each other, in key order; tables without rows have none.

        Raises `StorageFailed` when the store's pages cannot be read or its keys are out of order, `Unavailable` once it is
        closed.
        """
        changes = {
            table: {k: v for layer in layers for k, v in layer.items()} for table, layers in self._layers.items()
        }
        if self._snapshot is not None:
            for table, chunks in groupby(self._snapshot.chunks, itemgetter(0)):
                yield from self._table(table, (rows for _, rows in chunks), changes.pop(table, {}))
        for table in sorted(changes):
            yield from self._table(table, (), changes[table])

    def _table(self, table: str, stored: Iterable[list[Row]], changes: Changes) -> Iterator[Chunk]:
        keys = sorted(changes)
        at = 0
        last = b""
        for chunk in stored:
            self.read[table] += len(chunk)
            found = [last, *(key for key, _ in chunk)]
            if not all(map(lt, found, found[1:])):
                raise StorageFailed(f"the keys of {table} are out of order", subject=table)
            last = found[-1]
            rows = chunk
            end = bisect_right(keys, last, at)
            if end > at:
                merged: dict[bytes, bytes | None] = dict(chunk)
                merged.update((key, changes[key]) for key in keys[at:end])
                rows = sorted((key, value) for key, value in merged.items() if value is not None)
                at = end
            if rows:
                yield table, rows
        for start in range(at, len(keys), PIECE_ROWS):
            rows = [(k, v) for k in keys[start : start + PIECE_ROWS] if (v := changes[k]) is not None]
            if rows:
                yield table, rows
