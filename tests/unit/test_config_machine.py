"""The replicated configuration: revisions, conditions, bounded history, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.config.machine import ConfigMachine
from raftcluster.config.reading import (
    CHANGES,
    HISTORY,
    VALUES,
    read_changes,
    read_entry,
    read_history,
    read_keys,
    read_revision,
)
from raftcluster.errors import Rejected
from raftcluster.machine import StateMachine
from tests.local_host import LocalHost, LocalTables


class Cluster(LocalHost):
    """One configuration, and what the tests look at."""

    def __init__(self) -> None:
        super().__init__([ConfigMachine()])
        self.rows: LocalTables = self.tables["config"]

    def set(self, key: Any, value: Any, expected: Any = None, *, author: Any = "me", reason: Any = "why") -> Any:
        return self.propose("config", ["set", key, value, author, reason, "mx1", expected])

    def delete(self, key: Any, expected: Any = None) -> Any:
        return self.propose("config", ["delete", key, "me", "why", "mx1", expected])


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_is_a_state_machine() -> None:
    assert isinstance(ConfigMachine(), StateMachine)


def test_every_change_gets_the_next_revision_of_the_cluster(cluster: Cluster) -> None:
    assert cluster.set("a/b", 5) == 1
    assert cluster.set("c", "text") == 2
    assert cluster.set("a/b", [1, {"x": None}]) == 3
    assert cluster.delete("c") == 4
    assert cluster.set("c", b"\xff") == 5
    assert read_revision(cluster.rows) == 5
    entry = read_entry(cluster.rows, "a/b")
    assert entry == ("a/b", 3, [1, {"x": None}], "me", "why", "mx1", cluster.now, 2, False)
    assert read_entry(cluster.rows, "b") is None
    assert [(each.revision, each.value, each.deleted) for each in read_history(cluster.rows, "c", 10)] == [
        (5, b"\xff", False),
        (4, None, True),
        (2, "text", False),
    ]
    assert [each.revision for each in read_history(cluster.rows, "c", 1)] == [5]


@pytest.mark.parametrize(
    "value", [None, True, False, 0, -(2**63), 2**64 - 1, 1.5, "", "ü", b"\0", [], {}, [[{"a": [1]}]]]
)
def test_values_keep_their_type(cluster: Cluster, value: Any) -> None:
    cluster.set("key", value)
    entry = read_entry(cluster.rows, "key")
    assert entry is not None
    assert entry.value == value
    assert type(entry.value) is type(value)


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("-inf"),
        [1, {"a": float("inf")}],
        {5: 1},
        {"a": {None: 1}},
        "x" * (limits.CONFIG_INLINE_BYTES + 1),
        deep(limits.NESTING - 2),
    ],
)
def test_values_that_no_configuration_holds_are_rejected(cluster: Cluster, value: Any) -> None:
    with pytest.raises(Rejected):
        cluster.set("key", value)
    assert not cluster.rows.rows[VALUES]


@pytest.mark.parametrize(
    "key", ["a", "0", "a.b-c_d", "a/b/c", "..", "x" * limits.CONFIG_KEY_BYTES, "locals/x", "a/local/b"]
)
def test_keys_that_are_taken(cluster: Cluster, key: str) -> None:
    assert cluster.set(key, 1) == 1


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "A",
        "a b",
        "é",
        "a\n",
        "a\0",
        "٣",
        "x" * (limits.CONFIG_KEY_BYTES + 1),
        None,
        5,
        b"a",
    ],
)
def test_keys_that_are_rejected(cluster: Cluster, key: Any) -> None:
    with pytest.raises(Rejected, match="no configuration key"):
        cluster.set(key, 1)


SEGMENTS = st.lists(st.from_regex(r"[a-z0-9_.-]{1,8}", fullmatch=True), max_size=4)


@given(SEGMENTS, st.sampled_from(["set", "delete"]), st.sampled_from([[], ["nodes", "mx1"]]))
def test_nothing_below_local_ever_gets_into_the_tables(
    segments: list[str], operation: str, override: list[str]
) -> None:
    """R6: what belongs to one node is refused for the cluster, with the reason."""
    cluster = Cluster()
    key = "/".join([*override, "local", *segments])
    with pytest.raises(Rejected, match="belongs to one node"):
        cluster.set(key, 1) if operation == "set" else cluster.delete(key)
    assert not any(cluster.rows.rows.values())


def test_greylist_settings_are_set_elsewhere(cluster: Cluster) -> None:
    with pytest.raises(Rejected, match="checked together"):
        cluster.set("greylist/delay", 5)


@pytest.mark.parametrize(
    "command",
    [
        None,
        5,
        "set",
        [],
        {},
        ["set"],
        ["rename", "a", "b", "", "", "mx1", None],
        ["set", "a", 1, "me", "why", "mx1"],
        ["set", "a", 1, "me", "why", None, None],
        ["set", "a", 1, None, "why", "mx1", None],
        ["set", "a", 1, "me", "x" * 2000, "mx1", None],
        ["delete", "a", "me", "why", "mx1", None, None],
        ["delete", "a", "me", "why", "mx1", None],
    ],
)
def test_malformed_commands_are_rejected_and_leave_no_trace(cluster: Cluster, command: Any) -> None:
    with pytest.raises(Rejected):
        cluster.propose("config", command)
    assert not any(cluster.rows.rows.values())


def test_compare_and_set(cluster: Cluster) -> None:
    assert cluster.set("a", 1, 0) == 1
    cluster.set("b", 1)
    assert cluster.set("a", 2, 1) == 3
    for expected, found in (
        (1, "at revision 3, not at the expected revision 1"),
        (0, "at revision 3"),
        ("3", "at revision 3"),
    ):
        with pytest.raises(Rejected, match=found) as caught:
            cluster.set("a", 9, expected)
        assert caught.value.code == "revision-mismatch"
    with pytest.raises(Rejected, match="revision 3"):
        cluster.delete("a", 2)
    assert cluster.delete("a", 3) == 4
    with pytest.raises(Rejected, match="not set, not at the expected revision 4"):
        cluster.set("a", 9, 4)
    assert cluster.set("a", 9, 0) == 5
    assert read_revision(cluster.rows) == 5


def test_history_is_bounded_per_key(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 4)
    cluster.set("other", 0)
    for number in range(10):
        cluster.set("key", number)
        if number == 6:
            cluster.delete("key")
    assert [each.value for each in read_history(cluster.rows, "key", 100)] == [9, 8, 7, None]
    assert len(read_history(cluster.rows, "other", 100)) == 1
    assert len(cluster.rows.rows[HISTORY]) == 5
    assert len(cluster.rows.rows[CHANGES]) == 12, "what has happened is listed longer than what it was is kept"


def test_keys_are_listed_by_prefix(cluster: Cluster) -> None:
    for key in ("a", "a/b", "a/c", "ab", "b"):
        cluster.set(key, 1)
    cluster.delete("a/c")
    assert read_keys(cluster.rows, "", "", 10) == ["a", "a/b", "ab", "b"]
    assert read_keys(cluster.rows, "a/", "", 10) == ["a/b"]
    assert read_keys(cluster.rows, "a", "", 2) == ["a", "a/b"]
    assert read_keys(cluster.rows, "a", "a/b", 2) == ["ab"]


def test_changes_are_read_from_a_revision_on(cluster: Cluster) -> None:
    for number in range(6):
        cluster.set("a/x" if number % 2 else "b", number)
    page = read_changes(cluster.rows, "a/", 0, 2)
    assert page is not None
    assert ([change.value for change in page.changes], page.reached, page.last) == ([1, 3], 4, 6)
    page = read_changes(cluster.rows, "a/", page.reached, 2)
    assert page is not None
    assert ([change.value for change in page.changes], page.reached) == ([5], 6)
    assert read_changes(cluster.rows, "a/", 6, 2) == ([], 6, 6)


def test_whoever_asks_for_forgotten_changes_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 3)
    for number in range(5):
        cluster.set("key", number)
    assert read_changes(cluster.rows, "", 1, 10) is None
    page = read_changes(cluster.rows, "", 2, 10)
    assert page is not None
    assert [change.revision for change in page.changes] == [3, 4, 5]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "delete"]),
        st.sampled_from(["a", "a/b", "c"]),
        st.integers(0, 9),
        st.none() | st.integers(0, 12),
    ),
    max_size=30,
)


@given(OPERATIONS)
def test_against_a_naive_configuration_on_two_nodes(operations: list[tuple[str, str, int, int | None]]) -> None:
    one, other = Cluster(), Cluster()
    known: dict[str, tuple[int, int]] = {}
    revision = 0
    for operation, key, value, expected in operations:
        one.now += 1
        other.now += 1
        current = known.get(key, (0, 0))[0]
        refused = (expected is not None and expected != current) or (operation == "delete" and not current)
        for cluster in (one, other):
            try:
                got = cluster.set(key, value, expected) if operation == "set" else cluster.delete(key, expected)
            except Rejected:
                assert refused
            else:
                assert not refused
                assert got == revision + 1
        if not refused:
            revision += 1
            known.pop(key, None)
            if operation == "set":
                known[key] = (revision, value)
    assert one.rows.image() == other.rows.image()
    assert read_keys(one.rows, "", "", 10) == sorted(known)
    for key, (at, value) in known.items():
        entry = read_entry(one.rows, key)
        assert entry is not None
        assert (entry.revision, entry.value) == (at, value)
    page = read_changes(one.rows, "", 0, 100)
    assert page is not None
    assert [change.revision for change in page.changes] == list(range(1, revision + 1))
