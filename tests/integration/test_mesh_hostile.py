"""Peers that mean no good, on loopback. After each of them: a log line says who and why, and members still talk."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import random
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509

from raftcluster import codec, limits
from raftcluster.errors import FrameError, LinkRefused
from raftcluster.transport import connect, handshake
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.ports import Down, Identity, Message, Peer, Up
from raftcluster.transport.stream import Stream
from tests.helpers import eventually
from tests.hierarchy import Forge, member
from tests.integration.meshes import (
    ABOUT,
    LOOPBACK,
    PATIENCE_SECONDS,
    Client,
    Turned,
    client,
    context,
    descriptors,
    until,
)

DAYS = datetime.timedelta(days=1)


class Echo:
    """Services that answer what they are told; tables go on until the member says something."""

    def snapshot(self, peer: str, stream: Stream) -> None:
        stream.send({"tables of": peer})
        stream.receive()

    def recall(self, peer: str, stream: Stream) -> None:
        raise AssertionError(peer)

    def examine(self, peer: str, stream: Stream) -> None:
        stream.send({"digests for": peer})

    def join(self, stream: Stream) -> None:
        with contextlib.suppress(FrameError):
            stream.send({"heard": stream.receive()})
            return
        stream.send({"heard": "nonsense"})


class Siege:
    """Member `a` under attack, member `b` (the good one), and a member `m` whose certificate the attacker holds."""

    def __init__(self, directory: Path, log: pytest.LogCaptureFixture) -> None:
        self.directory = directory
        self.log = log
        self.forge = Forge()
        self.identities = {node: self.forge.identity(node) for node in "abm"}
        self.a = Turned(Mesh(self.identities["a"], [self.forge.root], LOOPBACK, ABOUT, Echo(), seed=1))
        self.b = Turned(Mesh(self.identities["b"], [self.forge.root], LOOPBACK, ABOUT, seed=2))
        self.members = {
            "a": member(self.identities["a"], self.a.mesh.address),
            "b": member(self.identities["b"], self.b.mesh.address),
            "m": member(self.identities["m"]),
        }
        self.a.mesh.configure(self.members)

    def attack(self, identity: Identity | None, **tls: Any) -> contextlib.AbstractContextManager[Client]:
        return client(self.a.mesh.address, context(self.directory, identity, **tls))

    def member(self) -> contextlib.AbstractContextManager[Client]:
        """A connection that shows m's certificate."""
        return self.attack(self.identities["m"])

    def refused(self, reason: str, *who: str) -> None:
        """Wait until `a` has refused somebody for this reason, and said so."""
        until(lambda: self.a.mesh.refusals.get(reason), f"refusal {reason}, not only {self.a.mesh.refusals}", self.a)
        assert reason in handshake.REASONS
        until(lambda: any(f"refused [{reason}]" in text for text in self.log.messages), "a log line", self.a)
        line = next(text for text in self.log.messages if f"refused [{reason}]" in text)
        for text in who or ("127.0.0.1",):
            assert text in line

    def all_is_well(self, deadline_s: float = 60.0) -> None:
        """The good member can be linked, or still is, and messages pass."""
        self.b.mesh.configure({node: self.members[node] for node in "ab"})

        def linked() -> bool:
            return "b" in self.a.mesh.links() and "a" in self.b.mesh.links()

        until(linked, "a and b are linked", self.a, self.b, deadline_s=deadline_s)
        marker = {"marker": random.random()}
        assert self.b.mesh.send("a", marker)
        until(lambda: Message("b", marker) in self.a.seen, "the message of b", self.a, self.b)


@pytest.fixture
def siege(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Siege]:
    monkeypatch.setattr(limits, "LINK_IDLE_SECONDS", PATIENCE_SECONDS)
    caplog.set_level(logging.INFO, "raftcluster.transport")
    made = Siege(tmp_path, caplog)
    yield made
    made.a.mesh.close()
    made.b.mesh.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


# --- certificates


def test_without_a_certificate_there_is_no_link(siege: Siege) -> None:
    for kind in handshake.MEMBERS:
        with siege.attack(None) as attacker:
            assert attacker.hear()["root"] == siege.forge.root, "the root is public"
            attacker.hello(kind=kind)
            assert attacker.refusal() == "certificate-required"
    siege.refused("certificate-required")
    siege.all_is_well()


