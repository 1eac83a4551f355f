"""The end of a cluster with real nodes: recorded before anything is removed, with a node down, crashes at every step."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raftcluster
from examples.counter import Counter
from raftcluster import Node
from raftcluster.cluster import lifecycle
from raftcluster.cluster.archive import Archive
from raftcluster.cluster.tombstone import Tombstone
from raftcluster.errors import RaftclusterError, Refusal, Rejected
from raftcluster.storage.directory import archive
from tests.clusters import SECONDS, Cluster
from tests.helpers import eventually, free_ports

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "hosts", 3) as cluster:
        yield cluster


def events(path: Path) -> list[dict[str, Any]]:
    return list(raftcluster.read_events(path))


def gone(cluster: Cluster, *numbers: int) -> None:
    """Wait until nothing of these nodes is left but what is kept outside their directories."""
    for number in numbers:
        path = cluster.path(number)
        eventually(lambda path=path: not path.exists(), SECONDS, f"{path} is removed")  # type: ignore[misc]


def tombstone(cluster: Cluster, number: int, cluster_id: str) -> bytes:
    found = Archive(archive(cluster.path(number))).find(cluster_id)
    assert found is not None
    return found


def test_every_node_records_the_same_event_before_anything_is_removed(three: Cluster) -> None:
    node = three.nodes[1]
    with pytest.raises(Rejected, match="3 members"):
        node.destroy("test")
    with pytest.raises(Rejected, match="confirm with its name"):
        node.destroy("mail", every_node=True)
    assert node.teardown.progress() == {"event_id": None}
    plan = node.teardown.plan()
    assert [row["node"] for row in plan] == ["mx0", "mx1", "mx2"] and all(row["reached"] for row in plan)
    for number, row in enumerate(plan):
        text = "\n".join(row["steps"])
        assert str(three.path(number) / "certificates") in text and str(archive(three.path(number))) in text
    cluster_id = node.cluster_id
    event_id = node.destroy("test", every_node=True, reason="moved")
    gone(three, 0, 1, 2)
    for number in range(3):
        told = events(three.path(number))
        names = [each["event"] for each in told]
        (decided,) = [each for each in told if each["event"] == "cluster-destroyed"]
        assert decided["fields"]["event_id"] == event_id and decided["fields"]["reason"] == "moved"
        assert len(decided["fields"]["signed_by"]) >= 2
        assert names.index("cluster-destroyed") < names.index("teardown-step") < names.index("teardown-finished")
        assert len({each["sequence"] for each in told}) == len(told)
        Tombstone.unpack(tombstone(three, number, cluster_id)).content()
    removed = [each["fields"]["step"] for each in events(three.path(0)) if each["event"] == "teardown-step"]
    order = ["certificates", "node.json", "tables", "log", "events.log"]
    positions = [next(n for n, step in enumerate(removed) if step.endswith(f"/{name} removed")) for name in order]
    assert positions == sorted(positions), "what gives access goes first"


def test_the_directories_can_be_used_again_at_once(three: Cluster) -> None:
    before = three.nodes[0].cluster_id
    three.nodes[0].destroy("test", every_node=True)
    gone(three, 0, 1, 2)
    with Cluster(three.path(0).parent, 2) as again:
        assert again.nodes[0].cluster_id == again.nodes[1].cluster_id != before
        assert [each.name for each in again.nodes[1].members.list()] == ["mx0", "mx1"]
        assert [each["event"] for each in events(three.path(0))].count("cluster-destroyed") == 1, "and is remembered"


def test_a_node_that_was_down_is_shown_the_tombstone_by_another_clusters_node(three: Cluster, tmp_path: Path) -> None:
    away = three.path(2)
    cluster_id = three.nodes[2].cluster_id
    three.stop(2)
    plan = three.nodes[0].teardown.plan()
    assert [row["reached"] for row in plan] == [True, True, False] and "returns" in plan[2]["steps"][0]
    event_id = three.nodes[0].destroy("test", every_node=True)
    gone(three, 0, 1)
    assert away.exists()
    # A new cluster on the same host, at the same port, in the same directory: its listener has the tombstone.
    where = ("127.0.0.1", three.ports[0])
    raftcluster.init(three.path(0), cluster="new", node="mx0", listen=where)
    with Node.open(three.path(0), ready_seconds=SECONDS) as new:
        assert new.cluster_id != cluster_id
        back = Node.open(away, ready_seconds=0)
        try:
            eventually(lambda: not away.exists(), SECONDS, "the returning node tears itself down")
        finally:
            back.close()
        (accepted,) = [each for each in events(away) if each["event"] == "tombstone-accepted"]
        assert accepted["fields"] == {"event_id": event_id, "source": f"127.0.0.1:{three.ports[0]}"}
        recorded = [each["event"] for each in events(away)]
        assert recorded.index("cluster-destroyed") < recorded.index("teardown-step")
        token = new.members.invite("mx2")
        port = free_ports(1)[0]
        joined = raftcluster.join(away, address=where, token=str(token), node="mx2", listen=("127.0.0.1", port))
        assert joined.cluster_id == new.cluster_id, "and is used in the other cluster"


def test_a_node_that_was_down_is_shown_the_tombstone_by_another_product_in_another_directory(three: Cluster) -> None:
    away, cluster_id = three.path(2), three.nodes[2].cluster_id
    three.stop(2)
    event_id = three.nodes[0].destroy("test", every_node=True)
    gone(three, 0, 1)
    elsewhere = three.path(0).with_name("gateway")
    raftcluster.init(
        elsewhere, cluster="other", node="gw0", listen=("127.0.0.1", three.ports[0]), product="gateway/4.2"
    )
    with Node.open(elsewhere, product="gateway/4.2", machines=[Counter()], ready_seconds=SECONDS) as other:
        assert other.cluster_id != cluster_id
        back = Node.open(away, ready_seconds=0)
        try:
            eventually(lambda: not away.exists(), SECONDS, "the returning node tears itself down")
        finally:
            back.close()
    (accepted,) = [each for each in events(away) if each["event"] == "tombstone-accepted"]
    assert accepted["fields"] == {"event_id": event_id, "source": f"127.0.0.1:{three.ports[0]}"}


def test_what_is_damaged_or_proves_nothing_does_not_hide_the_tombstone(three: Cluster) -> None:
    """Its own archive holds rubbish, one host's a tombstone with too few signatures; the other host's is good."""
    away, cluster_id = three.path(2), three.nodes[2].cluster_id
    three.stop(2)
    event_id = three.nodes[0].destroy("test", every_node=True)
    gone(three, 0, 1)
    proof = tombstone(three, 0, cluster_id)
    good = Tombstone.unpack(proof)
    Archive(archive(away)).keep(cluster_id, proof[:-7])
    few = Tombstone(good.statement, dict(list(good.signatures.items())[:1]), good.links).pack()
    for number, kept in ((0, few), (1, proof)):
        Archive(archive(three.path(number))).keep(cluster_id, kept)
        where = ("127.0.0.1", three.ports[number])
        raftcluster.init(three.path(number), cluster=f"new{number}", node=f"mx{number}", listen=where)
    with (
        Node.open(three.path(0), ready_seconds=SECONDS),
        Node.open(three.path(1), ready_seconds=SECONDS),
        Node.open(away, ready_seconds=0) as back,
    ):
        eventually(lambda: not away.exists(), SECONDS, "the returning node tears itself down")
        eventually(lambda: back.closed, SECONDS)
    (accepted,) = [each for each in events(away) if each["event"] == "tombstone-accepted"]
    assert accepted["fields"] == {"event_id": event_id, "source": f"127.0.0.1:{three.ports[1]}"}


def test_nobody_is_left_at_the_old_addresses_and_the_node_says_what_to_do(
    three: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other hosts have begun anew at another port: nothing leads there, so it has to be told."""
    monkeypatch.setattr(lifecycle, "ALONE_SECONDS", 0.5)
    away, cluster_id = three.path(2), three.nodes[2].cluster_id
    three.stop(2)
    event_id = three.nodes[0].destroy("test", every_node=True)
    gone(three, 0, 1)
    where = ("127.0.0.1", free_ports(1)[0])
    raftcluster.init(three.path(0), cluster="new", node="mx0", listen=where)
    with Node.open(three.path(0), ready_seconds=SECONDS), Node.open(away, ready_seconds=0) as back:
        said = eventually(lambda: back.status()["alarms"].get("alone", ""), SECONDS, "an alarm")
        assert "raftcluster destroy --tombstone FILE" in said and "raftcluster members move NAME" in said
        assert (away / "node.json").exists()
        assert back.bury(tombstone(three, 0, cluster_id)) == event_id
        eventually(lambda: not away.exists(), SECONDS, "it is torn down")


