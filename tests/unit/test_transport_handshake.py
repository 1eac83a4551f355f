"""Hellos and refusals: each difference has its own reason, and says what differs and what is allowed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.transport import handshake, reception
from raftcluster.transport.handshake import JOIN, KINDS, RAFT, REASONS, SNAPSHOT, Refused
from raftcluster.transport.ports import Identity, Peer
from raftcluster.transport.reception import Buckets
from raftcluster.transport.refusals import RefusalLog
from raftcluster.transport.subject import SubjectId

ABOUT = {"product": "gateway/4.2", "schema": {"greylist": 1, "config": 2}}
OURS = handshake.hello("mail", RAFT, ABOUT)


def refused(theirs: Any, kinds: tuple[str, ...] = KINDS) -> Refused:
    with pytest.raises(Refused) as caught:
        handshake.check_hello(OURS, theirs, kinds)
    assert caught.value.reason in REASONS
    return caught.value


def test_equals_understand_each_other() -> None:
    for kind in KINDS:
        theirs = handshake.hello("mail", kind, ABOUT)
        assert handshake.check_hello(OURS, theirs, KINDS) == theirs


def test_what_we_say_of_ourselves_cannot_override_the_protocol() -> None:
    said = handshake.hello("mail", RAFT, {**ABOUT, "cluster": "other", "protocol": 99, "kind": JOIN, "zone": "x"})
    assert (said["cluster"], said["protocol"], said["kind"], said["zone"]) == ("mail", handshake.PROTOCOL, RAFT, "x")


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"protocol": 9, "oldest": 8}, "protocol", ["8 to 9", "1 to 1"]),
        ({"protocol": 0, "oldest": 0}, "protocol", ["0 to 0", "1 to 1", "upgrade"]),
        ({"cluster": "other"}, "cluster", ["other", "mail"]),
        ({"product": "else/4.2"}, "product", ["else/4.2", "gateway/4.2", "same product"]),
        ({"schema": {"greylist": 2, "config": 2}}, "schema", ["greylist 2 there, 1 here"]),
        ({"schema": {"greylist": 1}}, "schema", ["config 'absent' there, 2 here"]),
        ({"schema": {"greylist": 1, "config": 2, "x": 1}}, "schema", ["x 1 there, 'absent' here"]),
        ({"kind": "telnet"}, "kind", ["telnet", "raft, snapshot, verify, logs, join"]),
    ],
)
def test_each_difference_has_its_own_reason(change: dict[str, Any], reason: str, says: list[str]) -> None:
    error = refused({**OURS, **change})
    assert error.reason == reason
    for words in says:
        assert words in str(error)


def test_a_kind_that_is_not_served_here() -> None:
    assert refused({**OURS, "kind": SNAPSHOT}, (RAFT,)).reason == "kind"


def test_versions_that_overlap_understand_each_other() -> None:
    newer = {**OURS, "protocol": handshake.PROTOCOL + 1, "oldest": handshake.PROTOCOL}
    assert handshake.check_hello(OURS, newer, KINDS) == newer
    other_build = {**OURS, "product": "gateway/5.0"}
    assert handshake.check_hello(OURS, other_build, KINDS) == other_build


@pytest.mark.parametrize("field", ["protocol", "oldest", "cluster", "product", "kind", "schema"])
@pytest.mark.parametrize("value", [None, True, 1.5, b"x", []])
def test_hellos_of_a_wrong_shape(field: str, value: Any) -> None:
    assert refused({**OURS, field: value}).reason == "hello"
    assert refused({key: kept for key, kept in OURS.items() if key != field}).reason == "hello"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from([*OURS, "refused"]), x, max_size=6),
        max_leaves=10,
    )
)
def test_no_value_breaks_the_check(value: Any) -> None:
    refused(value)


def test_a_refusal_travels_and_keeps_its_reason() -> None:
    sent = refused({**OURS, "cluster": "other"})
    heard = refused(sent.frame())
    assert (heard.reason, heard.by_peer, heard.exit_code) == ("cluster", True, 15)
    assert sent.message in heard.message


def test_a_strangers_explanation_is_cut_and_made_printable() -> None:
    error = refused({"refused": "no such reason", "text": "a\n\x1b[31m" + "x" * 10_000, "remedy": 7})
    assert error.reason == "hello"
    assert "\n" not in str(error) and "\x1b" not in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize("field", ["cluster", "product", "kind"])
def test_what_a_stranger_calls_itself_is_cut_and_made_printable(field: str) -> None:
    """It went into the log as it was: lines of its own among them."""
    error = refused({**OURS, field: "a\n\x1b[31m" + "x" * 10_000})
    assert error.reason == field
    assert "\n" not in str(error) and "\x1b" not in str(error)
    assert len(str(error)) < 700


PEERS = {"b": Peer("b", ("127.0.0.1", 1), frozenset([b"1" * 32, b"2" * 32]))}


def test_a_member_is_known_by_name_and_key() -> None:
    assert handshake.admit(SubjectId("mail", 1, "b"), b"2" * 32, "mail", PEERS) is PEERS["b"]
    for subject, pin, reason in (
        (SubjectId("other", 1, "b"), b"1" * 32, "cluster"),
        (SubjectId("mail", 1, "c"), b"1" * 32, "not-a-member"),
        (SubjectId("mail", 1, "b"), b"3" * 32, "pin"),
    ):
        with pytest.raises(Refused) as caught:
            handshake.admit(subject, pin, "mail", PEERS)
        assert caught.value.reason == reason
        assert caught.value.subject == subject.node_id


def test_only_one_of_a_pair_dials() -> None:
    handshake.check_direction("b", "a")
    for dialler, acceptor in (("a", "b"), ("a", "a")):
        with pytest.raises(Refused, match="not the other way round"):
            handshake.check_direction(dialler, acceptor)


def test_a_refusal_is_a_rejection_that_programs_can_tell_apart() -> None:
    error = Refused("pin", "no", subject="b")
    assert isinstance(error, Rejected)
    assert (error.code, error.reason) == ("link-refused", "pin")


def test_identities_hide_their_key() -> None:
    assert "SECRET" not in repr(Identity("c", "a", 1, b"certificate", b"SECRET"))


def test_the_log_says_who_and_why_and_is_no_flood(caplog: pytest.LogCaptureFixture) -> None:
    clock = [100.0]
    log = RefusalLog(lambda: clock[0])
    with caplog.at_level(logging.INFO, "raftcluster.transport"):
        for _ in range(1000):
            log.note("pin", "b from 192.0.2.7", "wrong key", "join again")
        log.note("pin", "c from 192.0.2.8", "wrong key")
        log.note("expired", "b from 192.0.2.7", "too old")
    assert [record.getMessage() for record in caplog.records] == [
        "refused [pin] b from 192.0.2.7: wrong key (join again)",
        "refused [pin] c from 192.0.2.8: wrong key",
        "refused [expired] b from 192.0.2.7: too old",
    ]
    assert log.counts == {"pin": 1001, "expired": 1}
    clock[0] += limits.REFUSAL_LOG_SECONDS
    caplog.clear()
    log.note("pin", "b from 192.0.2.7", "wrong key")
    assert caplog.messages == ["refused [pin] b from 192.0.2.7: wrong key; 999 more like this since the last line"]
    for number in range(5000):
        log.note("rate", f"2001:db8::{number:x}", "many")
    assert len(log._last) <= 1_024


def test_strangers_are_slowed_down_one_by_one() -> None:
    clock = [100.0]
    buckets = Buckets(3, 2, lambda: clock[0])
    assert [buckets.take("a") for _ in range(5)] == [True, True, True, False, False]
    assert buckets.take("b")
    clock[0] += 0.5
    assert [buckets.take("a") for _ in range(2)] == [True, False]
    for number in range(5000):
        buckets.take(str(number))
    assert len(buckets._level) <= reception._ADDRESSES
