"""Bursts of changes: the detour of their rows through sorted runs, at sizes at which it happens by itself."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.errors import StorageFailed
from raftcluster.storage import runs, tables
from raftcluster.storage.ports import Unit
from raftcluster.storage.tables import TableStore
from tests.helpers import eventually

SMALL = runs.Bounds(burst_keys=50, burst_share=2, run_keys=200, runs=3, slice_keys=64)
ROWS = st.dictionaries(st.binary(min_size=1, max_size=2), st.none() | st.binary(max_size=2), max_size=30)


@given(layers=st.lists(ROWS, min_size=1, max_size=5), plain=st.booleans(), page=st.integers(1, 8))
def test_the_newest_version_of_every_key_is_told_once_in_order(
    layers: list[dict[bytes, bytes | None]], plain: bool, page: int
) -> None:
    if plain:
        layers[0] = {key: value or b"" for key, value in layers[0].items()}
    wanted: dict[bytes, bytes | None] = {}
    sources: list[Iterator[tuple[bytes, bytes]]] = []
    for at, layer in enumerate(layers):
        wanted.update(layer)
        bare = plain and not at
        sources.append(iter(sorted((k, v or b"" if bare else runs.row_of(v)) for k, v in layer.items())))
    pages = list(runs.merged(sources, [1 + page * at % 8 for at in range(len(sources))], plain=plain))
    assert [row for rows in pages for row in rows] == sorted(wanted.items(), key=lambda row: row[0])


@given(
    st.dictionaries(
        st.sampled_from(["a.one", "b.two"]),
        st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True), min_size=1, max_size=2),
    )
)
def test_what_is_noted_of_the_generations_is_read_again(numbers: dict[str, list[list[int]]]) -> None:
    generations = {
        table: tuple(
            runs.Generation(at + 1, tuple(f"{table}@{run}" for run in each), full=at < len(found) - 1)
            for at, each in enumerate(found)
        )
        for table, found in numbers.items()
    }
    assert runs.decode(runs.encode(generations)) == generations


class Written:
    """A store with a table of 1,000 rows, and what it must hold."""

    def __init__(self, path: Path, seed: int, bounds: runs.Bounds = SMALL) -> None:
        print(f"seed {seed}")
        self.chance = random.Random(seed)
        self.store = TableStore(path, bounds=bounds)
        self.rows: dict[bytes, bytes] = {}
        self.index = 0
        self.burst(1000)
        assert self.runs == set(), "an empty table is filled without a detour"

    def burst(self, keys: int, *, wait: bool = True) -> None:
        """One unit of new, changed and removed rows."""
        self.index += 1
        changes: dict[bytes, bytes | None] = {self.chance.randbytes(8): b"%d" % self.index for _ in range(keys)}
        for key in self.chance.sample(sorted(self.rows), min(len(self.rows), keys // 4)):
            changes[key] = None if self.chance.random() < 0.5 else b"again %d" % self.index
        for key, value in changes.items():
            if value is None:
                del self.rows[key]
            else:
                self.rows[key] = value
        answers: list[bool] = []
        self.store.checkpoint(Unit(self.index, {"a.one": changes}, b"anchor"), answers.append)
        if wait:
            eventually(lambda: answers == [True], what="the unit")
            self.store.refresh()

    @property
    def runs(self) -> set[str]:
        """The runs that there are."""
        return {run for found in self.store._state.generations.values() for each in found for run in each.runs}

    def lengths(self) -> list[int]:
        """The rows of each run."""
        with self.store._env.reading() as transaction:
            state = self.store._state
            return [transaction.stat(state.handles[run])["entries"] for run in sorted(self.runs)]

    def check(self) -> None:
        """By all ways to read."""
        store = self.store
        wanted = sorted(self.rows.items())
        assert store.scan("a.one", limit=10**6) == wanted
        some = self.chance.sample(wanted, 100)
        assert [store.get("a.one", key) for key, _ in some] == [value for _, value in some]
        assert store.get("a.one", b"absent") is None
        start, stop = sorted(key for key, _ in some[:2])
        assert store.scan("a.one", limit=4_000) == wanted[:4_000], "a row at a time"
        assert store.scan("a.one", start, stop, 20) == [row for row in wanted if start <= row[0] < stop][:20]
        assert store.scan("a.one", start + b"\0", None, 7) == [row for row in wanted if row[0] > start][:7]
        snapshot = store.snapshot()
        assert snapshot is not None
        with closing(snapshot.chunks) as chunks:
            assert [row for _, rows in chunks for row in rows] == wanted
        if "a.one" in snapshot.counts:
            assert snapshot.counts["a.one"] == len(wanted)


def come_to_rest(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all that is in runs be moved."""
    with monkeypatch.context() as patch:
        patch.setattr(tables, "QUIET_SECONDS", 0.0)
        patch.setattr(tables, "REST_SECONDS", 0.001)
        eventually(lambda: not written.runs, what="the table at rest")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    monkeypatch.setattr(tables, "QUIET_SECONDS", float("inf"))  # runs stay, however long a test takes
    found = Written(tmp_path, random.SystemRandom().randrange(2**32))
    yield found
    found.store.close()


