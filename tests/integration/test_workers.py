"""The worker socket: the node's API in other processes, with the same answers and errors, whatever comes in on it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from raftcluster import codec, limits
from raftcluster.config.watch import FellBehind
from raftcluster.errors import (
    AddressInUse,
    FrameError,
    NotRunning,
    OutcomeUnknown,
    RaftclusterError,
    Refusal,
    Rejected,
    Unavailable,
)
from raftcluster.greylist.verdict import Verdict
from raftcluster.lease.rules import LeaseHeld
from raftcluster.quarantine.envelope import Envelope
from raftcluster.quarantine.rules import AlreadyDelivered, UnknownMessage
from raftcluster.workers import wire
from raftcluster.workers.client import Worker
from raftcluster.workers.connection import Connection
from raftcluster.workers.server import WorkerServer
from tests.helpers import eventually, no_more_threads
from tests.local_node import LocalNode

MAIL: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}
FIELDS = [*MAIL.values(), None, None, False, False, 2.0]


@pytest.fixture
def node() -> LocalNode:
    return LocalNode()


@pytest.fixture
def server(node: LocalNode, tmp_path: Path) -> Iterator[WorkerServer]:
    server = WorkerServer(node, tmp_path / "workers.sock")
    server.start()
    yield server
    server.close()


@pytest.fixture
def worker(server: WorkerServer) -> Iterator[Worker]:
    with Worker(server.path) as worker:
        yield worker


class Raw:
    """A worker that says what it likes."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.reader = wire.Reader()
        self.messages: list[Any] = []

    def say(self, *messages: Any) -> None:
        body = codec.pack(list(messages))
        self.socket.sendall(struct.pack(">I", len(body)) + body)

    def hear(self) -> Any:
        """The next message; None when the node has hung up."""
        while not self.messages:
            data = self.socket.recv(65_536)
            if not data:
                return None
            self.reader.feed(data)
            while (found := self.reader.next()) is not None:
                self.messages += found
        return self.messages.pop(0)

    def is_hung_up(self) -> bool:
        try:
            while self.hear() is not None:
                pass
        except ConnectionError:
            pass
        return True

    def __enter__(self) -> Raw:
        assert self.hear()[0] == 0
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


# ---- the same API


def test_only_its_owner_may_connect_or_a_group(node: LocalNode, server: WorkerServer, tmp_path: Path) -> None:
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    shared = WorkerServer(node, tmp_path / "shared.sock", group=os.getgid())
    shared.start()
    assert stat.S_IMODE(os.stat(shared.path).st_mode) == 0o660
    shared.close()
    with pytest.raises(Refusal, match="no-such-group"):
        WorkerServer(node, tmp_path / "x.sock", group="no-such-group").start()


def test_the_kernel_says_who_it_is(node: LocalNode, tmp_path: Path) -> None:
    server = WorkerServer(node, tmp_path / "few.sock", users={os.getuid() + 1})
    server.start()
    with Worker(server.path, patience=0.2) as worker, pytest.raises(NotRunning):
        worker.call("config.keys")
    eventually(lambda: server.stats().get("refused", 0) > 0)
    server.close()
    server = WorkerServer(node, tmp_path / "few.sock", users={os.getuid()})
    server.start()
    with Worker(server.path) as worker:
        worker.config.set("a", 1)
        entry = worker.config.entry("a")
        assert entry is not None and entry["author"] == f"uid {os.getuid()}"
    server.close()


def test_a_check_has_the_verdict_that_the_node_gives(node: LocalNode, worker: Worker) -> None:
    assert worker.greylist.check(**MAIL) == node.greylist.check(**{**MAIL, "sender": "other@example.net"})
    assert worker.greylist.check(**MAIL, authenticated=True).reason == "authenticated"
    node.host.now += 200_000
    first = worker.greylist.check(**MAIL, instance="1")
    again = worker.greylist.check(**MAIL, instance="1")
    assert first.reason == again.reason == "waited" and first.header
    assert worker.greylist.stats()["records"] == 2
    for wrong in ({"client": "no address"}, {"sender": b"x" * 10_000}):
        with pytest.raises(Rejected):
            worker.greylist.check(**{**MAIL, **wrong})


