"""What callers are told by a node that stops for good while their operations are under way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn

import pytest

import raftcluster
from raftcluster import Node
from raftcluster.codec import Value
from raftcluster.engine.replica import Replica
from raftcluster.errors import OutcomeUnknown, RaftclusterError, StorageFailed
from raftcluster.storage.tables import TableStore
from tests.clusters import Cluster
from tests.helpers import eventually, free_ports

SECONDS = 60.0
Answers = SimpleQueue[tuple[Value | None, RaftclusterError | None]]


def stopped(node: Node, when: Callable[[Replica], bool]) -> tuple[Value | None, RaftclusterError | None]:
    """The answer to an operation of a node that fails as soon as `when` holds; looked at in every step."""
    runtime, replica = node._runtime, node._replica
    answers: Answers = SimpleQueue()

    def fail() -> None:
        if when(replica):
            raise StorageFailed("the disk broke", subject=node.name)
        runtime.post(fail)

    def begin() -> None:  # on the tick thread: the first look comes right after the step that takes the operation
        command = ["set", "a/key", 1, "", "", node.name, None]
        node.submit("config", command, lambda value, error: answers.put((value, error)), deadline=SECONDS)
        fail()

    runtime.post(begin)
    return answers.get(timeout=SECONDS)


def test_an_operation_that_left_the_node_may_have_been_applied(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        node = cluster.nodes[0]

        def left(replica: Replica) -> bool:  # this one, not another that the new cluster begins with
            return any(p.sent_at is not None and b"a/key" in p.packed for p in replica.outbox._pending.values())

        value, error = stopped(node, left)
        assert value is None
        assert isinstance(error, OutcomeUnknown), error
        assert isinstance(node.failure, StorageFailed)


def test_an_operation_that_nobody_took_was_not_applied(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        value, error = stopped(cluster.nodes[0], lambda replica: True)
        assert value is None
        assert isinstance(error, StorageFailed), error


class Failed(TableStore):
    """Tables whose disk has failed before anybody listens: what is left of runs is moved from the first moment on."""

    def __init__(self, path: Path, *, log: Callable[[], int]) -> None:
        super().__init__(path, log=log)
        eventually(lambda: self.health == "failed", what="they have failed")

    def _next(self) -> NoReturn:
        raise StorageFailed("the disk broke")


def test_tables_that_failed_while_the_node_was_opened_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody heard it: what was applied waited in memory for checkpoints that nobody wrote, until nothing was applied any more."""
    (port,) = free_ports(1)
    raftcluster.init(tmp_path / "mx1", cluster="mail", node="mx1", listen=("127.0.0.1", port), product="mta/1")
    monkeypatch.setattr("raftcluster.node.TableStore", Failed)
    node = Node.open(tmp_path / "mx1", product="mta/1", ready_seconds=0)
    try:
        eventually(lambda: node.failure is not None, what="the node stops")
        assert isinstance(node.failure, StorageFailed)
    finally:
        node.close()
