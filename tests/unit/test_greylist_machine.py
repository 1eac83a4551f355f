"""The replicated greylist: commands, settings, and a clean-up that is bounded, complete and never early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import codec, limits
from raftcluster.errors import Rejected
from raftcluster.greylist.check import CHECK_BYTES, HASHED, HEAD, NULL_SENDER, command, told
from raftcluster.greylist.clients import CLIENTS
from raftcluster.greylist.expiry import EXPIRY, RECORDS, ROW_KEYS, STATE
from raftcluster.greylist.machine import (
    SETTINGS,
    TICK_KEYS,
    GreylistMachine,
    read_record,
    read_record_count,
    read_settings_history,
    read_settings_row,
    read_totals,
)
from raftcluster.greylist.record import COUNT_MAX, NODES_MAX, Record, node_label
from raftcluster.greylist.settings import Settings
from raftcluster.machine import StateMachine
from tests.local_host import LocalHost, LocalTables

DELAY, WINDOW, LIFE = Settings().waits()
HOUR = 3_600_000
DAY = 24 * HOUR
NODE = node_label("node-1")
OTHER = node_label("node-0")


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def check(number: int, *, node: bytes = NODE, flags: int = 0, triplet: bytes = b"triplet", revision: int = 0) -> Any:
    return command(revision, key(number), node, flags == NULL_SENDER, triplet)


def spoken(result: Any) -> Any:
    """The result of a check in words."""
    if type(result) is not bytes:
        return result
    passes, *rest = told(result)
    return ["pass" if passes else "defer", *(rest[1], rest[0], *rest[2:])]


def change(changes: Any, expected: Any = None, author: Any = "me", reason: Any = "why") -> Any:
    return ["settings", changes, author, reason, expected, "mx1"]


class Cluster(LocalHost):
    """One greylist, and what the tests look at."""

    def __init__(self) -> None:
        super().__init__([GreylistMachine()])
        self.rows: LocalTables = self.tables["greylist"]

    def check(self, number: int, **arguments: Any) -> Any:
        return spoken(self.propose("greylist", check(number, **arguments)))

    def record(self, number: int) -> Record:
        record = read_record(self.rows, key(number))
        assert record is not None
        return record

    def idle(self) -> None:
        """An entry of other machines' operations."""
        self.entry("greylist", [])

    def indexed(self) -> list[bytes]:
        """The records' keys in the expiry index; every client's is in it once, too."""
        found = [row[at : at + 16] for row in self.rows.rows[EXPIRY].values() for at in range(0, len(row), 16)]
        clients = [key for key in found if key in self.rows.rows[CLIENTS]]
        assert sorted(clients) == sorted(self.rows.rows[CLIENTS])
        return [key for key in found if key not in clients]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_is_a_state_machine() -> None:
    assert isinstance(GreylistMachine(), StateMachine)


def test_a_triplets_story(cluster: Cluster) -> None:
    began = cluster.now
    assert cluster.check(1) == ["defer", began, False, DELAY, 0]
    cluster.now = began + DELAY - 1
    assert cluster.check(1, node=OTHER) == ["defer", began, False, 1, 0]
    cluster.now = began + DELAY
    assert cluster.check(1) == ["pass", began, False, 0, DELAY]
    assert cluster.check(1) == ["pass", began, True, 0, 0]
    assert cluster.record(1) == Record(
        began, cluster.now, cluster.now + LIFE, True, ((OTHER, 1, 0), (NODE, 1, 2)), b"triplet"
    )
    assert read_totals(cluster.rows) == {OTHER: (1, 0, 0, 0), NODE: (1, 2, 1, 0)}
    assert read_record_count(cluster.rows) == 1


@pytest.mark.parametrize(("flags", "extended"), [(0, True), (NULL_SENDER, False)])
def test_life_is_extended_by_every_mail_but_the_null_senders(cluster: Cluster, flags: int, extended: bool) -> None:
    cluster.check(1, flags=flags)
    cluster.now += DELAY
    passed_at = cluster.now
    cluster.check(1, flags=flags)
    cluster.now = passed_at + LIFE - 1
    assert cluster.check(1, flags=flags)[0] == "pass"
    cluster.now = passed_at + LIFE
    assert cluster.check(1, flags=flags)[0] == ("pass" if extended else "defer")


def test_a_retry_after_the_window_begins_anew_and_counts_from_nought(cluster: Cluster) -> None:
    began = cluster.now
    cluster.check(1)
    cluster.now = began + WINDOW
    assert cluster.check(1, node=OTHER) == ["defer", cluster.now, False, DELAY, 0]
    assert cluster.record(1) == Record(
        cluster.now, cluster.now, cluster.now + WINDOW, False, ((OTHER, 1, 0),), b"triplet"
    )
    assert cluster.indexed() == [key(1)], "its place in the index is still the first one"


