"""The overlay against a dictionary: any sequence of operations, generations and installs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.storage.memory import MemoryDisk, MemoryTables
from raftcluster.storage.overlay import GAP_ROWS, Overlay, View
from raftcluster.storage.ports import Row

KEYS = st.integers(0, 40).map(lambda number: b"%02d" % number)
VALUES = st.integers(0, 9).map(lambda number: b"v%d" % number)
WRITES = st.lists(st.tuples(KEYS, st.none() | VALUES), max_size=30)


def rows_of(model: dict[bytes, bytes], start: bytes, stop: bytes | None, limit: int) -> list[Row]:
    return [row for row in sorted(model.items()) if row[0] >= start and (stop is None or row[0] < stop)][:limit]


class OverlayAgainstModel(RuleBasedStateMachine):
    """Writes go to the overlay and to a plain dictionary; every read must say the same."""

    @initialize()
    def build(self) -> None:
        self.store = MemoryTables(MemoryDisk(), auto=False)
        self.overlay = Overlay(self.store)
        self.view = self.overlay.view("m", ["t", "other"])
        self.model: dict[bytes, bytes] = {}
        self.index = 0
        self.active: set[bytes] = set()
        self.frozen: set[bytes] = set()

    def write(self, model: dict[bytes, bytes], writes: list[tuple[bytes, bytes | None]]) -> None:
        for key, value in writes:
            if value is None:
                self.view.delete("t", key)
                model.pop(key, None)
            else:
                self.view.put("t", key, value)
                model[key] = value

    @rule(writes=WRITES)
    def operation(self, writes: list[tuple[bytes, bytes | None]]) -> None:
        self.overlay.begin()
        self.write(self.model, writes)
        self.overlay.commit()
        self.active.update(key for key, _ in writes)

    @rule(writes=WRITES, start=KEYS)
    def operation_undone(self, writes: list[tuple[bytes, bytes | None]], start: bytes) -> None:
        self.overlay.begin()
        inside = dict(self.model)
        self.write(inside, writes)
        assert self.view.scan("t", start) == rows_of(inside, start, None, 1000)
        self.overlay.rollback()

    @rule(count=st.integers(1, 40))
    def remove_from_the_front(self, count: int) -> None:
        """What expiry does; it is what gaps are for."""
        self.overlay.begin()
        for key, _ in self.view.scan("t", limit=count):
            self.view.delete("t", key)
            self.active.add(key)
            del self.model[key]
        self.overlay.commit()

    @precondition(lambda self: not self.overlay.frozen)
    @rule()
    def freeze(self) -> None:
        self.index += 1
        self.store.checkpoint(self.overlay.freeze(self.index, b"a"), lambda result: None)
        self.frozen, self.active = self.active, set()

    @precondition(lambda self: self.overlay.frozen)
    @rule()
    def durable_and_not_released(self) -> None:
        """The store is ahead of its reader."""
        self.store.complete()

    @precondition(lambda self: self.overlay.frozen)
    @rule()
    def release(self) -> None:
        self.store.complete()
        self.overlay.release()
        self.frozen = set()

    @rule(rows=st.dictionaries(KEYS, VALUES))
    def install(self, rows: dict[bytes, bytes]) -> None:
        self.index += 1
        self.store.install(self.index, b"a", [("m.t", sorted(rows.items()))], lambda result: None)
        self.store.complete()
        self.overlay.replace()
        self.model = dict(rows)
        self.active, self.frozen = set(), set()

    @rule(start=KEYS | st.just(b""), stop=st.none() | KEYS, limit=st.integers(0, 50))
    def scan(self, start: bytes, stop: bytes | None, limit: int) -> None:
        assert self.view.scan("t", start, stop, limit) == rows_of(self.model, start, stop, limit)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.view.get("t", key) == self.model.get(key) == self.overlay.get("m.t", key)

    @rule(writes=WRITES)
    def image(self, writes: list[tuple[bytes, bytes | None]]) -> None:
        """It holds what was applied by then, whatever is written and checkpointed before it is read."""
        before = sorted(self.model.items())
        image = self.overlay.image(self.index)
        self.operation(writes)
        if not self.overlay.frozen:
            self.freeze()
        self.release()
        assert [row for table, rows in image.chunks() for row in rows] == before

    @invariant()
    def the_other_table_is_empty(self) -> None:
        assert self.view.scan("other") == []

    @invariant()
    def keys_are_counted(self) -> None:
        assert self.overlay.keys == len(self.active) + len(self.frozen)


OverlayAgainstModel.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestOverlayAgainstModel = OverlayAgainstModel.TestCase


def fresh() -> tuple[MemoryTables, Overlay, View]:
    store = MemoryTables(MemoryDisk(), auto=True)
    overlay = Overlay(store)
    return store, overlay, overlay.view("m", ["t"])


def test_a_frozen_generation_is_visible_until_and_after_its_release() -> None:
    store, overlay, view = fresh()
    view.put("t", b"a", b"1")
    view.put("t", b"b", b"1")
    overlay.commit()
    unit = overlay.freeze(7, b"anchor")
    assert (unit.index, unit.anchor, unit.changes) == (7, b"anchor", {"m.t": {b"a": b"1", b"b": b"1"}})
    view.put("t", b"a", b"2")
    view.delete("t", b"b")
    overlay.commit()
    assert overlay.keys == 4 and view.scan("t") == [(b"a", b"2")]
    store.checkpoint(unit, lambda result: None)
    overlay.release()
    assert overlay.keys == 2 and view.scan("t") == [(b"a", b"2")] and view.get("t", b"b") is None
    assert store.scan("m.t") == [(b"a", b"1"), (b"b", b"1")]


def test_only_one_generation_is_frozen_and_never_in_an_operation() -> None:
    _, overlay, _ = fresh()
    overlay.begin()
    with pytest.raises(RuntimeError, match="operation is open"):
        overlay.freeze(1, b"")
    with pytest.raises(RuntimeError, match="operation is open"):
        overlay.begin()
    with pytest.raises(RuntimeError, match="operation is open"):
        overlay.replace()
    overlay.commit()
    overlay.freeze(1, b"")
    with pytest.raises(RuntimeError, match="unit is under way"):
        overlay.freeze(2, b"")


@pytest.mark.parametrize("key", [b"", b"k" * (limits.KEY_BYTES + 1), "text", bytearray(b"k"), None])
def test_keys_that_lmdb_cannot_hold_are_rejected(key: bytes) -> None:
    _, _, view = fresh()
    with pytest.raises(Rejected, match="a key of"):
        view.put("t", key, b"")
    with pytest.raises(Rejected, match="a key of"):
        view.delete("t", key)
    if isinstance(key, bytes):
        with pytest.raises(Rejected, match="a key of"):
            view.get("t", key)


def test_the_longest_key_is_accepted() -> None:
    _, overlay, view = fresh()
    key = b"k" * limits.KEY_BYTES
    view.put("t", key, b"v")
    overlay.commit()
    assert view.get("t", key) == b"v" and view.scan("t", key, key + b"\0") == [(key, b"v")]


def test_only_bytes_are_values_and_only_declared_tables_exist() -> None:
    _, overlay, view = fresh()
    with pytest.raises(Rejected, match="not bytes"):
        view.put("t", b"k", "text")  # type: ignore[arg-type]
    for call in (
        lambda: view.put("x", b"k", b""),
        lambda: view.delete("x", b"k"),
        lambda: view.get("x", b"k"),
        lambda: view.scan("x"),
    ):
        with pytest.raises(Rejected, match="no table 'x'"):
            call()
    for machine, table in (("M", "t"), ("m", "t.u"), ("m", ""), ("", "t"), ("m", "é")):
        with pytest.raises(Rejected, match="no table name"):
            overlay.view(machine, [table])


def test_a_reader_sees_what_the_view_wrote() -> None:
    _, overlay, view = fresh()
    reader = overlay.reader("m", ["t"])
    view.put("t", b"k", b"v")
    assert reader.get("t", b"k") == b"v" and reader.scan("t") == [(b"k", b"v")]
    assert not hasattr(reader, "put")


def test_removing_from_the_front_does_not_pass_over_removed_rows_again() -> None:
    """With 2,000 removed rows in front, a scan asks the store once for its page, not for all that was removed."""
    store, overlay, view = fresh()
    for number in range(3000):
        view.put("t", b"%04d" % number, b"")
    overlay.commit()
    store.checkpoint(overlay.freeze(1, b""), lambda result: None)
    overlay.release()
    asked: list[bytes] = []
    scan = store.scan

    def counted(table: str, start: bytes = b"", stop: bytes | None = None, limit: int = 1000) -> list[Row]:
        asked.append(start)
        return scan(table, start, stop, limit)

    store.scan = counted  # type: ignore[method-assign]
    for _ in range(100):
        rows = view.scan("t", stop=b"2500", limit=20)
        assert len(rows) == 20 >= GAP_ROWS
        for key, _ in rows:
            view.delete("t", key)
        overlay.commit()
    assert len(asked) <= 300
    assert view.scan("t", limit=1) == [(b"2000", b"")]
    view.put("t", b"0500", b"again")
    assert view.scan("t", limit=1) == [(b"0500", b"again")]


@given(st.lists(st.lists(st.integers(0, 2000), max_size=60), max_size=40))
@settings(max_examples=50, deadline=None)
def test_scans_between_writes_see_every_key_in_order(batches: list[list[int]]) -> None:
    _, overlay, view = fresh()
    written: set[bytes] = set()
    for batch in batches:
        for number in batch:
            view.put("t", b"%04d" % number, b"")
            written.add(b"%04d" % number)
        overlay.commit()
        assert [key for key, _ in view.scan("t", limit=5000)] == sorted(written)


def test_what_an_operation_removed_and_passed_over_is_back_after_its_rollback() -> None:
    _, overlay, view = fresh()
    rows = [(b"%04d" % number, b"v") for number in range(4 * GAP_ROWS)]
    for key, value in rows:
        view.put("t", key, value)
    overlay.commit()
    overlay.begin()
    for key, _ in rows[: 2 * GAP_ROWS]:
        view.delete("t", key)
    assert view.scan("t") == rows[2 * GAP_ROWS :] == view.scan("t")
    overlay.rollback()
    assert view.scan("t") == rows


def test_what_was_removed_is_forgotten_with_an_install() -> None:
    store, overlay, view = fresh()
    rows = [(b"%04d" % number, b"v") for number in range(4 * GAP_ROWS)]
    for key, value in rows:
        view.put("t", key, value)
    for key, _ in rows[: 2 * GAP_ROWS]:
        view.delete("t", key)
    overlay.commit()
    assert view.scan("t") == rows[2 * GAP_ROWS :] == view.scan("t")
    store.install(1, b"", [("m.t", rows)], lambda result: None)
    overlay.replace()
    assert view.scan("t") == rows and overlay.keys == 0
