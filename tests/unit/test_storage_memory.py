"""What a simulator may do with the twins: delay, tear, lose, fill, break."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from raftcluster.storage.memory import MemoryDisk, MemoryLog, MemoryTables
from raftcluster.storage.ports import Record, Unit
from tests.contract.models import LogModel, Tables, change, content, log_history, table_history


@given(seed=st.integers(0, 2**32), tickets=st.integers(0, 30), durable=st.integers(0, 30), torn=st.integers(0, 40))
def test_a_crash_keeps_a_prefix_of_the_records(seed: int, tickets: int, durable: int, torn: int) -> None:
    disk = MemoryDisk()
    log = MemoryLog(disk)
    reported: list[int] = []
    log.on_durable = reported.append
    submitted: list[Record] = []
    ends = []
    for number, records in enumerate(islice(log_history(seed), tickets), 1):
        assert log.submit(records) == number
        submitted += records
        ends.append(len(submitted))
    certain = ends[min(durable, tickets) - 1] if durable and tickets else 0
    log.complete(durable)
    known = sum(end <= certain for end in ends)  # a ticket without records is durable once those before it are
    assert reported == ([known] if known else [])
    assert log.records == len(submitted) - certain and log.outstanding == tickets - known
    disk.crash(records=torn)
    model = LogModel()
    model.apply(submitted[: certain + torn])
    assert MemoryLog(disk).load() == model.image()
    log.submit([("vote", 99, "dead")])
    log.complete()
    assert len(reported) <= 1 and MemoryLog(disk).load() == model.image(), "the old process is cut off"


def test_durable_and_reported_are_two_things() -> None:
    disk = MemoryDisk()
    log = MemoryLog(disk)
    reported: list[int] = []
    log.on_durable = reported.append
    log.submit([("append", b"1", 1, 1), ("commit", 1)])
    log.submit([("append", b"2", 2, 1)])
    log.write(1)
    assert log.durable == 0 and disk.entries == [(b"1", 1, 1)] and disk.commit == 0
    log.write(1)
    assert log.durable == 1 and disk.commit == 1 and reported == []
    log.write()
    assert log.durable == 2 and reported == []
    log.notify()
    log.notify()
    assert reported == [2]
    log.submit([("append", b"3", 3, 1)])
    log.write()
    disk.crash()
    log.notify()
    assert reported == [2] and len(MemoryLog(disk).load().entries) == 3


def test_a_full_log_takes_nothing_and_a_failed_one_never_again() -> None:
    log = MemoryLog(MemoryDisk())
    heard: list[str] = []
    log.on_health = lambda health, reason: heard.append(health)
    log.submit([("append", b"1", 1, 1)])
    log.fill()
    log.complete()
    assert log.records == 1 and log.durable == 0
    log.empty()
    log.complete()
    assert log.durable == 1
    log.fail()
    log.empty()
    log.submit([("append", b"2", 2, 1)])
    log.complete()
    assert heard == ["full", "ok", "failed"] and log.durable == 1 and log.health == "failed"


@given(seed=st.integers(0, 2**32), units=st.integers(0, 12), torn=st.integers(0, 12), refresh=st.integers(0, 12))
def test_a_crash_keeps_whole_units_in_order(seed: int, units: int, torn: int, refresh: int) -> None:
    disk = MemoryDisk()
    store = MemoryTables(disk)
    answers: list[bool] = []
    history = list(islice(table_history(seed), units))
    for number, unit in enumerate(history):
        store.checkpoint(unit, answers.append)
        if number == refresh:
            store.complete(number // 2)
            store.refresh()
    reached = len(answers)
    disk.crash(units=torn)
    tables: Tables = {"a.one": {}, "a.two": {}, "b.one": {}}
    kept = history[: reached + torn]
    for unit in kept:
        change(tables, unit)
    store = MemoryTables(disk)
    assert content(store) == tables
    assert store.anchor() == ((kept[-1].index, kept[-1].anchor) if kept else None)
    assert len(answers) == reached and all(answers), "the old process is told nothing any more"


def test_a_view_and_a_snapshot_stay_as_they_were() -> None:
    store = MemoryTables(MemoryDisk())
    answers: list[bool] = []
    store.checkpoint(Unit(1, {"a.one": {b"b": b"1", b"a": b"1"}}, b""), answers.append)
    assert store.units == store.outstanding == 1
    store.write()
    assert store.units == 0 and store.outstanding == 1 and answers == [] and store.anchor() is None
    store.notify()
    store.refresh()
    assert answers == [True] and store.scan("a.one") == [(b"a", b"1"), (b"b", b"1")]
    snapshot = store.snapshot()
    store.checkpoint(Unit(2, {"a.one": {b"a": None, b"c": b"2", b"b": b"2"}}, b""), answers.append)
    store.complete()
    assert store.scan("a.one") == [(b"a", b"1"), (b"b", b"1")]
    store.refresh()
    assert store.scan("a.one") == [(b"b", b"2"), (b"c", b"2")]
    assert snapshot is not None
    with closing(snapshot.chunks) as chunks:
        assert list(chunks) == [("a.one", [(b"a", b"1"), (b"b", b"1")])]


def test_an_install_in_flight_reached_the_disk_or_did_not() -> None:
    for reached in (0, 1):
        disk = MemoryDisk()
        store = MemoryTables(disk, auto=True)
        store.checkpoint(Unit(1, {"a.one": {b"old": b""}}, b"old"), lambda result: None)
        store = MemoryTables(disk)
        store.install(5, b"new", iter([("a.two", [(b"new", b"")])]), lambda result: None)
        disk.crash(units=reached)
        store = MemoryTables(disk)
        assert store.anchor() == ((5, b"new") if reached else (1, b"old"))
        assert content(store)["a.one"] == ({} if reached else {b"old": b""})
