"""One durable state of the LMDB tables, as a read transaction sees it. What `runs` has on its way belongs to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final

from raftcluster import limits
from raftcluster.storage.filter import Filter
from raftcluster.storage.ports import Row
from raftcluster.storage.runs import MARK, Detour, Generations, rows_from

if TYPE_CHECKING:
    from raftcluster.storage.environment import Database, Transaction

    Handles = dict[str, Database]

CHECKPOINT: Final = "checkpoint"
INDEX: Final = b"index"
ANCHOR: Final = b"anchor"
RUNS: Final = b"runs"
LOG: Final = b"log"
FIRST_PAGE: Final = 16  # rows a scan reads before it looks whether it has passed `stop`


class TableView:
    """Made by `TableStore`, which checks that the handles and runs are what the transaction sees, and translates LMDB's errors.

    Thread: one at a time.
    """

    __slots__ = ("_detours", "_handles", "_transaction", "reached")

    def __init__(
        self,
        transaction: Transaction,
        handles: Handles,
        generations: Generations,
        rests: Mapping[str, Filter | None],
    ) -> None:
        self._transaction, self._handles = transaction, handles
        self._detours = {
            table: Detour(handles[table], found, handles, rests.get(table)) for table, found in generations.items()
        }
        self.reached = reached(transaction, handles[CHECKPOINT])
        """The log index, and the engine's anchor."""

    def abort(self) -> None:
        """End it. Idempotent."""
        self._transaction.abort()

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key`. 1.1 us; more beside runs (DESIGN.md)."""
        handle = self._handles.get(table)
        if handle is None:
            return None
        if self._detours and table in self._detours:
            return self._detours[table].get(self._transaction, key)
        value: bytes | None = self._transaction.get(key, None, handle)
        return value

    def scan(self, table: str, start: bytes, stop: bytes | None, limit: int) -> list[Row]:
        """Rows with start <= key < stop in key order, at most `limit`. 3 us, and 0.4 us a row; more with runs."""
        handle = self._handles.get(table)
        if handle is None or limit <= 0:
            return []
        begin = start[: limits.KEY_BYTES]
        if table in self._detours:
            rows = self._detours[table].rows(self._transaction, begin, behind=begin < start, wanted=limit)
        else:
            rows = rows_from(self._transaction, handle, begin, behind=begin < start)
        found: list[Row] = []
        page = FIRST_PAGE
        while True:
            before = len(found)
            asked = min(page, limit - before)
            found.extend(islice(rows, asked))
            if stop is not None and found and found[-1][0] >= stop:
                while found and found[-1][0] >= stop:
                    found.pop()
                return found
            if len(found) < before + asked or len(found) == limit:
                return found
            page *= 4

    def tables(self) -> list[str]:
        """The tables' names, in order."""
        return sorted(name for name in self._handles if name != CHECKPOINT and MARK not in name)

    def rows(self, table: str) -> Iterator[Row]:
        """All rows in key order."""
        if table in self._detours:
            return self._detours[table].rows(self._transaction, b"\0")
        return rows_from(self._transaction, self._handles[table], b"\0")

    def counts(self) -> Mapping[str, int]:
        """Table -> rows, as LMDB counts them; tables with runs are not counted."""
        return {
            table: self._transaction.stat(self._handles[table])["entries"]
            for table in self.tables()
            if table not in self._detours
        }


def reached(transaction: Transaction, meta: Database) -> tuple[int, bytes] | None:
    """How far the tables have come, by the database `checkpoint`."""
    index, anchor = transaction.get(INDEX, None, meta), transaction.get(ANCHOR, None, meta)
    return None if index is None or anchor is None else (int.from_bytes(index), anchor)
