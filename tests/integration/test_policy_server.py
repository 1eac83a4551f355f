"""The policy server over real sockets, as Postfix uses it, against the greylist on a host of one process."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcluster.errors import AddressInUse, MissingPrivilege, Rejected, Unavailable
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.greylist.verdict import Verdict
from raftcluster.host import Completion
from raftcluster.policy.server import PolicyServer, parse_listen
from tests.helpers import eventually
from tests.local_host import LocalHost
from tests.policy_client import PolicyClient, request

DELAY_MS = 180_000


class SlowHost(LocalHost):
    """A host whose decisions come when the test lets them come, on a thread of its own."""

    def __init__(self) -> None:
        super().__init__([GreylistMachine(), ListsMachine()])
        self.held: list[Callable[[], None]] = []

    def submit(self, machine: str, command: Any, callback: Completion, **rest: Any) -> None:
        self.held.append(lambda: LocalHost.submit(self, machine, command, callback, **rest))

    def release(self) -> None:
        held, self.held = self.held, []
        thread = threading.Thread(target=lambda: [each() for each in held])
        thread.start()
        thread.join()


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([GreylistMachine(), ListsMachine()])


@pytest.fixture
def slow() -> SlowHost:
    return SlowHost()


Serve = Callable[..., PolicyServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(host: LocalHost, listen: str = "inet:127.0.0.1:0", **settings: Any) -> PolicyServer:
        decided = settings.pop("decided", lambda *_: None)
        server = PolicyServer(Greylist(host, decided=decided), listen, **settings)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
    assert [each.name for each in threading.enumerate() if each.name == "raftcluster-policy"] == []


@pytest.fixture(params=["inet", "unix"])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "inet:127.0.0.1:0" if request.param == "inet" else f"unix:{tmp_path}/policy.sock"


# --- decisions


def test_in_training_postfix_is_told_nothing(host: LocalHost, serve: Serve) -> None:
    Greylist(host).configure({"training": True})
    server = serve(host)
    with PolicyClient(server.address) as client:
        assert client.ask(instance="1") == "DUNNO"
        host.now += DELAY_MS
        assert client.ask(instance="2") == "DUNNO"
    assert (server.stats()["pass"], server.stats()["training"]) == (2, 1)


def test_an_allowed_client_name_is_told_nothing(host: LocalHost, serve: Serve) -> None:
    Greylist(host).lists.add("allow", "client-name", "mail.example.net")
    with PolicyClient(serve(host).address) as client:
        assert client.ask(client_name="mx1.mail.example.net") == "DUNNO"
        assert client.ask(client_name="unknown").startswith("DEFER_IF_PERMIT")


def test_deferred_first_and_passed_after_the_delay(host: LocalHost, serve: Serve, listen: str) -> None:
    with PolicyClient(serve(host, listen).address) as client:
        assert client.ask(instance="1") == "DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 180 s"
        host.now += DELAY_MS - 1_000
        assert client.ask(instance="2") == "DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 1 s"
        host.now += 2_000
        assert (
            client.ask(instance="3") == "PREPEND X-Greylist: delayed 181 seconds by raftcluster at node-1.example.org"
        )
        assert client.ask(instance="4") == "DUNNO"


def test_the_header_goes_to_one_recipient_of_a_message_and_to_it_again(host: LocalHost, serve: Serve) -> None:
    with PolicyClient(serve(host).address) as client:
        for recipient in ("b@example.org", "c@example.org"):
            client.ask(recipient=recipient, instance="1")
        host.now += DELAY_MS
        first = client.ask(recipient="b@example.org", instance="2")
        assert first.startswith("PREPEND X-Greylist: ")
        assert client.ask(recipient="c@example.org", instance="2") == "DUNNO"
        assert client.ask(recipient="b@example.org", instance="2") == first


def test_a_request_that_is_sent_again_is_the_same_decision(host: LocalHost, serve: Serve) -> None:
    server = serve(host)
    with PolicyClient(server.address) as client, PolicyClient(server.address) as other:
        first = client.ask(instance="1")
        host.now += DELAY_MS
        assert other.ask(instance="1") == first
    assert Greylist(host).stats()["nodes"][next(iter(Greylist(host).stats()["nodes"]))]["deferred"] == 1


@pytest.mark.parametrize(
    "attributes",
    [
        {"protocol_state": "DATA"},
        {"protocol_state": ""},
        {"request": "something_else"},
        {"sasl_username": "user"},
        {"recipient": ""},
        {"client_address": ""},
    ],
)
def test_what_is_not_ours_to_decide_is_dunno(host: LocalHost, serve: Serve, attributes: dict[str, str]) -> None:
    with PolicyClient(serve(host).address) as client:
        assert client.ask(**attributes) == "DUNNO"
    assert host.proposals == 0


def test_what_can_never_be_decided_is_passed_and_logged(
    host: LocalHost, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with PolicyClient(serve(host).address) as client:
        assert client.ask(client_address="no-address") == "DUNNO"
        assert client.ask() == "DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 180 s"
    assert "passed without greylisting" in caplog.text


# --- without the cluster


@pytest.mark.parametrize(
    ("on_unavailable", "answer"),
    [("pass", "DUNNO"), ("defer", "DEFER_IF_PERMIT 4.3.0 Greylisted, retry in 180 s")],
)
def test_without_a_quorum_the_administrators_choice_is_the_answer(
    host: LocalHost, serve: Serve, on_unavailable: str, answer: str
) -> None:
    server = serve(host)
    Greylist(host).configure({"on_unavailable": on_unavailable})
    with PolicyClient(server.address) as client:
        client.ask()
        host.failure = Unavailable("no leader")
        assert client.ask(instance="2") == answer
    assert server.stats()["degraded"] == 1


@pytest.mark.parametrize(
    ("on_unavailable", "action"),
    [("pass", "DUNNO"), ("local", "DUNNO"), ("defer", "DEFER_IF_PERMIT 4.3.0 Greylisting is temporarily")],
)
def test_a_node_that_is_silent_does_not_hold_up_the_answer(
    slow: SlowHost, serve: Serve, on_unavailable: str, action: str
) -> None:
    Greylist(slow).configure({"on_unavailable": on_unavailable})
    server = serve(slow, deadline=0.2)
    with PolicyClient(server.address) as client:
        assert client.ask().startswith(action)
        slow.release()  # too late: nobody is told
        slow.held.clear()
        server._deadline = 30.0
        client.send(request(instance="2"))
        eventually(lambda: slow.held)
        slow.release()
        assert client.answer() == "DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 180 s"
    assert server.stats()["overdue"] == 1


def test_what_a_client_was_told_is_logged_once_also_when_the_verdict_comes_too_late(
    slow: SlowHost, serve: Serve
) -> None:
    told: list[tuple[str, str, str, str, bool]] = []

    def decided(asked: Any, verdict: Verdict, source: str) -> None:
        told.append((asked.instance, asked.helo, source, verdict.reason, verdict.degraded))

    server = serve(slow, deadline=0.2, decided=decided)
    with PolicyClient(server.address) as client:
        assert client.ask(instance="1", helo_name="mx.example.net") == "DUNNO"
        slow.release()
        slow.held.clear()
        server._deadline = 30.0
        assert client.ask(client_address="nonsense", instance="2") == "DUNNO"
        client.send(request(instance="3"))
        eventually(lambda: slow.held)
        slow.release()
        assert client.answer().startswith("DEFER_IF_PERMIT")
        assert client.ask(protocol_state="DATA") == "DUNNO"
    assert told == [
        ("1", "mx.example.net", "policy", "overdue", True),
        ("2", "", "policy", "rejected", True),
        ("3", "", "policy", "new", False),
    ]


# --- connections


def test_pipelined_requests_are_answered_in_order(slow: SlowHost, serve: Serve, listen: str) -> None:
    with PolicyClient(serve(slow, listen, deadline=30).address) as client:
        client.send(request(instance="1") + request(protocol_state="DATA") + request(instance="2")[:20])
        eventually(lambda: slow.held)
        client.send(request(instance="2")[20:])
        slow.release()
        assert client.answer().startswith("DEFER_IF_PERMIT")
        assert client.answer() == "DUNNO"
        eventually(lambda: slow.held)
        slow.release()
        assert client.answer().startswith("DEFER_IF_PERMIT")


def test_many_pipelined_requests_are_all_answered(host: LocalHost, serve: Serve) -> None:
    with PolicyClient(serve(host).address) as client:
        client.send(b"a=b\n\n" * 20_000)
        assert [client.answer() for _ in range(20_000)] == ["DUNNO"] * 20_000


def test_a_client_that_has_said_all_still_gets_its_answer(slow: SlowHost, serve: Serve, listen: str) -> None:
    with PolicyClient(serve(slow, listen).address) as client:
        client.send(request())
        client.end()
        eventually(lambda: slow.held)
        slow.release()
        assert client.answer().startswith("DEFER_IF_PERMIT 4.2.0")
        assert client.hung_up()


def test_decisions_of_many_connections_are_under_way_at_once(slow: SlowHost, serve: Serve) -> None:
    address = serve(slow, deadline=30).address
    clients = [PolicyClient(address) for _ in range(50)]
    for number, client in enumerate(clients):
        client.send(request(instance=str(number), recipient=f"{number}@example.org"))
    eventually(lambda: len(slow.held) == 50)
    slow.release()
    assert {client.answer() for client in clients} == {"DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 180 s"}
    for client in clients:
        client.close()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\n", b"x" * 10_000, b"\x16\x03\x01\x00\xa5\n"])
def test_garbage_is_not_answered_but_logged_and_hung_up(
    host: LocalHost, serve: Serve, listen: str, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(host, listen)
    with PolicyClient(server.address) as client:
        client.send(garbage)
        assert client.hung_up()
    assert [record.levelno for record in caplog.records if "disconnected" in record.message] == [logging.WARNING]
    assert server.stats()["malformed"] == 1


FIRST = "DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 180 s"
PASSED = "DUNNO"  # it never will be decided: deferring it would defer it for ever
HOSTILE: dict[str, tuple[bytes, bytes, bytes, str]] = {
    "any byte but the line's end in the sender": (b"192.0.2.1", bytes({*range(256)} - {10}), b"b@c", PASSED),
    "every byte above ASCII": (b"192.0.2.1", bytes(range(128, 256)) + b"@c", bytes(range(128, 256)) + b"@c", FIRST),
    "a NUL in the sender": (b"192.0.2.1", b"a\0b@c", b"b@c", PASSED),
    "a NUL in the recipient": (b"192.0.2.1", b"a@c", b"b\0@c", PASSED),
    "a carriage return": (b"192.0.2.1", b"a@c", b"b@c\r", PASSED),
    "invalid UTF-8": (b"192.0.2.1", b"\xff\xfe\xc3@c", b"\xed\xa0\x80@c", FIRST),
    "overlong UTF-8": (b"192.0.2.1", b"\xc0\xaf@c", b"b@c", FIRST),
    "a local part that is longer than any": (b"192.0.2.1", b"a" * 6_200 + b"@c", b"b@c", PASSED),
    "the longest there is": (b"192.0.2.1", b"a" * 6_142 + b"@c", b"b@c", FIRST),
    "a local part of 10 kB": (b"192.0.2.1", b"a" * 10_240 + b"@c", b"b@c", ""),
    "a recipient of 10 kB": (b"192.0.2.1", b"a@c", b"b" * 10_240 + b"@c", ""),
    "no @, many @": (b"192.0.2.1", b"@@@@", b"b", FIRST),
    "equals signs": (b"192.0.2.1", b"=a==b=@c", b"=", FIRST),
    "IPv6": (b"2001:db8::1", b"a@c", b"b@c", FIRST),
    "IPv6 with its zone": (b"fe80::1%eth0", b"a@c", b"b@c", FIRST),
    "IPv4 in IPv6": (b"::ffff:192.0.2.1", b"a@c", b"b@c", FIRST),
    "IPv6, shortest and longest": (b"::", b"a@c", b"b@c", FIRST),
    "IPv6 as a domain literal": (b"[2001:db8::1]", b"a@c", b"b@[IPv6:::1]", PASSED),
    "IPv6 that is none": (b"2001:db8::1::2", b"a@c", b"b@c", PASSED),
    "an address of 8 kB": (b"1" * 8_000, b"a@c", b"b@c", PASSED),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_bytes_come_the_answer_is_the_documented_one(host: LocalHost, serve: Serve, name: str) -> None:
    """Empty: more than an attribute may have, so the client is disconnected. Nobody else notices."""
    client_address, sender, recipient, answer = HOSTILE[name]
    server = serve(host)
    with PolicyClient(server.address) as client, PolicyClient(server.address) as other:
        client.send(b"request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=" + client_address)
        client.send(b"\nsender=" + sender + b"\nrecipient=" + recipient + b"\ninstance=\xff\0\n\n")
        if answer:
            assert client.answer() == answer
            assert client.ask(sender="else@example.org") == FIRST, "its next request is answered"
        else:
            assert client.hung_up()
        assert other.ask() == FIRST


def test_hostile_clients_do_not_fill_the_log(host: LocalHost, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(host)
    for _ in range(50):
        with PolicyClient(server.address) as client:
            client.send(b"garbage\n")
            assert client.hung_up()
    assert server.stats()["malformed"] == 50
    assert len([record for record in caplog.records if "disconnected" in record.message]) < 10


def test_a_request_that_never_ends_is_hung_up_whatever_trickles_in(
    host: LocalHost, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(host, request_seconds=0.3)
    with PolicyClient(server.address) as client, PolicyClient(server.address) as idle:
        client.send(b"request=smtpd")

        def trickled() -> bool:
            client.trickle(b"x")
            return client.hung_up(within_s=0.01)

        eventually(trickled)
        assert idle.ask().startswith("DEFER_IF_PERMIT")  # no request under way, so nothing was late
    assert "does not end its request" in caplog.text


def test_an_idle_client_is_hung_up_after_its_time(host: LocalHost, serve: Serve) -> None:
    server = serve(host, idle_seconds=1.0, request_seconds=0.5)
    with PolicyClient(server.address) as client:
        assert client.ask().startswith("DEFER_IF_PERMIT")
        assert client.hung_up()
    assert server.stats()["idle"] == 1


def test_a_client_that_does_not_read_is_hung_up(host: LocalHost, serve: Serve) -> None:
    server = serve(host, request_seconds=0.3)
    with PolicyClient(server.address) as client:

        def full() -> bool:
            client.trickle(b"a=b\n\n" * 50_000)
            return server.stats().get("unended", 0) == 1

        eventually(full)


def test_connections_are_bounded(host: LocalHost, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(host, connections=2)
    with PolicyClient(server.address) as one, PolicyClient(server.address) as two:
        assert one.ask() == two.ask()
        with PolicyClient(server.address) as three:
            assert three.hung_up()
        assert one.ask() == two.ask()
    eventually(lambda: server.stats()["connections"] == 0)
    with PolicyClient(server.address) as four:
        assert four.ask().startswith("DEFER_IF_PERMIT")
    assert "more than 2 connections" in caplog.text


# --- addresses


def test_closing_hangs_up_and_frees_the_address(host: LocalHost, listen: str) -> None:
    server = PolicyServer(Greylist(host), listen)
    server.start()
    address = server.address
    with PolicyClient(address) as client:
        client.ask()
        server.close()
        assert client.hung_up()
    again = PolicyServer(Greylist(host), address)
    again.start()
    with PolicyClient(again.address) as client:
        assert client.ask(instance="2").startswith("DEFER_IF_PERMIT")
    again.close()


def test_closing_answers_what_is_under_way(slow: SlowHost) -> None:
    server = PolicyServer(Greylist(slow), "inet:127.0.0.1:0", deadline=30)
    server.start()
    with PolicyClient(server.address) as client:
        client.send(request())
        eventually(lambda: slow.held)
        closing = threading.Thread(target=server.close)
        closing.start()
        slow.release()
        assert client.answer().startswith("DEFER_IF_PERMIT")
        assert client.hung_up()
        closing.join(60)
        assert not closing.is_alive()


def test_an_address_that_is_taken_is_named(host: LocalHost, serve: Serve, listen: str) -> None:
    address = serve(host, listen).address
    with pytest.raises(AddressInUse) as raised:
        PolicyServer(Greylist(host), address).start()
    assert address in str(raised.value)


def test_a_path_that_may_not_be_written_is_named(host: LocalHost) -> None:
    with pytest.raises((MissingPrivilege, AddressInUse, Rejected), match="/proc/none"):
        PolicyServer(Greylist(host), "unix:/proc/none/policy.sock").start()


def test_whoever_may_enter_the_folder_may_ask(host: LocalHost, serve: Serve, tmp_path: Path) -> None:
    serve(host, f"unix:{tmp_path}/policy")
    assert stat.S_IMODE(os.stat(tmp_path / "policy").st_mode) == 0o666


@pytest.mark.parametrize(
    "listen", ["", "10023", "inet:", "inet:1.2.3.4", "inet:1.2.3.4:70000", "unix:relative", "tcp:a:1"]
)
def test_what_is_no_address_is_rejected(listen: str) -> None:
    with pytest.raises(Rejected, match="inet:HOST:PORT"):
        parse_listen(listen)


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert parse_listen("inet:[::1]:10023") == ("::1", 10023)


def test_the_postfix_line_says_what_unavailable_means(host: LocalHost, serve: Serve) -> None:
    server = serve(host)
    assert server.postfix_line() == f"check_policy_service {{ {server.address}, timeout=5s, default_action=DUNNO }}"
    Greylist(host).configure({"on_unavailable": "defer"})
    with PolicyClient(server.address) as client:
        client.ask()
    assert "{ default_action = DEFER_IF_PERMIT 4.3.0 Greylisting is" in server.postfix_line()
