"""Callers that hand in what they should not, or at the worst moment: no node stops for it, and none tells them what is not so.

Most of these failed before what they guard against was mended; some rows of the tables always held.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import raftcluster
from examples.counter import Counter
from raftcluster import Node, runtime
from raftcluster.errors import (
    OutcomeUnknown,
    RaftclusterError,
    Rejected,
    Removed,
    StorageFailed,
    StorageRefusal,
    Unavailable,
)
from raftcluster.policy.server import PolicyServer
from tests.helpers import eventually, free_ports
from tests.policy_client import PolicyClient

IDENT = bytes(range(16))
MAIL: dict[str, Any] = {"client": "192.0.2.9", "sender": "a@example.net", "recipient": "b@example.org"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    path = tmp_path / "node"
    raftcluster.init(path, cluster="one", node="mx0", listen=("127.0.0.1", free_ports(1)[0]), lab=True)
    with Node.open(path, machines=[Counter()]) as node:
        yield node


def fail(*_: Any) -> None:
    raise ZeroDivisionError


def stall(node: Node, health: str) -> None:
    """With "full" the leader takes operations and makes no entries of them; with "ok" it goes on."""
    node._runtime.call(lambda replica: setattr(replica, "health", health))


def stop(node: Node) -> None:
    """The tick thread ends as it would with a defect."""
    node._runtime.post(fail)
    eventually(lambda: node.failure is not None and not node._runtime._thread.is_alive())


CALLS: dict[str, Callable[[Node], Any]] = {
    "an object": lambda node: node.propose("counter", object()),
    "a set": lambda node: node.propose("counter", {1}),
    "no text": lambda node: node.propose("counter", "\udcff"),
    "a long integer": lambda node: node.propose("counter", 2**70),
    "an id that is no key": lambda node: node.propose("counter", "a", id=[1]),  # type: ignore[arg-type]
    "a short id": lambda node: node.propose("counter", "a", id=b"abc"),
    "a machine that is no name": lambda node: node.propose(5, "a"),  # type: ignore[arg-type]
    "for ever": lambda node: node.propose("counter", "a", deadline=float("inf")),
    "no number of seconds": lambda node: node.propose("counter", "a", deadline=float("nan")),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_caller_hands_in_is_refused_and_stops_nothing(node: Node, name: str) -> None:
    with pytest.raises(Rejected):
        CALLS[name](node)
    assert node.propose("counter", "a") == 1 and node.failure is None


def test_a_listener_that_fails_stops_nothing(node: Node) -> None:
    node.on_apply("counter", fail)
    assert [node.propose("counter", "a") for _ in range(2)] == [1, 2]
    assert node.failure is None


def test_closing_on_the_tick_thread_is_refused(node: Node) -> None:
    told: list[BaseException] = []
    done = threading.Event()

    def callback(value: Any, error: RaftclusterError | None) -> None:
        try:
            node.close()
        except Rejected as refused:
            told.append(refused)
        done.set()

    node.submit("counter", "a", callback)
    assert done.wait(60) and len(told) == 1
    assert node.propose("counter", "a") == 2


def test_a_node_that_stops_does_not_call_what_it_took_rejected(node: Node) -> None:
    stall(node, "full")
    told: list[RaftclusterError | None] = []
    node.submit("counter", "a", lambda value, error: told.append(error), deadline=30.0)
    eventually(lambda: node._runtime.call(lambda replica: len(replica._queue)))
    stop(node)
    assert len(told) == 1 and isinstance(told[0], OutcomeUnknown)


def test_what_may_have_been_applied_never_becomes_unavailable(node: Node) -> None:
    stall(node, "full")
    with pytest.raises(OutcomeUnknown):
        node.propose("counter", "a", id=IDENT, deadline=0.1)
    bounds = node._replica.bounds
    node._replica.bounds = replace(bounds, pending=0)
    with pytest.raises(OutcomeUnknown):
        node.propose("counter", "a", id=IDENT, deadline=0.1)
    with pytest.raises(Unavailable):
        node.propose("counter", "a", deadline=0.1)
    node._replica.bounds = bounds
    stall(node, "ok")
    assert node.propose("counter", "a", id=IDENT) == 1


def test_asking_again_after_the_result_is_forgotten_does_not_count_twice(node: Node) -> None:
    node._replica.applier._ring._capacity = 4
    stall(node, "full")
    with pytest.raises(OutcomeUnknown):
        node.propose("counter", "a", id=IDENT, deadline=0.1)
    stall(node, "ok")
    for _ in range(10):
        node.propose("counter", "b")
    with pytest.raises(OutcomeUnknown):
        node.propose("counter", "a", id=IDENT)
    assert node.propose("counter", "a") == 2


def test_nobody_can_guess_the_id_of_the_next_operation(node: Node) -> None:
    for _ in range(3):
        node.propose("counter", "a")
    ids = node._runtime.call(lambda replica: list(replica.applier._ring._results))
    assert len({ident[:8] for ident in ids}) == len(ids) >= 3


def test_a_stopped_node_keeps_nothing_of_those_it_tells(node: Node) -> None:
    stop(node)
    for _ in range(20):
        with pytest.raises(StorageRefusal):
            node.propose("counter", "a")
    depth, trace = 0, node.failure.__traceback__ if node.failure else None
    while trace is not None:
        depth, trace = depth + 1, trace.tb_next
    assert depth < 10


def test_a_call_that_meets_the_end_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.close()
    monkeypatch.setattr(node._runtime, "_check", lambda: None)  # it was still running a moment ago
    with pytest.raises(Unavailable):
        asyncio.run(asyncio.wait_for(node.apropose("counter", "a"), 60))


@pytest.fixture
def soon_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what a node has asked itself since it was opened: else that is in the way for ten seconds."""
    monkeypatch.setattr(runtime, "LOOK_AHEAD", 5)


