"""Notifications in the tables: order, dedupe keys, one acknowledgement, bounds; against a plain model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.machine import Inspectable, StateMachine
from raftcluster.notifications.machine import (
    EXPIRIES,
    ITEMS,
    KEYS,
    NotificationsMachine,
    read_cursor,
    read_dropped,
    read_page,
)
from tests.local_host import LocalHost


class Cluster(LocalHost):
    def __init__(self) -> None:
        super().__init__([NotificationsMachine()])
        self.rows = self.tables["notifications"]

    def publish(self, text: str = "x", key: str = "", ttl: int = 10_000, payload: Any = None) -> list[Any]:
        return list(self.propose("notifications", ["publish", "error", text, key, payload, ttl, "mx1"]))

    def acknowledge(self, position: int, author: str = "me") -> list[Any]:
        return list(self.propose("notifications", ["acknowledge", position, author, "mx1"]))

    def texts(self, after: int = 0) -> list[str]:
        page = read_page(self.rows, self.now, after, 10_000)
        assert page is not None
        return [each.text for each in page.items]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_it_is_a_state_machine_that_knows_its_rows(cluster: Cluster) -> None:
    machine = NotificationsMachine()
    assert all(isinstance(machine, kind) for kind in (StateMachine, Inspectable))
    cluster.publish(key="disk", payload={"free": 5, "of": [1, 2.5, None, b"x"]})
    cluster.propose("notifications", ["advance", "pager", 1])
    for table, rows in cluster.rows.rows.items():
        assert rows
        for key, value in rows.items():
            machine.inspect(table, key, value)
            with pytest.raises(Exception, match=r"."):
                machine.inspect(table, b"\xff" + key, value + b"x")


def test_an_open_key_is_not_published_twice(cluster: Cluster) -> None:
    assert cluster.publish("disk full", "disk") == [1, True]
    assert cluster.publish("disk still full", "disk") == [1, False]
    assert cluster.publish("other", "other") == [2, True]
    page = read_page(cluster.rows, cluster.now, 0, 10)
    assert page is not None
    assert [(each.text, each.repeats) for each in page.items] == [("disk full", 1), ("other", 0)]
    assert cluster.acknowledge(1)[0] is True
    assert cluster.publish("disk full again", "disk") == [3, True]
    cluster.now += 10_000
    assert cluster.publish("a week later", "disk") == [4, True]
    assert cluster.texts() == ["a week later"] and len(cluster.rows.rows[KEYS]) == 1


def test_one_acknowledgement_counts_and_the_others_hear_whose(cluster: Cluster) -> None:
    cluster.publish()
    at = cluster.now
    assert cluster.acknowledge(1, "anna") == [True, "anna", "mx1", at]
    cluster.now += 5
    assert cluster.acknowledge(1, "bob") == [False, "anna", "mx1", at]
    cluster.now += 10_000
    for gone in (1, 2, -1, "1", None, True):
        with pytest.raises(Rejected):
            cluster.propose("notifications", ["acknowledge", gone, "bob", "mx1"])


def test_what_has_expired_is_gone_with_all_its_rows(cluster: Cluster) -> None:
    for number in range(250):
        cluster.publish(str(number), f"key {number}")
    cluster.now += 10_000
    assert cluster.texts() == []
    for _ in range(3):
        cluster.entry("notifications", [])
    assert [len(cluster.rows.rows[table]) for table in (ITEMS, KEYS, EXPIRIES)] == [0, 0, 0]
    assert read_dropped(cluster.rows) == 0 and cluster.publish() == [251, True]


def test_beyond_the_bound_the_oldest_goes_and_whoever_missed_it_is_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NOTIFICATIONS", 3)
    for number in range(1, 6):
        cluster.publish(str(number), str(number))
    assert read_dropped(cluster.rows) == 2 and cluster.texts(2) == ["3", "4", "5"]
    assert read_page(cluster.rows, cluster.now, 1, 10) is None
    assert len(cluster.rows.rows[KEYS]) == len(cluster.rows.rows[EXPIRIES]) == 3


def test_a_cursor_goes_forward_unless_it_is_set(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        cluster.publish()
    for command, position, expected in (("advance", 3, 3), ("advance", 2, 3), ("seek", 1, 1), ("advance", 1, 1)):
        assert cluster.propose("notifications", [command, "pager", position]) == expected
        assert read_cursor(cluster.rows, "pager") == expected
    monkeypatch.setattr(limits, "NOTIFICATION_CONSUMERS", 1)
    with pytest.raises(Rejected, match="1 consumers already"):
        cluster.propose("notifications", ["advance", "other", 1])
    assert cluster.propose("notifications", ["forget", "pager"]) is True
    assert cluster.propose("notifications", ["forget", "pager"]) is False
    assert cluster.propose("notifications", ["advance", "other", 1]) == 1


@pytest.mark.parametrize(
    "command",
    [
        None,
        ["publish"],
        ["publish", "loud", "x", "", None, 1_000, "mx1"],
        ["publish", "info", "", "", None, 1_000, "mx1"],
        ["publish", "info", "x" * 1_025, "", None, 1_000, "mx1"],
        ["publish", "info", b"x", "", None, 1_000, "mx1"],
        ["publish", "info", "x", "k" * 254, None, 1_000, "mx1"],
        ["publish", "info", "x", "", b"p" * 8_200, 1_000, "mx1"],
        ["publish", "info", "x", "", {1: 2}, 1_000, "mx1"],
        ["publish", "info", "x", "", None, 999, "mx1"],
        ["publish", "info", "x", "", None, 2**60, "mx1"],
        ["publish", "info", "x", "", None, 1_000, None],
        ["advance", "no name", 0],
        ["advance", "pager", 1],
        ["seek", "pager", -1],
        ["drop", 1],
    ],
)
def test_malformed_commands_are_rejected_and_leave_no_trace(cluster: Cluster, command: Any) -> None:
    with pytest.raises(Rejected):
        cluster.propose("notifications", command)
    assert not any(cluster.rows.rows.values())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["publish", "publish", "acknowledge", "wait"]),
        st.sampled_from(["", "a", "b"]),
        st.integers(1, 9),
    ),
    max_size=40,
)


@given(STEPS)
def test_against_a_plain_model_on_two_nodes(steps: list[tuple[str, str, int]]) -> None:
    one, other = Cluster(), Cluster()
    model: dict[int, list[Any]] = {}  # position -> [key, expires, acknowledged by]
    for kind, key, number in steps:
        if kind == "wait":
            one.now += number * 1_000
            other.now = one.now
            continue
        now = one.now
        if kind == "publish":
            command: list[Any] = ["publish", "info", "x", key, number, number * 1_000, "mx1"]
            open_under = [
                p for p, (k, expires, by) in model.items() if key and k == key and now < expires and by is None
            ]
            expected: Any = [open_under[0], False] if open_under else [max(model, default=0) + 1, True]
            if not open_under:
                model[expected[0]] = [key, now + number * 1_000, None]
        else:
            command = ["acknowledge", number, str(now), "mx1"]
            row = model.get(number)
            expected = None
            if row is not None and now < row[1]:
                expected = [row[2] is None, row[2] or str(now)]
                row[2] = row[2] or str(now)
        (answer,), (again,) = one.entry("notifications", [command]), other.entry("notifications", [command])
        assert (None if isinstance(answer, Rejected) else answer[:2]) == expected
        assert isinstance(again, Rejected) == isinstance(answer, Rejected)
        page = read_page(one.rows, now, 0, 1_000)
        assert page is not None
        assert {each.position for each in page.items} == {p for p, row in model.items() if now < row[1]}
        assert one.rows.image() == other.rows.image()
