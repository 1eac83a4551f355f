"""A watch has no gap and no duplicate: over a lost leader, a restart of its node, and a snapshot; and who trails is seen."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from raftcluster import Node
from raftcluster.codec import Value
from raftcluster.config.watch import Change
from tests.clusters import Cluster
from tests.helpers import eventually

BURST = 600  # more than twice `LOG_KEEP_ENTRIES`: who was away for so long needs a snapshot


def change(node: Node, number: int) -> None:
    """Two keys at once, at a revision that nobody else gets."""
    both = [("set", f"seen/{number % 40}", number), ("set", f"unseen/{number % 40}", 0)]
    node.config.transact([], both, deadline=60.0)  # through a change of leader, too


def follow(node: Node, seen: list[Change]) -> threading.Thread:
    """Go on after what was seen, until the node is closed."""
    watch = node.config.watch("seen/", since=seen[-1].revision if seen else 0)
    thread = threading.Thread(target=lambda: seen.extend(watch))
    thread.start()
    return thread


def test_a_watch_goes_on_where_it_was(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        seen: list[Change] = []
        leader = cluster.leader()
        observer, writer = [number for number in cluster.nodes if number != leader]
        following = follow(cluster.nodes[observer], seen)
        for number in range(40):
            if number == 20:
                cluster.stop(leader)
            change(cluster.nodes[writer], number)
        eventually(lambda: len(seen) == 40, what="all of it over the loss of the leader")
        cluster.start(leader)
        eventually(cluster.settled)

        last = cluster.nodes[observer].status()["last_index"]
        cluster.stop(observer)
        following.join(60)
        for number in range(40, 40 + BURST):
            change(cluster.nodes[writer], number)
        eventually(
            lambda: all(
                state["last_index"] - state["log_entries"] > last
                for state in (node.status() for node in cluster.nodes.values())
            ),
            what="the log is cut beyond what the observer has",
        )
        following = follow(cluster.start(observer), seen)
        eventually(lambda: len(seen) >= 40 + BURST, what="all of it over a restart and a snapshot")
        cluster.stop(observer)
        following.join(60)
    assert [each.value for each in seen] == list(range(40 + BURST))
    assert [each.revision for each in seen] == list(range(1, 41 + BURST))


def test_a_node_that_cannot_apply_is_seen_to_trail_by_all(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:

        def refuse(values: Mapping[str, Value], revision: int) -> None:
            if values.get("mail/limit") == 6:
                raise ValueError("6 is not to be had here")

        for number, node in cluster.nodes.items():
            node.config.apply("mail/", refuse if number == 1 else lambda values, revision: None)

        def states() -> list[set[tuple[str, int, str]]]:
            found = [node.status()["config_applied"] for node in cluster.nodes.values()]
            return [{(each.node, each.revision, each.problem) for each in reports} for reports in found]

        cluster.nodes[0].config.set("mail/limit", 5)
        eventually(lambda: states() == [{("mx0", 1, ""), ("mx1", 1, ""), ("mx2", 1, "")}] * 3)
        cluster.nodes[2].config.set("mail/limit", 6)
        why = "mail/: ValueError: 6 is not to be had here"
        eventually(lambda: states() == [{("mx0", 2, ""), ("mx1", 1, why), ("mx2", 2, "")}] * 3)
        cluster.nodes[2].config.set("mail/limit", 7)
        eventually(lambda: states() == [{("mx0", 3, ""), ("mx1", 3, ""), ("mx2", 3, "")}] * 3)
