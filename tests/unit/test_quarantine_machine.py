"""The quarantine's tables against a plain model: one delivery per recipient and claim, tokens that only grow, nothing evicted."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.machine import Inspectable, StateMachine
from raftcluster.quarantine.acts import read_acts
from raftcluster.quarantine.envelope import Envelope
from raftcluster.quarantine.machine import (
    STATE,
    STATES,
    QuarantineMachine,
    read_message,
    read_page,
    read_release,
    read_releases,
    read_usage,
)
from raftcluster.quarantine.rules import Content
from raftcluster.trail import ACTS
from tests.local_host import LocalHost

KEY = b"k" * 32


def content(number: int, recipients: int = 2, lifetime: int = 100_000) -> Content:
    envelope = Envelope("a@example.net")
    for each in range(recipients):
        envelope.rcpt(f"r{each}@example.org")
    digest = hashlib.sha256(bytes([number % 256])).digest()
    return Content(number.to_bytes(16, "big"), envelope.values(), digest, 10, f"ref/{number}", "", lifetime, "mx1")


class Cluster(LocalHost):
    def __init__(self) -> None:
        super().__init__([QuarantineMachine()])
        self.rows = self.tables["quarantine"]

    def capture(self, number: int, **fields: Any) -> bytes:
        made = content(number, **fields)
        self.propose("quarantine", ["capture", *made, made.seal(KEY)])
        return made.id

    def claim(self, ident: bytes, number: int = 1, node: str = "n1", ms: int = 10_000) -> int:
        return int(self.propose("quarantine", ["claim", ident, number, node, f"{node}.test", "admin", ms])[0])

    def finish(self, ident: bytes, token: int, delivered: bool = True, number: int = 1) -> bool:
        return bool(self.propose("quarantine", ["finish", ident, number, token, delivered, "said", "admin", "n1.test"]))

    def state(self, ident: bytes, number: int = 1) -> str:
        return read_release(self.rows, read_message(self.rows, self.now, ident), number).state


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_it_is_a_state_machine_that_knows_its_rows(cluster: Cluster) -> None:
    machine = QuarantineMachine()
    assert all(isinstance(machine, kind) for kind in (StateMachine, Inspectable))
    ident = cluster.capture(1)
    cluster.finish(ident, cluster.claim(ident))
    cluster.claim(ident, 2)
    for table, rows in cluster.rows.rows.items():
        assert rows
        for key, value in rows.items():
            machine.inspect(table, key, value)
            with pytest.raises(Exception, match=r"."):
                machine.inspect(table, b"\xff" + key, value + b"x")


def test_one_delivers_and_the_other_is_told_by_whom_and_until_when(cluster: Cluster) -> None:
    ident = cluster.capture(1)
    token = cluster.claim(ident)
    with pytest.raises(Rejected, match=r"claimed by n1\.test until 1750000010000 ms .* for 10 s") as caught:
        cluster.claim(ident, node="n2")
    assert caught.value.code == "quarantine-claimed"
    assert cluster.claim(ident, 2, "n2") == token + 1, "each recipient by himself"
    assert cluster.finish(ident, token) and cluster.finish(ident, token), "said twice is said once"
    with pytest.raises(Rejected, match=r"recipient 1 has it: released by admin at n1\.test") as caught:
        cluster.claim(ident, node="n2")
    assert caught.value.code == "quarantine-delivered"
    message = read_message(cluster.rows, cluster.now, ident)
    assert message.delivered == 1 and read_release(cluster.rows, message, 1).deliveries == 1


def test_what_has_failed_may_be_claimed_again(cluster: Cluster) -> None:
    ident = cluster.capture(1)
    assert cluster.finish(ident, cluster.claim(ident), delivered=False)
    assert cluster.state(ident) == "failed"
    assert cluster.finish(ident, cluster.claim(ident, node="n2"))
    assert cluster.state(ident) == "delivered"


def test_the_claim_of_a_crashed_node_ends_and_its_late_outcome_is_a_fact(cluster: Cluster) -> None:
    ident = cluster.capture(1)
    first = cluster.claim(ident)
    cluster.now += 9_999
    with pytest.raises(Rejected, match="1 s yet"):
        cluster.claim(ident, node="n2")
    cluster.now += 1
    second = cluster.claim(ident, node="n2")
    with pytest.raises(Rejected) as caught:
        cluster.finish(ident, first, delivered=False)
    assert caught.value.code == "quarantine-claim-lost", "that it failed says nothing of the second one"
    assert cluster.state(ident) == "claimed"
    assert cluster.finish(ident, first), "the first one has delivered it after all"
    with pytest.raises(Rejected) as caught:
        cluster.claim(ident, node="n3")
    assert caught.value.code == "quarantine-delivered"
    assert not cluster.finish(ident, second), "and so has the second one: it came twice, and that is counted"
    (release, _) = read_releases(cluster.rows, read_message(cluster.rows, cluster.now, ident))
    assert (release.deliveries, release.delivered_by, release.claims) == (2, first, 2)


def test_a_claim_that_never_was_settles_nothing(cluster: Cluster) -> None:
    ident = cluster.capture(1)
    for token in (0, 1, -1, True, "1", None, 2**70):
        with pytest.raises((Rejected, OverflowError)):
            cluster.finish(ident, token)  # type: ignore[arg-type]
    assert cluster.state(ident) == "held"


def test_numbers_and_ids_that_name_nobody(cluster: Cluster) -> None:
    ident = cluster.capture(1)
    for number in (0, 3, -1, 65_537, True, "1", None):
        with pytest.raises(Rejected, match="recipients 1 to 2") as caught:
            cluster.claim(ident, number)  # type: ignore[arg-type]
        assert caught.value.code == "quarantine-recipient"
    for other in (b"x" * 16,):
        with pytest.raises(Rejected, match="holds no message") as caught:
            cluster.claim(other)
        assert caught.value.code == "quarantine-unknown"
    with pytest.raises(Rejected, match="16 bytes"):
        cluster.claim(b"x")


def test_captured_twice_is_captured_once_and_never_overwritten(cluster: Cluster) -> None:
    cluster.capture(1)
    before = cluster.rows.image()
    cluster.capture(1)
    assert cluster.rows.image() == before
    with pytest.raises(Rejected, match="another message"):
        cluster.capture(1, recipients=3)
    assert cluster.rows.image() == before


def test_full_refuses_and_evicts_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUARANTINE_MESSAGES", 3)
    kept = [cluster.capture(number) for number in range(3)]
    with pytest.raises(Rejected, match="full: 3 messages") as caught:
        cluster.capture(4)
    assert caught.value.code == "quarantine-full"
    assert [cluster.state(ident) for ident in kept] == ["held"] * 3
    assert cluster.propose("quarantine", ["discard", kept[0], "admin", "n1.test"]) is True
    assert cluster.propose("quarantine", ["discard", kept[0], "admin", "n1.test"]) is False
    cluster.capture(4)
    monkeypatch.setattr(limits, "QUARANTINE_MESSAGES", 10)
    monkeypatch.setattr(limits, "QUARANTINE_BYTES", read_usage(cluster.rows)[1] + 10)
    with pytest.raises(Rejected, match="full"):
        cluster.capture(5)


def test_what_has_expired_is_gone_at_once_and_its_rows_soon(cluster: Cluster) -> None:
    for number in range(5):
        ident = cluster.capture(number, lifetime=10_000 + number)
        cluster.finish(ident, cluster.claim(ident, ms=1_000))
    claimed = cluster.capture(9, lifetime=10_000)
    cluster.now += 9_000
    token = cluster.claim(claimed, ms=60_000)
    cluster.now += 5_000
    assert [each.content.id for each in read_page(cluster.rows, cluster.now, b"", 10, 10_000)[0]] == [claimed]
    cluster.entry("quarantine", [])
    assert read_usage(cluster.rows)[0] == 1, "what is claimed outlives its time until the claim's end"
    assert cluster.finish(claimed, token)
    cluster.now += 60_000
    cluster.entry("quarantine", [])
    assert {name for name, rows in cluster.rows.rows.items() if rows} == {STATE, ACTS}
    assert read_usage(cluster.rows) == (0, 0)


def test_a_claimed_message_is_not_discarded(cluster: Cluster) -> None:
    ident = cluster.capture(1)
    cluster.claim(ident, 2)
    with pytest.raises(Rejected, match="claimed by"):
        cluster.propose("quarantine", ["discard", ident, "admin", "n1.test"])
    cluster.now += 10_000
    assert cluster.propose("quarantine", ["discard", ident, "admin", "n1.test"])


def test_pages_are_bounded_by_messages_and_bytes(cluster: Cluster) -> None:
    made = [cluster.capture(number, recipients=20) for number in range(10)]
    for limit, most in ((3, 10_000), (100, 1_000), (1, 1), (100, 10**6)):
        found, after = list[bytes](), b""
        while True:
            page, after = read_page(cluster.rows, cluster.now, after, limit, most)
            assert 0 < len(page) <= limit
            found += [each.content.id for each in page]
            if not after:
                break
        assert found == made
    assert read_page(cluster.rows, cluster.now, made[-1], 5, 10) == ([], b"")


@pytest.mark.parametrize(
    "command",
    [
        None,
        [],
        ["capture"],
        ["capture", *content(1)],
        ["capture", *content(1), b"short"],
        ["capture", *content(1)._replace(id=b"x"), b"s" * 32],
        ["capture", *content(1)._replace(digest="x" * 32), b"s" * 32],  # type: ignore[arg-type]
        ["capture", *content(1)._replace(size=-1), b"s" * 32],
        ["capture", *content(1)._replace(size=limits.QUARANTINE_MESSAGE_BYTES + 1), b"s" * 32],
        ["capture", *content(1)._replace(size=True), b"s" * 32],
        ["capture", *content(1)._replace(reference=""), b"s" * 32],
        ["capture", *content(1)._replace(reference="x" * 1_025), b"s" * 32],
        ["capture", *content(1)._replace(lifetime=999), b"s" * 32],
        ["capture", *content(1)._replace(lifetime=2**62), b"s" * 32],
        ["capture", *content(1, recipients=0), b"s" * 32],
        ["capture", *content(1)._replace(envelope=[b"a", "", "", False, [[b"a b", "", ""]]]), b"s" * 32],
        ["capture", *content(1)._replace(envelope=[b"a", "", "", False, [[b"b", ""]]]), b"s" * 32],
        ["claim", b"x" * 16, 1, "n", "n", "a"],
        ["claim", b"x" * 16, 1, "n", "n", "a", 999],
        ["claim", b"x" * 16, 1, "n", "n" * 254, "a", 1_000],
        ["finish", b"x" * 16, 1, 1, 1, "", "a", "n"],
        ["finish", b"x" * 16, 1, 1, True, b"", "a", "n"],
        ["finish", b"x" * 16, 1, 1, True, "", "a" * 300, "n"],
        ["discard", None, "", ""],
        ["discard", b"x" * 16],
    ],
)
def test_malformed_commands_are_rejected_and_leave_no_trace(cluster: Cluster, command: Any) -> None:
    with pytest.raises(Rejected):
        cluster.propose("quarantine", command)
    assert not any(cluster.rows.rows.values())


def test_what_was_done_is_kept_with_who_did_it_boundedly(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 4)
    ident = cluster.capture(1)
    first = cluster.claim(ident)
    cluster.now += 10_000
    second = cluster.claim(ident, node="n2")
    cluster.finish(ident, first)
    cluster.finish(ident, first)
    cluster.finish(ident, second)
    cluster.propose("quarantine", ["discard", ident, "joe", "n3.test"])
    found = read_acts(cluster.rows, 0, 10)
    assert [(each.number, each.what, each.node, each.deliveries) for each in found] == [
        (2, "claimed", "n2.test", 0),
        (3, "delivered", "n1.test", 1),
        (4, "delivered", "n1.test", 2),
        (5, "discarded", "n3.test", 1),
    ]
    assert {(each.message, each.recipient, each.address) for each in found[:3]} == {(ident, 1, b"r0@example.org")}


class Model(RuleBasedStateMachine):
    """Two nodes apply the same entries; the model is one dict per message. Times step by what claims and lives last."""

    idents = Bundle("idents")
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Cluster(), Cluster()
        self.messages: dict[bytes, dict[int, list[Any]]] = {}
        """id -> recipient -> [state, last token, until, deliveries]"""
        self.expires: dict[bytes, int] = {}
        self.last = 0
        self.delivered_by: dict[tuple[bytes, int], set[int]] = {}

    def both(self, command: Any) -> Any:
        (answer,), (again,) = self.one.entry("quarantine", [command]), self.other.entry("quarantine", [command])
        assert repr(answer) == repr(again)
        return answer

    def live(self, ident: bytes) -> bool:
        return ident in self.messages and self.one.now < self.expires[ident]

    @rule(target=idents, number=st.integers(0, 5), lifetime=st.sampled_from([2_000, 20_000]))
    def capture(self, number: int, lifetime: int) -> bytes:
        made = content(number, lifetime=lifetime)
        there = self.live(made.id)
        before = self.one.rows.get(STATES, made.id)
        answer = self.both(["capture", *made, made.seal(KEY)])
        if not there and not isinstance(answer, Rejected):
            self.messages[made.id] = {1: ["held", 0, 0, 0], 2: ["held", 0, 0, 0]}
            self.expires[made.id] = self.one.now + lifetime
            for key in [each for each in self.delivered_by if each[0] == made.id]:
                del self.delivered_by[key]
        elif there:
            assert self.one.rows.get(STATES, made.id) == before
        return made.id

    @rule(target=tokens, ident=idents, number=st.integers(0, 3), ms=st.sampled_from([1_000, 5_000]))
    def claim(self, ident: bytes, number: int, ms: int) -> tuple[bytes, int, int]:
        answer = self.both(["claim", ident, number, "n", "n", "", ms])
        row = self.messages.get(ident, {}).get(number)
        free = self.live(ident) and row is not None
        free = free and (row[0] in ("held", "failed") or (row[0] == "claimed" and self.one.now >= row[2]))  # type: ignore[index]
        assert isinstance(answer, Rejected) != free
        if not free:
            return ident, number, 0
        assert row is not None and answer[0] > self.last, "tokens only grow"
        self.last = answer[0]
        row[:3] = ["claimed", answer[0], self.one.now + ms]
        self.expires[ident] = max(self.expires[ident], row[2])
        return ident, number, answer[0]

    @rule(token=tokens, delivered=st.booleans())
    def finish(self, token: tuple[bytes, int, int], delivered: bool) -> None:
        ident, number, given = token
        answer = self.both(["finish", ident, number, given, delivered, "", "", "n"])
        row = self.messages.get(ident, {}).get(number)
        if not self.live(ident) or row is None or not 0 < given <= row[1]:
            assert isinstance(answer, Rejected)
            return
        mine = row[0] == "claimed" and row[1] == given
        if not delivered:
            assert isinstance(answer, Rejected) != mine
            row[0] = "failed" if mine else row[0]
        elif row[0] != "delivered":
            assert answer is True
            row[0], row[3] = "delivered", row[3] + 1
            self.delivered_by[ident, number] = {given}
        elif given in self.delivered_by[ident, number] and answer is True:
            pass
        else:
            assert answer is False
            row[3] += 1

    @rule(ident=consumes(idents))
    def discard(self, ident: bytes) -> None:
        answer = self.both(["discard", ident, "admin", "n1.test"])
        if not self.live(ident):
            assert answer is False
        elif any(row[0] == "claimed" and self.one.now < row[2] for row in self.messages[ident].values()):
            assert isinstance(answer, Rejected)
        else:
            assert answer is True
            del self.messages[ident], self.expires[ident]

    @rule(ms=st.sampled_from([1, 999, 1_000, 5_000, 20_000]))
    def wait(self, ms: int) -> None:
        self.one.now += ms
        self.other.now = self.one.now

    @invariant()
    def agrees(self) -> None:
        assert self.one.rows.image() == self.other.rows.image()
        page, _ = read_page(self.one.rows, self.one.now, b"", 100, 10**6)
        assert {each.content.id for each in page} == {each for each in self.messages if self.live(each)}
        for message in page:
            rows = self.messages[message.content.id]
            for release in read_releases(self.one.rows, message):
                assert [release.state, release.token, release.deliveries] == [
                    rows[release.number][n] for n in (0, 1, 3)
                ]
            assert message.delivered == sum(row[0] == "delivered" for row in rows.values())
        count, size = read_usage(self.one.rows)
        assert count == len(self.one.rows.rows["messages"]) == len(self.one.rows.rows["expiries"])
        assert size == sum(map(len, self.one.rows.rows["messages"].values()))


@pytest.mark.hypothesis
def test_against_a_plain_model_on_two_nodes() -> None:
    run_state_machine_as_test(Model, settings=settings(settings.default, stateful_step_count=40))