def test_hundreds_at_once_are_each_answered(worker: Worker, server: WorkerServer) -> None:
    async def work() -> list[str]:
        checks = (worker.greylist.acheck(**{**MAIL, "sender": f"n{n}x@example.net"}) for n in range(500))
        return [verdict.reason for verdict in await asyncio.gather(*checks)]

    assert asyncio.run(work()) == ["new"] * 500
    assert server.stats()["checks"] == 500


def test_checks_without_waiting_are_told_once(worker: Worker) -> None:
    told: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
    for client in (MAIL["client"], "no address"):
        worker.greylist.submit(lambda verdict, error: told.put((verdict, error)), **{**MAIL, "client": client})
    outcomes = [told.get(timeout=60) for _ in range(2)]
    assert sorted(error is None for _, error in outcomes) == [False, True]
    assert all(
        isinstance(error, Rejected) if verdict is None else verdict.reason == "new" for verdict, error in outcomes
    )


def test_configuration_notifications_and_errors_are_those_of_the_node(node: LocalNode, worker: Worker) -> None:
    assert worker.config.set("mail/limit", [1, "two"], author="me") == 1
    assert worker.config.get("mail/limit") == node.config.get("mail/limit") == [1, "two"]
    with pytest.raises(Rejected) as caught:
        worker.config.set("mail/limit", 2, expect_revision=0)
    assert caught.value.code == "revision-mismatch"
    position = worker.notifications.publish("error", "disk full", key="disk")
    assert worker.notifications.publish("error", "disk full", key="disk") == position
    assert [each["text"] for each in worker.notifications.list()] == ["disk full"]
    assert asyncio.run(worker.acall("config.keys")) == ["mail/limit"]
    node.host.failure = Unavailable("no leader", subject="cluster", remedy="wait")
    with pytest.raises(Unavailable, match=r"no leader \(wait\)"):
        worker.config.set("mail/limit", 3)
    assert worker.greylist.check(**MAIL).degraded


def test_a_lease_is_held_in_the_workers_process(node: LocalNode, worker: Worker) -> None:
    with worker.lease("job", seconds=5) as lease:
        assert lease.held and lease.token == 1
        assert [(each.name, each.node) for each in worker.lease.list()] == [("job", node.name)]
        with pytest.raises(LeaseHeld), node.lease("job"):
            raise AssertionError("two have it")
        with pytest.raises(LeaseHeld), worker.lease("job", wait=0.1):
            raise AssertionError("two have it")
    with node.lease("job"):
        pass
    with pytest.raises(Rejected, match="no such table"):
        worker.call("lease.get", table="x", key=b"", consistency="local")


def test_a_worker_captures_and_releases(node: LocalNode, worker: Worker) -> None:
    delivered: list[bytes] = []

    def deliver(envelope: Any, to: Any, message: bytes, left: Any) -> str:
        delivered.append(to.address)
        return "250 taken"

    node.quarantine.attach(b"k" * 32, lambda _: io.BytesIO(b"x\r\n"), deliver)
    envelope = Envelope("a@example.net")
    envelope.rcpt(b"latin\xe9@example.org", orcpt="rfc822;x@example.org")
    about: dict[str, Any] = {"digest": hashlib.sha256(b"x\r\n").digest(), "size": 3, "reference": "1"}
    ident = worker.quarantine.capture(envelope, **about)
    assert worker.quarantine.capture(envelope, **about, id=ident) == ident
    assert asyncio.run(worker.quarantine.acapture(envelope, **about)) != ident
    assert worker.quarantine.usage()["messages"] == 2
    assert worker.quarantine.release(ident, 1)["state"] == "delivered"
    with pytest.raises(AlreadyDelivered):
        worker.quarantine.release(ident, 1)
    with pytest.raises(UnknownMessage):
        worker.quarantine.show("00" * 16)
    assert delivered == [b"latin\xe9@example.org"]


@pytest.mark.parametrize(
    "method", ["members.list", "destroy", "config.close", "__class__", "host.propose", "", "x" * 1_000]
)
def test_what_is_not_for_workers_cannot_be_called(worker: Worker, method: str) -> None:
    with pytest.raises(Rejected, match="no method"):
        worker.call(method)


