"""A node that decides by itself while the cluster does not, and what becomes of it afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftcluster.errors import MissingPrivilege, RaftclusterError, Removed, StorageFailed, StorageFull, Unavailable
from raftcluster.greylist import alone
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine, read_record
from raftcluster.greylist.record import Record
from raftcluster.greylist.settings import Settings
from raftcluster.greylist.verdict import Verdict
from tests.helpers import eventually, no_more_threads
from tests.local_host import LocalHost, MemoryRows

DELAY, WINDOW, LIFE = Settings().waits()
MAIL: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}
KEY = bytes.fromhex("60f8c2d327e0326b92d55b72882a61d2")
CUT = Unavailable("no quorum")


class Node:
    """One node of a cluster, and its own store."""

    def __init__(self) -> None:
        self.host = LocalHost([GreylistMachine(), ListsMachine()])
        self.rows = MemoryRows()
        self.greylist = Greylist(self.host, self.rows)
        self.greylist.configure({"on_unavailable": "local"})

    def check(self, **changes: Any) -> Verdict:
        return self.greylist.check(**{**MAIL, **changes})

    def record(self) -> Record | None:
        return read_record(self.host.tables["greylist"], KEY)

    def healed(self) -> None:
        """The cluster decides again, and has taken over what the node kept."""
        self.host.failure = None
        eventually(
            lambda: self.greylist.stats()["alone"] == 0 and not self.rows.keys(b"greylist/"), what="all is merged"
        )


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(alone, "RETRY_SECONDS", 0.01)
    made = Node()
    yield made
    made.greylist.close()


def told(verdict: Verdict) -> tuple[str, str, bool]:
    return verdict.action, verdict.reason, verdict.degraded


def test_it_decides_by_the_same_rules_and_marks_its_answers(node: Node) -> None:
    node.host.failure = CUT
    began = node.host.now
    first = node.check()
    assert (told(first), first.seconds_left, first.text) == (("defer", "new", True), 180, "Greylisted, retry in 180 s")
    node.host.now += DELAY - 1
    assert told(node.check()) == ("defer", "early", True)
    node.host.now += 1
    waited = node.check()
    assert told(waited) == ("pass", "waited", True) and waited.header is not None
    assert told(node.check()) == ("pass", "known", True)
    assert node.greylist.stats()["degraded"] == {"pass": 2, "defer": 2}
    explained = node.greylist.explain(**MAIL)
    assert (explained["degraded_here"], explained["alone_first_seen_ms"]) == (4, began)
    assert node.record() is None
    node.healed()
    assert told(node.check()) == ("pass", "known", False)
    record = node.record()
    assert record is not None and (record.first, record.passed) == (began, True)
    assert record.counters == ((b"node-1\0\0", 0, 1), (b"node-1*\0", 2, 2)), "counted apart, and not lost"


def test_what_the_cluster_knew_before_counts(node: Node) -> None:
    began = node.host.now
    node.check()
    node.host.failure = CUT
    node.host.now += DELAY
    assert told(node.check()) == ("pass", "waited", True)
    node.healed()
    record = node.record()
    assert record is not None and record.first == began, "no wait begins anew"
    assert record.counters == ((b"node-1\0\0", 1, 0), (b"node-1*\0", 0, 1))


def test_a_wait_that_began_alone_goes_on_in_the_cluster(node: Node) -> None:
    node.host.failure = CUT
    node.check()
    node.host.now += DELAY - 1000
    node.healed()
    assert told(node.check()) == ("defer", "early", False)
    node.host.now += 1000
    assert told(node.check()) == ("pass", "waited", False)


def test_two_sides_that_were_apart_end_with_one_record(node: Node) -> None:
    """The cluster goes on without the node: both see the triplet, the earlier first attempt holds."""
    node.host.failure = CUT
    began = node.host.now
    node.check()
    node.host.now += 60_000
    other = Greylist(node.host)
    node.host.failure = None
    node.host.id = "node-2"
    assert other.check(**MAIL).reason in ("new", "early")
    node.healed()
    node.host.now = began + DELAY
    assert other.check(**MAIL).reason == "waited"


def test_what_was_forgotten_meanwhile_stays_forgotten(node: Node) -> None:
    node.check()
    node.host.now += DELAY
    node.check()
    node.host.failure = CUT
    node.host.now += 1000
    assert node.check().reason == "known"
    node.host.now += 1000
    command = ["forget", {"triplet": KEY}, "admin", "elsewhere", ""]
    node.host.entry("greylist", [command])  # on the other side
    node.healed()
    assert told(node.check()) == ("defer", "new", False)


def test_what_expired_meanwhile_stays_expired(node: Node) -> None:
    node.host.failure = CUT
    node.check()
    node.host.now += WINDOW
    node.healed()
    assert node.record() is None
    assert told(node.check()) == ("defer", "new", False)


def test_it_is_merged_after_a_restart(node: Node) -> None:
    node.host.failure = CUT
    node.check()
    node.greylist.close()
    assert node.rows.keys(b"greylist/") == [b"greylist/" + KEY]
    node.greylist = Greylist(node.host, node.rows)
    assert node.greylist.stats()["alone"] == 1
    node.healed()
    assert node.record() is not None


def test_more_than_one_command_is_merged_in_bounded_parts(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "ROWS_MAX", 7)
    node.host.failure = CUT
    for number in range(40):
        node.check(sender=f"s{number}x@example.net")
    assert node.greylist.stats()["alone"] == 40
    node.healed()
    assert node.greylist.stats()["records"] == 40


def test_what_changes_while_it_is_merged_is_merged_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.host.failure = CUT
    node.check()
    held: list[Callable[[], None]] = []
    submit = node.host.submit

    def late(machine: str, command: Any, callback: Any, **options: Any) -> None:
        held.append(lambda: submit(machine, command, callback, **options))

    monkeypatch.setattr(node.host, "submit", late)
    eventually(lambda: len(held) == 1)
    node.host.now += 1000
    assert node.check(deadline=0.05).reason == "early"
    node.host.failure = None
    monkeypatch.setattr(node.host, "submit", submit)
    held[0]()
    node.healed()
    record = node.record()
    assert record is not None and record.counters == ((b"node-1*\0", 2, 0),)


@pytest.mark.parametrize("how", ["acheck", "submit"])
def test_the_other_ways_to_ask(node: Node, how: str) -> None:
    node.host.failure = CUT
    if how == "acheck":
        assert told(asyncio.run(node.greylist.acheck(**MAIL))) == ("defer", "new", True)
        return
    answers: list[tuple[Verdict | None, RaftclusterError | None, str]] = []
    node.greylist.submit(lambda v, e: answers.append((v, e, threading.current_thread().name)), **MAIL)
    eventually(lambda: len(answers) == 1)
    ((verdict, error, thread),) = answers
    assert verdict is not None and error is None and told(verdict) == ("defer", "new", True)
    assert thread == "raftcluster-greylist", "no disk is waited for on the tick thread"


def test_many_decisions_share_a_write(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.host.failure = CUT
    node.check()
    writes: list[int] = []
    entered, leave = threading.Event(), threading.Event()
    write = node.rows.write

    def slow(rows: Any) -> None:
        writes.append(len(rows))
        entered.set()
        assert leave.wait(60)
        write(rows)

    monkeypatch.setattr(node.rows, "write", slow)
    answers: list[Verdict | None] = []
    for number in range(50):
        node.greylist.submit(lambda v, _: answers.append(v), **{**MAIL, "sender": f"s{number}x@example.net"})
        assert entered.wait(60)
    leave.set()
    eventually(lambda: len(answers) == 50)
    assert writes[0] < 50 and len(writes) <= 3


def test_a_disk_that_is_full_passes_nobody(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.check()
    node.host.now += DELAY

    def full(_: Any) -> None:
        raise StorageFull("no space")

    with monkeypatch.context() as patched:
        patched.setattr(node.rows, "write", full)
        node.host.failure = CUT
        assert told(node.check()) == ("defer", "unavailable", True)
    assert told(node.check()) == ("pass", "waited", True)


def test_what_is_kept_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "KEPT_MAX", 3)
    node.host.failure = CUT
    verdicts = [node.check(sender=f"s{number}x@example.net") for number in range(5)]
    assert [verdict.reason for verdict in verdicts] == ["new", "new", "new", "unavailable", "unavailable"]
    node.host.now += DELAY
    assert node.check(sender="s0x@example.net").reason == "waited"


def test_without_a_store_and_after_the_end_it_defers(node: Node) -> None:
    node.host.failure = CUT
    assert told(Greylist(node.host).check(**MAIL)) == ("defer", "unavailable", True)
    node.greylist.close()
    assert told(node.check()) == ("defer", "unavailable", True)


def test_under_privacy_no_address_is_kept(node: Node) -> None:
    node.greylist.configure({"privacy": True})
    node.host.failure = CUT
    node.check()
    assert b"example" not in b"".join(node.rows.rows.values())
    node.host.now += 1000
    node.healed()
    assert told(node.check()) == ("defer", "early", False)


def test_in_training_it_passes(node: Node) -> None:
    node.greylist.configure({"training": True})
    node.host.failure = CUT
    verdict = node.check()
    assert (told(verdict), verdict.training) == (("pass", "new", True), True)


def test_an_allowed_client_passes(node: Node) -> None:
    node.greylist.configure({"auto_allow": 1})
    node.check()
    node.host.now += DELAY
    node.check()
    node.greylist._hints.refresh()
    node.host.failure = CUT
    assert told(node.check(sender="new@example.net")) == ("pass", "client", True)


@pytest.mark.parametrize(
    "error", [MissingPrivilege("may not be read"), StorageFailed("the disk broke"), Removed("gone")]
)
def test_whatever_its_store_refuses_everybody_is_answered_and_it_goes_on(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: RaftclusterError
) -> None:
    node.greylist.configure({"replicate": False})

    def refuse(_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(node.rows, "write", refuse)
        assert told(node.check()) == told(node.check()) == ("defer", "unavailable", True)
    assert told(node.check()) == ("defer", "new", False)


def test_a_node_that_stops_for_good_keeps_what_it_decided_alone(node: Node) -> None:
    """It could not be merged, but is no worse for that: another start brings it."""
    node.host.failure = CUT
    node.check()
    for error in (StorageFailed("the disk broke"), Removed("gone")):
        node.host.failure = error
        before = node.host.proposals
        eventually(lambda before=before: node.host.proposals > before + 1, what="merging is tried")  # type: ignore[misc]
        assert len(node.rows.keys(b"greylist/")) == 1, "only what the cluster itself refuses is dropped"
    node.healed()
    assert node.record() is not None


def test_a_row_that_is_damaged_is_dropped_alone(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.host.failure = CUT
    for number in range(3):
        node.check(sender=f"s{number}x@example.net")
    cut, odd, _ = keys = node.rows.keys(b"greylist/")
    node.rows.rows[cut] = node.rows.rows[cut][:20]
    node.rows.rows[odd] = node.rows.rows[odd][:-3] + b"xxx"
    node.healed()
    assert caplog.text.count("is damaged, and dropped") == 2
    records = node.host.tables["greylist"].scan("records")
    assert [key for key, _ in records] == [keys[2].removeprefix(b"greylist/")], "the others are merged"


def test_a_callback_that_fails_ends_no_thread_of_ours(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.greylist.configure({"replicate": False})

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    node.greylist.submit(fail, **MAIL)
    eventually(lambda: "a caller's callback failed" in caplog.text)
    assert node.check().reason == "new", "its time stands still"


def test_without_threads_it_answers_and_decides_when_there_are_some(node: Node) -> None:
    """The first who asked was told what the system said; whoever asked then waited for ever."""
    node.host.failure = CUT
    with no_more_threads():
        assert told(node.check()) == ("defer", "unavailable", True)
    answers: list[Verdict | None] = []
    node.greylist.submit(lambda verdict, _: answers.append(verdict), **MAIL)
    eventually(lambda: answers, what="it is decided")
    assert answers[0] is not None and told(answers[0]) == ("defer", "new", True)


def test_a_row_of_the_clusters_that_is_damaged_here_keeps_nobody_waiting(node: Node) -> None:
    """Reading it ended the thread that decides, and from then on whoever asked waited for ever."""
    node.check()
    rows = node.host.tables["greylist"].rows["records"]
    rows[KEY] = rows[KEY][:20]
    node.host.failure = CUT
    for sender, reason in (("a@example.net", "unavailable"), ("other@example.net", "new")):
        answers: list[Verdict | None] = []
        node.greylist.submit(lambda verdict, _: answers.append(verdict), **{**MAIL, "sender": sender})  # noqa: B023
        eventually(lambda: answers, what="it is answered")  # noqa: B023
        assert answers[0] is not None and told(answers[0]) == ("defer", reason, True)