def test_bursts_go_through_runs_and_all_readers_see_them(written: Written) -> None:
    seen: set[int] = set()
    for _ in range(40):
        written.burst(150)
        seen.add(len(written.runs))
        written.check()
    assert max(seen) >= SMALL.runs and len(seen) > 2, "runs came and went"


def test_a_generation_is_swept_before_the_next_one_is_full_however_uneven_its_runs_are(written: Written) -> None:
    """A slice was counted as long as it was meant to be. It ends where the longest run's share of it does: with runs of unequal
    length the sweep fell behind, the next generation's last run grew without end, and each unit wrote a page a key."""
    longest = 0
    for _ in range(6):
        for keys in (900, 120, 120, 120):
            written.burst(keys)
            longest = max([longest, *written.lengths()])
    assert longest <= SMALL.run_keys + 900 * 5 // 4, "a run that was full took more"


def test_a_few_changes_follow_a_burst_into_its_run_and_do_not_begin_one(written: Written) -> None:
    written.burst(10)
    assert written.runs == set()
    written.burst(200)
    written.burst(4)
    assert written.runs
    written.check()


def test_a_closed_store_has_no_runs_and_any_lmdb_binding_reads_it(written: Written, tmp_path: Path) -> None:
    for _ in range(5):
        written.burst(150)
    written.store.close()
    with lmdb.open(str(tmp_path), max_dbs=600, readonly=True) as env, env.begin(env.open_db(b"a.one")) as transaction:
        assert list(transaction.cursor()) == sorted(written.rows.items())