def test_a_certificate_of_another_cluster_with_the_same_name(siege: Siege) -> None:
    with siege.attack(Forge().identity("m")) as attacker:
        assert attacker.refusal() == "alert"
    siege.refused("untrusted")
    siege.all_is_well()


def test_a_certificate_of_a_retired_generation(siege: Siege) -> None:
    with siege.attack(Forge(generation=2).identity("m")) as attacker:
        assert attacker.refusal() == "alert"
    siege.refused("untrusted")
    siege.all_is_well()


@pytest.mark.parametrize(("age", "reason"), [(95 * DAYS, "expired"), (-5 * DAYS, "not-yet-valid")])
def test_a_certificate_out_of_its_time(siege: Siege, age: datetime.timedelta, reason: str) -> None:
    with siege.attack(siege.forge.identity("m", age=age)) as attacker:
        assert attacker.refusal() == "alert"
    siege.refused(reason)
    siege.all_is_well()


def test_a_removed_member(siege: Siege) -> None:
    siege.a.mesh.configure({node: siege.members[node] for node in "ab"})
    with siege.member() as attacker:
        assert attacker.refusal() == "not-a-member"
    siege.refused("not-a-member", "m from 127.0.0.1")
    siege.all_is_well()


def test_the_right_chain_with_a_key_that_is_not_pinned(siege: Siege) -> None:
    with siege.attack(siege.forge.identity("m")) as attacker:
        assert attacker.refusal() == "pin"
    siege.refused("pin", "m from 127.0.0.1")
    siege.all_is_well()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("raftcluster://other/1/m", "cluster"),
        ("raftcluster://mail/2/m", "untrusted"),
        ("raftcluster://mail/1/m/x", "certificate"),
        ("https://mail/1/m", "certificate"),
    ],
)
def test_a_name_that_the_root_should_never_have_signed(siege: Siege, uri: str, reason: str) -> None:
    with siege.attack(siege.forge.identity("m", uri=uri)) as attacker:
        assert attacker.refusal() == reason
    siege.refused(reason)
    siege.all_is_well()


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName("m")],
        [
            x509.UniformResourceIdentifier("raftcluster://mail/1/m"),
            x509.UniformResourceIdentifier("raftcluster://mail/1/b"),
        ],
    ],
    ids=["none", "host name", "two"],
)
def test_a_certificate_with_other_names_than_one_uri(siege: Siege, names: list[x509.GeneralName]) -> None:
    with siege.attack(siege.forge.named("m", names)) as attacker:
        assert attacker.refusal() == "certificate"
    siege.refused("certificate")
    siege.all_is_well()


def test_a_name_of_one_generation_signed_by_the_root_of_another(siege: Siege) -> None:
    """Both roots are trusted while a generation changes; each vouches for its own names only."""
    siege.a.mesh.use(siege.identities["a"], [siege.forge.root, Forge(generation=2).root])
    crossed = siege.forge.identity("m", uri="raftcluster://mail/2/m")
    siege.a.mesh.configure({**siege.members, "m": member(crossed)})
    with siege.attack(crossed) as attacker:
        assert attacker.refusal() == "certificate"
    siege.refused("certificate")


def test_a_refusal_reaches_who_has_sent_more_than_we_read(siege: Siege) -> None:
    """Closing with unread bytes would reset the connection; a slow network might then lose the refusal."""
    with siege.attack(siege.forge.identity("m")) as attacker:
        attacker.hello()
        attacker.say({"body": bytes(40_000)})
        assert attacker.refusal() == "pin"
        assert attacker.refusal() == "end", "a proper end, no reset"


def test_what_a_peer_says_of_itself_is_not_who_it_is(siege: Siege) -> None:
    with siege.member() as attacker:
        attacker.hello(node="b", node_id="b", peer="b")
        attacker.hear()
        attacker.say({"n": 1})
        until(lambda: Message("m", {"n": 1}) in siege.a.seen, "it is m who speaks", siege.a)
        assert set(siege.a.mesh.links()) == {"m"}


