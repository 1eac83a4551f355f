"""Members that go, in clusters of real nodes: the leader under load, the dead, and those that may not."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import raftcluster
from examples.counter import Counter
from raftcluster import Node
from raftcluster.control.wire import describe, revive
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Rejected, Removed, StorageRefusal, Unavailable
from tests.clusters import SECONDS, Cluster, joined
from tests.helpers import eventually, free_ports


class Load:
    """Counts at one node until it is stopped; what was acknowledged, and what nobody knows."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.acknowledged = self.unknown = self.refused = 0
        self.longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            begun = time.monotonic()
            try:
                if number % 2:
                    self.node.propose("counter", "load", deadline=30.0)
                    self.acknowledged += 1
                else:
                    sender = f"{self.node.name}-{number}@example.net"
                    assert not self.node.greylist.check(
                        client="192.0.2.7", sender=sender, recipient="b@example.org", deadline=30.0
                    ).degraded
            except OutcomeUnknown:
                self.unknown += 1
            except Unavailable:
                self.refused += 1
            self.longest = max(self.longest, time.monotonic() - begun)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def cluster_of(folder: Path, size: int) -> Cluster:
    return Cluster(folder, size, lambda: [Counter()])


def rejoin(cluster: Cluster, number: int, token: str, path: Path, node: str) -> Node:
    """A new node, with an empty directory."""
    via = next(iter(cluster.nodes.values())).facts["listen"]
    joined(
        path,
        address=(via[0], via[1]),
        token=token,
        node=node,
        listen=("127.0.0.1", free_ports(1)[0]),
        machines=[Counter()],
    )
    cluster.nodes[number] = Node.open(path, machines=[Counter()], ready_seconds=SECONDS)
    return cluster.nodes[number]


def test_the_leader_is_removed_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    with cluster_of(tmp_path, 3) as cluster:
        leader = cluster.leader()
        gone = cluster.nodes.pop(leader)
        first, second = cluster.nodes.values()
        loads = [Load(first), Load(second)]
        try:
            eventually(lambda: min(load.acknowledged for load in loads) > 50, SECONDS)
            begun = time.monotonic()
            assert first.members.remove(gone.name).node_id == gone.id
            took = time.monotonic() - begun
            before = min(load.acknowledged for load in loads)
            eventually(lambda: min(load.acknowledged for load in loads) > before + 50, SECONDS, "work goes on")
        finally:
            for load in loads:
                load.stop()
        total = sum(load.acknowledged for load in loads)
        unknown = sum(load.unknown for load in loads)
        refused = sum(load.refused for load in loads)
        counted = first.query("counter", lambda tables, now: tables.get("totals", b"load"), consistency="linearizable")
        print(
            f"removal {took:.2f} s, acknowledged {total}, counted {counted!r}, unknown {unknown}, refused {refused}, "
            f"longest call {max(load.longest for load in loads):.2f} s"
        )
        assert counted is not None and total <= int(counted) <= total + unknown
        assert refused == 0
        for node in (first, second):
            assert sorted(node.status()["voters"]) == sorted([first.id, second.id])
            eventually(lambda n=node: gone.id not in n.mesh.links(), SECONDS)  # type: ignore[misc]
            assert gone.name not in [each.name for each in node.members.list()]
        try:
            assert isinstance(eventually(lambda: gone.failure, SECONDS), Removed)
            with pytest.raises(Removed, match=f"{gone.name} was removed from cluster test"):
                gone.status()
            with pytest.raises(Removed):
                gone.propose("counter", "load")
        finally:
            gone.close()
        with pytest.raises(Removed) as caught:
            Node.open(cluster.path(leader), machines=[Counter()], ready_seconds=0)
        assert caught.value.exit_code == 13 and "empty data directory" in str(caught.value)
        assert isinstance(revive(describe(caught.value)), Removed), "over the control socket too"
        told = [each["event"] for each in raftcluster.read_events(cluster.path(leader))]
        assert told.count("node-removed") == 1
        eventually(lambda: first.certs.show().generation == 4, SECONDS, "a generation without it")
        again = rejoin(cluster, leader, str(first.members.invite(gone.name)), tmp_path / "again", gone.name)
        assert again.id != gone.id
        eventually(lambda: len(first.status()["voters"]) == 3, SECONDS)