@pytest.mark.parametrize("running", [False, True])
def test_a_node_that_was_down_is_handed_the_tombstone(three: Cluster, running: bool) -> None:
    away, cluster_id = three.path(2), three.nodes[2].cluster_id
    three.stop(2)
    event_id = three.nodes[0].destroy("test", every_node=True)
    gone(three, 0, 1)
    proof = tombstone(three, 0, cluster_id)
    forged = Tombstone.unpack(proof)
    few = dict(list(forged.signatures.items())[:1])
    others = [
        Tombstone(forged.statement, few, forged.links).pack(),
        Tombstone(forged.statement.replace(b"test", b"mail"), forged.signatures, forged.links).pack(),
        proof[:-1],
        b"",
    ]
    back = Node.open(away, ready_seconds=0) if running else None
    try:
        for bad in others:
            with pytest.raises(RaftclusterError):
                back.bury(bad) if back is not None else raftcluster.bury(away, bad)
        assert (away / "node.json").exists(), "nothing but the proof does it"
        assert (back.bury(proof) if back is not None else raftcluster.bury(away, proof)) == event_id
        eventually(lambda: not away.exists(), SECONDS, "it is torn down")
    finally:
        if back is not None:
            back.close()
    assert [each["fields"]["source"] for each in events(away) if each["event"] == "tombstone-accepted"] == ["a file"]


