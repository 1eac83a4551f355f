"""One node that grows under load, two nodes, four nodes: what docs/operations.md says of them, with real processes.

Nobody waits long enough to pass, so every decision of the cluster is a deferral, with another status than
one by `on_unavailable`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from raftcluster.errors import RaftclusterError
from tests.helpers import eventually
from tests.policy_client import PolicyClient
from tests.served import SECONDS, Cluster, Served, retried

DECIDED = "DEFER_IF_PERMIT 4.2.0 Greylisted, retry in "
UNDECIDED = {"pass": "DUNNO", "defer": "DEFER_IF_PERMIT 4.3.0 "}
"""By `on_unavailable`."""
CLIENT, RECIPIENT = "192.0.2.7", "box@example.org"
TRIPLETS = 20  # few, so that records are counted up again and again, by all nodes
PAUSE_SECONDS = 0.01
STEADY = 100  # more answers of everybody, and things have gone on


def sender_of(triplet: int) -> str:
    return f"t{triplet}x@sender.example"


class Asker(threading.Thread):
    """Asks one node again and again, each time in an SMTP transaction of its own, until `end` or until the node is gone."""

    def __init__(self, node: Served, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.node = node
        self.decided: dict[str, int] = {}
        """Instance -> triplet of what the cluster has acknowledged."""
        self.open: dict[str, int] = {}
        """The same of what it may have carried out."""
        self.odd: list[str] = []
        """Answers that are neither."""
        self._ending = threading.Event()

    def run(self) -> None:
        with suppress(OSError, EOFError), PolicyClient(self.node.policy) as client:
            number = 0
            while not self._ending.wait(PAUSE_SECONDS):
                number += 1
                instance = f"{self.name}.{number}"
                self.open[instance] = number % TRIPLETS
                self._ask(client, instance)

    def _ask(self, client: PolicyClient, instance: str) -> None:
        triplet = self.open[instance]
        action = client.ask(client_address=CLIENT, sender=sender_of(triplet), recipient=RECIPIENT, instance=instance)
        if action.startswith(DECIDED):
            self.decided[instance] = self.open.pop(instance)
        elif not action.startswith(tuple(UNDECIDED.values())):
            self.odd.append(action)

    def end(self) -> None:
        self._ending.set()
        self.join()

    def finish(self) -> int:
        """Ask what is open again, as the same checks, until the cluster has decided them; how many they were."""
        self.end()
        count = len(self.open)
        with PolicyClient(self.node.policy) as client:
            for instance in list(self.open):
                eventually(lambda asked=instance: self._again(client, asked), SECONDS, f"{instance} is decided")  # type: ignore[misc]
        return count

    def _again(self, client: PolicyClient, instance: str) -> bool:
        self._ask(client, instance)
        return instance not in self.open


class Load:
    """Askers at nodes, and what must be true of what they were told."""

    def __init__(self) -> None:
        self.askers: list[Asker] = []

    def add(self, node: Served) -> None:
        asker = Asker(node, f"{node.name}.{len(self.askers)}")
        self.askers.append(asker)
        asker.start()

    def goes_on(self, *nodes: Served) -> None:
        """Returns when everybody who asks has had many more decisions, or those who ask at `nodes`."""
        askers = [each for each in self.askers if each.is_alive() and (not nodes or each.node in nodes)]
        assert askers, "somebody asks"
        before = [len(each.decided) for each in askers]
        eventually(
            lambda: all(len(each.decided) >= was + STEADY for each, was in zip(askers, before, strict=True)),
            2 * SECONDS,
            "the cluster goes on deciding",
        )

    def check(self, nodes: Sequence[Served]) -> None:
        """Every check that was acknowledged is there, none twice; then that of what was open, asked again. All nodes agree."""
        for asker in self.askers:
            asker.end()
        acknowledged = Counter(triplet for asker in self.askers for triplet in asker.decided.values())
        asked = acknowledged + Counter(triplet for asker in self.askers for triplet in asker.open.values())
        found = counts(nodes[0])
        for triplet in range(TRIPLETS):
            assert acknowledged[triplet] <= found[triplet], f"{triplet}: an acknowledged check is lost"
            assert found[triplet] <= asked[triplet], f"{triplet}: a check was carried out twice"
        again = sum(asker.finish() for asker in self.askers)
        print(f"{acknowledged.total()} checks acknowledged, {again} asked again")
        for node in nodes:
            eventually(lambda at=node: counts(at) == asked, SECONDS, f"{node.name} has counted each check once")  # type: ignore[misc]
        assert [asker.odd for asker in self.askers] == [[] for _ in self.askers]


def nobody_passes(cluster: Cluster) -> None:
    """Within a test, however slow the machine."""
    retried(lambda: cluster.nodes[0].client.greylist.configure({"delay": 3600}), "the delay")


def counts(node: Served) -> Counter[int]:
    """How many checks each triplet's record has counted."""
    found: Counter[int] = Counter()
    for triplet in range(TRIPLETS):
        explained = node.client.greylist.explain(CLIENT, sender_of(triplet), RECIPIENT)
        found[triplet] = sum(int(row["deferred"]) + int(row["passed"]) for row in explained["seen_by"])
    return +found


