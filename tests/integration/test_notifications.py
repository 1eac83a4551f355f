"""Notifications on three real nodes: leaders go while they are sent and read, none is lost, an acknowledgement counts once."""

from __future__ import annotations

import json
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from click.testing import CliRunner

from raftcluster import Node
from raftcluster.cli.main import main
from raftcluster.control.server import ControlServer
from raftcluster.errors import OutcomeUnknown, Unavailable
from tests.children import Child
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


def test_a_consumer_at_the_command_line_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each once as long as nobody kills it, whichever node it is at; after a kill -9 at most the last one again."""

    with Cluster(tmp_path, 2) as cluster:
        servers = {n: ControlServer(node, cluster.path(n) / "control.sock") for n, node in cluster.nodes.items()}
        for each in servers.values():
            each.start()
        notifications = cluster.nodes[0].notifications

        def follow(number: int) -> Child:
            arguments = [sys.executable, "-m", "raftcluster.cli", "-C", str(cluster.path(number)), "notifications"]
            return Child(
                "follow", [*arguments, "follow", "--consumer", "pager", "--json"], tmp_path / "log", pipes=True
            )

        def texts(child: Child, count: int) -> list[str]:
            return [json.loads(child.line(SECONDS))["text"] for _ in range(count)]

        def publish(first: int, last: int) -> None:
            for number in range(first, last):
                eventually(lambda n=number: _publish(cluster.nodes[0], n), SECONDS)  # type: ignore[misc]

        publish(0, 5)
        got: list[str] = []
        for turn in range(3):
            child = follow(turn % 2)
            try:
                got += texts(child, 5)
                eventually(lambda: notifications.cursor("pager") == notifications.last(), SECONDS, "all are handled")
                child.process.send_signal(signal.SIGINT)
                assert child.process.wait(SECONDS) == 0
            finally:
                child.kill()
            publish(5 * turn + 5, 5 * turn + 10)
        assert got == [str(number) for number in range(15)], "exactly once, at two nodes in turn"

        child = follow(1)
        printed = texts(child, 3)
        child.kill()
        printed += [json.loads(line)["text"] for line in child.rest() if line.endswith("}")]
        publish(20, 21)
        child = follow(0)
        try:
            again = texts(child, 1)
            while again[-1] != "20":
                again += texts(child, 1)
        finally:
            child.kill()
        assert printed == [str(number) for number in range(15, 15 + len(printed))]
        assert again == [str(number) for number in range(int(again[0]), 21)]
        assert int(again[0]) in (int(printed[-1]), int(printed[-1]) + 1), "nothing is lost, and one at most comes again"
        told = CliRunner().invoke(main, ["-C", str(cluster.path(0)), "notifications", "seek", "pager", "3"])
        assert told.stdout == "pager goes on after 3\n" and notifications.cursor("pager") == 3
        for known in (True, False):
            told = CliRunner().invoke(main, ["-C", str(cluster.path(1)), "notifications", "forget", "pager", "--json"])
            assert json.loads(told.stdout) == {"consumer": "pager", "known": known}
        for each in servers.values():
            each.close()
