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
hold it; and the table's `rest` before the table. Most keys that are nowhere are found absent without a call of LMDB, in which
another thread may take the interpreter lock for 5 ms; one that shares a slot asks all runs up to that ordinal.

Thread: a `Generation` never changes, but for its slots: the writer enters a key before the transaction that writes it ends,
so that a view may find there an ordinal that is too new for it, and never one that is too old.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from raftcluster import codec
from raftcluster.storage.ports import Row

if TYPE_CHECKING:
    from raftcluster.storage.environment import Database, Transaction

SWEEP_AHEAD: Final = 1.25
"""Of two generations of one length: keys swept per key gathered."""
MARK: Final = "@"  # no table of a machine has it in its name
SLOTS: Final = 1 << 23
_SLOT: Final = SLOTS - 1
_REST_SLOTS: Final = 8  # per key: an eighth of the absent keys is looked for in vain
REST_BYTES: Final = 1 << 25  # for tables of up to 4 million rows
_PAGE: Final = 256  # rows of each source, merged at a time
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

    @property
    def generation_keys(self) -> int:
        """Of a full generation, about."""
        return self.runs * self.run_keys


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


class Detour:
    """A table that has runs, as one view sees it. Thread: the view's."""

    __slots__ = ("_generations", "_handle", "_mask", "_rest")

    def __init__(
        self, handle: Database, found: Sequence[Generation], handles: Mapping[str, Database], rest: bytearray | None
    ) -> None:
        """`found` are generations, oldest first. `rest`: see `resting`; it must have been made before the view began."""
        self._handle = handle
        self._generations = [(each.slots, [handles[run] for run in each.runs]) for each in reversed(found)]
        """Newest first; their runs oldest first."""
        self._rest = rest
        self._mask = 0 if rest is None else len(rest) - 1

    def get(self, view: Transaction, key: bytes) -> bytes | None:
        """The value of `key`. Costs: DESIGN.md, Runs."""
        hashed = hash(key)
        for slots, databases in self._generations:
            ordinal = slots[hashed & _SLOT]
            if ordinal:
                for database in reversed(databases[:ordinal]):
                    row: bytes | None = view.get(key, None, database)
                    if row is not None:
                        return value_of(row)
        if self._rest is not None and not self._rest[hashed & self._mask]:
            return None
        value: bytes | None = view.get(key, None, self._handle)
        return value

    def rows(self, view: Transaction, start: bytes, *, behind: bool = False) -> Iterator[Row]:
        """The table's rows in key order, from `start` on, or behind it."""
        databases = [each for _, found in self._generations for each in reversed(found)]
        sources = [rows_from(view, each, start, behind=behind) for each in (*databases, self._handle)]
        pages = merged(sources[::-1], [_PAGE] * len(sources), plain=True)
        return ((key, value) for key, value in chain.from_iterable(pages) if value is not None)


def resting(keys: Iterable[bytes], expected: int) -> bytearray | None:
    """One byte per hash of a key, zero where none of `keys` is, with room for `expected` keys; None for too many to be worth
    it. 0.1 us a key."""
    size = 1 << (expected * _REST_SLOTS).bit_length()
    if size > REST_BYTES:
        return None
    rest = bytearray(size)
    rest_in(rest, keys)
    return rest


def rest_in(rest: bytearray, keys: Iterable[bytes]) -> None:
    """Add `keys`."""
    mask = len(rest) - 1
    for key in keys:
        rest[hash(key) & mask] = 1


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


def merged(
    sources: Sequence[Iterator[Row]], pages: Sequence[int], *, plain: bool
) -> Iterator[list[tuple[bytes, bytes | None]]]:
    """What `sources`, oldest first and each in key order, say of every key: the newest version, None when it is removed; in
    key order, at a time about so many rows of each source as `pages` says. `plain`: the first source is the table itself,
    without marks.
    """
    held: list[list[Row]] = [[] for _ in sources]
    ended = [False] * len(sources)
    while True:
        for at, source in enumerate(sources):
            if not ended[at]:
                wanted = pages[at] - len(held[at])
                held[at].extend(islice(source, wanted))
                ended[at] = len(held[at]) < pages[at]
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
    return len(found) > 1 or any(each.full for each in found)


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
        name = next(n for n in (f"{table}{MARK}{at}" for at in count()) if n not in used)
        return (*found[:-1], replace(newest, runs=(*newest.runs, name)))

    def gather(self, transaction: Transaction, run: Database, generation: Generation, changes: Changes) -> None:
        """Write `changes` into the newest run of `generation`."""
        generation.enter(changes, len(generation.runs))
        empty = not transaction.stat(run)["entries"]
        rows = [(key, row_of(changes[key])) for key in sorted(changes)]
        transaction.cursor(run).putmulti(rows, append=empty)

    def due(
        self, transaction: Transaction, handles: Mapping[str, Database], oldest: Generation, gathered: int
    ) -> float:
        """How many keys are to be swept for so many that were gathered: so the oldest generation is gone before the next one is full,
        also where its units were larger."""
        rows = sum(transaction.stat(handles[run])["entries"] for run in oldest.runs)
        return SWEEP_AHEAD * gathered * max(1.0, rows / self.bounds.generation_keys)

    def closed(self, found: tuple[Generation, ...], rows: int) -> tuple[Generation, ...]:
        """The generations of a table, the newest marked as full when it is, given the rows of its newest run."""
        newest = found[-1]
        if len(found) == 1 and len(newest.runs) >= self.bounds.runs and rows >= self.bounds.run_keys:
            return (replace(newest, full=True),)
        return found

    def sweep(
        self,
        transaction: Transaction,
        database: Database,
        generation: Generation,
        handles: Mapping[str, Database],
        rest: bytearray | None,
    ) -> tuple[Generation | None, int]:
        """Move the next slice of a generation into its table: what is left of it, None when the runs may be emptied, and how
        many keys were moved."""
        start = generation.position
        behind = start is not None
        sources = [rows_from(transaction, handles[run], start or b"\0", behind=behind) for run in generation.runs]
        rows = [transaction.stat(handles[run])["entries"] for run in generation.runs]
        # A slice ends where the first source does: shares as large as the runs end at about the same key.
        pages = [1 + self.bounds.slice_keys * each // max(1, sum(rows)) for each in rows]
        found = next(merged(sources, pages, plain=False), None)
        if found is None:
            return None, 0
        kept = [(key, value) for key, value in found if value is not None]
        if rest is not None:
            rest_in(rest, [key for key, _ in kept])
        transaction.cursor(database).putmulti(kept)
        if len(kept) < len(found):
            for key, value in found:
                if value is None:
                    transaction.delete(key, db=database)
        return replace(generation, full=True, position=found[-1][0]), len(found)
