"""What an installed snapshot leaves in memory, and who was reading meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from raftcluster.errors import Unavailable
from raftcluster.storage.ports import Row, Unit
from raftcluster.storage.tables import TableStore
from tests.helpers import eventually

ROW_BYTES = 120
CHUNK_ROWS = 1_000

MEMORY = """
import re, sys
from pathlib import Path
from raftcluster import heap
from raftcluster.storage.tables import TableStore
from tests.unit.test_storage_install import installed
def held():
    return int(re.search(r"^Anonymous: +([0-9]+) kB$", open("/proc/self/smaps_rollup").read(), re.MULTILINE)[1])
heap.lean()
store = TableStore(Path(sys.argv[1]))
before = held()
for index in (1, 2):
    installed(store, index, 200_000)
    heap.trim()
    print(held() - before)
store.close()
"""


def chunks(rows: int, value: bytes = bytes(ROW_BYTES)) -> Iterator[tuple[str, list[Row]]]:
    for start in range(0, rows, CHUNK_ROWS):
        yield "a.one", [(number.to_bytes(16, "big"), value) for number in range(start, start + CHUNK_ROWS)]


def installed(store: TableStore, index: int, rows: int, value: bytes = bytes(ROW_BYTES)) -> None:
    answers: list[bool] = []
    store.install(index, b"anchor", chunks(rows, value), answers.append)
    eventually(lambda: answers == [True], what="the install")
    store.refresh()


def test_an_installed_snapshot_takes_no_memory_once_it_is_read(tmp_path: Path) -> None:
    """LMDB kept a page for each that its largest transaction had changed: as much as all tables have, until the node was closed."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert all(int(kib) < 200_000 * ROW_BYTES // 1024 // 4 for kib in told), told


def test_who_reads_a_snapshot_when_another_is_installed_is_told(tmp_path: Path) -> None:
    with closing(TableStore(tmp_path)) as store:
        installed(store, 1, 10_000)
        begun = store.snapshot()
        untouched = store.snapshot()
        assert begun is not None and untouched is not None
        next(begun.chunks)
        installed(store, 2, 10_000, b"other")
        for snapshot in (begun, untouched):
            with pytest.raises(Unavailable, match="a snapshot has replaced the tables"):
                list(snapshot.chunks)
        after = store.snapshot()
        assert after is not None and after.index == 2
        assert {value for _, rows in after.chunks for _, value in rows} == {b"other"}


def test_a_writer_goes_on_with_the_handles_of_the_environment_that_was_opened_anew(tmp_path: Path) -> None:
    """Units, bursts that make runs, and snapshots from other threads, while snapshots are installed again and again."""
    ending, troubles = threading.Event(), []

    def read(store: TableStore) -> None:
        while not ending.is_set():
            snapshot = store.snapshot()
            assert snapshot is not None
            try:
                found = {key: value for _, rows in snapshot.chunks for key, value in rows}
            except Unavailable:
                continue
            if len(found) != 20_000 + 3_000 * (snapshot.index % 10):
                troubles.append((snapshot.index, len(found)))

    with closing(TableStore(tmp_path)) as store:
        installed(store, 10, 20_000)
        readers = [threading.Thread(target=read, args=(store,)) for _ in range(2)]
        for reader in readers:
            reader.start()
        for index in range(20, 120, 10):
            installed(store, index, 20_000)
            answers: list[bool] = []
            for more in range(1, 4):
                changes: dict[bytes, bytes | None] = {b"%d %d" % (more, at): b"x" for at in range(3_000)}
                store.checkpoint(Unit(index + more, {"a.one": changes}, b"anchor"), answers.append)
                store.refresh()
            eventually(lambda answers=answers: answers == [True] * 3, what="the units")  # type: ignore[misc]
            store.refresh()
            assert store.get("a.one", b"3 2999") == b"x" and store.get("a.one", bytes(16)) == bytes(ROW_BYTES)
        ending.set()
        for reader in readers:
            reader.join()
    assert troubles == []
