"""The LMDB tables beyond their port: what others read, handles of new tables, readers, a full map."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.errors import StorageFailed
from raftcluster.storage.digest import digest
from raftcluster.storage.ports import Unit
from raftcluster.storage.tables import TableStore
from tests.helpers import eventually

READERS = "sum(line.split()[-1].isdecimal() for line in env.readers().splitlines()[1:])"


def outside(path: Path, expression: str) -> str:
    """`expression` over `env`, evaluated by another process with nothing but py-lmdb."""
    code = f"import lmdb, sys; env = lmdb.open(sys.argv[1], max_dbs=99, readonly=True); print({expression})"
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    ).stdout.strip()


def wait_for(store: TableStore, unit: Unit) -> None:
    answers: list[bool] = []
    store.checkpoint(unit, answers.append)
    eventually(lambda: answers == [True], what="the unit")
    store.refresh()


def test_plain_lmdb_reads_the_tables_while_they_are_open(tmp_path: Path) -> None:
    store = TableStore(tmp_path)
    wait_for(store, Unit(258, {"config.entries": {b"antispam/threshold": b"5"}}, b"anchor"))
    assert (
        outside(tmp_path, "(lambda db: env.begin(db).get(b'antispam/threshold'))(env.open_db(b'config.entries'))")
        == "b'5'"
    )
    assert outside(tmp_path, "(lambda db: list(env.begin(db).cursor()))(env.open_db(b'checkpoint'))") == str(
        [(b"anchor", b"anchor"), (b"index", (258).to_bytes(8))]
    )
    store.close()
    assert (
        outside(tmp_path, "(lambda db: list(env.begin(db).cursor()))(env.open_db(b'config.entries'))")
        == "[(b'antispam/threshold', b'5')]"
    )
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_view_that_sees_a_new_table_has_its_handle(tmp_path: Path) -> None:
    """Every unit makes a table. A snapshot of index n must hold n tables, however it falls between commit and publishing."""
    store = TableStore(tmp_path)
    count = 120
    finished = threading.Event()
    seen: list[tuple[int, int]] = []

    def look() -> None:
        while not finished.is_set():
            snapshot = store.snapshot()
            if snapshot is not None:
                with closing(snapshot.chunks) as chunks:
                    seen.append((snapshot.index, len(list(chunks))))

    looking = threading.Thread(target=look)
    looking.start()
    answers: list[bool] = []
    for index in range(1, count + 1):
        store.checkpoint(Unit(index, {f"m.t{index}": {b"k": b"v"}}, b""), answers.append)
    while len(answers) < count:
        store.refresh()
        reached = store.anchor()
        if reached is not None:
            seen.append((reached[0], sum(store.get(f"m.t{number}", b"k") == b"v" for number in range(1, count + 1))))
    finished.set()
    looking.join()
    store.close()
    assert len(seen) > 5 and all(index == tables for index, tables in seen)


def test_a_closed_or_finished_snapshot_holds_no_reader(tmp_path: Path) -> None:
    store = TableStore(tmp_path)
    wait_for(store, Unit(1, {"a.one": {b"k": b"v"}, "b.one": {b"k": b"v"}}, b""))
    assert outside(tmp_path, READERS) == "1", "the view"
    snapshots = [store.snapshot() for _ in range(3)]
    assert outside(tmp_path, READERS) == "4"
    started, finished, untouched = (snapshot.chunks for snapshot in snapshots if snapshot is not None)
    next(started)
    list(finished)
    assert outside(tmp_path, READERS) == "3"
    started.close()
    untouched.close()
    del snapshots, started, finished, untouched
    assert outside(tmp_path, READERS) == "1"
    store.close()


def test_a_full_map_keeps_the_unit_and_refuses_the_install(tmp_path: Path) -> None:
    store = TableStore(tmp_path, map_bytes=limits.MIB)
    health: list[str] = []
    store.on_health = lambda what, reason: health.append(what)
    wait_for(store, Unit(1, {"a.one": {b"k": b"v" * 300_000}}, b""))
    before = digest_of(store)
    answers: list[bool] = []
    store.install(9, b"", [("a.one", [(b"%03d" % number, b"v" * 5000) for number in range(300)])], answers.append)
    eventually(lambda: health == ["full", "ok"], what="health")
    assert answers == [False] and digest_of(store) == before
    store.install(9, b"", [("a.one", [(b"k", b"v")])], answers.append)
    eventually(lambda: answers == [False, True], what="the install that fits")
    store.checkpoint(Unit(10, {"a.one": {b"%03d" % number: b"v" * 5000 for number in range(300)}}, b""), answers.append)
    store.checkpoint(Unit(11, {"a.one": {b"small": b""}}, b""), answers.append)
    eventually(lambda: health == ["full", "ok", "full"], what="health")
    store.refresh()
    assert store.scan("a.one") == [(b"k", b"v")] and store.anchor() == (9, b"")
    store.close()
    assert answers == [False, True]
    store = TableStore(tmp_path, map_bytes=8 * limits.MIB)
    assert store.anchor() == (9, b"")
    wait_for(store, Unit(10, {"a.one": {b"%03d" % number: b"v" * 5000 for number in range(300)}}, b""))
    store.close()


def test_more_tables_than_lmdb_was_opened_for_are_no_reason_to_stop(tmp_path: Path) -> None:
    store = TableStore(tmp_path)
    wait_for(store, Unit(1, {"a.one": {b"k": b"v"}}, b""))
    answers: list[bool] = []
    chunks = [(f"m.t{number}", [(b"k", b"v")]) for number in range(limits.TABLES)]
    store.install(9, b"", chunks, answers.append)
    eventually(lambda: answers == [False], what="the install")
    assert store.health == "ok"
    wait_for(store, Unit(2, {"a.two": {b"k": b"v"}}, b""))
    assert store.get("a.one", b"k") == store.get("a.two", b"k") == b"v"
    store.close()


def test_a_callback_that_raises_stops_the_thread_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = TableStore(tmp_path)
    health: list[str] = []
    store.on_health = lambda what, reason: health.append(reason)

    def raising(result: bool) -> None:
        raise ZeroDivisionError("ours")

    store.checkpoint(Unit(1, {}, b""), raising)
    eventually(lambda: health, what="health")
    assert "ZeroDivisionError" in health[0] and store.health == "failed" and "checkpoint thread stopped" in caplog.text
    store.close()


@pytest.mark.parametrize("percent", [30, 60, 90])
def test_a_file_cut_short_kills_nobody(tmp_path: Path, percent: int) -> None:
    store = TableStore(tmp_path)
    wait_for(store, Unit(1, {"a.one": {b"%05d" % number: b"v" * 200 for number in range(5000)}}, b""))
    store.close()
    size = (tmp_path / "data.mdb").stat().st_size
    with (tmp_path / "data.mdb").open("r+b") as file:
        file.truncate(size * percent // 100 // 4096 * 4096)
    with pytest.raises(StorageFailed, match="is corrupt"):
        read_all(tmp_path)


def read_all(path: Path) -> None:
    store = TableStore(path)
    try:
        digest_of(store)
        for number in range(5000):
            store.get("a.one", b"%05d" % number)
        store.scan("a.one", limit=5000)
    finally:
        store.close()


def digest_of(store: TableStore) -> dict[str, str]:
    snapshot = store.snapshot()
    assert snapshot is not None
    return digest(snapshot)


def test_the_tables_know_how_much_of_the_log_was_durable_before(tmp_path: Path) -> None:
    """Whoever does not write to the log leaves that as it was, as does a snapshot that was made elsewhere."""
    frames = 258
    store = TableStore(tmp_path, log=lambda: frames)
    assert store.log() == 0
    wait_for(store, Unit(1, {"a.one": {b"k": b"v"}}, b""))
    frames = 259
    assert store.log() == 258
    row = outside(tmp_path, "(lambda db: env.begin(db).get(b'log'))(env.open_db(b'checkpoint'))")
    assert row == str((258).to_bytes(8))
    store.close()
    store = TableStore(tmp_path)
    wait_for(store, Unit(2, {"a.one": {b"k": b"w"}}, b""))
    answers: list[bool] = []
    store.install(9, b"", [("a.one", [(b"k", b"x")])], answers.append)
    eventually(lambda: answers == [True], what="the snapshot")
    store.refresh()
    assert store.get("a.one", b"k") == b"x" and store.log() == 258
    store.close()


def test_nobody_waits_for_tables_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.mdb")
    with pytest.raises(StorageFailed, match="no regular file"):
        TableStore(tmp_path)


def test_a_disk_that_does_not_say_what_the_tables_are_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TableStore(tmp_path).close()
    with monkeypatch.context() as patched:
        stat: Any = os.stat

        def refused(path: Any, **others: Any) -> Any:
            if Path(str(path)).name == "data.mdb":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return stat(path, **others)

        patched.setattr(os, "stat", refused)
        with pytest.raises(StorageFailed):
            TableStore(tmp_path)