def test_without_a_majority_nothing_is_destroyed(three: Cluster, soon_told: None) -> None:
    three.stop(1)
    three.stop(2)
    with pytest.raises(RaftclusterError):
        three.nodes[0].destroy("test", every_node=True)
    assert three.nodes[0].teardown.progress() == {"event_id": None}
    assert (three.path(0) / "node.json").exists()


def test_a_cluster_of_one_in_a_directory_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er"
    path.mkdir(parents=True)
    where = ("127.0.0.1", free_ports(1)[0])
    raftcluster.init(path, cluster="one", node="mx0", listen=where)
    with Node.open(path, ready_seconds=SECONDS) as node:
        node.destroy("one")
        eventually(lambda: not list(path.iterdir()), SECONDS, "it is empty as before")
    new = tmp_path / "a" / "b" / "c"
    raftcluster.init(new, cluster="two", node="mx0", listen=where)
    with Node.open(new, ready_seconds=SECONDS) as node:
        node.destroy("two")
        eventually(lambda: not new.exists(), SECONDS)
    assert sorted(each.name for each in (tmp_path / "a" / "b").iterdir()) == ["c-destroyed"], (
        "the archive holds the rest"
    )


def test_a_node_that_may_not_write_beside_its_directory_keeps_the_archive_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mx0"
    where = ("127.0.0.1", free_ports(1)[0])
    raftcluster.init(path, cluster="one", node="mx0", listen=where)
    monkeypatch.setattr("raftcluster.storage.directory.os.access", lambda *_: False)
    with Node.open(path, ready_seconds=SECONDS) as node:
        node.destroy("one")
        eventually(lambda: [each.name for each in path.iterdir()] == ["destroyed"], SECONDS)
    raftcluster.init(path, cluster="two", node="mx0", listen=where)
    with Node.open(path, ready_seconds=SECONDS) as node:
        assert node.members.facts().name == "two"
    assert "cluster-destroyed" in [each["event"] for each in events(path)]


def test_a_marked_directory_is_finished_by_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever removal fails: what is left is marked, is no node's any more, and the next start goes on."""
    path = tmp_path / "mx0"
    where = ("127.0.0.1", free_ports(1)[0])
    raftcluster.init(path, cluster="one", node="mx0", listen=where)
    real = os.unlink
    with monkeypatch.context() as patched:

        def refuse(target: Any, *rest: Any, **more: Any) -> None:
            if str(target).endswith("STARTED"):
                raise PermissionError(13, "Permission denied", str(target))
            real(target, *rest, **more)

        patched.setattr("os.unlink", refuse)
        patched.setattr("pathlib.os.unlink", refuse)
        with Node.open(path, ready_seconds=SECONDS) as node:
            event_id = node.destroy("one")
            eventually(lambda: node.closed and not (path / "node.json").exists(), SECONDS)
            eventually(lambda: "raftcluster-wipe" not in [each.name for each in threading.enumerate()], SECONDS)
        with pytest.raises(RaftclusterError):
            Node.open(path)
    assert (path / "DESTROYED").exists() and not (path / "certificates").exists()
    with pytest.raises(Refusal, match="was destroyed"):
        Node.open(path)
    assert not path.exists()
    told = [each["event"] for each in events(path)]
    assert told.count("cluster-destroyed") == 1 and told[-1] == "teardown-finished"
    assert {each["fields"].get("event_id") for each in events(path) if each["event"].startswith("teardown")} == {
        event_id
    }
