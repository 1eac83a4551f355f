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

A reader asks a generation's filter and its `slots` before its runs: one byte per hash of a key, the greatest ordinal of a run
that may hold it; and the filter of what is at rest before the table. Most keys that are nowhere are found absent without a call of
LMDB, in which another thread may take the interpreter lock for 5 ms; one that is taken for another asks all runs up to that ordinal.

Larger generations share more of the table's pages, and cost memory: they grow with their table (docs/performance.md, the curve).

Thread: a `Generation` never changes, but for its filter and slots: the writer enters a key before the transaction that writes it
ends, so that a view may find there an ordinal that is too new for it, and never one that is too old.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import chain, count, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from raftcluster import codec
from raftcluster.storage.filter import SHIFT, Filter
from raftcluster.storage.ports import Row

if TYPE_CHECKING:
    from raftcluster.storage.environment import Database, Transaction

SWEEP_AHEAD: Final = 1.25
"""Of two generations of one length: keys swept per key gathered."""
MARK: Final = "@"  # no table of a machine has it in its name
_SLOTS_A_KEY: Final = 5
_BITS_A_KEY: Final = 32
"""Both together: of 170 absent keys at most one is looked for in runs."""
_RESTING_BITS: Final = 8  # an eighth of the absent keys is looked for in vain
RESTING_KEYS: Final = 32_000_000
"""With more at rest there is no filter: it has 32 MB for so many."""
_PAGE: Final = 8_192  # rows of all sources, merged at a time
_MANY: Final = 4_096  # rows that are read by such pages; fewer, a row of each source at a time
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
    """A generation with so many full runs is swept, if its table is small, ..."""
    most_runs: int = 96
    """... with so many, if it is large, ..."""
    rows_a_run: int = 20_000
    """... and in between with one for so many of the table's rows."""
    slice_keys: int = 4_096
    """Moved in one transaction."""

    def full_runs(self, rows: int) -> int:
        """Of a full generation, whose table has so many rows at rest."""
        return min(self.most_runs, max(self.runs, rows // self.rows_a_run))


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
    slots: bytearray = field(default_factory=lambda: bytearray(1), compare=False, repr=False)
    """Invariant: their number is a power of two, and no run has an ordinal above 255."""
    filter: Filter = field(default_factory=lambda: Filter(1, 1), compare=False, repr=False)

    def emptied(self, keys: int) -> Generation:
        """The same with empty slots and filter, with room for so many keys."""
        slots = bytearray(1 << (keys * _SLOTS_A_KEY).bit_length())
        return replace(self, slots=slots, filter=Filter(keys, _BITS_A_KEY))

    def enter(self, keys: Iterable[bytes], ordinal: int) -> None:
        """The run with this ordinal may hold `keys`. In the order of ordinals."""
        slots, mask, bits, wide = self.slots, len(self.slots) - 1, self.filter.bits, self.filter.mask
        for key in keys:
            hashed = hash(key)
            at = hashed >> SHIFT & wide
            bits[at >> 3] |= 1 << (at & 7)
            slots[hashed & mask] = ordinal


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
    """What `encode` was given, but for what is only in memory: keys have to be entered. Raises what a foreign row makes it
    raise: `ValueError`, `TypeError`, `Rejected`."""
    return {
        table: tuple(
            Generation(number, tuple(f"{table}{MARK}{run}" for run in runs), full=at < len(found) - 1)
            for at, (number, runs) in enumerate(found)
        )
        for table, found in dict(codec.unpack(row)).items()
    }


class Detour:
    """A table that has runs, as one view sees it. Thread: the view's."""

    __slots__ = ("_generations", "_handle", "_rest", "_wide")

    def __init__(
        self, handle: Database, found: Sequence[Generation], handles: Mapping[str, Database], rest: Filter | None
    ) -> None:
        """`found` are generations, oldest first. `rest`: see `resting`; it must have been made before the view began."""
        self._handle = handle
        self._generations = [
            (each.filter.bits, each.filter.mask, each.slots, len(each.slots) - 1, [handles[run] for run in each.runs])
            for each in reversed(found)
        ]
        """Newest first; their runs oldest first."""
        self._rest = None if rest is None else rest.bits
        self._wide = 0 if rest is None else rest.mask

    def get(self, view: Transaction, key: bytes) -> bytes | None:
        """The value of `key`. Costs: DESIGN.md, Runs."""
        hashed = hash(key)
        high = hashed >> SHIFT
        for bits, wide, slots, mask, databases in self._generations:
            at = high & wide
            if bits[at >> 3] & 1 << (at & 7) and (ordinal := slots[hashed & mask]):
                for database in reversed(databases[:ordinal]):
                    row: bytes | None = view.get(key, None, database)
                    if row is not None:
                        return value_of(row)
        if self._rest is not None:
            at = high & self._wide
            if not self._rest[at >> 3] & 1 << (at & 7):
                return None
        value: bytes | None = view.get(key, None, self._handle)
        return value

    def rows(self, view: Transaction, start: bytes, *, behind: bool = False, wanted: int = _MANY) -> Iterator[Row]:
        """The table's rows in key order, from `start` on, or behind it. Most callers take no more than `wanted`."""
        databases = [each for *_, found in self._generations for each in reversed(found)]
        databases.append(self._handle)
        sources = [rows_from(view, each, start, behind=behind) for each in databases]
        if wanted < _MANY:
            return _newest(sources)
        lengths = [view.stat(each)["entries"] for each in databases]
        pages = merged(sources[::-1], _shares(_PAGE, lengths)[::-1], plain=True)
        return ((key, value) for key, value in chain.from_iterable(pages) if value is not None)


def resting(keys: Iterable[bytes], rows: int, more: int) -> Filter | None:
    """Of the `rows` `keys` of a table, with room for as many as `more` generations bring; None for too many to be worth it."""
    room = rows + rows // 2 + 2 * more
    if room > RESTING_KEYS:
        return None
    found = Filter(room, _RESTING_BITS)
    found.add(keys)
    return found


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


def _shares(keys: int, lengths: Sequence[int]) -> list[int]:
    """How many rows to read of sources of these lengths at a time, `keys` in all: about the same part of all keys from each."""
    whole = max(1, sum(lengths))
    return [1 + keys * each // whole for each in lengths]


def _newest(sources: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """What `sources`, newest first, the last one the table itself, say of every key: a row of each at a time."""
    *found, plain = sources
    versions = [((key, value_of(row)) for key, row in source) for source in found]
    last = None
    for key, value in merge(*versions, plain, key=_key):  # equal keys come in the order of the sources
        if key != last:
            last = key
            if value is not None:
                yield key, value


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

    def is_burst(self, rows: int, changes: int) -> bool:
        """Whether a table of so many rows, without runs, takes so many changes into one."""
        return changes >= self.bounds.burst_keys and rows >= self.bounds.burst_share * changes

    def target(self, table: str, found: tuple[Generation, ...], rows: int, most: int) -> tuple[Generation, ...]:
        """The generations of `table`, the newest with a run that takes changes, given the rows of its newest run, and how many
        runs are `most`."""
        newest = found[-1] if found else None
        if newest is None or newest.full:
            newest = Generation(newest.number + 1 if newest else 1).emptied(most * self.bounds.run_keys)
            found = (*found, newest)
        elif rows < self.bounds.run_keys or len(newest.runs) >= most:
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
        self, transaction: Transaction, handles: Mapping[str, Database], oldest: Generation, gathered: int, most: int
    ) -> float:
        """How many keys are to be swept for so many that were gathered: so the oldest generation is gone before the next one is full,
        which has `most` runs, also where its units were larger."""
        rows = sum(transaction.stat(handles[run])["entries"] for run in oldest.runs)
        return SWEEP_AHEAD * gathered * max(1.0, rows / (most * self.bounds.run_keys))

    def closed(self, found: tuple[Generation, ...], rows: int, most: int) -> tuple[Generation, ...]:
        """The generations of a table, the newest marked as full when it has `most` runs, given the rows of its newest run."""
        newest = found[-1]
        if len(found) == 1 and len(newest.runs) >= most and rows >= self.bounds.run_keys:
            return (replace(newest, full=True),)
        return found

    def sweep(
        self,
        transaction: Transaction,
        handles: Mapping[str, Database],
        table: str,
        generation: Generation,
        keys: int,
        rest: Filter | None,
    ) -> tuple[Generation | None, int]:
        """Move the next slice of a generation, about so many keys, into its table: what is left of it, None when the runs may be
        emptied, and how many keys were moved."""
        database = handles[table]
        start = generation.position
        behind = start is not None
        sources = [rows_from(transaction, handles[run], start or b"\0", behind=behind) for run in generation.runs]
        rows = [transaction.stat(handles[run])["entries"] for run in generation.runs]
        # A slice ends where the first source does.
        found = next(merged(sources, _shares(keys, rows), plain=False), None)
        if found is None:
            return None, 0
        kept = [(key, value) for key, value in found if value is not None]
        if rest is not None:
            rest.add([key for key, _ in kept])
        transaction.cursor(database).putmulti(kept)
        if len(kept) < len(found):
            for key, value in found:
                if value is None:
                    transaction.delete(key, db=database)
        return replace(generation, full=True, position=found[-1][0]), len(found)