# --- bytes before authorisation


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"EHLO mx.example\r\n" * 9, bytes(500), os.urandom(2000)])
def test_bytes_that_are_no_tls(siege: Siege, data: bytes) -> None:
    with socket.create_connection(siege.a.mesh.address, timeout=60) as plain:
        plain.sendall(data)
        with contextlib.suppress(ConnectionError):
            while plain.recv(1000):
                pass
    until(lambda: siege.a.mesh.refusals, "refusal", siege.a)
    assert set(siege.a.mesh.refusals) <= {"not-tls", "tls", "tls-version"}
    siege.refused(next(iter(siege.a.mesh.refusals)))
    siege.all_is_well()


def test_tls_1_2(siege: Siege) -> None:
    with pytest.raises(ssl.SSLError), siege.attack(siege.identities["m"], newest=ssl.TLSVersion.TLSv1_2):
        pass
    siege.refused("tls-version")
    siege.all_is_well()


def test_connections_that_come_and_go(siege: Siege) -> None:
    before = descriptors()
    for _ in range(200):
        socket.create_connection(siege.a.mesh.address, timeout=60).close()
    eventually(lambda: descriptors() <= before, what="all are closed")
    siege.all_is_well()


def test_handshakes_that_stall_do_not_keep_a_member_out(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 3600.0)  # they do not end by themselves
    stalled = [socket.create_connection(siege.a.mesh.address, timeout=60) for _ in range(limits.HANDSHAKES + 8)]
    for number, sock in enumerate(stalled):
        sock.sendall(b"\x16\x03\x01\x02\x00"[: number % 6])  # some of them begin a ClientHello
    siege.all_is_well()
    alive = [thread for thread in threading.enumerate() if thread.name == "raftcluster-handshake"]
    assert len(alive) <= limits.HANDSHAKES + 2
    for sock in stalled:
        sock.close()


