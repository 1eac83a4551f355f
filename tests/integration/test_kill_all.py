"""All nodes are killed at once while they write, twenty times: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crashes.cluster import Cluster, places

NODES = 3
ROUNDS = 20
ACKNOWLEDGED_MAX = 400  # per node and round, when it is killed


@pytest.mark.timeout(480)
def test_no_acknowledged_check_is_lost_and_none_is_applied_twice(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    with Cluster(tmp_path, seed, places=places(tmp_path, NODES)) as cluster:
        cluster.found()
        for _ in range(ROUNDS):
            cluster.write()
            for number in range(NODES):
                cluster.acknowledged(number, cluster.random.randint(1, ACKNOWLEDGED_MAX))
            cluster.crash(range(NODES))
            cluster.start(range(NODES))
            assert cluster.check() == []
        print(f"{ROUNDS} times killed; {cluster.account.total} checks acknowledged")