@pytest.mark.parametrize("machine", ["cluster", "config", "greylist", "quarantine", "notifications"])
def test_the_nodes_own_machines_take_no_raw_commands_of_workers(worker: Worker, machine: str) -> None:
    with pytest.raises(Rejected, match="no commands of workers"):
        worker.propose(machine, ["x"])


def test_what_cannot_travel_is_refused_where_it_is_asked(worker: Worker) -> None:
    with pytest.raises(FrameError, match="cannot travel"):
        worker.config.set("a", object())
    with pytest.raises(FrameError, match="a frame has at most"):
        worker.config.set("a", "x" * limits.WORKER_FRAME_BYTES)
    with pytest.raises(Rejected, match=r"config\.get"):
        worker.call("config.get", name="x")
    assert worker.config.keys() == []


def test_after_a_fork_every_call_is_refused(worker: Worker) -> None:
    assert worker.config.keys() == []
    pid = os.fork()
    if pid == 0:
        try:
            worker.config.keys()
        except Rejected:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


# ---- a node that goes and comes back


def hang_up(server: WorkerServer) -> None:
    """As if the node's process had ended at this moment."""

    def close() -> None:
        for each in list(server._connections):
            each.close()

    server._loop.call_soon_threadsafe(close)


def test_a_call_whose_answer_was_lost_is_made_again_and_done_once(
    node: LocalNode, server: WorkerServer, worker: Worker
) -> None:
    propose, calls = node.host.propose, list[Any]()

    def losing(machine: str, command: Any, **more: Any) -> Any:
        result = propose(machine, command, **more)
        calls.append(command)
        if len(calls) < 3:
            hang_up(server)
            eventually(lambda: not server._connections)
        return result

    node.host.propose = losing  # type: ignore[method-assign]
    assert worker.config.set("a", 1) == 1
    assert len(calls) == 3 and len(worker.config.history("a")) == 1
    calls.clear()
    assert worker.notifications.publish("error", "no key") == 1
    assert len(calls) == 3 and len(worker.notifications.list()) == 1


def test_what_no_id_covers_is_not_made_again(node: LocalNode, server: WorkerServer, worker: Worker) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def deliver(*_: Any) -> str:
        begun.set()
        assert go_on.wait(60)
        return "250 taken"

    node.quarantine.attach(b"k" * 32, lambda _: io.BytesIO(b"x\r\n"), deliver)
    envelope = Envelope("a@example.net")
    envelope.rcpt("b@example.org")
    digest = hashlib.sha256(b"x\r\n").digest()
    ident = worker.quarantine.capture(envelope, digest=digest, size=3, reference="1")

    def crash() -> None:
        assert begun.wait(60)
        hang_up(server)

    threading.Thread(target=crash).start()
    with pytest.raises(OutcomeUnknown, match="hung up"):
        worker.quarantine.release(ident, 1)
    go_on.set()
    eventually(lambda: worker.quarantine.show(ident)["recipients"][0]["state"] == "delivered")


def test_a_watch_goes_on_where_it_was_without_gap_or_repetition(
    node: LocalNode, worker: Worker, tmp_path: Path
) -> None:
    path = tmp_path / "restarted.sock"
    server = WorkerServer(node, path)
    server.start()
    with Worker(path) as worker:
        node.config.set("a/0", 0)
        changes = worker.config.watch("a/", since=0)
        keys = [next(changes)["key"]]
        node.config.transact([], [["set", f"a/{n}", n] for n in (1, 2, 3)])
        keys.append(next(changes)["key"])
        for _ in range(3):
            server.close()
            node.config.set(f"a/{len(node.config.keys())}", 0)
            server = WorkerServer(node, path)
            server.start()
            keys.append(next(changes)["key"])
        keys += [next(changes)["key"] for _ in range(2)]
        assert keys == [f"a/{n}" for n in range(7)]
        changes.close()  # type: ignore[attr-defined]
        server.close()


