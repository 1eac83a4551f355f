"""The greylist's API over a host of one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from raftcluster.errors import NotRunning, OutcomeUnknown, RaftclusterError, Rejected, StorageFailed, Unavailable
from raftcluster.greylist import decider, headers
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.check import answered
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine, read_totals
from raftcluster.greylist.request import Current, Mail, Request
from raftcluster.greylist.settings import Settings
from raftcluster.greylist.verdict import Verdict
from tests.local_host import LocalHost

DELAY, WINDOW, LIFE = Settings().waits()
MAIL_FIELDS = ("192.0.2.7", None, "a@example.net", "b@example.org", None, False, False)
MAIL: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([GreylistMachine(), ListsMachine()])


@pytest.fixture
def greylist(host: LocalHost) -> Greylist:
    return Greylist(host)


def ask(greylist: Greylist, how: str, **mail: Any) -> Verdict:
    """One check by each of the three ways."""
    if how == "check":
        return greylist.check(**mail)
    if how == "acheck":
        return asyncio.run(greylist.acheck(**mail))
    answers: list[tuple[Verdict | None, RaftclusterError | None]] = []
    greylist.submit(lambda verdict, error: answers.append((verdict, error)), **mail)
    ((verdict, error),) = answers
    if error is not None:
        raise error
    assert verdict is not None
    return verdict


WAYS = pytest.mark.parametrize("how", ["check", "acheck", "submit"])


@WAYS
def test_a_triplets_story(host: LocalHost, greylist: Greylist, how: str) -> None:
    assert ask(greylist, how, **MAIL) == Verdict("defer", "new", 180, 0, None, False, "Greylisted, retry in 180 s")
    host.now += DELAY - 1
    assert ask(greylist, how, **MAIL) == Verdict("defer", "early", 1, 0, None, False, "Greylisted, retry in 1 s")
    host.now += 1501
    header = "X-Greylist: delayed 181 seconds by raftcluster at node-1.example.org"
    assert ask(greylist, how, **MAIL) == Verdict("pass", "waited", 0, 181, header, False, "")
    assert ask(greylist, how, **MAIL) == Verdict("pass", "known", 0, 0, None, False, "")


def test_a_retry_from_a_neighbour_with_another_tag_is_the_same_triplet(host: LocalHost, greylist: Greylist) -> None:
    greylist.check(client="192.0.2.7", sender="prvs=0001aaaaaa=a@Example.net", recipient="B@example.org")
    host.now += DELAY
    verdict = greylist.check(
        client="::ffff:192.0.2.99", sender="prvs=0002bbbbbb=A@example.net", recipient="b@example.org."
    )
    assert verdict.reason == "waited"


@pytest.mark.parametrize(("sender", "reason"), [("a@example.net", "known"), ("", "new"), ("<>", "new")])
def test_only_a_null_senders_life_is_not_extended(
    host: LocalHost, greylist: Greylist, sender: str, reason: str
) -> None:
    mail = {**MAIL, "sender": sender}
    greylist.check(**mail)
    host.now += DELAY
    greylist.check(**mail)
    host.now += LIFE - 1
    assert greylist.check(**mail).reason == "known"
    host.now += 1
    assert greylist.check(**mail).reason == reason


@WAYS
@pytest.mark.parametrize(
    "wrong", [{"client": "unknown"}, {"sender": "a\0@example.net"}, {"recipient": ""}, {"recipient": "x" * 10_240}]
)
def test_what_cannot_be_checked_is_rejected_before_anything_is_sent(
    host: LocalHost, greylist: Greylist, how: str, wrong: dict[str, str]
) -> None:
    with pytest.raises(Rejected):
        ask(greylist, how, **{**MAIL, **wrong})
    assert host.proposals == 0


@WAYS
def test_asking_again_within_a_transaction_gives_the_same_verdict_and_counts_once(
    host: LocalHost, greylist: Greylist, how: str
) -> None:
    greylist.check(**MAIL)
    host.now += DELAY
    first = ask(greylist, how, **MAIL, instance="4711.1")
    host.now += 1000
    assert ask(greylist, how, **MAIL, instance="4711.1") == first
    assert first.header is not None
    assert read_totals(host.tables["greylist"]) == {b"node-1\0\0": (1, 1, 1, 0)}
    assert ask(greylist, how, **MAIL, instance="4711.2").reason == "known"


def test_one_message_gets_one_header(host: LocalHost, greylist: Greylist) -> None:
    recipients = ["b@example.org", "c@example.org", "d@example.org"]
    for recipient in recipients:
        greylist.check(**{**MAIL, "recipient": recipient})
    host.now += DELAY
    again = recipients + recipients[:1]
    verdicts = [greylist.check(**{**MAIL, "recipient": each}, instance="4711.1") for each in again]
    assert [verdict.reason for verdict in verdicts] == ["waited"] * 4
    assert [verdict.header is not None for verdict in verdicts] == [True, False, False, True]


def test_instances_are_remembered_boundedly(
    host: LocalHost, greylist: Greylist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "INSTANCES_KEPT", 10)
    for number in range(50):
        mail = {**MAIL, "recipient": f"b{number}x@example.org"}
        greylist.check(**mail)
        host.now += DELAY
        assert greylist.check(**mail, instance=f"i{number}").header is not None
    assert len(greylist._decider.headers) == 10


def test_what_the_header_says_is_a_setting(host: LocalHost, greylist: Greylist) -> None:
    greylist.configure({"header": "%h held it for %s s"})
    greylist.check(**MAIL)
    host.now += DELAY
    assert greylist.check(**MAIL).header == "X-Greylist: node-1.example.org held it for 180 s"


@WAYS
def test_in_training_all_mail_passes_and_what_would_have_waited_is_told_and_counted(
    host: LocalHost, greylist: Greylist, how: str
) -> None:
    greylist.configure({"training": True, "on_unavailable": "defer"})
    assert ask(greylist, how, **MAIL) == Verdict("pass", "new", 180, 0, None, False, "", True)
    host.now += DELAY - 1000
    assert ask(greylist, how, **MAIL) == Verdict("pass", "early", 1, 0, None, False, "", True)
    assert read_totals(host.tables["greylist"]) == {b"node-1\0\0": (2, 0, 0, 0)}
    host.now += 1000
    assert ask(greylist, how, **MAIL) == Verdict("pass", "waited", 0, 180, None, False, "")
    assert ask(greylist, how, **MAIL).reason == "known"
    host.failure = Unavailable("no quorum")
    assert ask(greylist, how, **MAIL) == Verdict("pass", "unavailable", 0, 0, None, True, "")
    host.failure = None
    greylist.configure({"training": False})
    new = {**MAIL, "recipient": "c@example.org"}
    assert ask(greylist, how, **new).action == "defer"


# --- without the cluster


@WAYS
@pytest.mark.parametrize("error", [Unavailable("no quorum"), OutcomeUnknown("who knows"), StorageFailed("disk")])
def test_without_the_cluster_the_administrator_has_chosen(
    host: LocalHost, greylist: Greylist, how: str, error: RaftclusterError
) -> None:
    host.failure = error
    assert ask(greylist, how, **MAIL) == Verdict("pass", error.code, 0, 0, None, True, "")
    host.failure = None
    greylist.configure({"on_unavailable": "defer", "text": "Wait %s s"})
    host.failure = error
    assert ask(greylist, how, **MAIL) == Verdict("defer", error.code, 180, 0, None, True, "Wait 180 s")
    host.failure = None
    assert greylist.stats()["degraded"] == {"pass": 1, "defer": 1}
    assert greylist.stats()["records"] == 0
    assert greylist.explain(**MAIL)["degraded_here"] == 2


@WAYS
def test_a_node_that_is_closed_says_so(host: LocalHost, greylist: Greylist, how: str) -> None:
    host.failure = NotRunning("the node is closed")
    with pytest.raises(NotRunning):
        ask(greylist, how, **MAIL)


def test_degraded_triplets_are_remembered_boundedly(
    host: LocalHost, greylist: Greylist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decider, "DEGRADED_KEPT", 10)
    host.failure = Unavailable("no quorum")
    for number in range(50):
        greylist.check(**{**MAIL, "recipient": f"b{number}x@example.org"})
    assert len(greylist._decider._degraded) == 10


# --- early answers


class Reluctant(LocalHost):
    """Does nothing that is proposed before it is told to."""

    def __init__(self) -> None:
        super().__init__([GreylistMachine(), ListsMachine()])
        self.held: list[Callable[[], None]] = []
        self.holds = False

    def submit(self, machine: str, command: Any, callback: Any, **rest: Any) -> None:
        work = partial(super().submit, machine, command, callback, **rest)
        self.held.append(work) if self.holds else work()

    def release(self) -> None:
        held, self.held, self.holds = self.held, [], False
        for work in held:
            work()


@WAYS
def test_who_will_have_to_wait_is_told_before_the_cluster_has_decided_and_nobody_else_is(how: str) -> None:
    host = Reluctant()
    greylist = Greylist(host)
    greylist.configure({"ack": "early"})
    greylist.check(**{**MAIL, "recipient": "other@example.org"})
    host.holds = True
    assert ask(greylist, how, **MAIL) == Verdict("defer", "new", 180, 0, None, False, "Greylisted, retry in 180 s")
    assert greylist.stats()["records"] == 1, "nothing is decided yet"
    host.release()
    assert read_totals(host.tables["greylist"]) == {b"node-1\0\0": (2, 0, 0, 0)}, "it is recorded and counted"
    host.now += DELAY - 1000
    assert ask(greylist, how, **MAIL).reason == "early"
    host.now += 1000
    assert ask(greylist, how, **MAIL).reason == "waited"
    assert ask(greylist, how, **MAIL).reason == "known"
    assert greylist.stats()["early"] == 3


@WAYS
def test_an_answer_that_was_given_early_never_becomes_a_pass_nor_spends_the_header(how: str) -> None:
    host = Reluctant()
    greylist = Greylist(host)
    greylist.configure({"ack": "early"})
    ask(greylist, how, **MAIL)
    host.now += DELAY - 1
    host.holds = True
    assert ask(greylist, how, **MAIL, instance="1").action == "defer"
    host.now += 1
    host.release()  # by now it would pass
    again = ask(greylist, how, **MAIL, instance="1")
    assert again.action == "defer", "the same transaction is told the same"
    passed = ask(greylist, how, **MAIL, instance="2")
    assert passed.reason == "waited" and passed.header is not None
    assert read_totals(host.tables["greylist"]) == {b"node-1\0\0": (2, 1, 1, 0)}


def test_a_known_triplet_stays_known_when_its_client_was_told_to_wait(host: LocalHost, greylist: Greylist) -> None:
    greylist.check(**MAIL)
    host.now += DELAY
    greylist.check(**MAIL)
    request = Request(host.id, b"node-1\0\0", Current(0, Settings()), Mail(*MAIL_FIELDS), None)
    host.propose("greylist", answered(request.command))
    assert greylist.check(**MAIL).reason == "known"


@WAYS
def test_a_state_that_may_be_too_old_foresees_nothing(how: str) -> None:
    host = Reluctant()
    greylist = Greylist(host)
    greylist.configure({"ack": "early"})
    host.staleness = 1.3
    for _ in range(2):
        assert ask(greylist, how, **MAIL).reason == "new"
    assert greylist.stats()["early"] == 0


@WAYS
def test_early_answers_under_settings_that_were_replaced(host: LocalHost, how: str) -> None:
    here, there = Greylist(host), Greylist(host)
    here.configure({"ack": "early"})
    ask(here, how, **MAIL)
    there.configure({"delay": 300})
    assert ask(here, how, **{**MAIL, "recipient": "c@example.org"}).seconds_left == 300


# --- settings


@WAYS
def test_no_check_is_decided_under_settings_that_were_replaced(host: LocalHost, how: str) -> None:
    here, there = Greylist(host), Greylist(host)
    ask(here, how, **MAIL)
    there.configure({"network4": 32, "delay": 300})
    neighbour = ask(here, how, **{**MAIL, "client": "192.0.2.8"})
    assert (neighbour.reason, neighbour.seconds_left) == ("new", 300)
    proposals = host.proposals
    ask(here, how, **{**MAIL, "client": "192.0.2.8"})
    assert host.proposals == proposals + 1, "the new ones are known now"
    assert here.known_settings.delay == 300


def test_asking_again_is_the_same_operation_over_a_change_of_settings(host: LocalHost) -> None:
    here, there = Greylist(host), Greylist(host)
    here.check(**MAIL)
    host.now += DELAY
    first = here.check(**MAIL, instance="4711.1")
    assert first.reason == "waited"
    there.configure({"network4": 32})
    assert here.check(**MAIL, instance="4711.1") == first
    other = here.check(**{**MAIL, "recipient": "c@example.org"}, instance="4711.1")
    host.now += 5
    assert here.check(**{**MAIL, "recipient": "c@example.org"}, instance="4711.1") == other
    assert sum(map(sum, read_totals(host.tables["greylist"]).values())) == 4  # 2 deferred, 1 passed, it the first time


def test_settings_are_read_and_changed(greylist: Greylist) -> None:
    assert greylist.settings() == greylist.known_settings == Settings()
    assert greylist.settings_revision() == 0
    assert greylist.configure({"delay": 240}, author="me", reason="slow", expect_revision=0) == 1
    assert greylist.settings(consistency="linearizable") == Settings(delay=240)
    assert greylist.settings_revision() == 1
    (entry,) = greylist.settings_history()
    assert (entry["revision"], entry["changes"], entry["author"], entry["reason"]) == (1, {"delay": 240}, "me", "slow")
    with pytest.raises(Rejected, match="no lab cluster"):
        greylist.configure({"delay": 3})
    with pytest.raises(Rejected, match="no setting was named"):
        greylist.configure({})


def test_privacy_keeps_addresses_out_of_the_cluster(host: LocalHost, greylist: Greylist) -> None:
    greylist.configure({"privacy": True})
    greylist.check(**MAIL)
    assert b"@example" not in host.tables["greylist"].image()
    assert greylist.explain(**MAIL)["rule"] == "early"


# --- explain and stats


def test_explain_tells_the_rule_the_record_and_who_saw_what(host: LocalHost, greylist: Greylist) -> None:
    before = host.tables["greylist"].image()
    assert greylist.explain(**MAIL)["rule"] == "new"
    assert host.tables["greylist"].image() == before
    began = host.now
    greylist.check(**MAIL)
    host.now += 60_500
    assert greylist.explain(client="192.0.2.9", sender="A@example.net", recipient="b@EXAMPLE.org") == {
        "action": "defer",
        "rule": "early",
        "text": "first seen 60 s ago, which is less than the delay of 180 s",
        "seconds_left": 120,
        "passes_at_ms": host.now + 119_500,
        "key": "60f8c2d327e0326b92d55b72882a61d2",
        "network": "192.0.2.0/24",
        "sender": "a@example.net",
        "recipient": "b@example.org",
        "first_seen_ms": began,
        "last_seen_ms": began,
        "expires_ms": began + WINDOW,
        "seen_by": [{"node": "node-1", "deferred": 1, "passed": 0}],
        "lists": "",
        "client": {"allowed": False, "passes": 0, "needed": 5, "served": 0, "expires_ms": None},
        "cluster_time_ms": host.now,
        "delay_seconds": 180,
        "window_seconds": 172_800,
        "life_seconds": 3_110_400,
        "settings_revision": 0,
        "degraded_here": 0,
        "alone_first_seen_ms": None,
    }
    host.now = began + DELAY
    assert greylist.explain(**MAIL)["rule"] == "waited"
    greylist.check(**MAIL)
    assert greylist.explain(**MAIL)["rule"] == "known"
    host.now += LIFE
    assert greylist.explain(**MAIL)["rule"] == "new"
    assert greylist.explain(**MAIL)["seen_by"] == []


def test_explain_predicts_what_a_check_is_told(host: LocalHost, greylist: Greylist) -> None:
    for pause in (0, 1, DELAY - 2, 1, 1, WINDOW, LIFE - 1, LIFE):
        host.now += pause
        explanation = greylist.explain(**MAIL)
        verdict = greylist.check(**MAIL)
        told = (verdict.action, verdict.reason, verdict.seconds_left)
        assert told == (explanation["action"], explanation["rule"], explanation["seconds_left"])


def test_stats(host: LocalHost, greylist: Greylist) -> None:
    greylist.check(**MAIL)
    host.now += DELAY
    greylist.check(**MAIL)
    greylist.check(**MAIL)
    assert greylist.stats() == {
        "records": 1,
        "clients": 1,
        "allowed_clients": 0,
        "nodes": {"node-1": {"deferred": 1, "passed": 2, "first_passes": 1, "client_passes": 0}},
        "early": 0,
        "degraded": {"pass": 0, "defer": 0},
        "unshared": {"pass": 0, "defer": 0},
        "alone": 0,
        "exempt": {},
    }
