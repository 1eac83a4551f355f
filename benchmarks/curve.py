"""`./run bench --curve`: what a new key costs the disk, by the size of its table and of the generations of runs.

One table store alone, no cluster: units of random new keys, one after the other, into a table that was brought in before.
Larger generations share more of the table's pages and take more memory and databases (`storage/runs.py`): this is the
curve that the default was chosen from. Bytes are what reached the disk, from whomever: let nothing else write.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any, Final

from benchmarks.load import disk_written
from raftcluster.storage import runs
from raftcluster.storage.ports import Row, Unit
from raftcluster.storage.tables import TableStore

SIZES: Final = (100_000, 1_000_000, 10_000_000)
GENERATIONS: Final = (0, 6, 12, 24, 48, 96)
"""Runs of a generation; 0: none are made."""
UNIT_KEYS: Final = 10_000
KEY_BYTES: Final = 16
ROW_BYTES: Final = 120
CHUNK_ROWS: Final = 2_000
LEAST_KEYS: Final = 400_000
MOST_KEYS: Final = 2_000_000
WAIT_SECONDS: Final = 600.0
NEVER: Final = 1 << 60
TABLE: Final = "greylist.triplets"


def run(directory: Path, seed: int, sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """Measure and print all; a row a point of the curve."""
    print(f"seed {seed}; units of {UNIT_KEYS:,} new keys, rows of {ROW_BYTES} bytes")
    print(f"{'rows at first':>14}{'runs':>6}{'keys a second':>15}{'disk bytes a key':>18}{'longest unit ms':>17}")
    found = []
    for size in sizes:
        for number in GENERATIONS:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            row = _measured(directory, size, number, Random(f"{seed} {size} {number}"))
            found.append(row)
            print(
                f"{size:14,}{number or 'none':>6}{row['keys a second']:15,.0f}{row['bytes a key']:18,.0f}"
                f"{row['longest unit ms']:17,.0f}",
                flush=True,
            )
    shutil.rmtree(directory)
    return found


def _measured(directory: Path, size: int, number: int, random: Random) -> dict[str, Any]:
    """The first generation does not count: nothing is swept before it is full."""
    bounds = runs.Bounds(runs=number, most_runs=number) if number else runs.Bounds(burst_keys=NEVER)
    generation = number * bounds.run_keys
    wanted = min(MOST_KEYS, max(LEAST_KEYS, generation)) // UNIT_KEYS
    store = TableStore(directory / "tables", bounds=bounds)
    try:
        done: SimpleQueue[bool] = SimpleQueue()
        store.install(1, b"", _rows(size), done.put)
        assert done.get(timeout=WAIT_SECONDS)
        first = 2 + generation // UNIT_KEYS
        for index in range(2, first):
            _unit(store, index, random)
        written = disk_written(directory)
        took = [_unit(store, index, random) for index in range(first, first + wanted)]
        bytes_written = disk_written(directory) - written
    finally:
        store.close()
    keys = wanted * UNIT_KEYS
    return {
        "rows": size,
        "runs": number,
        "keys a second": keys / sum(took),
        "bytes a key": bytes_written / keys,
        "longest unit ms": max(took) * 1000,
    }


def _rows(size: int) -> Iterator[tuple[str, list[Row]]]:
    """So many, spread evenly over all keys, in order."""
    step = (1 << 8 * KEY_BYTES) // size
    for start in range(0, size, CHUNK_ROWS):
        numbers = range(start, min(start + CHUNK_ROWS, size))
        yield TABLE, [((number * step).to_bytes(KEY_BYTES, "big"), bytes(ROW_BYTES)) for number in numbers]


def _unit(store: TableStore, index: int, random: Random) -> float:
    """Have one written: how many seconds that took."""
    done: SimpleQueue[bool] = SimpleQueue()
    changes: dict[bytes, bytes | None] = {random.randbytes(KEY_BYTES): bytes(ROW_BYTES) for _ in range(UNIT_KEYS)}
    begun = time.perf_counter()
    store.checkpoint(Unit(index, {TABLE: changes}, b""), done.put)
    assert done.get(timeout=WAIT_SECONDS)
    store.refresh()
    return time.perf_counter() - begun
