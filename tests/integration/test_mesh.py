"""The mesh on loopback among friends: addresses, restarts, streams, joining, and what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.errors import AddressInUse, FrameError, LinkRefused, MissingPrivilege, Unavailable
from raftcluster.transport import certificates, connect, handshake, sockets
from raftcluster.transport.handshake import Refused
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.ports import Address, Down, Message, Peer, Up
from raftcluster.transport.reception import Services
from raftcluster.transport.stream import Stream
from tests.helpers import eventually, free_ports, no_more_threads
from tests.hierarchy import Hierarchy
from tests.integration.meshes import ABOUT, LOOPBACK, PATIENCE_SECONDS, Turned, descriptors, until

HIERARCHY = Hierarchy(["a", "b", "c"])


class Nodes:
    """Started meshes by name; closes what it has started."""

    def __init__(self) -> None:
        self.turned: dict[str, Turned] = {}

    def start(
        self, node: str, services: Services | None = None, listen: Address = LOOPBACK, about: Any = ABOUT
    ) -> Turned:
        mesh = Mesh(HIERARCHY.identity(node), [HIERARCHY.root], listen, about, services, seed=ord(node))
        self.turned[node] = Turned(mesh)
        return self.turned[node]

    def introduce(self, **addresses: Address) -> dict[str, Peer]:
        """Tell each of them of all, at their own or the given addresses."""
        members = {
            node: HIERARCHY.peer(node, addresses.get(node, turned.mesh.address)) for node, turned in self.turned.items()
        }
        for turned in self.turned.values():
            turned.mesh.configure(members)
        return members

    def linked(self) -> None:
        """Wait until all are linked with all."""
        everyone = list(self.turned.values())
        until(lambda: all(len(one.mesh.links()) == len(everyone) - 1 for one in everyone), "all linked", *everyone)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setattr(limits, "LINK_IDLE_SECONDS", PATIENCE_SECONDS)
    made = Nodes()
    yield made
    for turned in made.turned.values():
        turned.mesh.close()


# --- addresses


def test_a_port_in_use_is_named_with_the_remedy(nodes: Nodes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse) as caught:
            nodes.start("a", listen=("127.0.0.1", port))
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "another port" in caught.value.remedy
    assert caught.value.exit_code == 9


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a..b", "x" * 300])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(AddressInUse, match=host[:20]):
        sockets.listen((host, 0))


@pytest.mark.parametrize("port", [-1, 65_536, 99_999])
def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(AddressInUse, match=str(port)):
        sockets.listen(("127.0.0.1", port))
    with pytest.raises(Unavailable, match=str(port)):
        connect.dial_untrusted(("127.0.0.1", port))


def test_a_port_that_only_root_may_use() -> None:
    sockets.listen(LOOPBACK).close()  # codecs are loaded now: nobody else may read this interpreter's library
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        with pytest.raises(MissingPrivilege) as caught:
            sockets.listen(("127.0.0.1", 80))
    finally:
        os.seteuid(user)
    assert "127.0.0.1:80" in str(caught.value)
    assert "above 1023" in caught.value.remedy


def test_a_member_that_there_was_no_thread_to_dial_is_dialled_when_there_is_one(nodes: Nodes) -> None:
    """What the system said ended the thread that asked for it, the reconciler's; and nobody dialled the member any more, for it was
    taken for dialled."""
    a, b = nodes.start("a"), nodes.start("b")
    members = {node: HIERARCHY.peer(node, turned.mesh.address) for node, turned in nodes.turned.items()}
    a.mesh.configure(members)
    with no_more_threads(), pytest.raises(Unavailable, match=r"cannot dial a: .*new thread"):
        b.mesh.configure(members)
    b.mesh.configure(members)
    until(lambda: b.mesh.links() and a.mesh.links(), "linked", a, b)


def test_without_a_thread_that_accepts_nobody_listens(nodes: Nodes) -> None:
    (port,) = free_ports(1)
    mesh = Mesh(HIERARCHY.identity("a"), [HIERARCHY.root], ("127.0.0.1", port), ABOUT)
    with no_more_threads(), pytest.raises(RuntimeError):
        mesh.start()
    mesh.close()
    nodes.start("b", listen=("127.0.0.1", port))


def test_listening_fails_before_anything_is_started(nodes: Nodes) -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as other:
        mesh = Mesh(HIERARCHY.identity("a"), [HIERARCHY.root], other.getsockname(), ABOUT)
        with pytest.raises(AddressInUse):
            mesh.start()
        with pytest.raises(Unavailable):
            _ = mesh.address
    assert threading.active_count() == before
    mesh.close()


class Forwarder:
    """What a NAT does: passes on what comes to its address."""

    def __init__(self, target: Address) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._target = target
        self._sockets: list[socket.socket] = []
        self.address: Address = self._server.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Cut all connections and stop."""
        self._server.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_the_advertised_address_need_not_be_the_one_that_is_listened_at(nodes: Nodes) -> None:
    a, b = nodes.start("a"), nodes.start("b")
    forwarder = Forwarder(a.mesh.address)
    try:
        nodes.introduce(a=forwarder.address)
        nodes.linked()
        assert b.mesh.links()["a"].address == sockets.text(forwarder.address)
        assert b.mesh.send("a", {"n": 1})
        until(lambda: Message("b", {"n": 1}) in a.seen, "arrival", a, b)
    finally:
        forwarder.close()
    until(lambda: not a.mesh.links() and not b.mesh.links(), "the cut is seen", a, b)