def test_a_flood_of_connections_from_one_address_keeps_nobody_else_out(
    siege: Siege, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may come faster than stalled ones give way -- here these never do --: an address has its own share of the places.
    Threads and memory stay bounded."""
    monkeypatch.setattr(limits, "PRESSED_SECONDS", 3600.0)
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 3600.0)
    process, before = psutil.Process(), psutil.Process().memory_info().rss
    stop, made = threading.Event(), 0

    def flood() -> None:
        nonlocal made
        held: deque[socket.socket] = deque()
        while not stop.is_set():
            with contextlib.suppress(OSError):
                held.append(
                    socket.create_connection(siege.a.mesh.address, timeout=0.1, source_address=("127.0.0.2", 0))
                )
                made += 1
            if len(held) > 300:
                held.popleft().close()
        for each in held:
            each.close()

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        eventually(lambda: made > 500, 60, "the flood has begun")
        siege.all_is_well(60.0)
        eventually(lambda: made > 1_500, 60, "as many as fit no memory, if they were kept")
        alive = [thread for thread in threading.enumerate() if thread.name == "raftcluster-handshake"]
        assert len(alive) <= 2 * limits.HANDSHAKES, "those that gave way end at once"
        assert process.memory_info().rss - before < 64 * limits.MIB
    finally:
        stop.set()
        flooding.join(60)


def test_a_handshake_in_drops_has_one_deadline_for_all_of_it(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.3)
    with socket.create_connection(siege.a.mesh.address, timeout=60) as sock:
        hello = b"\x16\x03\x01\x40\x00" + bytes(16_384)
        drops = (hello[i : i + 1] for i in range(len(hello)))
        begin = time.monotonic()

        def dripped() -> bool:
            with contextlib.suppress(OSError):
                sock.send(next(drops))
            return bool(siege.a.mesh.refusals)

        eventually(dripped, what="it is closed")
        assert time.monotonic() - begin < 60, "with a deadline a drop it would be an hour"
    siege.refused("timeout")
    siege.all_is_well()


def test_a_peer_that_never_says_hello(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.3)
    with siege.member() as attacker:
        assert attacker.refusal() in ("end", "reset")
    siege.refused("timeout", "m from 127.0.0.1")
    siege.all_is_well()


HOSTILE_BODIES = {
    "oversized": struct.pack(">I", limits.FRAME_BYTES + 1),
    "endless": b"\xff\xff\xff\xff" + bytes(100),
    "deep": struct.pack(">I", 5000) + b"\x91" * 5000,
    "nested": struct.pack(">I", 60) + b"\x91" * 59 + b"\xc0",
    "nan": struct.pack(">I", 10) + b"\x91" + codec.pack(float("nan")),
    "infinity": struct.pack(">I", 10) + b"\x91" + codec.pack(float("inf")),
    "no value": struct.pack(">I", 1) + b"\xc1",
    "empty": bytes(4),
    "claims": struct.pack(">I", 6000) + (b"\xdd\x00\x00\x17\x00" * 1200),
    "extension": struct.pack(">I", 3) + b"\xd4\x01\x00",
    "text": struct.pack(">I", 2) + b"\xa1\xff",
}


@pytest.mark.parametrize("data", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_members_first_frame_is_nonsense(siege: Siege, data: bytes) -> None:
    with siege.member() as attacker:
        attacker.sock.sendall(data)
        assert attacker.refusal() == "frame"
    siege.refused("frame", "m from 127.0.0.1")
    siege.all_is_well()


@pytest.mark.parametrize("data", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_strangers_frame_is_nonsense(siege: Siege, data: bytes) -> None:
    with siege.attack(None) as attacker:
        attacker.hear()
        attacker.sock.sendall(data)
        assert attacker.refusal() == "frame"
    siege.refused("frame")
    siege.all_is_well()


@pytest.mark.parametrize("value", [None, 1, "hello", [], {}, {"refused": 7}, {"protocol": 1}])
def test_a_first_frame_that_is_no_hello(siege: Siege, value: Any) -> None:
    with siege.member() as attacker:
        attacker.say(value)
        attacker.refusal()
    siege.refused("hello", "m from 127.0.0.1")
    siege.all_is_well()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cluster_id": "other"}, "cluster"),
        ({"product": "else/1"}, "product"),
        ({"schema": {}}, "schema"),
        ({"protocol": 99, "oldest": 98}, "protocol"),
        ({"kind": "shell"}, "kind"),
    ],
)
def test_a_hello_that_differs(siege: Siege, change: dict[str, Any], reason: str) -> None:
    with siege.member() as attacker:
        attacker.hello(**change)
        assert attacker.refusal() == reason
    siege.refused(reason, "m from 127.0.0.1")
    siege.all_is_well()


def test_a_member_that_should_wait_to_be_dialled(siege: Siege) -> None:
    lesser = siege.forge.identity("0")
    siege.a.mesh.configure({**siege.members, "0": member(lesser)})
    with siege.attack(lesser) as attacker:
        attacker.hello()
        assert attacker.refusal() == "direction"
    siege.refused("direction", "0 from 127.0.0.1")


# --- a member that sends nonsense


@contextlib.contextmanager
def linked(siege: Siege) -> Iterator[Client]:
    """The attacker as member m, linked."""
    with siege.member() as attacker:
        attacker.hello()
        attacker.hear()
        until(lambda: "m" in siege.a.mesh.links(), "m is linked", siege.a)
        yield attacker


@pytest.mark.parametrize("data", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_linked_members_frame_is_nonsense(siege: Siege, data: bytes) -> None:
    siege.all_is_well()
    with linked(siege) as attacker:
        attacker.say({"n": 1})
        attacker.sock.sendall(data)
        until(lambda: "m" not in siege.a.mesh.links(), "its link is closed", siege.a)
    events = [event for event in siege.a.seen if event.peer == "m"]
    assert [type(event) for event in events] == [Up, Message, Down], "what came before is delivered"
    assert [event for event in siege.a.seen if event.peer == "b" and isinstance(event, Down)] == []
    assert any("link to m is down" in text for text in siege.log.messages)
    siege.all_is_well()


@pytest.mark.parametrize("value", [None, 7, "text", [], [9], [0], [0, "x"], [1, None], [2, 2], [True, 1.0, 2]])
def test_a_linked_members_value_is_no_message(siege: Siege, value: Any) -> None:
    with linked(siege) as attacker:
        attacker.say(value)
        until(lambda: "m" not in siege.a.mesh.links(), "its link is closed", siege.a)
    siege.all_is_well()


def test_a_message_right_behind_the_hello_is_not_lost(siege: Siege) -> None:
    with siege.member() as attacker:
        values = [handshake.hello("mail", handshake.RAFT, ABOUT), {"n": 1}, {"n": 2}]
        bodies = [codec.pack(value) for value in values]
        attacker.sock.sendall(b"".join(struct.pack(">I", len(body)) + body for body in bodies))
        attacker.hear()
        until(lambda: len(siege.a.seen) >= 3, "arrival", siege.a)
    assert siege.a.seen[:3] == [Up("m"), Message("m", {"n": 1}), Message("m", {"n": 2})]


def test_one_turn_reads_a_bounded_part_of_what_has_come(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    with linked(siege) as attacker:
        monkeypatch.setattr(limits, "LINK_BURST_BYTES", 8_000)
        monkeypatch.setattr(siege.a.mesh, "_scratch", memoryview(bytearray(4_000)))
        for number in range(60):
            attacker.say({"n": number, "body": bytes(1_000)})
        turns: list[int] = []
        while sum(turns) < 60:
            turns.append(len(siege.a.mesh.poll(1)))
        assert max(turns) <= 16
        assert len(turns) >= 4


def test_one_turn_takes_a_bounded_number_of_messages_and_loses_none(
    siege: Siege, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones cost more than their bytes: 4 MB were 200,000 of them. What is left needs no new bytes to be taken."""
    monkeypatch.setattr(limits, "LINK_BURST_MESSAGES", 50)
    siege.all_is_well()
    with linked(siege) as attacker:
        bodies = [codec.pack({"n": number}) for number in range(400)]
        attacker.sock.sendall(b"".join(struct.pack(">I", len(body)) + body for body in bodies))
        turns: list[list[Any]] = []
        while sum(map(len, turns)) < 400:
            turns.append(
                [each.value["n"] for each in siege.a.mesh.poll(10) if isinstance(each, Message) and each.peer == "m"]
            )
        assert max(map(len, turns)) <= 50 and [n for turn in turns for n in turn] == list(range(400))
        assert siege.a.mesh.links()["m"].peer == "m"
    siege.all_is_well()


def test_a_member_that_asks_for_all_tables_at_once_leaves_the_others_theirs(siege: Siege) -> None:
    """It took all the places for snapshots, and held them by reading slowly."""
    with contextlib.ExitStack() as stack:
        taken = []
        for _ in range(limits.STREAMS + 2):
            taken.append(stack.enter_context(siege.member()))
            taken[-1].hello(kind=handshake.SNAPSHOT)
            assert taken[-1].hear()["kind"] == handshake.SNAPSHOT
            assert taken[-1].hear() == {"tables of": "m"}
        assert taken[0].refusal() in ("end", "reset"), "a newer one has ended it"
        siege.b.mesh.configure({node: siege.members[node] for node in "ab"})
        stream = siege.b.mesh.open_stream("a", handshake.SNAPSHOT)
        assert stream.receive() == {"tables of": "b"}
        stream.close()
    siege.all_is_well()


def test_bits_that_flip_on_the_way(siege: Siege) -> None:
    """The attacker sits between m's TLS and a: it changes one byte of a record."""
    tls = context(siege.directory, siege.identities["m"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = tls.wrap_bio(incoming, outgoing)
    with socket.create_connection(siege.a.mesh.address, timeout=60) as sock:

        def exchange(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    value = step()
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65_536))
                else:
                    sock.sendall(outgoing.read())
                    return value

        exchange(inside.do_handshake)
        body = codec.pack(handshake.hello("mail", handshake.RAFT, ABOUT))
        exchange(lambda: inside.write(struct.pack(">I", len(body)) + body))
        exchange(lambda: inside.read(1))
        until(lambda: "m" in siege.a.mesh.links(), "m is linked", siege.a)
        inside.write(struct.pack(">I", 4) + codec.pack({"n": 1}))
        record = bytearray(outgoing.read())
        record[-3] ^= 0x10
        sock.sendall(record)
        until(lambda: "m" not in siege.a.mesh.links(), "its link is closed", siege.a)
    assert not any(isinstance(event, Message) for event in siege.a.seen)
    siege.all_is_well()


def test_a_frame_that_never_ends(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FRAME_SECONDS", 0.5)
    with linked(siege) as attacker:
        attacker.sock.sendall(struct.pack(">I", 1000) + b"x")
        until(lambda: "m" not in siege.a.mesh.links(), "its link is closed", siege.a)
    assert any("did not end" in event.reason for event in siege.a.seen if isinstance(event, Down))


def test_a_member_that_falls_silent(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINK_IDLE_SECONDS", 0.5)
    with linked(siege):
        until(lambda: "m" not in siege.a.mesh.links(), "its link is closed", siege.a)
    assert any("silent" in event.reason for event in siege.a.seen if isinstance(event, Down))


def test_a_member_that_reads_nothing_costs_one_queue(siege: Siege) -> None:
    siege.all_is_well()
    process = psutil.Process()
    with linked(siege) as attacker:
        attacker.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        message = {"body": os.urandom(100_000)}
        before = process.memory_info().rss
        dropped = 0
        while dropped < 500:
            dropped += not siege.a.mesh.send("m", message)
            if (
                dropped % 20 == 0
            ):  # it must be over before the kernel gives up a peer that takes nothing for five seconds
                siege.a.turn()
        assert siege.a.mesh.links()["m"].queued <= limits.LINK_QUEUE_BYTES
        assert process.memory_info().rss - before < 4 * limits.LINK_QUEUE_BYTES
        siege.all_is_well()


def test_a_flood_of_messages_leaves_others_their_turn(siege: Siege) -> None:
    """While m sends as fast as it can, b's messages arrive within a few turns."""
    siege.all_is_well()
    stop = threading.Event()
    with linked(siege) as attacker:

        def flood() -> None:
            body = codec.pack({"body": bytes(100_000)})
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    attacker.sock.sendall(struct.pack(">I", len(body)) + body)

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for number in range(20):
                siege.b.mesh.send("a", {"n": number})
                until(lambda n=number: Message("b", {"n": n}) in siege.a.seen, "b's turn", siege.b, siege.a)  # type: ignore[misc]
                siege.a.seen = [event for event in siege.a.seen if event.peer == "b"]
        finally:
            stop.set()
            until(lambda: not flooding.is_alive(), "the flood ends", siege.a)


def test_a_second_connection_of_the_same_member_replaces_the_first(siege: Siege) -> None:
    with linked(siege) as first:
        first.say({"n": 1})
        until(lambda: Message("m", {"n": 1}) in siege.a.seen, "arrival", siege.a)
        with siege.member() as second:
            second.hello()
            second.hear()
            until(lambda: siege.a.seen[-2:] == [Down("m", "replaced by a newer link"), Up("m")], "replaced", siege.a)
            with contextlib.suppress(OSError):
                first.say({"n": 2})
            second.say({"n": 3})
            until(lambda: Message("m", {"n": 3}) in siege.a.seen, "arrival", siege.a)
            assert Message("m", {"n": 2}) not in siege.a.seen


# --- joining


def test_strangers_are_slowed_down(siege: Siege) -> None:
    reasons = []
    for _ in range(int(limits.JOIN_BURST) + 20):
        with siege.attack(None) as attacker:
            reasons.append(attacker.refusal())
    assert reasons.count("rate") > 0
    assert "rate" not in reasons[: int(limits.JOIN_BURST)]
    siege.refused("rate")
    siege.all_is_well()


def test_only_so_many_strangers_are_served_at_once(siege: Siege) -> None:
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(siege.attack(None)) for _ in range(limits.JOIN_STREAMS + 1)]
        answers = []
        for attacker in waiting:
            attacker.hear()
            attacker.hello(kind=handshake.JOIN)
            answers.append(attacker.hear())
        assert ["refused" in answer for answer in answers] == [False] * limits.JOIN_STREAMS + [True]
        siege.refused("busy")
        waiting[0].say("x" * 10)
        assert waiting[0].hear() == {"heard": "x" * 10}
    siege.all_is_well()


def test_strangers_who_are_served_keep_no_member_out(siege: Siege) -> None:
    """Four who said nothing more held the places over which a member tells that it has moved."""
    with contextlib.ExitStack() as stack:
        for _ in range(limits.JOIN_STREAMS):
            stranger = stack.enter_context(siege.attack(None))
            stranger.hear()
            stranger.hello(kind=handshake.JOIN)
            assert stranger.hear()["kind"] == handshake.JOIN
        mover = stack.enter_context(siege.member())
        mover.hello(kind=handshake.JOIN)
        assert mover.hear()["kind"] == handshake.JOIN
        mover.say("moved")
        assert mover.hear() == {"heard": "moved"}


def test_a_stranger_who_is_served_may_not_send_long_frames(siege: Siege) -> None:
    with siege.attack(None) as attacker:
        attacker.hear()
        attacker.hello(kind=handshake.JOIN)
        attacker.hear()
        attacker.sock.sendall(struct.pack(">I", limits.HELLO_BYTES + 1))
        assert attacker.hear() == {"heard": "nonsense"}


# --- impostors that are dialled


class Impostor:
    """Listens where `b` expects `a`."""

    def __init__(self, siege: Siege, identity: Identity, roots: list[bytes]) -> None:
        self.mesh = Mesh(identity, roots, LOOPBACK, ABOUT, seed=3)
        self.mesh.start()
        self.mesh.configure(siege.members)
        address = self.mesh.address
        siege.b.mesh.configure({**siege.members, "a": Peer("a", address, siege.members["a"].pins)})

    def refused(self, siege: Siege, reason: str) -> None:
        """Wait until b has refused to talk to it."""

        def said() -> bool:
            return any(f"refused [{reason}] a:" in text for text in siege.log.messages)

        until(said, f"refusal, not {siege.b.mesh.refusals}", siege.b)
        self.mesh.close()
        assert siege.b.mesh.refusals[reason] >= 1
        assert [event for event in siege.b.seen if event.peer == "a"] == []


def test_an_impostor_of_another_cluster(siege: Siege) -> None:
    other = Forge()
    Impostor(siege, other.identity("a"), [other.root]).refused(siege, "untrusted")


def test_an_impostor_with_a_stolen_chain_but_another_key(siege: Siege) -> None:
    Impostor(siege, siege.forge.identity("a"), [siege.forge.root]).refused(siege, "pin")


def test_nothing_is_said_to_an_impostor_on_a_stream_either(siege: Siege) -> None:
    impostor = Impostor(siege, siege.forge.identity("a"), [siege.forge.root])
    with pytest.raises(LinkRefused) as caught:
        siege.b.mesh.open_stream("a", handshake.SNAPSHOT)
    assert isinstance(caught.value, handshake.Refused)
    assert caught.value.reason == "pin"
    impostor.refused(siege, "pin")


def test_another_member_at_the_address(siege: Siege) -> None:
    Impostor(siege, siege.identities["m"], [siege.forge.root]).refused(siege, "other-node")


def test_an_impostor_whose_certificate_has_expired(siege: Siege) -> None:
    Impostor(siege, siege.forge.identity("a", age=95 * DAYS), [siege.forge.root]).refused(siege, "expired")


def test_a_joiner_talks_only_to_who_has_a_certificate_of_the_root_in_its_token(siege: Siege) -> None:
    with pytest.raises(LinkRefused) as caught:
        connect.dial_rooted(siege.a.mesh.address, Forge().root, ABOUT)
    assert isinstance(caught.value, handshake.Refused)
    assert caught.value.reason == "untrusted"


@pytest.mark.parametrize("greeting", [{}, {"root": b"x"}, {"root": 7, "cluster": "mail"}, {"root": b"x", "cluster": 7}])
def test_a_stranger_who_is_asked_in_public_and_says_nonsense(tmp_path: Path, greeting: dict[str, Any]) -> None:
    """Whoever asks is prepared for a refusal: anything else ended the thread on which a node looks for its way back."""
    identity = Forge().identity("a")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "identity.pem").write_bytes(identity.certificate + identity.key)
    tls.load_cert_chain(tmp_path / "identity.pem")
    with socket.create_server(LOOPBACK) as server:

        def greet() -> None:
            sock, _ = server.accept()
            with tls.wrap_socket(sock, server_side=True) as secured, contextlib.suppress(OSError, EOFError):
                stranger = Client(secured)
                stranger.say(greeting)
                stranger.hear()

        talker = threading.Thread(target=greet)
        talker.start()
        with pytest.raises(LinkRefused):
            connect.dial_untrusted(server.getsockname(), ABOUT)
        talker.join(60)
