"""A job that is scheduled on three real nodes alike runs on one at a time, also while leaders and holders go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raftcluster import Node
from raftcluster.errors import OutcomeUnknown, Rejected, Unavailable
from raftcluster.lease.rules import LeaseHeld, LeaseLost
from raftcluster.transport.mesh import Mesh
from tests.clusters import SECONDS, Cluster
from tests.helpers import eventually

RUNS = 12


class Resource:
    """What the job writes to: it refuses tokens that are behind, and sees whether two are at work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.greatest = 0
        self.working: set[int] = set()
        self.runs: list[tuple[str, int]] = []
        self.overlaps: list[set[int]] = []

    def begin(self, node: str, token: int) -> None:
        with self._lock:
            assert token > self.greatest, f"token {token} after {self.greatest}"
            self.greatest = token
            self.working.add(token)
            if len(self.working) > 1:
                self.overlaps.append(set(self.working))
            self.runs.append((node, token))

    def end(self, token: int) -> None:
        with self._lock:
            self.working.discard(token)


class Cut:
    """Which nodes neither reach the others nor are reached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: set[str] = set()
        self.meshes: list[Mesh] = []
        send = Mesh.send

        def gate(mesh: Mesh, peer: str, message: dict[str, Any]) -> bool:
            return True if peer in self.nodes or mesh in self.meshes else send(mesh, peer, message)

        monkeypatch.setattr(Mesh, "send", gate)

    def off(self, node: Node) -> None:
        self.nodes.add(node.id)
        self.meshes.append(node.mesh)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    return Cut(monkeypatch)


@pytest.fixture
def cluster(cut: Cut, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 3) as cluster:
        yield cluster


def test_three_nodes_with_the_same_schedule_run_it_once_at_a_time_also_over_leader_loss(cluster: Cluster) -> None:
    resource, enough = Resource(), threading.Event()

    def schedule(number: int) -> None:
        while not enough.is_set():
            node = cluster.nodes.get(number)
            if node is None:
                enough.wait(0.05)
                continue
            with suppress(LeaseHeld, Unavailable, OutcomeUnknown, Rejected), node.lease("scan", seconds=2) as lease:
                token = lease.token
                resource.begin(node.name, token)
                try:
                    lease.wait_lost(0.2)
                finally:
                    resource.end(token)

    threads = [threading.Thread(target=schedule, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for part in (1, 2, 3):
            eventually(lambda n=part: len(resource.runs) >= n * RUNS // 3, SECONDS, f"{part} of 3 parts are run")  # type: ignore[misc]
            if part < 3:
                leader = cluster.leader()
                cluster.stop(leader)
                cluster.start(leader)
    finally:
        enough.set()
        for thread in threads:
            thread.join(SECONDS)
    assert resource.overlaps == []
    tokens = [token for _, token in resource.runs]
    assert tokens == sorted(set(tokens)) and len(tokens) >= RUNS


def test_a_holder_cut_off_from_the_others_knows_before_another_has_it(cluster: Cluster, cut: Cut) -> None:
    """The holder's node stays alone, as after a partition: it stops believing, then, and only then, somebody else gets it."""
    term = 4.0
    told: list[str] = []
    leader = cluster.leader()
    follower, other = [number for number in cluster.nodes if number != leader]
    holder = cluster.nodes[follower]
    lease = holder.lease("scan", seconds=term, on_lost=told.append)
    assert lease.acquire()
    with pytest.raises(LeaseHeld):
        cluster.nodes[other].lease("scan").__enter__()
    (row,) = cluster.nodes[other].lease.list(consistency="linearizable")
    assert (row.name, row.node, row.token) == ("scan", holder.name, lease.token)
    assert not lease.wait_lost(1.5 * term), "it is renewed"

    cut.off(holder)
    successor = cluster.nodes[other].lease("scan", seconds=term, wait=SECONDS)
    assert successor.acquire()
    assert not lease.held, "the holder believed in it no more"
    assert successor.token > lease._token
    eventually(lambda: told, SECONDS, "and is told")
    with pytest.raises(LeaseLost):
        lease.check()
    assert successor.release()


def test_the_leader_that_holds_it_ends_and_another_takes_over(cluster: Cluster) -> None:
    leader = cluster.leader()
    other = next(number for number in cluster.nodes if number != leader)
    told: list[str] = []
    lease = cluster.nodes[leader].lease("scan", seconds=2, on_lost=told.append)
    assert lease.acquire()
    cluster.stop(leader)
    assert told == ["the node was closed"] and not lease.held
    successor = cluster.nodes[other].lease("scan", seconds=2, wait=SECONDS)
    assert successor.acquire() and successor.held
    cluster.start(leader)
    seen = eventually(lambda: _row(cluster.nodes[leader]), SECONDS, "the node that is back sees it")
    assert seen.token == successor.token
    assert successor.release()
    report = cluster.nodes[leader].verify()
    assert report.verdict == "sound", report


def _row(node: Node) -> Any:
    with suppress(Unavailable):
        rows = node.lease.list(consistency="linearizable")
        return rows[0] if rows else None
    return None
