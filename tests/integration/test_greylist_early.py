"""`ack = early` with real nodes: who has to wait is told without a round of the cluster, and who passes never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raftcluster.greylist.expiry import RECORDS
from tests.clusters import Cluster
from tests.helpers import eventually

SECONDS = 60.0
DELAY = 2
MAIL: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}


def test_every_node_answers_early_and_the_cluster_decides_who_passes(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        nodes = list(cluster.nodes.values())
        nodes[0].greylist.configure({"delay": DELAY, "ack": "early", "auto_allow": 0})
        eventually(lambda: all(node.greylist.settings().ack == "early" for node in nodes), SECONDS, "all know it")
        for number, node in enumerate(nodes):

            def early(node: Any = node, number: int = number) -> bool:
                before = node.greylist.stats()["early"]
                verdict = node.greylist.check(**{**MAIL, "sender": f"s{number}x@example.net"})
                assert verdict.degraded or verdict.action == "defer" or verdict.reason in ("waited", "known")
                return bool(node.greylist.stats()["early"] > before)

            eventually(early, SECONDS, f"{node.name} answers early")
        assert nodes[0].greylist.check(**MAIL).action == "defer"

        def recorded() -> bool:
            return all(n.query("greylist", lambda tables, _: len(tables.scan(RECORDS)) >= 1) for n in nodes)

        eventually(recorded, SECONDS, "what was answered early is recorded everywhere")
        first_seen = eventually(
            lambda: nodes[1].greylist.explain(**MAIL)["first_seen_ms"], SECONDS, "the first attempt"
        )
        eventually(lambda: nodes[1].greylist.check(**MAIL).reason == "waited", SECONDS, "it passes")
        explained = nodes[1].greylist.explain(**MAIL, consistency="linearizable")
        assert explained["first_seen_ms"] == first_seen
        assert explained["cluster_time_ms"] - first_seen >= DELAY * 1000