def test_privacy_keeps_no_triplet_and_takes_away_a_kept_one(cluster: Cluster) -> None:
    cluster.check(1)
    assert cluster.record(1).triplet == b"triplet"
    hashed = HEAD.pack(0, key(1), NODE, HASHED) + b"c" * 16
    cluster.propose("greylist", hashed)
    assert cluster.record(1).triplet == b""
    cluster.propose("greylist", HEAD.pack(0, key(1), OTHER, HASHED) + b"c" * 16)
    assert cluster.record(1).triplet == b""


def test_counters_stop_at_their_greatest_value(cluster: Cluster) -> None:
    full = Record(cluster.now, cluster.now, cluster.now + WINDOW, False, ((NODE, COUNT_MAX, COUNT_MAX),), b"t")
    cluster.rows.put(RECORDS, key(1), full.pack())
    cluster.check(1)
    cluster.now += DELAY
    cluster.check(1)
    assert cluster.record(1).counters == ((NODE, COUNT_MAX, COUNT_MAX),)


def test_a_record_that_was_seen_by_too_many_nodes_counts_no_further(cluster: Cluster) -> None:
    counters = tuple((b"n%07d" % number, 1, 0) for number in range(NODES_MAX))
    cluster.rows.put(
        RECORDS, key(1), Record(cluster.now, cluster.now, cluster.now + WINDOW, False, counters, b"t").pack()
    )
    assert cluster.check(1, node=b"zzzzzzzz")[0] == "defer"
    assert cluster.record(1).counters == counters
    cluster.check(1, node=b"n0000003")
    assert cluster.record(1).counters[3] == (b"n0000003", 2, 0)


@pytest.mark.parametrize(
    "command",
    [
        None,
        [],
        "c",
        5,
        {},
        ["x", 1],
        b"",
        check(1)[: HEAD.size - 1],
        HEAD.pack(0, key(1), NODE, 128),
        HEAD.pack(0, key(1), NODE, HASHED) + b"short",
        check(1, triplet=b"x" * 20_000),
        ["settings"],
        change(None),
        change({}),
        change([]),
        change({"colour": 1}),
        change({5: 1}),
        change({"delay": 100}, author=None),
        change({"delay": 100}, reason="x" * 2000),
        change({"delay": [1]}),
        change({"lab": "x"}),
    ],
)
def test_malformed_commands_are_rejected_and_leave_no_trace(cluster: Cluster, command: Any) -> None:
    cluster.check(7)
    before = cluster.rows.image()
    with pytest.raises(Rejected):
        cluster.propose("greylist", command)
    assert cluster.rows.image() == before


# --- settings


def test_settings_are_changed_together_and_recorded(cluster: Cluster) -> None:
    assert cluster.propose("greylist", change({"delay": 300, "window": 7200})) == 1
    assert cluster.propose("greylist", change({"window": None, "text": "Wait %s s"}, expected=1)) == 2
    assert read_settings_row(cluster.rows) == (2, {"delay": 300, "text": "Wait %s s"})
    newest, oldest = read_settings_history(cluster.rows, 10)
    assert newest == [2, {"text": "Wait %s s", "window": None}, "me", "why", cluster.now, "mx1"]
    assert oldest[:2] == [1, {"delay": 300, "window": 7200}]
    assert read_settings_history(cluster.rows, 1) == [newest]


def test_settings_that_do_not_fit_the_others_change_nothing(cluster: Cluster) -> None:
    cluster.propose("greylist", change({"window": 7200}))
    with pytest.raises(Rejected, match=r"window of 7200 s .* delay of 7200 s"):
        cluster.propose("greylist", change({"delay": 7200}))
    assert read_settings_row(cluster.rows) == (1, {"window": 7200})


def test_settings_can_be_compared_and_set(cluster: Cluster) -> None:
    with pytest.raises(Rejected, match="at revision 0, not 3") as caught:
        cluster.propose("greylist", change({"delay": 300}, expected=3))
    assert caught.value.code == "revision-mismatch"


def test_history_of_settings_is_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 5)
    for number in range(12):
        cluster.propose("greylist", change({"delay": 100 + number}))
    assert [row[0] for row in read_settings_history(cluster.rows, 100)] == [12, 11, 10, 9, 8]
    assert len(cluster.rows.rows[SETTINGS]) == 6


def test_a_check_made_under_other_settings_does_nothing_and_is_told_the_new_ones(cluster: Cluster) -> None:
    cluster.propose("greylist", change({"delay": 300}))
    before = cluster.rows.image()
    assert cluster.check(1, revision=0) == ["settings", 1, {"delay": 300}]
    assert cluster.rows.image() == before
    assert cluster.check(1, revision=1)[3] == 300_000