def test_a_store_whose_bounds_have_become_smaller_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked for the name of a new run among as few as it would have made itself, and its checkpoint thread ended."""
    store = TableStore(
        tmp_path / "old", bounds=runs.Bounds(burst_keys=1, burst_share=0, run_keys=1, runs=9, slice_keys=1)
    )
    rows: dict[bytes, bytes | None] = {}
    answers: list[bool] = []
    for index in range(1, 10):
        rows[b"%d" % index] = b"v"
        store.checkpoint(Unit(index, {"a.one": {b"%d" % index: b"v"}}, b"anchor"), answers.append)
        eventually(lambda index=index: len(answers) == index, what="the unit")  # type: ignore[misc]
    shutil.copytree(tmp_path / "old", tmp_path / "new")  # as after a crash
    store.close()
    store = TableStore(
        tmp_path / "new", bounds=runs.Bounds(burst_keys=1, burst_share=0, run_keys=1, runs=1, slice_keys=1)
    )
    assert len(store._state.generations["a.one"][0].runs) > 2
    for index in range(10, 20):
        rows[b"%d" % index] = b"v"
        store.checkpoint(Unit(index, {"a.one": {b"%d" % index: b"v"}}, b"anchor"), answers.append)
        eventually(lambda index=index: len(answers) == index, what="the unit")  # type: ignore[misc]
    store.refresh()
    assert dict(store.scan("a.one")) == rows and store.health == "ok"
    store.close()


def test_generations_grow_with_their_table() -> None:
    bounds = runs.Bounds(runs=3, most_runs=8, rows_a_run=1000)
    assert [bounds.full_runs(rows) for rows in (0, 3_999, 4_000, 8_999, 10**9)] == [3, 3, 4, 8, 8]
    assert runs.DEFAULT.most_runs < 256, "an ordinal is a byte"


def test_a_larger_table_s_generation_is_swept_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "QUIET_SECONDS", float("inf"))
    bounds = replace(SMALL, runs=1, most_runs=4, rows_a_run=250)
    written = Written(tmp_path, random.SystemRandom().randrange(2**32), bounds)
    most = 0
    with closing(written.store):
        for _ in range(20):
            written.burst(200)
            most = max(most, *(len(each.runs) for each in written.store._state.generations["a.one"]))
            written.check()
    assert most == 4


def test_the_filter_of_what_is_at_rest_is_made_anew_when_it_is_full(written: Written) -> None:
    seen = []
    for _ in range(60):
        written.burst(150)
        rest = written.store._state.rests.get("a.one")
        if rest is not None and rest not in seen:
            seen.append(rest)
    written.check()
    assert len(seen) > 1 and all(each.left > -SMALL.run_keys * SMALL.runs for each in seen)


def test_what_a_killed_store_had_in_runs_is_read_again(written: Written, tmp_path: Path) -> None:
    for _ in range(3):
        written.burst(150)
    assert written.runs
    shutil.copytree(tmp_path, tmp_path.with_name("killed"))
    first, written.store = written.store, TableStore(tmp_path.with_name("killed"), bounds=SMALL)
    first.close()
    written.check()
    written.burst(1)
    written.check()


def test_closing_takes_no_longer_than_it_may(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CLOSE_SECONDS", 0.0)
    for _ in range(3):
        written.burst(150)
    written.store.close()
    written.store = TableStore(tmp_path, bounds=SMALL)
    assert written.runs
    written.check()


def test_a_table_that_has_come_to_rest_takes_the_detour_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its emptied runs counted as databases that others need, beside room for as many: tables of more than a million rows took
    the detour once and never again."""
    monkeypatch.setattr(tables, "QUIET_SECONDS", float("inf"))
    monkeypatch.setattr(limits, "TABLES", 2 * (len(("checkpoint", "a.one")) + 2 * SMALL.runs))
    written = Written(tmp_path, random.SystemRandom().randrange(2**32))
    with closing(written.store):
        for _ in range(3):
            for _ in range(4):
                written.burst(150)
            assert written.runs
            come_to_rest(written, monkeypatch)
            written.store.refresh()
            written.check()


