"""All nodes are killed at once while they write, twenty times: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raftcluster
from tests.checkout import ROOT
from tests.children import Child
from tests.helpers import eventually, free_ports
from tests.integration import durable_writer
from tests.integration.durable_writer import IN_FLIGHT, TRIPLETS, triplet_of

NODES = 3
ROUNDS = 20
ACKNOWLEDGED_MAX = 400  # per node and round, when it is killed
ANSWER_SECONDS = 40.0


class Cluster:
    """Three processes on loopback; the test's own record of what was asked and what was acknowledged."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.nodes: list[Child] = []

    def found(self) -> None:
        places = [("127.0.0.1", port) for port in free_ports(NODES)]
        raftcluster.init(self._path(0), cluster="kill-all", node="node0", listen=places[0])
        self._start(0)
        for number in range(1, NODES):
            token = self.ask(0, "invite", f"node{number}")
            place = places[number]
            raftcluster.join(self._path(number), address=places[0], token=token, node=f"node{number}", listen=place)
            self._start(number)
        eventually(self._complete, ANSWER_SECONDS, "all nodes are voters")

    def _complete(self) -> bool:
        return all(len(self.ask(number, "status")["voters"]) == NODES for number in range(NODES))

    def _path(self, number: int) -> Path:
        return self._directory / f"node{number}"

    def _start(self, number: int) -> None:
        self._launch(number)
        self.hear(number, "open")

    def _launch(self, number: int) -> None:
        command = [sys.executable, "-m", durable_writer.__name__, str(self._path(number))]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = Child(f"node{number}", command, self._directory / f"node{number}.log", pipes=True, env=env)
        self.nodes[number:] = [child, *self.nodes[number + 1 :]]

    def start_all(self) -> None:
        for number in range(NODES):
            self._launch(number)
        for number in range(NODES):
            self.hear(number, "open")

    def ask(self, number: int, *request: object) -> Any:
        self.nodes[number].tell(json.dumps(request))
        return json.loads(self.nodes[number].line(ANSWER_SECONDS))

    def hear(self, number: int, expected: object) -> None:
        said = json.loads(self.nodes[number].line(ANSWER_SECONDS))
        assert said == expected, f"node{number} said {said!r}"

    def kill_all(self, order: list[int]) -> None:
        """One right after the other; a killed process acknowledges nothing more."""
        for number in order:
            self.nodes[number].process.kill()
        for number in order:
            self.nodes[number].kill()

    def read(self, number: int) -> list[int]:
        counts: list[int] = self.ask(number, "read", list(range(TRIPLETS)))
        return counts


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for child in made.nodes:
        child.kill()


@pytest.mark.timeout(240)
def test_no_acknowledged_check_is_lost_and_none_is_applied_twice(cluster: Cluster) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    expected: Counter[int] = Counter()  # triplet -> checks, of all rounds that are over
    acknowledged_by_first_try = 0
    cluster.found()
    for number_of_round in range(ROUNDS):
        for number in range(NODES):
            cluster.nodes[number].tell(json.dumps(["write", seed, number_of_round, number]))
        acknowledged: list[set[int]] = [set() for _ in range(NODES)]
        for _ in range(choice.randint(1, ACKNOWLEDGED_MAX)):
            for number in range(NODES):
                acknowledged[number].add(json.loads(cluster.nodes[number].line(ANSWER_SECONDS)))
        cluster.kill_all(choice.sample(range(NODES), NODES))
        for number in range(NODES):
            acknowledged[number].update(map(json.loads, cluster.nodes[number].rest()))
        acknowledged_by_first_try += sum(map(len, acknowledged))

        cluster.start_all()
        asked = [range(len(numbers) + IN_FLIGHT) for numbers in acknowledged]
        least, most = Counter(expected), Counter(expected)
        for number in range(NODES):
            least.update(triplet_of(seed, number_of_round, number, each) for each in acknowledged[number])
            most.update(triplet_of(seed, number_of_round, number, each) for each in asked[number])
        counts = cluster.read(choice.randrange(NODES))
        for triplet, count in enumerate(counts):
            assert least[triplet] <= count, f"round {number_of_round}, triplet {triplet}: an acknowledged check is lost"
            assert count <= most[triplet], f"round {number_of_round}, triplet {triplet}: a check was applied twice"

        for number in range(NODES):
            unknown = sorted(set(asked[number]) - acknowledged[number])
            again = choice.sample(sorted(acknowledged[number]), min(20, len(acknowledged[number])))
            cluster.nodes[number].tell(json.dumps(["repeat", seed, number_of_round, number, [*unknown, *again]]))
            answers = {json.loads(cluster.nodes[number].line(ANSWER_SECONDS)) for _ in [*unknown, *again]}
            cluster.hear(number, "repeated")
            assert answers == {*unknown, *again}
        expected = most
        counts = cluster.read(choice.randrange(NODES))
        assert counts == [expected[triplet] for triplet in range(TRIPLETS)], f"round {number_of_round}: repeated once"
    for number in range(NODES):
        assert cluster.read(number) == [expected[triplet] for triplet in range(TRIPLETS)], f"node{number} disagrees"
    print(f"{ROUNDS} times killed; {acknowledged_by_first_try} checks acknowledged, {expected.total()} counted")
