"""Bursts of changes with scattered keys: written in sorted runs first, moved into their table in key order.

A B-tree that copies pages pays one page of 4 KiB for every scattered key of a checkpoint, thirty times the row itself. So a
table that a unit changes in many places takes a detour, as a log-structured merge tree does (O'Neil et al. 1996):

    machine.table       what is at rest
    machine.table@N     a run: the same rows, newer; the value of a changed key begins with `+`, a removed key is `-` alone

    unit -> the newest run of the *gathering* generation     a small tree: its pages are shared by many of the unit's keys
    a generation of runs is full -> it is *swept*            a slice of its keys at a time, in order, into the table
    swept -> its runs are emptied, and used again

    checkpoint "runs" -> {table: [[generation, [run ...]] ...]}   oldest first; msgpack; absent when there is no run

A row's newest version is in the newest run that has its key, else in the table. Nothing depends on how far a sweep has
come: what it has moved is still the same in its run. Tables at rest have no runs; other programs that read while there are
some look into them first, newest first.

A reader asks a generation's `slots` before its runs: one byte per hash of a key, the greatest ordinal of a run that may
hold it. Most new keys are in no run, and find that out for 0.1 us.

Thread: a `Generation` never changes, but for its slots: the writer enters a key before the transaction that writes it ends,
so that a view may find there an ordinal that is too new for it, and never one that is too old.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from raftcluster import codec
from raftcluster.storage.ports import Row

if TYPE_CHECKING:
    from raftcluster.storage.environment import Database, Transaction

MARK: Final = "@"  # no table of a machine has it in its name
SLOTS: Final = 1 << 21
_SLOT: Final = SLOTS - 1
_REMOVED: Final = b"-"
_KEPT: Final = b"+"
_key: Final = itemgetter(0)

Changes = Mapping[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """When runs are made, and how large they become. The defaults: docs/performance.md."""

    burst_keys: int = 2_048
    """Changes of one table in one unit that begin a run, when the table has many more rows than that."""
    burst_share: int = 4
    """How many more: below it nearly every page would be written anyway."""
    run_keys: int = 16_384
    """A run with so many is followed by a new one."""
    runs: int = 24
    """A generation with so many full runs is swept."""
    slice_keys: int = 4_096
    """Moved in one transaction."""


DEFAULT: Final = Bounds()


@dataclass(frozen=True, slots=True)
class Generation:
    """Runs that are swept together."""

    number: int
    runs: tuple[str, ...] = ()
    """Names of databases, oldest first. A run's ordinal is its position here, from 1."""
    full: bool = False
    """No unit adds to it any more."""
    position: bytes | None = None
    """Up to this key, itself included, it has been swept since the store was opened."""
    slots: bytearray = field(default_factory=lambda: bytearray(SLOTS), compare=False, repr=False)

    def enter(self, keys: Iterable[bytes], ordinal: int) -> None:
        """The run with this ordinal may hold `keys`. In the order of ordinals."""
        slots = self.slots
        for key in keys:
            slots[hash(key) & _SLOT] = ordinal


Generations = dict[str, tuple[Generation, ...]]
"""Table -> its one or two generations, oldest first; tables without runs are absent. Replaced, never changed."""


def encode(generations: Generations) -> bytes:
    """The row "runs". Names of runs as numbers."""
    return codec.pack(
        {
            table: [[each.number, [int(run.rpartition(MARK)[2]) for run in each.runs]] for each in found]
            for table, found in sorted(generations.items())
        }
    )


def decode(row: bytes) -> Generations:
    """What `encode` was given, but for what is only in memory: slots are empty. Raises what a foreign row makes it raise:
    `ValueError`, `TypeError`, `Rejected`."""
    return {
        table: tuple(
            Generation(number, tuple(f"{table}{MARK}{run}" for run in runs), full=at < len(found) - 1)
            for at, (number, runs) in enumerate(found)
        )
        for table, found in dict(codec.unpack(row)).items()
    }


class Level:
    """A generation as one view sees it. Thread: the view's."""

    __slots__ = ("_databases", "_generation", "_slots")

    def __init__(self, generation: Generation, handles: Mapping[str, Database]) -> None:
        self._databases = [handles[run] for run in generation.runs]
        self._slots = generation.slots

    def find(self, view: Transaction, key: bytes) -> bytes | None:
        """The row of `key` as its newest run has it, marks and all; None when no run has it."""
        ordinal = self._slots[hash(key) & _SLOT]
        if ordinal:
            for database in reversed(self._databases[:ordinal]):
                row: bytes | None = view.get(key, None, database)
                if row is not None:
                    return row
        return None

    def rows(self, view: Transaction, start: bytes, *, behind: bool = False) -> list[Iterator[Row]]:
        """The rows of each run from `start` on, or behind it, oldest run first."""
        return [rows_from(view, database, start, behind=behind) for database in self._databases]


