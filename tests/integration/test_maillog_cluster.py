"""All nodes' mail logs read at one of them, over real links; and what the command prints."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from raftcluster.cli.main import main
from raftcluster.control.server import ControlServer
from tests.clusters import Cluster
from tests.helpers import eventually


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("logs"), 3) as running:
        control = ControlServer(running.nodes[0], running.path(0) / "control.sock")
        control.start()
        yield running
        control.close()


def check(cluster: Cluster, number: int, sender: str) -> None:
    node = cluster.nodes[number]
    node.greylist.check(client="192.0.2.7", sender=sender, recipient="b@example.org", helo="mx.example.net")
    assert node.maillog.flush()


def run(cluster: Cluster, number: int, *words: str) -> Result:
    return CliRunner().invoke(main, ["-C", str(cluster.path(number)), "logs", *words])


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_each_node_has_its_own_and_one_of_them_shows_all(cluster: Cluster) -> None:
    for number in (0, 2, 1):
        check(cluster, number, f"first{number}@example.net")
    own = run(cluster, 2, "--json")
    assert [(each["node"], each["sender"]) for each in rows(own)][-1:] == [("mx2", "first2@example.net")]
    assert {each["node"] for each in rows(own)} == {"mx2"}
    everything = run(cluster, 0, "--all-nodes", "--json")
    assert everything.exit_code == 0 and everything.stderr == ""
    assert [each["node"] for each in rows(everything)][-3:] == ["mx0", "mx2", "mx1"], "in the order of time"
    assert {each["helo"] for each in rows(everything)} == {"mx.example.net"}
    shown = run(cluster, 0, "--all-nodes").stdout.splitlines()[-3:]
    assert len(shown) == 3 and "first2@example.net  b@example.org  Rejected" in shown[1] and "  mx2  " in shown[1]
    assert rows(run(cluster, 0, "--all-nodes", "--json", "--since", "2999-01-01")) == []
    assert rows(run(cluster, 0, "--all-nodes", "--json", "--since", "1h")) == rows(everything)
    assert run(cluster, 0, "--since", "soon").exit_code == 2


def test_what_comes_is_followed_over_a_node_that_is_away(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    for number in range(3):
        check(cluster, number, "before@example.net")
    seen: list[str] = []
    notices: list[tuple[str, bool]] = []
    gathering = node.logs(0.0, follow=True)

    def read() -> None:
        for entries, told in gathering:
            seen.extend(each.entry.sender for each in entries)
            notices.extend((each.node, bool(each.reason)) for each in told)

    reading = threading.Thread(target=read)
    reading.start()
    before = eventually(lambda: list(seen) if seen.count("before@example.net") == 3 else [])
    check(cluster, 2, "second@example.net")
    eventually(lambda: seen == [*before, "second@example.net"])
    cluster.stop(2)
    eventually(lambda: ("mx2", True) in notices)
    result = run(cluster, 0, "--all-nodes", "--json")
    assert result.exit_code == 5 and "mx2 does not answer: " in result.stderr
    assert {each["node"] for each in rows(result)} == {"mx0", "mx1"}
    assert {each["node"] for each in rows(run(cluster, 2, "--json"))} == {"mx2"}, "its own need no node"
    check(cluster, 1, "third@example.net")
    eventually(lambda: seen[-1] == "third@example.net")
    cluster.start(2)
    check(cluster, 2, "fourth@example.net")
    eventually(lambda: seen[-1] == "fourth@example.net")
    assert notices[-1] == ("mx2", False)
    assert seen == [*before, "second@example.net", "third@example.net", "fourth@example.net"], "each once"
    gathering.close()
    reading.join(60)
    assert not reading.is_alive()


def test_a_follower_ends_with_its_node(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as alone:
        gathering = alone.nodes[0].logs(follow=True)
        reading = threading.Thread(target=lambda: list(gathering))
        reading.start()
        alone.stop(0)
        reading.join(60)
        assert not reading.is_alive()
    assert run(alone, 1, "--json").exit_code == 8, "there is no node"