def test_a_call_that_is_done_is_forgotten_before_its_deadline(soon_forgotten: None, node: Node) -> None:
    for _ in range(5):
        node.propose("counter", "a", deadline=3600.0)
    eventually(lambda: node._runtime.call(lambda replica: not any(node._runtime._wheel.values())))


def test_a_fork_closes_nothing(node: Node) -> None:
    child = os.fork()
    if child == 0:
        try:
            node.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(StorageRefusal):
        Node.open(node.directory.path)
    assert node.propose("counter", "a") == 1


@pytest.mark.parametrize("ack", ["commit", "early"])
@pytest.mark.parametrize("failure", [StorageFailed("the disk broke"), Removed("it was removed"), ZeroDivisionError()])
def test_a_node_that_has_stopped_for_good_passes_nobody_whom_the_administrator_did_not(
    node: Node, failure: BaseException, ack: str
) -> None:
    """To Postfix, to who waits, and to who is called: as without a quorum."""

    told: list[Any] = []
    asked = threading.Event()

    def fail() -> None:
        assert asked.wait(60)
        raise failure

    def ask() -> None:
        node.greylist.submit(lambda verdict, error: told.append(verdict or error), **MAIL)

    node.greylist.configure({"on_unavailable": "defer", "ack": ack})
    assert node.greylist.check(**MAIL).reason == "new"
    server = PolicyServer(node.greylist, "inet:127.0.0.1:0")
    server.start()
    try:
        node._runtime.post(fail)
        ask()  # it waits for the thread that stops
        asked.set()
        eventually(lambda: node.failure is not None and not node._runtime._thread.is_alive())
        ask()
        with PolicyClient(server.address) as client:
            assert client.ask(instance="1").startswith("DEFER_IF_PERMIT 4.3.0")
        told.append(node.greylist.check(**MAIL))
        told.append(asyncio.run(node.greylist.acheck(**MAIL)))
    finally:
        server.close()
    assert [(each.action, each.degraded) for each in told] == 4 * [("defer", True)]
