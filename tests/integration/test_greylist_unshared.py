"""`greylist.replicate` is switched off and on under load, with real nodes, links and disks, also while a node is restarted."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from raftcluster import Node, Verdict, limits
from tests.clusters import Cluster
from tests.helpers import eventually

SECONDS = 60.0
DELAY = 1.0
TRIPLETS = 12  # of each client


def mail(triplet: str) -> dict[str, Any]:
    return {"client": "192.0.2.7", "sender": f"{triplet}x@example.net", "recipient": "b@example.org"}


class Client(threading.Thread):
    """Asks one node about its own triplets, over and over, until each has passed; then begins with new ones."""

    def __init__(self, node: Node) -> None:
        super().__init__(name=f"client of {node.name}")
        self.node = node
        self.round = 0
        self.wrong: list[str] = []
        self.seen: dict[str, float] = {}
        """Triplet -> when its first attempt was sent, by this process's clock."""
        self.passed: set[str] = set()
        self.checks = 0
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.is_set() or self.waiting():
            names = [f"{self.node.name}r{self.round}t{number}" for number in range(TRIPLETS)]
            while any(name not in self.passed for name in names):
                for name in names:
                    self.seen.setdefault(name, time.monotonic())
                    asked = time.monotonic()
                    self.judge(name, asked, self.node.greylist.check(**mail(name), deadline=60.0))
            self.round += 1

    def waiting(self) -> bool:
        return len(self.passed) < len(self.seen)

    def judge(self, name: str, asked: float, verdict: Verdict) -> None:
        self.checks += 1
        waited = time.monotonic() - self.seen[name]
        story = f"{name}: {verdict.action} {verdict.reason} {waited:.3f} s after its first attempt"
        if verdict.degraded:
            self.wrong.append(f"{story}, degraded")
        if verdict.action == "pass":
            if waited < DELAY / (1 + limits.CLOCK_SLEW):  # as fast as cluster time may run
                self.wrong.append(f"{story}, which is too early")
            if (verdict.reason == "known") is not (name in self.passed):
                self.wrong.append(f"{story}, and it had{' not' * (name not in self.passed)} passed before")
            self.passed.add(name)
        elif name in self.passed:
            self.wrong.append(f"{story}, and it had passed before")
        elif asked - self.seen[name] > DELAY + 1.5 and verdict.reason == "new":
            self.wrong.append(f"{story}: its wait began anew")

    def end(self) -> None:
        self._ending.set()
        self.join(SECONDS)
        assert not self.is_alive(), f"{self.name} is held up"


def alone(node: Node) -> int:
    return int(node.greylist.stats()["alone"])


def test_switched_under_load_no_decision_fails_none_is_wrong_and_no_record_is_lost(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        first = cluster.nodes[0]
        first.greylist.configure({"delay": DELAY, "auto_allow": 0})
        clients = [Client(node) for node in cluster.nodes.values()]
        for client in clients:
            client.start()
        for number in range(4):
            on = number % 2 == 1
            rounds = [client.round for client in clients]
            cluster.nodes[number % 3].greylist.configure({"replicate": on})
            what = f"all go on with triplets {'' if on else 'not '}shared"
            eventually(lambda b=rounds: all(c.round > at for c, at in zip(clients, b, strict=True)), SECONDS, what)  # type: ignore[misc]
            if not on:
                assert all(sum(node.greylist.stats()["unshared"].values()) for node in cluster.nodes.values())
        for client in clients:
            client.end()
        assert [wrong for client in clients for wrong in client.wrong] == []
        nodes = list(cluster.nodes.values())
        eventually(lambda: [alone(node) for node in nodes] == [0, 0, 0], SECONDS, "the cluster has what they learnt")
        eventually(cluster.settled, SECONDS, "all have applied all")
        everything = {name for client in clients for name in client.seen}
        for node in nodes:
            records = node.greylist.stats()["records"]
            assert records == len(everything), f"{node.name} has {records} records of {len(everything)}"
            name = clients[0].node.name + "r0t0"
            assert node.greylist.explain(**mail(name))["rule"] == "known"
        by_cluster = sum(each["deferred"] + each["passed"] for each in first.greylist.stats()["nodes"].values())
        by_nodes = sum(sum(node.greylist.stats()["unshared"].values()) for node in nodes)
        assert by_cluster + by_nodes == sum(client.checks for client in clients), "each was decided once"
        nodes[1].verify(deadline=SECONDS).check()


def test_what_a_node_decides_by_itself_outlives_it_and_needs_nobody(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        first = cluster.nodes[0]
        first.greylist.configure({"delay": DELAY, "auto_allow": 0, "replicate": False})
        eventually(lambda: not cluster.nodes[1].greylist.settings().replicate, SECONDS, "both know")
        assert first.greylist.check(**mail("a")).reason == "new"
        assert cluster.nodes[1].greylist.check(**mail("a")).reason == "new", "the first node's is its own"
        cluster.stop(2)
        cluster.stop(1)
        cluster.stop(0)
        first = cluster.start(0, ready_seconds=0)
        assert alone(first) == 1
        told = first.greylist.check(**mail("a"))
        assert (told.action, told.degraded) == ("defer", False), "cluster time stands still when nobody tells it"
        cluster.start(1)
        eventually(lambda: first.greylist.check(**mail("a")).reason == "waited", SECONDS, "it has waited")
        cluster.start(2).greylist.configure({"replicate": True}, deadline=60.0)
        for node in cluster.nodes.values():
            eventually(lambda n=node: n.greylist.check(**mail("a")).reason == "known", SECONDS, "it is shared")  # type: ignore[misc]