def test_settings_hold_from_the_next_operation_of_the_same_entry_on(cluster: Cluster) -> None:
    commands = [check(1), change({"delay": 300}), check(2, revision=1)]
    first, revision, second = map(spoken, cluster.entry("greylist", commands))
    assert (first[3], revision, second[3]) == (DELAY, 1, 300_000)


def test_new_settings_leave_waits_that_have_begun_their_window(cluster: Cluster) -> None:
    cluster.check(1)
    expires = cluster.record(1).expires
    cluster.propose("greylist", change({"delay": 60, "window": 120}))
    cluster.now += 60_000
    assert cluster.check(1, revision=1)[0] == "pass"
    assert cluster.record(1).expires > expires


def test_settings_are_those_of_the_tables_also_after_a_snapshot_took_their_place(cluster: Cluster) -> None:
    cluster.check(1)
    ahead = Cluster()
    ahead.propose("greylist", change({"delay": 300}))
    cluster.rows.rows = ahead.rows.rows
    assert cluster.check(2) == ["settings", 1, {"delay": 300}]


def test_lab_is_decided_before_anything_else(cluster: Cluster) -> None:
    assert cluster.propose("greylist", change({"lab": True, "delay": 3})) == 1
    assert cluster.propose("greylist", change({"lab": True, "delay": 2})) == 2
    with pytest.raises(Rejected, match="lab cluster"):
        cluster.propose("greylist", change({"lab": False, "delay": 100}))
    assert cluster.check(1, revision=2)[3] == 2000


@pytest.mark.parametrize("earlier", [check(1), change({"delay": 100}), change({"lab": False})])
def test_a_cluster_in_use_cannot_become_a_lab(cluster: Cluster, earlier: Any) -> None:
    cluster.propose("greylist", earlier)
    with pytest.raises(Rejected, match="lab cluster"):
        cluster.propose("greylist", change({"lab": True}))
    with pytest.raises(Rejected, match="no lab cluster"):
        cluster.propose("greylist", change({"delay": 3}))


# --- expiry


def test_one_row_of_the_index_per_entry_not_per_record(cluster: Cluster) -> None:
    cluster.entry("greylist", [check(number) for number in range(ROW_KEYS + 1)])
    assert [len(row) // 16 for row in cluster.rows.rows[EXPIRY].values()] == [ROW_KEYS, 1]


def test_a_record_goes_when_it_expired_and_not_before(cluster: Cluster) -> None:
    expires = cluster.now + WINDOW
    cluster.check(1)
    cluster.now = expires - 1
    cluster.idle()
    assert key(1) in cluster.rows.rows[RECORDS]
    cluster.now = expires + HOUR + 60_000
    cluster.idle()
    assert not cluster.rows.rows[RECORDS]
    assert not cluster.rows.rows[EXPIRY]
    assert read_record_count(cluster.rows) == 0


def test_a_renewed_record_is_entered_again_under_its_later_time(cluster: Cluster) -> None:
    cluster.check(1)
    cluster.now += DELAY
    cluster.check(1)
    expires = cluster.record(1).expires
    cluster.now += WINDOW + HOUR
    cluster.idle()
    assert cluster.indexed() == [key(1)]
    cluster.now = expires - 1
    cluster.idle()
    assert cluster.record(1).expires == expires
    cluster.now = expires + HOUR + 60_000
    cluster.idle()
    assert not cluster.rows.rows[RECORDS]


def test_a_record_that_has_a_second_to_live_when_it_is_looked_at_stays(cluster: Cluster) -> None:
    cluster.now -= cluster.now % 60_000
    cluster.propose("greylist", change({"delay": 60, "window": 3600, "life": 3601}))
    began = cluster.now
    cluster.check(1, revision=1)
    cluster.now = began + 60_000
    cluster.check(1, revision=1)
    cluster.now = began + 3_660_000
    cluster.idle()
    assert cluster.check(1, revision=1)[2], "it has passed before"


def test_clean_up_is_bounded_by_the_entrys_own_work(cluster: Cluster) -> None:
    for start in range(0, 4000, 500):
        cluster.entry("greylist", [check(number) for number in range(start, start + 500)])
    cluster.now += WINDOW + 2 * HOUR
    for checks in (0, 1, 100, 0):
        before = len(cluster.rows.rows[RECORDS])
        began = cluster.now
        cluster.entry("greylist", [check(10_000 + cluster.index * 1000 + number) for number in range(checks)])
        gone = before + checks - len(cluster.rows.rows[RECORDS])
        budget = TICK_KEYS + checks
        assert budget <= gone < budget + ROW_KEYS
        assert cluster.now == began


def test_clean_up_keeps_up_with_a_steady_load(cluster: Cluster) -> None:
    """500 new triplets an hour, none ever comes back: the table stays as large as a window and an hour of them."""
    for hour in range(24 * 3):
        for part in range(5):
            start = hour * 500 + part * 100
            cluster.entry("greylist", [check(start + number) for number in range(100)])
            cluster.now += HOUR // 5
    assert len(cluster.rows.rows[RECORDS]) <= 500 * (48 + 2)
    assert sorted(cluster.indexed()) == sorted(cluster.rows.rows[RECORDS])


def test_an_idle_entry_writes_nothing(cluster: Cluster) -> None:
    cluster.check(1)
    cluster.now += 60_000
    cluster.idle()
    before = cluster.rows.writes
    cluster.idle()
    assert cluster.rows.writes == before


Step = tuple[int, list[tuple[int, int, int]]]  # (milliseconds that pass, checks: key, node, flags)
STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 90_000), st.integers(0, 4 * HOUR), st.integers(0, 2 * DAY)),
        st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(0, 1)), max_size=12),
    ),
    max_size=40,
)
SETTINGS_OF_THE_MODEL = {"delay": 60, "window": 3600, "life": 3 * 86_400}