def test_a_consumer_of_notifications_goes_on_where_it_was(
    node: LocalNode, server: WorkerServer, worker: Worker
) -> None:
    for number in range(5):
        node.notifications.publish("info", str(number))
    seen = list[str]()
    stream = worker.notifications.follow(consumer="pager")
    seen += [next(stream)["text"], next(stream)["text"]]
    hang_up(server)
    seen += [next(stream)["text"], next(stream)["text"]]
    stream.close()  # type: ignore[attr-defined]
    again = worker.notifications.follow(consumer="pager")
    seen += [next(again)["text"], next(again)["text"]]
    assert seen == ["0", "1", "2", "3", "3", "4"], "what was handed out last was not handled"


def test_a_watch_that_comes_too_late_is_told_in_its_own_class(node: LocalNode, worker: Worker) -> None:
    error = FellBehind("changes are no longer kept", subject="watch")

    def late(*_: Any, **__: Any) -> Any:
        raise error

    node.config.watch = late  # type: ignore[method-assign]
    with pytest.raises(FellBehind):
        next(worker.config.watch("a/", since=0))


def test_while_the_node_is_away_checks_are_answered_as_it_said(node: LocalNode, tmp_path: Path) -> None:
    server = WorkerServer(node, tmp_path / "away.sock")
    server.start()
    with Worker(server.path, patience=0.3) as worker:
        node.greylist.configure({"on_unavailable": "defer", "delay": 240})
        eventually(lambda: worker.about()["without"][:2] == ["defer", 240])
        server.close()
        verdict = worker.greylist.check(**MAIL, deadline=0.2)
        assert (verdict.action, verdict.degraded, verdict.seconds_left) == ("defer", True, 240)
        with pytest.raises(NotRunning, match=r"away\.sock"):
            worker.config.keys()
        server = WorkerServer(node, tmp_path / "away.sock")
        server.start()
        assert not eventually(lambda: worker.greylist.check(**MAIL), what="it is back").degraded
    server.close()


def test_no_node_at_all(tmp_path: Path) -> None:
    with Worker(tmp_path / "none.sock", patience=0.1) as worker:
        for call in (worker.config.keys, lambda: worker.greylist.check(**MAIL), worker.about):
            with pytest.raises(NotRunning, match=r"none\.sock"):
                call()
    with pytest.raises(Unavailable, match="closed"):
        worker.config.keys()


def test_a_silent_node_costs_the_deadline(node: LocalNode, worker: Worker) -> None:
    worker.about()
    node.greylist.submit = lambda *_, **__: None  # type: ignore[method-assign]
    verdict = worker.greylist.check(**MAIL, deadline=0.2)
    assert verdict.degraded and verdict.reason == "outcome-unknown"


