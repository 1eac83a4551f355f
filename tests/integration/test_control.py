"""The control socket: the node's APIs from another process, errors included, for its owner only."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftcluster import errors, limits
from raftcluster.codec import pack, unpack
from raftcluster.control import wire
from raftcluster.control.client import Client
from raftcluster.control.server import STREAMS, ControlServer
from raftcluster.errors import (
    AddressInUse,
    FrameError,
    NotRunning,
    OutcomeUnknown,
    RaftclusterError,
    Rejected,
    Unavailable,
)
from tests.helpers import eventually
from tests.local_node import LocalNode


@pytest.fixture
def node() -> LocalNode:
    return LocalNode()


@pytest.fixture
def server(node: LocalNode, tmp_path: Path) -> Iterator[ControlServer]:
    server = ControlServer(node, tmp_path / "control.sock", lambda: {"policy": "inet:127.0.0.1:1"})
    server.start()
    yield server
    node.held.set()
    server.close()


@pytest.fixture
def client(server: ControlServer) -> Client:
    return Client(server.path)


def exchange(path: str, data: bytes) -> bytes:
    """What the server says to raw bytes, until it hangs up."""

    async def talk() -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(data)
        heard = await reader.read()
        writer.close()
        await writer.wait_closed()
        return heard

    return asyncio.run(talk())


def refusal(heard: bytes) -> RaftclusterError:
    kind, described = unpack(heard[wire.LENGTH_BYTES :])
    assert kind == "error"
    return wire.revive(described)


def test_only_its_owner_may_connect(server: ControlServer) -> None:
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600


def test_calls_reach_the_node_and_results_come_back(client: Client) -> None:
    assert client.config.set("mail/limit", [1, "two"], reason="a test", author="me") == 1
    assert client.config.get("mail/limit") == [1, "two"]
    assert client.config.get("mail/nothing", default=7) == 7
    entry = client.config.entry("mail/limit")
    assert entry is not None and (entry["reason"], entry["author"], entry["revision"]) == ("a test", "me", 1)
    assert client.config.keys() == ["mail/limit"]
    assert client.config.delete("mail/limit") == 2
    assert [each["revision"] for each in client.config.history("mail/limit")] == [2, 1]
    assert client.greylist.configure({"delay": 240}, reason="slow") == 1
    assert client.greylist.settings()["delay"] == 240
    assert client.greylist.explain("192.0.2.7", "a@example.net", "b@example.org")["key"]
    assert client.greylist.stats()["records"] == 0


def test_status_holds_what_this_process_adds(client: Client) -> None:
    assert client.status()["policy"] == "inet:127.0.0.1:1"
    assert client.status()["id"] == "node-1"


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("no leader", subject="cluster", remedy="wait"),
        OutcomeUnknown("lost on the way", subject="config"),
        errors.StorageFull("the disk is full", subject="/var", remedy="make space"),
    ],
)
def test_the_nodes_errors_arrive_as_they_were_raised(client: Client, node: LocalNode, error: RaftclusterError) -> None:
    node.host.failure = error
    with pytest.raises(type(error)) as raised:
        client.config.set("a", 1)
    seen = raised.value
    assert (type(seen), str(seen), seen.subject, seen.code) == (type(error), str(error), error.subject, error.code)


def test_a_refusal_keeps_its_own_code(client: Client) -> None:
    client.config.set("a", 1)
    with pytest.raises(Rejected) as raised:
        client.config.set("a", 2, expect_revision=0)
    assert raised.value.code == "revision-mismatch"


@pytest.mark.parametrize("error", wire.CLASSES.values())
def test_every_error_of_the_library_survives_the_wire(error: type[RaftclusterError]) -> None:
    revived = wire.revive(unpack(pack(wire.describe(error("what", subject="it", remedy="mend")))))
    assert type(revived) is error and str(revived) == "what (mend)" and revived.subject == "it"
    assert revived.exit_code == error.exit_code


def test_a_call_that_waits_does_not_hold_up_others(client: Client, node: LocalNode) -> None:
    waiting = threading.Thread(target=client.transfer)
    waiting.start()
    assert client.status()["id"] == "node-1"
    node.held.set()
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_bug_in_the_node_is_told_and_logged(
    client: Client, node: LocalNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.broken = True
    with pytest.raises(RaftclusterError, match="RuntimeError"):
        client.status()
    assert "a bug" in caplog.text


@pytest.mark.parametrize("method", ["close", "config.close", "config._reader", "__class__", "host.propose", ""])
def test_what_is_not_listed_cannot_be_called(client: Client, method: str) -> None:
    with pytest.raises(Rejected, match="no method"):
        client.call(method)


def test_wrong_arguments_are_rejected(client: Client) -> None:
    with pytest.raises(Rejected, match=r"config\.get"):
        client.call("config.get", name="x")


def test_changes_are_streamed_until_the_client_has_enough(client: Client, node: LocalNode) -> None:
    client.config.set("a/1", "old")
    changes = client.config.watch("a/", since=0)
    assert next(changes)["value"] == "old"
    client.config.set("b/1", "elsewhere")
    client.config.set("a/1", "new")
    assert next(changes)["value"] == "new"
    changes.close()  # type: ignore[attr-defined]
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "raftcluster-watch"])


def test_status_is_streamed(client: Client, node: LocalNode) -> None:
    statuses = client.watch_status(every=0.1)
    assert next(statuses)["applied_index"] == 0
    client.config.set("a", 1)
    assert eventually(lambda: next(statuses)["applied_index"]) == 1
    statuses.close()  # type: ignore[attr-defined]


def test_streams_are_bounded(client: Client) -> None:
    streams = [client.watch_status(every=60) for _ in range(STREAMS)]
    for stream in streams:
        next(stream)
    with pytest.raises(Unavailable, match="streams"):
        next(client.watch_status())
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    eventually(lambda: _succeeds(lambda: next(client.watch_status(every=60))))


def test_closing_ends_streams_and_removes_the_socket(node: LocalNode, tmp_path: Path) -> None:
    server = ControlServer(node, tmp_path / "control.sock")
    server.start()
    changes = Client(server.path).config.watch()
    ended: list[RaftclusterError] = []

    def follow() -> None:
        try:
            list(changes)
        except RaftclusterError as error:
            ended.append(error)

    follower = threading.Thread(target=follow)
    follower.start()
    eventually(lambda: [each for each in threading.enumerate() if each.name == "raftcluster-watch"])
    server.close()
    follower.join(60)
    assert len(ended) == 1 and isinstance(ended[0], OutcomeUnknown)
    with pytest.raises(NotRunning, match=r"control\.sock"):
        Client(server.path).status()
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("raftcluster")])


@pytest.mark.parametrize("size", [1_000_000, 250_000], ids=["more than is kept for it", "less"])
def test_a_client_that_does_not_read_is_not_waited_for(
    server: ControlServer, client: Client, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Its connection was kept with what it had not read, counted nowhere, for as long as it liked."""
    client.config.set("large", "x" * size)
    monkeypatch.setattr("raftcluster.control.server.ANSWER_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(server.path)
        sock.sendall(wire.frame(["config.get", {"key": "large"}]))
        hung_up = select.poll()
        hung_up.register(sock, select.POLLRDHUP)
        assert hung_up.poll(60_000)
    assert client.status()["id"] == "node-1"


def test_nobody_there_is_said_with_path_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotRunning) as raised:
        Client(tmp_path / "no" / "control.sock").status()
    assert str(tmp_path) in str(raised.value) and "raftcluster serve" in str(raised.value)


def test_what_a_dead_process_left_is_replaced_but_a_live_one_is_not(server: ControlServer, node: LocalNode) -> None:
    with pytest.raises(AddressInUse, match=r"control\.sock"):
        ControlServer(node, server.path).start()
    assert Client(server.path).status()["id"] == "node-1"
    left = Path(server.path).with_name("left.sock")
    os.link(server.path, left)  # an address that outlives its server
    server.close()
    again = ControlServer(node, left)
    again.start()
    assert Client(left).status()["applied_index"] == 0
    again.close()


@pytest.mark.parametrize(
    "data",
    [
        (limits.FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\1\xc1",
        wire.frame("status"),
        wire.frame(["status", []]),
        wire.frame([1, {}]),
    ],
)
def test_nonsense_is_answered_with_an_error_and_hung_up(server: ControlServer, data: bytes) -> None:
    assert isinstance(refusal(exchange(server.path, data)), FrameError)
    assert Client(server.path).status()["id"] == "node-1"


def _succeeds(work: object) -> bool:
    assert callable(work)
    try:
        work()
    except Unavailable:
        return False
    return True