def test_a_member_that_has_moved_is_dialled_at_its_new_address_at_once(
    nodes: Nodes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DIAL_MIN_SECONDS", "DIAL_MAX_SECONDS"):
        monkeypatch.setattr(limits, name, 600.0)
    a, b = nodes.start("a"), nodes.start("b")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = nobody.getsockname()
    caplog.set_level(logging.INFO, "raftcluster.transport")
    nodes.introduce(a=free)
    until(lambda: any("cannot dial a" in text for text in caplog.messages), "a dial fails", a, b)
    nodes.introduce()
    nodes.linked()


def test_a_name_is_resolved_at_each_dial(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = nodes.start("a"), nodes.start("b")
    real, asked = socket.getaddrinfo, []

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        asked.append(host)
        if host == "mx1.example.org":
            if len(asked) < 3:
                raise socket.gaierror("not yet")
            host = "127.0.0.1"
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    nodes.introduce(a=("mx1.example.org", a.mesh.address[1]))
    nodes.linked()
    assert asked.count("mx1.example.org") >= 3
    b.mesh.links()


def test_listening_on_all_addresses_and_on_ipv6(nodes: Nodes) -> None:
    a, b = nodes.start("a", listen=("0.0.0.0", 0)), nodes.start("b", listen=("::1", 0))
    nodes.introduce(a=("127.0.0.1", a.mesh.address[1]))
    nodes.linked()
    assert sockets.text(b.mesh.address).startswith("[::1]:")


# --- restarts


def test_a_restarted_peer_is_linked_again_whoever_dials(nodes: Nodes) -> None:
    a, b = (nodes.start(node, listen=("127.0.0.1", port)) for node, port in zip("ab", free_ports(2), strict=True))
    nodes.introduce()
    nodes.linked()
    for node in "ab":
        address = nodes.turned[node].mesh.address
        nodes.turned[node].mesh.close()
        other = nodes.turned["b" if node == "a" else "a"]
        until(lambda other=other: not other.mesh.links(), "the end is seen", other)  # type: ignore[misc]
        nodes.start(node, listen=address)
        nodes.introduce()
        nodes.linked()
    assert [type(event) for event in a.seen] == [Up]
    assert [type(event) for event in b.seen] == [Up, Down, Up]
    assert [type(event) for event in nodes.turned["a"].seen] == [Up, Down, Up]


def test_a_peer_that_is_killed_without_a_word_is_noticed(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes any more, and no end either: as when a plug is pulled, or a process is stopped."""
    monkeypatch.setattr(limits, "LINK_IDLE_SECONDS", 0.6)
    a, b = nodes.start("a"), nodes.start("b")
    nodes.introduce()
    nodes.linked()
    until(lambda: any(isinstance(event, Down) and "silent" in event.reason for event in a.seen), "silence", a)
    assert b.seen == [Up("a")]


def test_an_idle_link_stays_up_and_knows_its_round_trip(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINK_IDLE_SECONDS", 2.0)
    monkeypatch.setattr(limits, "PING_SECONDS", 0.1)
    a, b = nodes.start("a"), nodes.start("b")
    nodes.introduce()
    nodes.linked()
    begin = time.monotonic()
    until(lambda: time.monotonic() - begin > 1.25 * limits.LINK_IDLE_SECONDS, "time passes", a, b)
    for turned, peer in ((a, "b"), (b, "a")):
        assert turned.seen == [Up(peer)]
        info = turned.mesh.links()[peer]
        assert info.round_trip is not None and 0 <= info.round_trip < limits.LINK_IDLE_SECONDS
        assert info.age > 2
        assert info.queued == 0


def test_poll_waits_and_wake_ends_it(nodes: Nodes) -> None:
    a = nodes.start("a")
    begin = time.monotonic()
    assert a.mesh.poll(0.05) == []
    assert time.monotonic() - begin >= 0.045
    waker = threading.Timer(0.05, a.mesh.wake)
    waker.start()
    begin = time.monotonic()
    assert a.mesh.poll(20) == []
    assert time.monotonic() - begin < 20


# --- streams


class Tables:
    """A service that sends `count` chunks, and notes who asked."""

    def __init__(self, count: int = 5) -> None:
        self.count = count
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.entered = threading.Semaphore(0)

    def snapshot(self, peer: str, stream: Stream) -> None:
        self.asked.append(peer)
        self.entered.release()
        try:
            for number in range(self.count):
                stream.send({"n": number, "body": bytes(limits.SNAPSHOT_CHUNK_BYTES)})
            stream.receive()
        except (Unavailable, FrameError) as error:
            self.ended.append(str(error))

    def recall(self, peer: str, stream: Stream) -> None:
        raise AssertionError(peer)

    def examine(self, peer: str, stream: Stream) -> None:
        raise AssertionError(peer)

    def join(self, stream: Stream) -> None:
        asked = stream.receive()
        stream.send({"you": stream.peer, "asked": asked, "mine": stream.certificate, "chain": bytes(100_000)})


def test_a_snapshot_has_a_connection_of_its_own_in_both_directions(nodes: Nodes) -> None:
    services = {node: Tables() for node in "ab"}
    a, b = (nodes.start(node, services[node]) for node in "ab")
    nodes.introduce()
    nodes.linked()
    for asker, asked in ((a, "b"), (b, "a")):
        stream = asker.mesh.open_stream(asked, handshake.SNAPSHOT)
        assert stream.peer == asked
        for number in range(5):
            assert stream.receive()["n"] == number
        stream.close()
        stream.close()
    assert (services["a"].asked, services["b"].asked) == (["b"], ["a"])
    assert a.seen == [Up("b")], "the link has noticed nothing"


def test_a_snapshot_stream_to_who_has_none_is_refused(nodes: Nodes) -> None:
    nodes.start("a")
    b = nodes.start("b")
    nodes.introduce()
    with pytest.raises(LinkRefused, match="not served here"):
        b.mesh.open_stream("a", handshake.SNAPSHOT)
    with pytest.raises(LinkRefused, match="not a member"):
        b.mesh.open_stream("c", handshake.SNAPSHOT)


def test_a_stream_to_who_is_away_is_unavailable(nodes: Nodes) -> None:
    a, b = nodes.start("a"), nodes.start("b")
    nodes.introduce()
    a.mesh.close()
    with pytest.raises(Unavailable, match="cannot reach a"):
        b.mesh.open_stream("a", handshake.SNAPSHOT)


def test_streams_are_bounded_in_number(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAMS", 1)
    nodes.start("a", Tables(0))
    b, c = nodes.start("b"), nodes.start("c")
    nodes.introduce()
    streams = [b.mesh.open_stream("a", handshake.SNAPSHOT)]
    with pytest.raises(Refused) as caught:
        c.mesh.open_stream("a", handshake.SNAPSHOT)
    assert caught.value.reason == "busy"
    streams.pop().close()

    def served() -> bool:
        try:
            streams.append(c.mesh.open_stream("a", handshake.SNAPSHOT))
        except Refused:
            return False
        return True

    eventually(served, what="a place is free again")
    for stream in streams:
        stream.close()


def test_a_removed_members_streams_end_at_both_ends(nodes: Nodes) -> None:
    tables = Tables(0)
    a, b = nodes.start("a", tables), nodes.start("b")
    members = nodes.introduce()
    stream = b.mesh.open_stream("a", handshake.SNAPSHOT)
    assert tables.entered.acquire(timeout=60)
    a.mesh.configure({"a": members["a"]})
    with pytest.raises(Unavailable, match="connection to a"):
        stream.receive(10)
    eventually(lambda: tables.ended, what="the server's end")
    stream.close()


def test_a_member_removed_in_the_middle_of_its_handshake_gets_no_stream(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nodes.start("a", Tables(0)), nodes.start("b")
    nodes.introduce()
    real, judged = handshake.check_hello, []

    def racing(*arguments: Any) -> Any:
        theirs = real(*arguments)
        if theirs["kind"] == handshake.SNAPSHOT:
            judged.append(theirs)
            if len(judged) == 1:  # the acceptor's check, after it has admitted b
                a.mesh.configure({})
        return theirs

    monkeypatch.setattr(handshake, "check_hello", racing)
    try:
        stream = b.mesh.open_stream("a", handshake.SNAPSHOT)
    except (Unavailable, LinkRefused):
        return  # the acceptor was quicker
    with pytest.raises(Unavailable, match=r"closed|reset|ended"):
        stream.receive(limits.FRAME_SECONDS / 2)  # the service itself would wait twice as long
    stream.close()


def test_a_stream_has_deadlines(nodes: Nodes) -> None:
    nodes.start("a", Tables(0))
    b = nodes.start("b")
    nodes.introduce()
    stream = b.mesh.open_stream("a", handshake.SNAPSHOT)
    begin = time.monotonic()
    with pytest.raises(Unavailable, match=r"too slow|timed out"):
        stream.receive(0.1)
    assert time.monotonic() - begin < limits.FRAME_SECONDS / 2
    stream.close()


# --- joining


def test_a_joiner_gets_the_root_first_and_talks_only_to_who_has_it(nodes: Nodes) -> None:
    a = nodes.start("a", Tables())
    probe = connect.dial_untrusted(a.mesh.address)
    assert probe.greeting["root"] == HIERARCHY.root
    assert probe.peer_certificate == certificates.pem_of(probe.channel.peer_certificate() or b"")
    assert probe.peer == "", "nothing is believed yet"
    probe.close()

    stream = connect.dial_rooted(a.mesh.address, HIERARCHY.root, ABOUT)
    assert stream.peer == "a"
    assert stream.peer_certificate == HIERARCHY.identity("a").certificate
    stream.send({"n": 1})
    answer = stream.receive()
    assert (answer["you"], answer["asked"], answer["mine"]) == ("", {"n": 1}, stream.peer_certificate)
    assert len(answer["chain"]) == 100_000, "a chain may be longer than a stranger's hello"
    stream.close()


def test_public_questions_may_be_asked_without_believing(nodes: Nodes) -> None:
    a = nodes.start("a", Tables())
    stream = connect.dial_untrusted(a.mesh.address, ABOUT)
    stream.send("chain?")
    assert stream.receive()["asked"] == "chain?"
    stream.close()


@pytest.mark.parametrize(
    ("about", "reason"),
    [({**ABOUT, "product": "else/1"}, "product"), ({**ABOUT, "schema": {"counter": 2}}, "schema"), ({}, "product")],
)
def test_a_joiner_that_does_not_fit_is_told_so(nodes: Nodes, about: dict[str, Any], reason: str) -> None:
    a = nodes.start("a", Tables())
    with pytest.raises(Refused) as caught:
        connect.dial_rooted(a.mesh.address, HIERARCHY.root, about)
    assert caught.value.reason == reason


def test_joining_where_nobody_serves_it(nodes: Nodes) -> None:
    a = nodes.start("a")
    with pytest.raises(Refused) as caught:
        connect.dial_rooted(a.mesh.address, HIERARCHY.root, ABOUT)
    assert caught.value.reason == "kind"


def test_joining_at_something_else_than_a_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()

        def answer() -> None:
            sock, _ = server.accept()
            with sock:
                sock.recv(100)
                sock.sendall(b"220 mx.example.org ESMTP\r\n")

        talker = threading.Thread(target=answer)
        talker.start()
        with pytest.raises(LinkRefused):
            connect.dial_untrusted(address)
        talker.join(60)
    with pytest.raises(Unavailable, match="cannot reach"):
        connect.dial_untrusted(address)


# --- what is left behind


def opened_and_closed(members: int) -> None:
    nodes = Nodes()
    for node in "abc"[:members]:
        nodes.start(node)
    nodes.introduce()
    nodes.linked()
    for turned in nodes.turned.values():
        turned.mesh.close()


def test_opening_and_closing_a_hundred_times_leaves_nothing(nodes: Nodes) -> None:
    opened_and_closed(2)
    gc.collect()
    threads, open_before = threading.active_count(), descriptors()
    for _ in range(100):
        opened_and_closed(2)
    gc.collect()
    assert descriptors() <= open_before
    eventually(lambda: threading.active_count() <= threads, what="threads are gone")


def test_closing_does_not_wait_for_who_does_not_answer(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        b = nodes.start("b")
        b.mesh.configure({"a": HIERARCHY.peer("a", deaf.getsockname())})
        connection, _ = deaf.accept()
        begin = time.monotonic()
        b.mesh.close()
        assert time.monotonic() - begin < limits.HANDSHAKE_SECONDS / 2
        connection.close()


def test_closing_ends_the_streams(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 60.0)
    tables = Tables(0)
    a, b = nodes.start("a", tables), nodes.start("b")
    nodes.introduce()
    stream = b.mesh.open_stream("a", handshake.SNAPSHOT)
    assert tables.entered.acquire(timeout=60)
    begin = time.monotonic()
    a.mesh.close()
    assert time.monotonic() - begin < limits.HANDSHAKE_SECONDS / 2
    with pytest.raises(Unavailable):
        stream.receive(10)
    stream.close()


def test_configuring_from_many_threads_while_links_come_and_go(nodes: Nodes) -> None:
    for node in "abc":
        nodes.start(node)
    members = nodes.introduce()
    stop = threading.Event()

    def churn(node: str) -> Callable[[], None]:
        def run() -> None:
            mesh = nodes.turned[node].mesh
            while not stop.is_set():
                mesh.configure({name: peer for name, peer in members.items() if name != "c"})
                mesh.use(HIERARCHY.identity(node), [HIERARCHY.root])
                mesh.configure(members)
                mesh.relink(["a", "b"])
                mesh.links()

        return run

    churning = [threading.Thread(target=churn(node)) for node in "ab"]
    for thread in churning:
        thread.start()
    everyone = list(nodes.turned.values())
    seen = [0]

    def enough() -> bool:
        seen[0] = sum(isinstance(event, Up) for turned in everyone for event in turned.seen)
        return seen[0] >= 20

    try:
        until(enough, "links come and go", *everyone)
    finally:
        stop.set()
        for thread in churning:
            thread.join(60)
    nodes.introduce()
    nodes.linked()
    for turned in everyone:
        for peer in members:
            kinds = [type(event) for event in turned.seen if event.peer == peer]
            assert kinds == [Up, Down] * (len(kinds) // 2) + [Up] * (len(kinds) % 2), "they alternate"
