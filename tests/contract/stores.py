"""Both implementations of each port, and how their disks are filled and broken, under one interface.

The real ones are broken for real: the descriptor that is written through is replaced by one of /dev/full (every write
fails with ENOSPC) or, LMDB's, of /dev/null (writes succeed, fdatasync fails), the log's by one that cannot be written to; and
put back later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import pytest

from raftcluster import limits
from raftcluster.storage import log, tables
from raftcluster.storage.memory import MemoryDisk, MemoryLog, MemoryTables
from raftcluster.storage.ports import Log, TableStore
from raftcluster.storage.runs import DEFAULT, Bounds


class Bench(Protocol):
    """A disk that stores are opened on."""

    def open_log(self) -> Log: ...

    def open_tables(self) -> TableStore: ...

    def full(self) -> None: ...

    def broken(self) -> None: ...

    def well(self) -> None: ...


class FileBench:
    """Real files."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path, self._bounds = path, bounds
        self._kept: dict[int, int] = {}
        self._patch = pytest.MonkeyPatch()
        self._tables: tables.TableStore | None = None

    def open_log(self) -> Log:
        return log.LogStore(self.path / "log")

    def open_tables(self) -> TableStore:
        self._tables = tables.TableStore(self.path / "tables", bounds=self._bounds)
        return self._tables

    def full(self) -> None:
        self._swap("/dev/full")

    def broken(self) -> None:
        self._swap("/dev/null")

    def well(self) -> None:
        for descriptor, kept in self._kept.items():
            os.dup2(kept, descriptor, inheritable=False)
            os.close(kept)
        self._kept.clear()
        self._patch.undo()

    def _swap(self, device: str) -> None:
        """Between two transactions of the tables, whose sweeps come unasked: fdatasync of /dev/full would be a broken disk."""
        with self._tables._publishing if self._tables is not None else nullcontext():
            self._swap_all(device)

    def _swap_all(self, device: str) -> None:
        for name in os.listdir("/proc/self/fd"):
            descriptor = int(name)
            try:
                target = Path(os.readlink(f"/proc/self/fd/{name}"))
            except FileNotFoundError:
                continue  # the listing's own
            mine = target.name == "data.mdb" or target.suffix == log.SUFFIX
            if mine and self.path in target.parents and descriptor not in self._kept.values():
                self._kept[descriptor] = os.dup(descriptor)
                reading = device == "/dev/null" and target.suffix == log.SUFFIX
                replacement = os.open(device, os.O_RDONLY if reading else os.O_RDWR)
                os.dup2(replacement, descriptor, inheritable=False)
                os.close(replacement)
        assert self._kept
        mode = os.O_RDONLY if device == "/dev/null" else os.O_RDWR
        self._patch.setattr(
            log.LogStore, "_open", lambda store, path: os.open(device, mode)
        )  # of a segment that is begun


class MemoryBench:
    """The twins, completing everything at once."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()

    def open_log(self) -> Log:
        return MemoryLog(self.disk, auto=True)

    def open_tables(self) -> TableStore:
        return MemoryTables(self.disk, auto=True)

    def full(self) -> None:
        for store in self._open():
            store.fill()

    def broken(self) -> None:
        for store in self._open():
            store.fail()

    def well(self) -> None:
        for store in self._open():
            store.empty()

    def _open(self) -> Iterator[MemoryLog | MemoryTables]:
        yield from (store for store in (self.disk.log, self.disk.store) if store is not None)


TINY = Bounds(burst_keys=1, burst_share=0, run_keys=5, runs=2, slice_keys=3)
"""Every unit is a burst, and some generation of runs is always being swept."""
LOGS = ("files", "segments", "memory")
SMALL_SEGMENTS = {"FIRST_SEGMENT_BYTES": 1_024, "SEGMENT_BYTES": 4_096}
"""Nearly every frame begins a segment."""
TABLES = ("lmdb", "runs", "memory")


@contextmanager
def bench_of(kind: str, path: Path) -> Iterator[Bench]:
    """A fresh disk of the given implementation."""
    if kind == "memory":
        yield MemoryBench()
        return
    bench = FileBench(path, TINY if kind == "runs" else DEFAULT)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_SEGMENTS.items() if kind == "segments" else ():
            patch.setattr(limits, name, value)
        try:
            yield bench
        finally:
            bench.well()
