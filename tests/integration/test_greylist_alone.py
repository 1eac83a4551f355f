"""`on_unavailable = local` with real nodes, links and disks: decided alone, over a restart, and taken over by the cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from raftcluster import Node, Verdict
from tests.clusters import Cluster
from tests.helpers import eventually

SECONDS = 60.0
DELAY = 2
MAIL: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}
OTHER: dict[str, Any] = {**MAIL, "sender": "new@example.net"}


def check(node: Node, mail: dict[str, Any]) -> Verdict:
    """By its record: many retries of one client would allow it otherwise."""
    return node.greylist.check(**mail, deadline=1.0)


def knows(node: Node) -> bool:
    """Whether the cluster says so."""
    verdict = check(node, OTHER)
    return not verdict.degraded and verdict.reason == "known"


def test_a_node_without_a_quorum_decides_and_the_cluster_takes_over_what_it_saw(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        first = cluster.nodes[0]
        first.greylist.configure({"delay": DELAY, "on_unavailable": "local", "auto_allow": 0})
        assert check(first, MAIL).reason == "new"
        cluster.stop(1)
        cluster.stop(2)
        told = eventually(lambda: [v for v in [check(first, OTHER)] if v.degraded], SECONDS, "the node decides alone")[
            0
        ]
        assert told.action == "defer" and told.reason in ("new", "early")

        def waited(mail: dict[str, Any]) -> bool:
            verdict = check(first, mail)
            assert verdict.degraded
            return verdict.action == "pass"

        eventually(lambda: waited(MAIL), SECONDS, "what the cluster saw first has waited")
        eventually(lambda: waited(OTHER), SECONDS, "what only this node saw has waited")
        explained = first.greylist.explain(**OTHER)
        assert explained["degraded_here"] >= 2 and explained["alone_first_seen_ms"] is not None
        kept = first.greylist.stats()["alone"]
        assert kept == 2
        cluster.stop(0)
        cluster.start(0, ready_seconds=0)
        for number in (1, 2):
            cluster.start(number)
        eventually(cluster.settled, SECONDS, "all are back")
        nodes = list(cluster.nodes.values())
        eventually(lambda: check(cluster.nodes[0], MAIL).degraded is False, SECONDS, "the cluster decides again")
        eventually(lambda: cluster.nodes[0].greylist.stats()["alone"] == 0, SECONDS, "it has taken over what was kept")
        for node in nodes:
            eventually(partial(knows, node), SECONDS, f"{node.name} knows what was seen alone")
        seen = {each["node"]: each for each in cluster.nodes[1].greylist.explain(**OTHER)["seen_by"]}
        alone = seen[cluster.nodes[0].id[:7] + "*"]
        assert alone["deferred"] >= 1 and alone["passed"] == 1, "counted apart"
        cluster.nodes[1].verify(deadline=SECONDS).check()