def test_who_asks_while_it_is_closed_is_told(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked between the end of the connection's thread and the answer to all who wait was answered by nobody."""
    told: list[object] = []

    def closed_meanwhile(*arguments: Any) -> bytes:
        worker.close()
        return wire.packed_request(*arguments)

    def ask() -> None:
        try:
            told.append(worker.call("config.revision"))
        except Unavailable as error:
            told.append(error)

    assert worker.call("config.revision") == 0
    monkeypatch.setattr("raftcluster.workers.link.packed_request", closed_meanwhile)
    threading.Thread(target=ask, daemon=True).start()
    eventually(lambda: told, what="it is told")
    assert isinstance(told[0], Unavailable)


@pytest.mark.parametrize("what", ["call", "check", "stream", "close"])
def test_a_callback_must_not_wait_for_its_own_thread(worker: Worker, what: str) -> None:
    """It would wait for ever, and everybody else with it. A node's callbacks are refused the same."""
    told: SimpleQueue[object] = SimpleQueue()
    waits: dict[str, Callable[[], object]] = {
        "call": lambda: worker.call("config.revision"),
        "check": lambda: worker.greylist.check(**MAIL),
        "stream": lambda: next(iter(worker.stream("config.watch", since=0))),
        "close": worker.close,
    }

    def waiting(value: Any, error: RaftclusterError | None) -> None:
        try:
            told.put(waits[what]())
        except RaftclusterError as error:
            told.put(error)

    worker.greylist.submit(waiting, **MAIL)
    eventually(lambda: not told.empty(), what="it is refused")
    assert isinstance(refused := told.get(), Rejected) and refused.subject == "thread"
    assert worker.call("config.revision") == 0, "and nothing else has come of it"


def test_a_callback_that_fails_keeps_no_other_from_being_told(node: LocalNode, worker: Worker) -> None:
    """It ended what gives up the calls that nobody answers: from then on whoever asked a silent node waited for ever."""
    node.greylist.submit = lambda *_, **__: None  # type: ignore[method-assign]
    told: SimpleQueue[Verdict | RaftclusterError | None] = SimpleQueue()

    def failing(verdict: Verdict | None, error: RaftclusterError | None) -> None:
        told.put(error)
        raise RuntimeError("the caller's own")

    worker.greylist.check(**MAIL, deadline=0.1)
    worker.greylist.submit(failing, **MAIL, deadline=0.05)
    worker.greylist.submit(lambda verdict, error: told.put(verdict), **MAIL, deadline=0.2)
    eventually(lambda: told.qsize() == 2, what="both are told")
    worker.greylist.submit(failing, **MAIL, deadline=600.0)
    worker.close()
    assert told.qsize() == 3
    assert not any(each.name == "raftcluster-worker" for each in threading.enumerate())


def test_a_callback_that_fails_with_an_error_of_ours_is_not_told_that(worker: Worker) -> None:
    told: SimpleQueue[tuple[Any, RaftclusterError | None]] = SimpleQueue()

    def failing(value: Any, error: RaftclusterError | None) -> None:
        told.put((value, error))
        raise Unavailable("the caller's own")

    worker.submit("lease", ["acquire", "job", worker.about()["id"], "worker", 10_000, 0], failing)
    assert told.get(timeout=60)[1] is None
    worker.call("config.revision")
    assert told.empty(), "it is told once"


def test_one_socket_has_one_server(node: LocalNode, server: WorkerServer) -> None:
    with pytest.raises(AddressInUse, match=r"workers\.sock"):
        WorkerServer(node, server.path).start()


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_closing_leaves_nothing_behind(node: LocalNode, tmp_path: Path) -> None:
    before = _threads()
    server = WorkerServer(node, tmp_path / "left.sock")
    server.start()
    worker = Worker(server.path)
    watch = worker.config.watch("a/")
    thread = threading.Thread(target=lambda: list(_until_error(watch)))
    thread.start()
    eventually(lambda: server._streaming == 1)
    worker.close()
    thread.join(60)
    server.close()
    assert not thread.is_alive() and not Path(server.path).exists()
    eventually(lambda: not _threads() - before, what="all its threads end")


def _until_error(items: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from items
    except RaftclusterError:
        return


# ---- hostile workers


def served(server: WorkerServer) -> None:
    with Worker(server.path) as worker:
        assert worker.greylist.check(**MAIL).reason in ("new", "early")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack(">I", limits.WORKER_FRAME_BYTES + 1),
        struct.pack(">I", 1) + b"\xc1",
        struct.pack(">I", 1) + b"\x01",
        struct.pack(">I", 2) + b"\x91\x01",
        struct.pack(">I", 5) + b"\xdd\xff\xff\xff\xff",
        struct.pack(">I", 1030) + b"\x91" * 1030,
        struct.pack(">I", 5 + 2_000) + b"\xdc" + struct.pack(">H", 2_000) + b"\x90" * 2_002,
    ],
    ids=range(8),
)
def test_garbage_ends_its_connection_and_no_other(server: WorkerServer, data: bytes) -> None:
    with Raw(server.path) as raw:
        raw.socket.sendall(data)
        assert raw.is_hung_up()
    assert server.stats()["malformed"] == 1
    served(server)