def test_the_runs_of_many_tables_leave_databases_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There was room for all runs of each table that began, and not for those of all that had: the checkpoint thread ended."""
    monkeypatch.setattr(tables, "QUIET_SECONDS", float("inf"))
    monkeypatch.setattr(limits, "TABLES", 32)
    names = [f"a.t{number}" for number in range(8)]
    bounds = runs.Bounds(burst_keys=1, burst_share=0, run_keys=1, runs=2, most_runs=5, rows_a_run=5, slice_keys=1)
    with closing(TableStore(tmp_path, bounds=bounds)) as store:
        answers: list[bool] = []
        for index in range(1, 30):
            changes = {name: {b"%d" % index: b"v"} for name in names}
            store.checkpoint(Unit(index, changes, b"anchor"), answers.append)
            eventually(lambda index=index: len(answers) == index or store.health != "ok", what="the unit")  # type: ignore[misc]
            assert store.health == "ok"
        assert len({run.partition("@")[0] for run in store._state.handles if "@" in run}) > 1
        store.checkpoint(Unit(30, {f"b.t{number}": {b"k": b"v"} for number in range(7)}, b"anchor"), answers.append)
        eventually(lambda: len(answers) == 30, what="tables of others")


def test_a_quiet_store_moves_what_is_in_runs_by_itself(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(tables, "REST_SECONDS", 0.001)
    for _ in range(5):
        written.burst(150)
        written.check()
    eventually(lambda: not written.runs, what="the table at rest")
    written.check()
    written.store.refresh()
    written.check()


def test_runs_are_moved_also_while_a_few_changes_keep_coming(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them counted as a burst: after one, the runs and their filters stayed for as long as there was any mail."""
    monkeypatch.setattr(tables, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(tables, "REST_SECONDS", 0.001)
    written.burst(200)

    def moved() -> bool:
        written.burst(4)
        return not written.runs

    eventually(moved, what="the table at rest")
    written.check()


def test_a_view_keeps_what_it_saw_while_its_runs_are_moved_emptied_and_used_again(written: Written) -> None:
    written.burst(150)
    assert written.runs
    before, keys = sorted(written.rows.items()), sorted(written.rows)
    snapshot = written.store.snapshot()
    for _ in range(30):
        written.burst(150, wait=False)
    eventually(lambda: written.store._queue.empty(), what="all units")
    assert written.store.scan("a.one", limit=10**6) == before
    assert [written.store.get("a.one", key) for key in keys] == [value for _, value in before]
    assert snapshot is not None and [row for _, rows in snapshot.chunks for row in rows] == before
    written.burst(1)
    written.check()


def test_views_may_begin_at_any_moment(written: Written) -> None:
    """Every unit writes its index at one key; whatever a snapshot of index n holds there is n."""
    over = threading.Event()
    wrong: list[object] = []
    taken = 0

    def look() -> None:
        nonlocal taken
        while not over.is_set():
            snapshot = written.store.snapshot()
            assert snapshot is not None
            with closing(snapshot.chunks) as chunks:
                rows = dict(row for _, rows in chunks for row in rows)
            if rows.get(b"!") not in (None, b"%d" % snapshot.index):
                wrong.append((snapshot.index, rows.get(b"!")))
            taken += 1

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(60):
            index = written.index + 1
            answers: list[bool] = []
            changes: dict[bytes, bytes | None] = {written.chance.randbytes(8): b"" for _ in range(120)}
            changes[b"!"] = b"%d" % index
            written.index = index
            written.rows.update((key, value) for key, value in changes.items() if value is not None)
            written.store.checkpoint(Unit(index, {"a.one": changes}, b"anchor"), answers.append)
            eventually(lambda answers=answers: answers == [True], what="the unit")  # type: ignore[misc]
            written.store.refresh()
            assert written.store.get("a.one", b"!") == b"%d" % index
        eventually(lambda: taken > 2, what="snapshots")
    finally:
        over.set()
        looker.join()
    assert wrong == []
    written.check()


def test_a_reader_is_not_deceived_by_runs_that_have_the_names_of_those_before(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at what is published and its transaction, runs were moved and a burst made the next: it asked the
    filters of the former for what is in the latter, and reported keys as absent."""
    written.burst(150)
    before, read = written.store._state, written.store._env.read

    def late() -> object:
        monkeypatch.setattr(written.store._env, "read", read)
        come_to_rest(written, monkeypatch)
        written.burst(150, wait=False)
        eventually(lambda: written.runs, what="the burst")
        return read()

    monkeypatch.setattr(written.store._env, "read", late)
    written.store.refresh()
    assert written.store._state.row == before.row and written.store._state.generations is not before.generations
    written.check()


@pytest.mark.parametrize(
    "row",
    [b"\xc1", b"\x01", b"\x81\xa5a.one\x91\x92\x01\x91\x07", b"\x81\xa5a.one\x05"],
    ids="no-msgpack number run type".split(),
)
def test_a_note_of_runs_that_cannot_be_is_corrupt(tmp_path: Path, row: bytes) -> None:
    Written(tmp_path, 7).store.close()
    with lmdb.open(str(tmp_path), max_dbs=600) as env, env.begin(write=True) as transaction:
        transaction.put(b"runs", row, db=env.open_db(b"checkpoint", txn=transaction))
    with pytest.raises(StorageFailed, match="runs"):
        TableStore(tmp_path)