def complaints(cluster: Cluster) -> list[str]:
    """What the nodes have logged that is worse than a warning."""
    signs = (" ERROR ", " CRITICAL ", "Traceback")
    return [line for node in cluster.nodes for line in node.log().splitlines() if any(sign in line for sign in signs)]


def answer(node: Served, name: str) -> str:
    """What a stranger is told."""
    with PolicyClient(node.policy) as client:
        return client.ask(client_address=CLIENT, sender=f"{name}@stranger.example", recipient=RECIPIENT, instance=name)


def known(node: Served, name: str) -> bool:
    """Whether this node has applied that somebody of that name asked."""
    return bool(node.client.greylist.explain(CLIENT, f"{name}@stranger.example", RECIPIENT)["seen_by"])


@pytest.fixture
def load() -> Iterator[Load]:
    made = Load()
    yield made
    for asker in made.askers:
        asker.end()


def test_one_node_grows_to_three_under_load(tmp_path: Path, load: Load) -> None:
    with Cluster(tmp_path, 3) as cluster:
        nobody_passes(cluster)
        for _ in range(2):
            load.add(cluster.nodes[0])
        load.goes_on()
        for size in (2, 3):
            node = cluster.grow()
            assert len(cluster.voters()) == size
            load.add(node)
            load.goes_on()
        load.check(cluster.nodes)
        assert complaints(cluster) == []


@pytest.mark.parametrize(("leads", "on_unavailable"), [(True, "pass"), (False, "defer")])
def test_of_two_nodes_none_may_be_down_and_nothing_is_lost(
    tmp_path: Path, load: Load, leads: bool, on_unavailable: str
) -> None:
    with Cluster(tmp_path, 2) as cluster:
        nobody_passes(cluster)
        cluster.grow()
        for node in cluster.nodes:
            load.add(node)
        load.goes_on()
        retried(lambda: cluster.nodes[0].client.greylist.configure({"on_unavailable": on_unavailable}), "the setting")
        eventually(cluster.alike, SECONDS, "both know the setting")
        leader = cluster.leader()
        gone = leader if leads else next(node for node in cluster.nodes if node is not leader)
        survivor = next(node for node in cluster.nodes if node is not gone)
        gone.kill()
        told = [answer(survivor, f"early{number}x") for number in range(3)]
        assert all(action.startswith(UNDECIDED[on_unavailable]) for action in told), told
        assert not any(known(survivor, f"early{number}x") for number in range(3))
        with pytest.raises(RaftclusterError):
            survivor.client.config.set("a/key", 1)

        gone.start()
        load.add(gone)
        load.goes_on()
        load.check(cluster.nodes)
        assert complaints(cluster) == []


def test_of_four_nodes_one_may_be_down_and_two_may_not(tmp_path: Path, load: Load) -> None:
    with Cluster(tmp_path, 4) as cluster:
        nobody_passes(cluster)
        while len(cluster.nodes) < 4:
            cluster.grow()
        for node in cluster.nodes:
            load.add(node)
        load.goes_on()
        first = cluster.leader()
        first.kill()
        rest = [node for node in cluster.nodes if node is not first]
        load.goes_on(*rest)

        second = rest[0]
        second.kill()
        left = rest[1:]
        for node in left:
            assert answer(node, f"lonely-{node.name}-x") == UNDECIDED["pass"]
            assert not known(node, f"lonely-{node.name}-x")

        second.start()
        load.goes_on(*left)
        first.start()
        for node in (first, second):
            load.add(node)
        load.goes_on()
        load.check(cluster.nodes)
        assert complaints(cluster) == []