@pytest.mark.parametrize(
    "message",
    [
        [],
        [0, "check", FIELDS, None],
        [-1, "check", FIELDS, None],
        [1, 7, {}, None],
        [1, "config.keys", {}, "id"],
        ["1", "config.keys", {}, None],
        {"a": 1},
    ],
)
def test_messages_that_are_none_end_the_connection(server: WorkerServer, message: Any) -> None:
    with Raw(server.path) as raw:
        raw.say(message)
        assert raw.is_hung_up()
    served(server)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("check", None),
        ("check", FIELDS[:-1]),
        ("check", [7, *FIELDS[1:]]),
        ("check", [*FIELDS[:2], None, *FIELDS[3:]]),
        ("check", [*FIELDS[:-1], "soon"]),
        ("check", [*FIELDS[:-1], float("nan")]),
        ("config.get", [1]),
        ("config.get", {1: 2}),
        ("config.watch", None),
        ("config.watch", {"nothing": 1}),
        ("config.watch", {"since": "x"}),
        ("quarantine.capture", {"envelope": 7}),
        ("lease.get", {"table": [], "key": 1, "consistency": "local"}),
        ("propose", {"machine": ["x"], "command": None, "deadline": 1.0}),
    ],
)
def test_arguments_that_are_none_are_an_error_of_that_call(server: WorkerServer, method: str, arguments: Any) -> None:
    with Raw(server.path) as raw:
        raw.say([1, method, arguments, None])
        number, kind, value = raw.hear()
        assert (number, kind) == (1, wire.ERROR) and value["message"]
        raw.say([2, "config.keys", {}, None])
        assert raw.hear() == [2, wire.VALUE, []]


def test_a_number_used_twice_ends_the_connection(node: LocalNode, server: WorkerServer) -> None:
    with Raw(server.path) as raw:
        raw.say([1, "config.watch", {"since": 0}, None], [1, "config.keys", {}, None])
        assert raw.is_hung_up()
    eventually(lambda: server._streaming == 0, what="its stream ends")