class Naive:
    """What a greylist is, without an index, a clean-up or bytes."""

    def __init__(self) -> None:
        self.known: dict[int, dict[str, Any]] = {}

    def check(self, number: int, now: int, null_sender: bool) -> list[Any]:
        record = self.known.get(number)
        if record is None or now >= record["expires"]:
            self.known[number] = {"first": now, "expires": now + HOUR, "passed": False}
            return ["defer", now, False, 60_000, 0]
        waited = now - record["first"]
        if not record["passed"] and waited < 60_000:
            return ["defer", record["first"], False, 60_000 - waited, 0]
        before = record["passed"]
        if not (before and null_sender):
            record["expires"] = max(record["expires"], now + 3 * DAY)
        record["passed"] = True
        return ["pass", record["first"], before, 0, 0 if before else waited]


def play(cluster: Cluster, steps: list[Step], seen: Callable[[list[Any], Step], None]) -> None:
    cluster.propose("greylist", change(SETTINGS_OF_THE_MODEL))
    for step in steps:
        cluster.now += step[0]
        commands = [
            check(number, node=node_label(f"node-{node}"), flags=flags, revision=1) for number, node, flags in step[1]
        ]
        seen(cluster.entry("greylist", commands), step)


@given(STEPS)
def test_against_the_naive_greylist(steps: list[Step]) -> None:
    cluster, naive = Cluster(), Naive()

    def seen(results: list[Any], step: Step) -> None:
        assert [spoken(each) for each in results] == [
            naive.check(number, cluster.now, bool(flags)) for number, _, flags in step[1]
        ]
        rows = cluster.rows.rows[RECORDS]
        assert sorted(cluster.indexed()) == sorted(rows), "every record is in the index once"
        assert read_record_count(cluster.rows) == len(rows)
        for number, known in naive.known.items():
            if cluster.now < known["expires"]:
                record = cluster.record(number)
                assert (record.first, record.expires, record.passed) == (
                    known["first"],
                    known["expires"],
                    known["passed"],
                )

    play(cluster, steps, seen)
    cluster.now += 3 * DAY + 2 * HOUR
    cluster.idle()
    assert not cluster.rows.rows[RECORDS], "what expired is gone"
    assert not cluster.rows.rows[EXPIRY]
    checks = sum(len(checks) for _, checks in steps)
    assert sum(deferred + passed for deferred, passed, *_ in read_totals(cluster.rows).values()) == checks


@given(STEPS, st.integers(0, 39))
def test_two_nodes_get_the_same_bytes_whenever_one_of_them_begins(steps: list[Step], restart: int) -> None:
    """The second one restarts, with a snapshot of the first one's tables, between two entries."""
    one, other = Cluster(), Cluster()
    images: list[bytes] = []
    play(one, steps, lambda *_: images.append(one.rows.image()))

    def compare(_: list[Any], __: Step) -> None:
        nonlocal restart
        assert other.rows.image() == images.pop(0)
        restart -= 1
        if restart == 0:
            other.machines["greylist"] = GreylistMachine()

    play(other, steps, compare)
    assert one.rows.image() == other.rows.image()


def test_state_holds_nothing_that_grows_with_the_records(cluster: Cluster) -> None:
    cluster.entry("greylist", [check(number) for number in range(1000)])
    assert len(cluster.rows.rows[STATE]) <= 3
    assert len(codec.pack(list(cluster.rows.rows[STATE].items()))) < 200
    assert CHECK_BYTES < limits.OPERATION_BYTES
