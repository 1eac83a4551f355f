"""What every `TableStore` promises, tried on LMDB and on its twin in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.errors import Unavailable
from raftcluster.storage import tables
from raftcluster.storage.digest import digest
from raftcluster.storage.ports import Chunk, Health, Snapshot, TableStore, Unit
from tests.contract.models import Tables, change, content, table_history
from tests.contract.stores import TABLES, Bench, bench_of
from tests.helpers import eventually, memory


@pytest.fixture(params=TABLES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench_of(request.param, tmp_path) as found:
        yield found


@pytest.fixture
def store(bench: Bench) -> Iterator[TableStore]:
    found = bench.open_tables()
    yield found
    found.close()


class Answers:
    """What `done` was called with, in order."""

    def __init__(self, store: TableStore) -> None:
        self.store = store
        self.given: list[tuple[int, bool]] = []
        self.health: list[Health] = []
        self._asked = 0
        store.on_health = lambda health, reason: self.health.append(health)

    def checkpoint(self, index: int, changes: Mapping[str, Mapping[bytes, bytes | None]]) -> None:
        self._asked += 1
        self.store.checkpoint(Unit(index, changes, b"anchor of %d" % index), self._note(index))

    def install(self, index: int, chunks: Iterable[Chunk]) -> None:
        self._asked += 1
        self.store.install(index, b"anchor of %d" % index, chunks, self._note(index))

    def all(self) -> list[tuple[int, bool]]:
        eventually(lambda: len(self.given) == self._asked, what="done")
        self.store.refresh()
        return self.given

    def _note(self, index: int) -> Callable[[bool], None]:
        return lambda result: self.given.append((index, result))


def rows_of(snapshot: Snapshot | None) -> Tables:
    assert snapshot is not None
    tables: Tables = {}
    with closing(snapshot.chunks) as chunks:
        for table, rows in chunks:
            assert rows and rows == sorted(rows)
            tables.setdefault(table, {}).update(rows)
    return tables


def digest_of(store: TableStore) -> tuple[int, bytes, dict[str, str]]:
    snapshot = store.snapshot()
    assert snapshot is not None
    return snapshot.index, snapshot.anchor, digest(snapshot)


def test_nothing_was_written_yet(store: TableStore) -> None:
    assert store.anchor() is None is store.snapshot()
    assert store.get("a.one", b"k") is None and store.scan("a.one") == []
    store.refresh()
    assert store.anchor() is None and store.scan("a.one") == []


def test_reads_see_a_unit_from_the_refresh_on(store: TableStore) -> None:
    answers = Answers(store)
    answers.checkpoint(5, {"a.one": {b"k": b"v", b"gone": None}})
    eventually(lambda: answers.given == [(5, True)], what="done")
    assert store.get("a.one", b"k") is None and store.anchor() is None
    store.refresh()
    assert store.get("a.one", b"k") == b"v" and store.anchor() == (5, b"anchor of 5")
    answers.checkpoint(6, {"a.one": {b"k": None, b"l": b""}, "b.one": {b"k": b"w"}})
    eventually(lambda: len(answers.given) == 2, what="done")
    assert store.get("a.one", b"k") == b"v" and store.get("b.one", b"k") is None
    assert store.scan("a.one") == [(b"k", b"v")] and store.scan("b.one") == []
    store.refresh()
    assert store.get("a.one", b"k") is None and store.get("a.one", b"l") == b"" and store.get("b.one", b"k") == b"w"


def test_the_index_never_decreases_and_a_refused_unit_changes_nothing(bench: Bench) -> None:
    store = bench.open_tables()
    answers = Answers(store)
    for index in (3, 3, 2, 4, 1, 4):
        answers.checkpoint(index, {"a.one": {b"index": b"%d" % index, b"seen %d" % index: b""}})
    assert answers.all() == [(3, True), (3, False), (2, False), (4, True), (1, False), (4, False)]
    expected = [(b"index", b"4"), (b"seen 3", b""), (b"seen 4", b"")]
    assert store.scan("a.one") == expected
    store.close()
    store = bench.open_tables()
    answers = Answers(store)
    answers.checkpoint(4, {"a.one": {b"index": b"other"}})
    assert answers.all() == [(4, False)]
    assert store.scan("a.one") == expected and store.anchor() == (4, b"anchor of 4")
    store.close()


def test_a_unit_without_changes_moves_the_index(store: TableStore) -> None:
    answers = Answers(store)
    answers.checkpoint(1, {})
    assert answers.all() == [(1, True)]
    assert store.anchor() == (1, b"anchor of 1") and rows_of(store.snapshot()) == {}


def test_scans_are_bounded_on_both_sides_and_in_number(store: TableStore) -> None:
    answers = Answers(store)
    longest = b"9" * limits.KEY_BYTES
    answers.checkpoint(1, {"a.one": {longest: b""} | {b"%03d" % number: b"" for number in range(500)}})
    answers.all()

    def keys(start: bytes, stop: bytes | None, limit: int) -> list[bytes]:
        return [key for key, _ in store.scan("a.one", start, stop, limit)]

    every = [*(b"%03d" % number for number in range(500)), longest]
    assert keys(b"", None, 1000) == every
    assert keys(b"", None, 7) == every[:7]
    assert keys(b"100", b"105", 1000) == every[100:105]
    assert keys(b"100", b"400", 16) == every[100:116]
    assert keys(b"100", b"400", 299) == every[100:399]
    assert keys(b"1000", b"102", 9) == [b"101"]
    assert keys(b"300", b"200", 9) == keys(b"300", b"300", 9) == keys(b"", None, 0) == []
    assert keys(longest, None, 9) == keys(longest[:-1], longest + b"\0", 9) == [longest]
    assert keys(longest + b"\0", None, 9) == [], "beyond the longest key that there may be"
    assert keys(longest + b"0", longest + b"1", 9) == []


@pytest.mark.parametrize("kind", TABLES)
@given(seed=st.integers(0, 2**32), units=st.lists(st.integers(0, 12), min_size=1, max_size=4))
@settings(max_examples=30)
def test_any_history_is_read_back(kind: str, seed: int, units: list[int]) -> None:
    """Each number in `units` is one opening of the tables."""
    tables: Tables = {"a.one": {}, "a.two": {}, "b.one": {}}
    history = table_history(seed)
    reached = None
    with tempfile.TemporaryDirectory(dir=memory()) as folder, bench_of(kind, Path(folder)) as bench:
        for count in (*units, 0):
            store = bench.open_tables()
            assert content(store) == tables and store.anchor() == reached
            for unit in islice(history, count):
                store.checkpoint(unit, lambda result: None)
                change(tables, unit)
                reached = (unit.index, unit.anchor)
            store.close()


def test_a_snapshot_is_one_unit_whatever_is_written_meanwhile(store: TableStore) -> None:
    answers = Answers(store)
    first: dict[bytes, bytes | None] = {b"%05d" % number: b"1" * 500 for number in range(4000)}
    answers.checkpoint(1, {"a.one": first, "b.one": {b"k": b"1"}})
    answers.all()
    snapshot = store.snapshot()
    assert snapshot is not None and (snapshot.index, snapshot.anchor) == (1, b"anchor of 1")
    with closing(snapshot.chunks) as chunks:
        read = [next(chunks)]
        for index in range(2, 30):
            answers.checkpoint(
                index,
                {
                    "a.one": {b"%05d" % (4000 - index): None, b"x": b""},
                    "b.one": {b"k": b"%d" % index},
                    "c.one": {b"k": b""},
                },
            )
            answers.all()
        read += chunks
    sizes = [sum(len(key) + len(value) for key, value in rows) for _, rows in read]
    assert len(read) == 5 and max(sizes) < 1.2 * limits.SNAPSHOT_CHUNK_BYTES
    assert [row for table, rows in read if table == "a.one" for row in rows] == sorted(first.items())
    assert read[-1] == ("b.one", [(b"k", b"1")])
    newer = rows_of(store.snapshot())
    assert newer["b.one"] == {b"k": b"29"} and len(newer["a.one"]) == 4000 - 28 + 1 and newer["c.one"] == {b"k": b""}


def test_a_snapshot_tells_how_many_rows_there_are(
    store: TableStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "QUIET_SECONDS", float("inf"))  # runs stay, however long this takes
    answers = Answers(store)
    answers.checkpoint(1, {"a.one": {b"%d" % number: b"" for number in range(300)}, "b.one": {b"k": b""}})
    answers.checkpoint(2, {"a.one": {b"7": None, b"new": b""}, "b.one": {b"k": None}})
    answers.all()
    snapshot = store.snapshot()
    at_rest = {} if "runs" in request.node.name else {"a.one": 300, "b.one": 0}
    assert snapshot is not None and snapshot.counts == at_rest
    assert {table: len(rows) for table, rows in rows_of(snapshot).items()} == {"a.one": 300}


def test_digests_tell_equal_tables_from_others(bench: Bench, tmp_path: Path) -> None:
    store = bench.open_tables()
    answers = Answers(store)
    answers.checkpoint(1, {"a.one": {b"k": b"v", b"gone": b""}, "a.two": {b"gone": b""}, "b.one": {b"ab": b"c"}})
    answers.checkpoint(2, {"a.one": {b"gone": None}, "a.two": {b"gone": None}})
    answers.all()
    found = digest_of(store)
    assert found[2].keys() == {"a.one", "b.one"}, "an emptied table is as one that never was"
    with bench_of("memory", tmp_path) as other_bench:
        other = other_bench.open_tables()
        others = Answers(other)
        others.checkpoint(2, {"a.one": {b"k": b"v"}, "b.one": {b"a": b"bc"}})
        others.all()
        assert digest_of(other)[2]["a.one"] == found[2]["a.one"] and digest_of(other)[2]["b.one"] != found[2]["b.one"]
    store.close()


def test_an_install_replaces_everything(bench: Bench, store: TableStore, tmp_path: Path) -> None:
    answers = Answers(store)
    answers.checkpoint(1, {"a.one": {b"old": b""}, "old.one": {b"old": b""}})
    with tempfile.TemporaryDirectory() as folder, bench_of("lmdb", Path(folder)) as source_bench:
        source = source_bench.open_tables()
        sources = Answers(source)
        sources.checkpoint(
            9, {"a.one": {b"%05d" % number: b"n" * 300 for number in range(5000)}, "new.one": {b"k": b"v"}}
        )
        sources.all()
        snapshot = source.snapshot()
        assert snapshot is not None
        answers.install(9, chunks=snapshot.chunks)
        assert answers.all() == [(1, True), (9, True)]
        assert digest_of(store) == digest_of(source)
        source.close()
    assert store.anchor() == (9, b"anchor of 9")
    assert store.scan("old.one") == [] and store.get("a.one", b"old") is None and store.get("new.one", b"k") == b"v"
    answers.checkpoint(10, {"old.one": {b"k": b"again"}})
    assert answers.all()[-1] == (10, True) and store.scan("old.one") == [(b"k", b"again")]


class Torn:
    """A source that breaks off."""

    def __iter__(self) -> Iterator[Chunk]:
        yield "a.one", [(b"new", b"")]
        yield "new.one", [(b"new", b"")]
        raise ConnectionResetError("the sender is gone")


@pytest.mark.parametrize(
    ("index", "chunks"),
    [
        (9, Torn()),
        (9, [("a.one", [(b"b", b""), (b"a", b"")])]),
        (9, [("a.one", [(b"a", b"")]), ("a.one", [(b"a", b"")])]),
        (9, [("a.one", [(b"a", b"")]), ("A.one", [])]),
        (9, [("checkpoint", [(b"index", b"\0" * 8)])]),
        (9, [("a.one", [(b"", b"")])]),
        (9, [("a.one", [(b"k" * 512, b"")])]),
        (9, [("a.one", [(b"k", "text")])]),
        (9, [("a.one", [(b"k",)])]),
        (9, [("a.one", [None])]),
        (9, [("a.one",)]),
        (4, [("a.one", [(b"new", b"")])]),
    ],
    ids="torn unordered repeated name own-name empty-key long-key text row no-row chunk older".split(),
)
def test_an_install_is_all_or_nothing(bench: Bench, store: TableStore, index: int, chunks: Iterable[Chunk]) -> None:
    answers = Answers(store)
    answers.checkpoint(5, {"a.one": {b"old": b"1"}, "b.one": {b"old": b"2"}})
    answers.all()
    before = digest_of(store)
    answers.install(index, chunks)
    assert answers.all() == [(5, True), (index, False)]
    assert digest_of(store) == before and content(store) == {
        "a.one": {b"old": b"1"},
        "a.two": {},
        "b.one": {b"old": b"2"},
    }
    assert store.health == "ok" and answers.health == []
    answers.checkpoint(6, {"new.one": {b"k": b"v"}})
    assert answers.all()[-1] == (6, True) and store.get("new.one", b"k") == b"v"


def test_an_older_unit_queued_behind_an_install_is_dropped(store: TableStore) -> None:
    answers = Answers(store)
    answers.checkpoint(1, {"a.one": {b"k": b"1"}})
    answers.install(9, [("a.one", [(b"k", b"9")])])
    answers.checkpoint(8, {"a.one": {b"k": b"8", b"l": b"8"}})
    answers.install(9, [("a.one", [(b"k", b"9")])])
    assert answers.all() == [(1, True), (9, True), (8, False), (9, True)]
    assert store.scan("a.one") == [(b"k", b"9")] and store.anchor() == (9, b"anchor of 9")


def test_full_keeps_the_unit_and_its_place_and_reads_go_on(bench: Bench, store: TableStore) -> None:
    answers = Answers(store)
    answers.checkpoint(1, {"a.one": {b"k": b"1"}})
    answers.all()
    bench.full()
    for index in range(2, 6):
        answers.checkpoint(index, {"a.one": {b"k": b"%d" % index, b"%d" % index: b""}})
    eventually(lambda: answers.health == ["full"], what="health")
    store.refresh()
    assert store.get("a.one", b"k") == b"1" and rows_of(store.snapshot()) == {"a.one": {b"k": b"1"}}
    assert answers.given == [(1, True)]
    bench.well()
    assert answers.all() == [(index, True) for index in range(1, 6)]
    assert answers.health == ["full", "ok"] and store.health == "ok"
    assert store.scan("a.one") == [(b"2", b""), (b"3", b""), (b"4", b""), (b"5", b""), (b"k", b"5")]


def test_closing_while_full_leaves_out_everything_from_the_unit_that_did_not_fit(bench: Bench) -> None:
    store = bench.open_tables()
    answers = Answers(store)
    answers.checkpoint(1, {"a.one": {b"k": b"1"}})
    answers.all()
    bench.full()
    for index in range(2, 6):
        answers.checkpoint(index, {"a.one": {b"k": b"%d" % index}})
    eventually(lambda: answers.health == ["full"], what="health")
    store.close()
    bench.well()
    assert answers.given == [(1, True)]
    store = bench.open_tables()
    assert store.anchor() == (1, b"anchor of 1") and store.get("a.one", b"k") == b"1"
    store.close()


def test_a_failed_write_is_latched_and_reads_go_on(bench: Bench) -> None:
    store = bench.open_tables()
    answers = Answers(store)
    answers.checkpoint(1, {"a.one": {b"k": b"1"}})
    answers.all()
    bench.broken()
    answers.checkpoint(2, {"a.one": {b"k": b"2"}})
    eventually(lambda: answers.health == ["failed"], what="health")
    bench.well()
    answers.checkpoint(3, {"a.one": {b"k": b"3"}})
    answers.install(4, [("a.one", [(b"k", b"4")])])
    assert store.health == "failed" and store.get("a.one", b"k") == b"1"
    store.close()
    assert answers.given == [(1, True)]
    store = bench.open_tables()
    assert store.anchor() == (1, b"anchor of 1") and store.get("a.one", b"k") == b"1"
    store.close()


def test_close_finishes_what_is_queued_and_ends_snapshots(bench: Bench) -> None:
    store = bench.open_tables()
    answers = Answers(store)
    answers.checkpoint(1, {"a.one": {b"k": b"1"}, "b.one": {b"k": b"1"}})
    answers.all()
    snapshot = store.snapshot()
    unread = store.snapshot()
    assert snapshot is not None and unread is not None
    assert next(snapshot.chunks) == ("a.one", [(b"k", b"1")])
    for index in range(2, 20):
        answers.checkpoint(index, {"a.one": {b"k": b"%d" % index}})
    store.close()
    store.close()
    assert answers.given == [(index, True) for index in range(1, 20)]
    with pytest.raises(Unavailable):
        next(snapshot.chunks)
    unread.chunks.close()
    store = bench.open_tables()
    assert store.anchor() == (19, b"anchor of 19") and store.get("a.one", b"k") == b"19"
    store.close()
