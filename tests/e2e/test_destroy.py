"""A cluster's whole end on hosts of their own, with real nftables: one is down meanwhile, and everything is as it was before."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcluster.firewall.table import without_ours
from tests.e2e.hosts import Hosts
from tests.e2e.node import RaftNode
from tests.helpers import eventually

FOREIGN = """
table inet filter {
    set banned { type ipv4_addr; flags dynamic,timeout; timeout 1h; }
    chain input {
        type filter hook input priority 0; policy accept;
        ct state established,related counter accept;
        tcp dport 22 counter accept;
    }
}
"""


@pytest.fixture
def prepared(hosts: Hosts, tmp_path: Path) -> Iterator[dict[int, RaftNode]]:
    """Three nodes of one cluster, on hosts that have rules of their own."""
    nodes = {number: RaftNode(hosts, number, tmp_path) for number in hosts.numbers}
    for number in hosts.numbers:
        assert hosts.run(number, "nft", FOREIGN).returncode == 0
    yield nodes
    for node in nodes.values():
        node.stop()


def ruleset(hosts: Hosts, number: int) -> list[Any]:
    """With counters zeroed."""
    listed = hosts.run(number, "nft", "-j", "list", "ruleset")
    return without_ours(json.loads(listed.stdout)["nftables"])


def tables(hosts: Hosts, number: int) -> str:
    return hosts.run(number, "nft", "list", "tables").stdout


def told(node: RaftNode) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.said("events", "--json").splitlines()]


def test_an_archive_of_another_user_neither_stops_a_destruction_nor_is_touched(hosts: Hosts, tmp_path: Path) -> None:
    """The node ran as somebody else before: what it kept then is not its own any more."""
    node = RaftNode(hosts, 1, tmp_path)
    theirs = tmp_path / "mx1-destroyed"
    theirs.mkdir(mode=0o700)
    (theirs / "0.tombstone").write_bytes(b"theirs")
    os.chown(theirs, 65534, 65534)
    init = ("init", "--name", "e2e", "--listen", "127.0.0.1:9777", "--node", "mx1")
    node.said(*init)
    words = node.words("serve", "--policy", "inet:127.0.0.1:9778")
    serving = hosts.start(1, "raftcluster mx1", words, tmp_path / "mx1.log")
    try:
        eventually(lambda: serving.alive() and node.command("status").returncode == 0)
        done = node.command("destroy", "--confirm", "e2e", "--reason", "over", timeout=90)
        assert done.returncode == 0, f"{done.stderr}\n{serving.tail()}"
        assert serving.process.wait(60) == 0
    finally:
        serving.stop()
    kept = sorted(each.name.partition(".")[2] for each in (node.directory / "destroyed").iterdir())
    assert kept == ["events.log", "tombstone"] and [each.name for each in node.directory.iterdir()] == ["destroyed"]
    assert [each.name for each in theirs.iterdir()] == ["0.tombstone"]
    names = [each["event"] for each in told(node)]
    assert "cluster-destroyed" in names and names[-1] == "teardown-finished"


@pytest.mark.timeout(400)
def test_destroyed_with_a_node_down_that_returns(hosts: Hosts, prepared: dict[int, RaftNode]) -> None:
    nodes = prepared
    before = {number: ruleset(hosts, number) for number in nodes}
    files = {number: sorted(node.directory.parent.glob(f"{node.name}*")) for number, node in nodes.items()}
    for number, node in nodes.items():
        node.init() if number == 1 else node.join(nodes[1])
        node.serve()
    eventually(lambda: len(nodes[1].asked("status")["voters"]) == 3, 60)
    assert all("raftcluster_" in tables(hosts, number) for number in nodes)
    nodes[3].kill()

    plan = nodes[2].asked("destroy", "--dry-run")
    assert [row["reached"] for row in plan] == [True, True, False]
    assert all(any("delete the nftables table" in step for step in row["steps"]) for row in plan[:2])
    done = nodes[2].command("destroy", "--confirm", "e2e", "--every-node", "--reason", "over", "--json", timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["missing"] == ["mx3"]
    for number in (1, 2):
        eventually(lambda number=number: not nodes[number].directory.exists(), 60)  # type: ignore[misc]
        assert ruleset(hosts, number) == before[number], "foreign rules are there, ours is gone, counters aside"
        names = [each["event"] for each in told(nodes[number])]
        assert names.index("cluster-destroyed") < names.index("firewall-removed") < names.index("teardown-step")
        (removed,) = [each for each in told(nodes[number]) if each["event"] == "firewall-removed"]
        assert removed["fields"]["restored"] is True
    ids = {
        each["fields"]["event_id"] for n in (1, 2) for each in told(nodes[n]) if each["event"] == "cluster-destroyed"
    }
    assert ids == {said["event_id"]}

    for number in (1, 2):
        eventually(lambda number=number: not nodes[number].running, what="its process ends")  # type: ignore[misc]
        nodes[number].forget()

    # A new cluster on the same host, at once. The node that was away comes back, meets it, and tears itself down.
    nodes[1].init()
    nodes[1].serve()
    nodes[3].launch()
    eventually(lambda: not nodes[3].directory.exists(), 90, "it has met the tombstone")
    eventually(lambda: not nodes[3].running, what="its process ends")
    assert ruleset(hosts, 3) == before[3]
    (accepted,) = [each for each in told(nodes[3]) if each["event"] == "tombstone-accepted"]
    assert accepted["fields"] == {"event_id": said["event_id"], "source": nodes[1].address}
    left = [path.name for path in nodes[3].directory.parent.glob(f"{nodes[3].name}*") if path not in files[3]]
    assert sorted(left) == ["mx3-destroyed", "mx3.log"], "the archive, and the log that the test has made"

    # And is used again, in the other cluster.
    nodes[3].forget()
    nodes[3].join(nodes[1])
    nodes[3].serve()
    eventually(lambda: len(nodes[1].asked("status")["voters"]) == 2, 60)