def test_a_dead_member_is_removed_and_one_that_is_needed_is_not(tmp_path: Path) -> None:
    with cluster_of(tmp_path, 3) as cluster:
        leader = cluster.leader()
        dead, other = (number for number in range(3) if number != leader)
        cluster.stop(dead)
        node = cluster.nodes[leader]
        eventually(lambda: len(node.mesh.links()) == 1, SECONDS)
        for needed in (leader, other):
            with pytest.raises(Rejected) as caught:
                node.members.remove(f"mx{needed}")
            assert caught.value.code == "would-lose-quorum" and f"down: mx{dead}" in caught.value.message
        node.members.remove(f"mx{dead}")
        assert len(node.status()["voters"]) == 2 and node.propose("counter", "a") == 1
        eventually(lambda: node.certs.show().generation == 4, SECONDS, "a generation without it")
        cluster.stop(other)
        eventually(lambda: not node.mesh.links(), SECONDS)
        with pytest.raises(Rejected) as caught:
            node.members.remove(f"mx{other}")
        assert caught.value.code == "no-quorum" and "raftcluster recover" in caught.value.remedy
        assert [each.name for each in node.members.list()] == sorted([f"mx{leader}", f"mx{other}"])


def test_a_dead_member_is_replaced_by_a_host_of_the_same_name(tmp_path: Path) -> None:
    with cluster_of(tmp_path, 3) as cluster:
        dead = next(number for number in range(3) if number != cluster.leader())
        former = cluster.nodes[dead].id
        cluster.stop(dead)
        node = cluster.nodes[cluster.leader()]
        eventually(lambda: former not in node.mesh.links(), SECONDS)
        for number in range(10):
            node.propose("counter", f"{number}")
        token = node.members.replace(f"mx{dead}", f"mx{dead}")
        fresh = rejoin(cluster, dead, str(token), tmp_path / "fresh", f"mx{dead}")
        eventually(
            lambda: sorted(node.status()["voters"]) == sorted(each.id for each in cluster.nodes.values()), SECONDS
        )
        assert fresh.id != former
        assert (
            fresh.query("counter", lambda tables, now: tables.get("totals", b"9"), consistency="linearizable") == b"1"
        )


def test_two_become_one_and_the_last_one_stays(tmp_path: Path) -> None:
    with cluster_of(tmp_path, 2) as cluster:
        leader = cluster.leader()
        node, gone = cluster.nodes[leader], cluster.nodes[1 - leader]
        gone.members.remove(gone.name)
        assert isinstance(eventually(lambda: gone.failure, SECONDS), Removed)
        eventually(lambda: node.status()["voters"] == [node.id], SECONDS)
        assert eventually(lambda: _counts(node), SECONDS) == 1
        with pytest.raises(Rejected) as caught:
            node.members.remove(node.name)
        assert caught.value.code in ("last-voter", "would-lose-quorum")
        with pytest.raises(Rejected):
            node.members.replace("mx9", "mx8")


def test_a_node_that_starts_elsewhere_tells_the_others_and_stays_who_it_is(tmp_path: Path) -> None:
    """Both of them in turn: one is dialled, and must make itself known; the other one dials."""
    with cluster_of(tmp_path, 2) as cluster:
        for number in (0, 1):
            who = cluster.nodes[number].id
            cluster.stop(number)
            where = ("127.0.0.1", free_ports(1)[0])
            raftcluster.readdress(cluster.path(number), listen=where)
            node = cluster.start(number)
            other = cluster.nodes[1 - number]
            assert node.id == who and node.mesh.address == where
            eventually(lambda n=other, w=who, at=where: _address(n, w) == at, SECONDS)  # type: ignore[misc]
            eventually(lambda n=node: not n.directory.read_node()["announce"], SECONDS)  # type: ignore[misc]
            assert node.propose("counter", "a") == number + 1
        moved = cluster.nodes[0].members.get("mx1")
        cluster.nodes[0].members.move("mx1", "localhost", moved.port)
        cluster.stop(1)
        cluster.start(1)
        assert _address(cluster.nodes[0], moved.node_id) == ("localhost", moved.port), "told once, not at every start"
        with pytest.raises(StorageRefusal, match="is already used by process"):
            raftcluster.readdress(cluster.path(0), listen=("127.0.0.1", 1))
        cluster.stop(0)
        with pytest.raises(Rejected):
            raftcluster.readdress(cluster.path(0), advertise=("", 1))


def _address(node: Node, node_id: str) -> tuple[str, int]:
    member = node.members.get(node_id)
    return member.host, member.port


def _counts(node: Node) -> int:
    try:
        return int(node.propose("counter", "a"))
    except RaftclusterError:
        return 0