def test_a_frame_that_does_not_end_is_not_waited_for(server: WorkerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FRAME_SECONDS", 0.1)
    with Raw(server.path) as raw:
        raw.socket.sendall(struct.pack(">I", 100) + b"\x91")
        assert raw.is_hung_up()
    assert server.stats()["overdue"] == 1


def test_a_worker_that_does_not_read_is_not_kept(server: WorkerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_ANSWER_SECONDS", 0.1)
    with Raw(server.path) as raw:
        number = 0
        with pytest.raises(ConnectionError):  # noqa: PT012 - until it is hung up on
            while True:
                raw.say(
                    *([number + n + 1, "config.get", {"key": "a", "default": "x" * 1_000}, None] for n in range(32))
                )
                number += 32
        assert server.stats()["overdue"] == 1
    served(server)


def test_a_flood_is_answered_and_never_piles_up(server: WorkerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_PENDING", 64)
    most = 0
    ask = Connection._ask

    def counted(connection: Connection, message: Any) -> None:
        nonlocal most
        ask(connection, message)
        most = max(most, len(connection._pending))

    monkeypatch.setattr(Connection, "_ask", counted)
    with Raw(server.path) as raw:

        def flood() -> None:
            for begin in range(1, 4_001, 50):
                raw.say(*([number, "check", FIELDS, None] for number in range(begin, begin + 50)))

        sender = threading.Thread(target=flood)
        sender.start()
        answered = sorted(raw.hear()[0] for _ in range(4_000))
        sender.join(60)
    assert answered == list(range(1, 4_001))
    assert most <= 64 + 50, "a frame more than the bound, at most"


def test_a_stream_is_not_ahead_of_its_reader(node: LocalNode, server: WorkerServer) -> None:
    for number in range(3 * limits.WORKER_WINDOW):
        node.notifications.publish("info", str(number))
    with Raw(server.path) as raw:
        raw.say([1, "notifications.follow", {}, None])
        for _ in range(limits.WORKER_WINDOW):
            assert raw.hear()[1] == wire.ITEM
        raw.say([2, "config.keys", {}, None])
        assert raw.hear()[0] == 2, "nothing more comes unasked"
        raw.say([1, "more", 10**9, None])
        for _ in range(limits.WORKER_WINDOW):
            assert raw.hear()[1] == wire.ITEM
        raw.say([3, "config.keys", {}, None], [99, "more", 1, None], [99, "cancel", None, None])
        assert raw.hear()[0] == 3, "who says that he has taken more than there was is not believed"
        raw.say([1, "cancel", None, None])
        assert raw.hear() == [1, wire.END, None]
    eventually(lambda: server._streaming == 0)


@pytest.mark.parametrize("how", ["cancelled", "gone"])
def test_a_list_that_nobody_reads_to_its_end_ends(node: LocalNode, server: WorkerServer, how: str) -> None:
    """Its thread waited for ever for somebody to take what was left, and held a place of all workers' streams."""
    for number in range(3 * limits.WORKER_WINDOW):
        node.config.set("key", number)
    with Raw(server.path) as raw:
        raw.say([1, "config.history", {"key": "key"}, None])
        for _ in range(limits.WORKER_WINDOW):
            assert raw.hear()[1] == wire.ITEM
        if how == "cancelled":
            raw.say([1, "cancel", None, None])
            eventually(lambda: server._streaming == 0)
    eventually(lambda: server._streaming == 0)


def test_without_a_thread_a_stream_is_refused_and_takes_no_place(server: WorkerServer) -> None:
    """It ended the worker's connection, and its place was never free again."""
    with Raw(server.path) as raw, no_more_threads():
        raw.say([1, "config.watch", {"since": 0}, None])
        number, kind, value = raw.hear()
        assert (number, kind, value["code"]) == (1, wire.ERROR, "unavailable") and "new thread" in value["message"]
        assert server._streaming == 0
    served(server)


def test_without_a_thread_a_call_waits_for_one_and_the_connection_stays(server: WorkerServer) -> None:
    """It ended the connection, with all that the worker had asked for besides; and was carried out all the same."""
    with Raw(server.path) as raw:
        with no_more_threads():
            raw.say([1, "config.keys", {}, None], [2, "check", FIELDS, None])
            assert raw.hear()[0] == 2
        raw.say([3, "config.keys", {}, None])
        assert sorted((raw.hear(), raw.hear())) == [[1, wire.VALUE, []], [3, wire.VALUE, []]]


def test_without_a_thread_the_server_goes_on_looking_after_its_workers(
    node: LocalNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is overdue was not disconnected any more, and nobody told of other settings."""
    monkeypatch.setattr("raftcluster.workers.server.SWEEP_SECONDS", 0.01)
    server = WorkerServer(node, tmp_path / "workers.sock")
    swept: SimpleQueue[object] = SimpleQueue()
    submit = server._teller.submit

    def submitted(*arguments: Any) -> Any:
        swept.put(None)
        return submit(*arguments)

    monkeypatch.setattr(server._teller, "submit", submitted)
    try:
        with no_more_threads(left=1):
            server.start()
            eventually(lambda: swept.qsize() >= 2, what="it tries again")
        with Worker(server.path) as worker:
            assert worker.about()
            node.greylist.configure({"delay": 240})
            eventually(lambda: worker._linked().about["without"][1] == 240, what="it is told")  # type: ignore[index]
    finally:
        server.close()


@pytest.mark.parametrize(("bound", "what"), [("WORKER_STREAMS", "streams"), ("WORKER_CALLS", "calls")])
def test_streams_and_calls_are_bounded(
    node: LocalNode, server: WorkerServer, monkeypatch: pytest.MonkeyPatch, bound: str, what: str
) -> None:
    monkeypatch.setattr(limits, bound, 2)
    held = threading.Event()
    node.config.keys = lambda *_: held.wait(60) and []  # type: ignore[method-assign, assignment]
    method: Callable[[int], list[Any]] = lambda number: (  # noqa: E731
        [number, "config.watch", {"since": 0}, None] if what == "streams" else [number, "config.keys", {}, None]
    )
    with Raw(server.path) as raw:
        raw.say(*(method(number) for number in (1, 2, 3)))
        number, kind, value = raw.hear()
        assert (number, kind) == (3, wire.ERROR) and what in value["message"] and value["code"] == "unavailable"
        held.set()


def test_connections_are_bounded(server: WorkerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_CONNECTIONS", 1)
    with Raw(server.path):
        more = Raw(server.path)
        assert more.is_hung_up()
        more.socket.close()
    eventually(lambda: server.stats()["connections"] == 0)
    served(server)
