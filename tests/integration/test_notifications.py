"""Notifications on three real nodes: leaders go while they are sent and read, none is lost, an acknowledgement counts once."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from raftcluster import Node
from raftcluster.errors import OutcomeUnknown, Unavailable
from tests.clusters import SECONDS, Cluster
from tests.helpers import eventually

COUNT = 60


def _publish(node: Node, number: int) -> bool:
    """With a key it is safe to ask again."""
    with suppress(Unavailable, OutcomeUnknown):
        return bool(node.notifications.publish("info", str(number), key=f"number {number}"))
    return False


def test_no_notification_is_lost_with_the_leader_and_each_is_acknowledged_once(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        leader = cluster.leader()
        reader, writer = [number for number in cluster.nodes if number != leader]
        got: list[str] = []

        def read() -> None:
            for each in cluster.nodes[reader].notifications.subscribe("pager"):
                got.append(each.text)
                if each.text == str(COUNT - 1):
                    return

        thread = threading.Thread(target=read)
        thread.start()
        for number in range(COUNT):
            if number == COUNT // 3:
                cluster.stop(leader)
            eventually(lambda n=number: _publish(cluster.nodes[writer], n), SECONDS)  # type: ignore[misc]
        thread.join(SECONDS)
        assert got == [str(number) for number in range(COUNT)], "the reader's node did not crash: each exactly once"

        cluster.start(leader)
        back = cluster.nodes[leader].notifications
        eventually(lambda: back.last() == COUNT, SECONDS, "the node that is back has them all")
        first: list[int] = []

        def acknowledge(node: Node) -> None:
            first.extend(n for n in range(1, 21) if node.notifications.acknowledge(n, author=node.name))

        threads = [threading.Thread(target=acknowledge, args=(node,)) for node in cluster.nodes.values()]
        for each in threads:
            each.start()
        for each in threads:
            each.join(SECONDS)
        assert sorted(first) == list(range(1, 21)), "each by one of three"
        assert len(back.list(consistency="linearizable")) == COUNT - 20
        assert next(back.subscribe("pager", since=0)).position == COUNT, "its cursor is the cluster's"