def rows_from(view: Transaction, database: Database, start: bytes, *, behind: bool = False) -> Iterator[Row]:
    """The rows of a database with key >= start, or > start when `behind`."""
    cursor = view.cursor(database)
    if not cursor.set_range(start) or (behind and cursor.key() == start and not cursor.next()):
        return iter(())
    rows: Iterator[Row] = cursor.iternext()
    return rows


def value_of(row: bytes) -> bytes | None:
    """What a run's row says of its key: the value, None when it is removed."""
    return None if row == _REMOVED else row[1:]


def row_of(value: bytes | None) -> bytes:
    """A run's row for a key's new value."""
    return _REMOVED if value is None else _KEPT + value


def merged(sources: Sequence[Iterator[Row]], page: int, *, plain: bool) -> Iterator[list[tuple[bytes, bytes | None]]]:
    """What `sources`, oldest first and each in key order, say of every key: the newest version, None when it is removed; in
    key order, about `page` rows of each source at a time. `plain`: the first source is the table itself, without marks.
    """
    held: list[list[Row]] = [[] for _ in sources]
    ended = [False] * len(sources)
    while True:
        for at, source in enumerate(sources):
            if not ended[at]:
                wanted = page - len(held[at])
                held[at].extend(islice(source, wanted))
                ended[at] = len(held[at]) < page
        bounds = [rows[-1][0] for rows, end in zip(held, ended, strict=True) if not end]
        bound = min(bounds) if bounds else None
        found: dict[bytes, bytes | None] = {}
        for at, rows in enumerate(held):
            count = len(rows) if bound is None else bisect_right(rows, bound, key=_key)
            if plain and not at:
                found.update(rows[:count])
            else:
                found.update([(key, value_of(row)) for key, row in rows[:count]])
            del rows[:count]
        if found:
            yield sorted(found.items(), key=_key)
        if bound is None:
            return


def is_due(found: tuple[Generation, ...]) -> bool:
    """Whether a table's oldest generation is to be swept now, however busy its writer."""
    return len(found) > 1 or found[0].full


class Writer:
    """How units get into runs and runs into tables, within the write transactions of `TableStore`.

    Thread: the checkpoint thread. The methods return the generations as they will be when the transaction has ended: an
    aborted one has changed nothing.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds

    def is_burst(self, transaction: Transaction, database: Database, changes: Changes) -> bool:
        """Whether a table without runs takes these changes into one."""
        if len(changes) < self.bounds.burst_keys:
            return False
        return bool(transaction.stat(database)["entries"] >= self.bounds.burst_share * len(changes))

    def target(self, table: str, found: tuple[Generation, ...], rows: int) -> tuple[Generation, ...]:
        """The generations of `table`, the newest with a run that takes changes, given the rows of its newest run."""
        newest = found[-1] if found else None
        if newest is None or newest.full:
            newest = Generation(newest.number + 1 if newest else 1)
            found = (*found, newest)
        elif rows < self.bounds.run_keys or len(newest.runs) >= self.bounds.runs:
            return found
        used = {run for each in found for run in each.runs}
        name = next(n for n in (f"{table}{MARK}{at}" for at in range(2 * self.bounds.runs)) if n not in used)
        return (*found[:-1], replace(newest, runs=(*newest.runs, name)))

    def gather(self, transaction: Transaction, run: Database, generation: Generation, changes: Changes) -> None:
        """Write `changes` into the newest run of `generation`."""
        generation.enter(changes, len(generation.runs))
        empty = not transaction.stat(run)["entries"]
        rows = [(key, row_of(changes[key])) for key in sorted(changes)]
        transaction.cursor(run).putmulti(rows, append=empty)

    def closed(self, found: tuple[Generation, ...], rows: int) -> tuple[Generation, ...]:
        """The generations of a table, the newest marked as full when it is, given the rows of its newest run."""
        newest = found[-1]
        if len(found) == 1 and len(newest.runs) >= self.bounds.runs and rows >= self.bounds.run_keys:
            return (replace(newest, full=True),)
        return found

    def sweep(
        self, transaction: Transaction, database: Database, generation: Generation, handles: Mapping[str, Database]
    ) -> Generation | None:
        """Move the next slice of a generation into its table; None: that was the last, the runs may be emptied."""
        start = generation.position
        sources = Level(generation, handles).rows(transaction, start or b"\0", behind=start is not None)
        page = max(1, self.bounds.slice_keys // len(sources))
        found = next(merged(sources, page, plain=False), None)
        if found is None:
            return None
        transaction.cursor(database).putmulti([(key, value) for key, value in found if value is not None])
        for key, value in found:
            if value is None:
                transaction.delete(key, db=database)
        return replace(generation, full=True, position=found[-1][0])
