"""The two ports of the storage room, and what they carry. LMDB and the in-memory twin implement both.

*Log*: entries, term, vote and commit index, through **one ordered, asynchronous** port: `submit` returns a ticket at
once, the ticket becomes durable later, tickets in order; a crash keeps a prefix of the records.

*Tables*: written behind the log in **units** -- the changes up to one log index and the anchor of that index, in one
durable transaction. Both never hold an entry or a change that the other half of its transaction does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from raftcluster import limits
from raftcluster.errors import Rejected

Entry = tuple[bytes, int, int]
"""(command, index, term), in the order the engine keeps them."""

Record = (
    tuple[Literal["append"], bytes, int, int]  # command, index, term; index is the last one + 1
    | tuple[Literal["truncate"], int]  # remove entries >= index
    | tuple[Literal["cut"], int]  # remove entries < index
    | tuple[Literal["reset"]]  # remove all entries
    | tuple[Literal["vote"], int, str | None]  # current term and the candidate voted for in it
    | tuple[Literal["commit"], int]  # commit index; rides with the records before it
)

Health = Literal["ok", "full", "failed"]
"""full: nothing is written until there is space, then all that waits is written; failed: latched, for good."""


Row = tuple[bytes, bytes]
"""(key, value)"""

Chunk = tuple[str, list[Row]]
"""(table, rows in key order). A table's chunks follow each other, in key order."""

TABLE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,63}")
"""`machine.table`: what the outside calls an LMDB database. Names without a dot are storage's own."""


def check_table(name: str) -> str:
    """`name` when it is the full name of a table; raises `Rejected` otherwise (names come from peers' snapshots too)."""
    if not TABLE_NAME.fullmatch(name):
        raise Rejected(f"{name!r} is no table name", subject=name, remedy="use machine.table, lower case")
    return name


class LogImage(NamedTuple):
    """What the log held durably when it was opened."""

    entries: list[Entry]
    """Contiguous, ascending. Every entry's checksum was verified."""
    term: int
    vote: str | None
    commit: int


class Log(Protocol):
    """Thread: `submit`, `block` and `close` from the tick thread; `on_durable` and `on_health` are called on the writer's.

    A record is on the disk when its ticket is durable, and never before all records submitted earlier are.
    """

    health: Health
    on_durable: Callable[[int], None]
    on_health: Callable[[Health, str], None]

    def load(self) -> LogImage:
        """Read what is there. Raises `StorageFailed` for a corrupt entry that is not a torn tail."""

    def scrub(self) -> int:
        """Read and check all entries, term, vote and commit once more, as `load` does; how many entries. Thread: any.

        Raises `StorageFailed` for what is corrupt, `Unavailable` once the log is closed.
        """

    def submit(self, records: Sequence[Record]) -> int:
        """Queue `records` and return their ticket: tickets count 1, 2, 3 ... per opened log. Never waits."""

    def block(self) -> int:
        """Wait until all that was submitted is durable and return the last ticket (cluster of one, electing itself).

        Raises `StorageFull` or `StorageFailed` instead of waiting for ever.
        """

    def close(self) -> None:
        """Write what is queued, then close. Idempotent."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One checkpoint: applied together or not at all."""

    index: int
    """The log index that the tables have reached with it. Invariant: on disk it never decreases."""
    changes: Mapping[str, Mapping[bytes, bytes | None]]
    """table -> key -> new value, None removes."""
    anchor: bytes
    """Opaque to storage: the engine's (index, term, entry, predecessor, voters, stamp)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tables at one index, as one durable unit left them."""

    index: int
    anchor: bytes
    counts: Mapping[str, int]
    """table -> rows, as the store counts them; a table that it cannot count at the moment is absent."""
    chunks: Generator[Chunk, None, None]
    """Holds a read transaction, and with it the space of all pages replaced since, until exhausted or closed
    (`contextlib.closing`). Tables without rows have no chunk. Raises `Unavailable` once the store is closed."""


class TableStore(Protocol):
    """Thread: reads, `refresh` and `close` on the tick thread; `checkpoint` and `install` return at once and call `done`
    on the checkpoint thread, in order; `snapshot` on any thread.

    While full, the unit at hand is kept and tried again, and reads go on; once failed, `done` is never called again.
    """

    health: Health
    on_health: Callable[[Health, str], None]

    def anchor(self) -> tuple[int, bytes] | None:
        """(index, anchor) of the unit that reads see, None when nothing was ever written."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """As of the last `refresh`."""

    def scan(self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = 1000) -> list[Row]:
        """Rows with start <= key < stop in key order, at most `limit`, as of the last `refresh`."""

    def refresh(self) -> None:
        """Let reads see the newest durable unit."""

    def checkpoint(self, unit: Unit, done: Callable[[bool], None]) -> None:
        """Write `unit` durably, then `done(True)`; `done(False)` when the tables have reached its index already."""

    def snapshot(self, chunk_bytes: int = limits.SNAPSHOT_CHUNK_BYTES) -> Snapshot | None:
        """The newest durable unit's tables, read in a transaction of its own, about `chunk_bytes` at a time; None when nothing
        was ever written."""

    def install(self, index: int, anchor: bytes, chunks: Iterable[Chunk], done: Callable[[bool], None]) -> None:
        """Replace all tables in one transaction, then `done(True)`; `done(False)` when it would turn the index back,
        when `chunks` raises or is no snapshot, or when it does not fit the disk: then nothing has changed. `chunks` is
        consumed on the checkpoint thread."""

    def close(self) -> None:
        """Finish what is queued, then close. Idempotent."""
