"""The facade with everything real beneath it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import psutil
import pytest

import raftcluster
from examples.counter import Counter
from raftcluster import Node, limits
from raftcluster.codec import unpack
from raftcluster.errors import AddressInUse, OutcomeUnknown, Refusal, Rejected, StorageFailed, Unavailable
from tests.clusters import Cluster
from tests.helpers import eventually, free_ports


class Boom:
    """A machine that fails in every way that a machine can."""

    name, schema, tables = "boom", 1, ("rows",)

    def apply(self, command: Any, tables: Any, time: int) -> Any:
        tables.put("rows", str(command).encode()[:64], b"value")
        if command == "reject":
            raise Rejected("no", subject="it", remedy="ask otherwise")
        if command == "fail":
            raise KeyError("defect")
        return object() if command == "unpackable" else command

    def tick(self, tables: Any, time: int) -> None: ...


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), 3, lambda: [Counter(), Boom()]) as cluster:
        yield cluster


def single(tmp_path: Path) -> Path:
    path = tmp_path / "node"
    raftcluster.init(path, cluster="one", node="mx0", listen=("127.0.0.1", free_ports(1)[0]), lab=True)
    return path


def test_a_command_counts_once_and_is_seen_everywhere(cluster: Cluster) -> None:
    totals = [cluster.nodes[number % 3].propose("counter", "a") for number in range(9)]
    assert totals == list(range(1, 10))
    for node in cluster.nodes.values():
        assert node.query("counter", lambda t, now: t.get("totals", b"a"), consistency="linearizable") == b"9"
        assert eventually(lambda n=node: n.query("counter", lambda t, now: t.get("totals", b"a")) == b"9")  # type: ignore[misc]
        assert node.query("counter", lambda t, now: t.get("totals", b"a"), consistency=30.0) is not None


def test_the_same_request_id_counts_once(cluster: Cluster) -> None:
    ident = os.urandom(16)
    assert {cluster.nodes[number].propose("counter", "once", id=ident) for number in (0, 1, 2, 0)} == {1}


def test_asyncio(cluster: Cluster) -> None:
    async def count() -> list[int]:
        return list(await asyncio.gather(*(cluster.nodes[n % 3].apropose("counter", "async") for n in range(60))))

    assert sorted(asyncio.run(count())) == list(range(1, 61))


def test_what_a_machine_refuses_is_refused_and_undone(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    with pytest.raises(Rejected, match=r"no \(ask otherwise\)"):
        node.propose("boom", "reject")
    logging.getLogger("raftcluster.engine").setLevel(logging.CRITICAL + 1)  # the failures are wanted
    for command, kind in (("fail", "KeyError"), ("unpackable", "TypeError")):
        with pytest.raises(Rejected, match=kind):
            node.propose("boom", command)
    logging.getLogger("raftcluster.engine").setLevel(logging.NOTSET)
    for command in ("reject", "fail", "unpackable"):
        written = node.query("boom", lambda t, _, c=command: t.get("rows", c.encode()), consistency="linearizable")  # type: ignore[misc]
        assert written is None
    assert node.propose("boom", "fine") == "fine"
    assert node.query("boom", lambda t, _: t.get("rows", b"fine"), consistency="linearizable") == b"value"
    with pytest.raises(Rejected, match="no state machine is called 'nobody'"):
        node.propose("nobody", 1)
    with pytest.raises(Rejected, match="no state machine is called 'nobody'"):
        node.query("nobody", lambda t, now: None)


def test_too_large_is_rejected(cluster: Cluster) -> None:
    with pytest.raises(Rejected, match="bytes where at most"):
        cluster.nodes[0].propose("counter", "x" * 300_000)


def test_commands_that_travel_together_succeed_and_fail_apart(cluster: Cluster) -> None:
    """Asked in one moment they are one operation, until one of them cannot even be sent: then each goes alone."""
    node = cluster.nodes[1]

    def ask(commands: list[Any]) -> list[Any]:
        async def all_of() -> list[Any]:
            asked = [node.apropose("boom", command, deadline=20.0) for command in commands]
            return await asyncio.gather(*asked, return_exceptions=True)

        return [getattr(each, "code", each) for each in asyncio.run(all_of())]

    assert ask([number if number % 3 else "reject" for number in range(300)]) == [
        number if number % 3 else "rejected" for number in range(300)
    ]
    assert ask([1, "fail", object(), "x" * 2**19, "unpackable", b"bytes"]) == [
        1,
        "rejected",
        "value",
        "too-large",
        "rejected",
        b"bytes",
    ]


def test_leadership_moves_when_asked_of_any_node(cluster: Cluster) -> None:
    for target in ("mx1", "mx2", "mx0"):
        asked = next(node for node in cluster.nodes.values() if node.name != target)
        leader = asked.transfer(target)
        assert next(node for node in cluster.nodes.values() if node.id == leader).name == target
    with pytest.raises(Rejected, match="mx9 is no member"):
        cluster.nodes[0].transfer("mx9")


def test_status_names_roles(cluster: Cluster) -> None:
    leader = cluster.leader()
    for number, node in cluster.nodes.items():
        status = node.status()
        assert status["role"] == ("leader" if number == leader else "voter")
        assert [row["role"] for row in status["members"]].count("leader") == 1
        assert status["storage"] == "ok" and status["failure"] is None


def test_configuration_and_its_watch_survive_the_leader(cluster: Cluster) -> None:
    leader = cluster.leader()
    observer, writer = [number for number in cluster.nodes if number != leader]
    watch = cluster.nodes[observer].config.watch("watched/")
    seen: list[int] = []

    def listen() -> None:
        for change in watch:
            seen.append(change.value)
            if change.value == 19:
                return

    thread = threading.Thread(target=listen)
    thread.start()
    for number in range(20):
        if number == 10:
            cluster.stop(leader)
        cluster.nodes[writer].config.set("watched/value", number, deadline=60.0)
    thread.join(60)
    assert seen == list(range(20))
    cluster.start(leader)
    assert cluster.nodes[leader].config.get("watched/value", consistency="linearizable") == 19


def test_without_a_quorum_nothing_is_taken_and_reads_go_on(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3, lambda: [Counter()]) as cluster:
        assert cluster.nodes[0].propose("counter", "a") == 1
        leader = cluster.leader()
        rest = [number for number in cluster.nodes if number != leader]
        cluster.stop(rest[0])
        cluster.stop(leader)
        last = cluster.nodes[rest[1]]
        eventually(lambda: last.status()["leader"] is None)
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            last.propose("counter", "a", deadline=0.5)
        assert last.greylist.check(
            client="192.0.2.1", sender="a@b.example", recipient="c@d.example", deadline=0.5
        ).degraded
        with pytest.raises(Unavailable):
            last.query("counter", lambda t, now: None, consistency="linearizable", deadline=0.5)
        assert time.monotonic() - begun < 30.0
        assert last.query("counter", lambda t, now: t.get("totals", b"a")) == b"1"
        cluster.stop(rest[1])
        with pytest.raises(Unavailable, match="no leader within"):
            cluster.start(rest[1], ready_seconds=1.0)
        for number in range(3):
            cluster.start(number, ready_seconds=0)
        eventually(cluster.settled)
        assert cluster.nodes[0].propose("counter", "a") == 2


def test_after_a_stop_plain_lmdb_reads_everything(tmp_path: Path) -> None:
    path = single(tmp_path)
    with Node.open(path) as node:
        node.config.set("antispam/threshold", 5, reason="holiday wave")
        for number in range(50):
            node.greylist.check(client="192.0.2.7", sender=f"a{number}x@example.net", recipient="b@example.org")
    with lmdb.open(str(path / "tables"), max_dbs=64, readonly=True, lock=False) as env:
        values = env.open_db(b"config.values", create=False)
        records = env.open_db(b"greylist.records", create=False)
        with env.begin() as txn:
            row = txn.get(b"antispam/threshold", db=values)
            assert row is not None and 5 in unpack(row)
            assert txn.stat(records)["entries"] == 50


def test_a_restart_remembers(tmp_path: Path) -> None:
    path = single(tmp_path)
    with Node.open(path, machines=[Counter()]) as node:
        ident = b"0123456789abcdef"
        assert [node.propose("counter", "a"), node.propose("counter", "a", id=ident)] == [1, 2]
    with Node.open(path, machines=[Counter()]) as node:
        assert node.propose("counter", "a", id=ident) == 2
        assert node.propose("counter", "a") == 3


def test_a_node_whose_log_is_gone_takes_no_part_any_more(tmp_path: Path) -> None:
    """It may have voted: under its old id it could vote a second time in the same term."""
    path = single(tmp_path)
    with Node.open(path) as node:
        node.config.set("a/b", 1)
    for file in (path / "log").iterdir():
        file.unlink()
    with pytest.raises(StorageFailed, match="join again"):
        Node.open(path)


def test_a_node_whose_newest_segment_is_missing_or_an_older_one_takes_no_part_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is a sound log, of before: the tables know that there was more."""
    monkeypatch.setattr(limits, "FIRST_SEGMENT_BYTES", 16 * limits.KIB)
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 16 * limits.KIB)
    path = single(tmp_path)
    with Node.open(path) as node:
        node.config.set("a/b", 0)
    older = {file: file.read_bytes() for file in (path / "log").glob("*.segment")}
    with Node.open(path) as node:
        for number in range(5):
            node.config.set("a/b", f"{number}" * 4_000)
    newest = max((path / "log").glob("*.segment"))
    assert newest not in older
    newest.unlink()
    with pytest.raises(StorageFailed, match=r"its end is missing.*join again"):
        Node.open(path)
    for file, before in older.items():
        file.write_bytes(before)
    with pytest.raises(StorageFailed, match=r"its end is missing.*join again"):
        Node.open(path)


def test_a_port_in_use_names_the_address(tmp_path: Path) -> None:
    path = single(tmp_path)
    with Node.open(path) as node:
        other = tmp_path / "other"
        raftcluster.init(other, cluster="two", node="mx0", listen=node.mesh.address, lab=True)
        with pytest.raises(AddressInUse, match=str(node.mesh.address[1])):
            Node.open(other)
        with pytest.raises(Refusal, match="process"):
            Node.open(path)
    Node.open(other).close()


def test_a_fork_is_told(tmp_path: Path) -> None:
    with Node.open(single(tmp_path), machines=[Counter()]) as node:
        child = os.fork()
        if child == 0:
            try:
                node.propose("counter", "a")
            except Rejected as error:
                os._exit(0 if "fork" in str(error) and "socket" in str(error) else 2)
            finally:
                os._exit(1)  # whatever else happened: the child must never return into the test
        assert os.waitpid(child, 0)[1] == 0
        assert node.propose("counter", "a") == 1


def test_a_closed_node_says_so(tmp_path: Path) -> None:
    node = Node.open(single(tmp_path))
    node.close()
    node.close()
    with pytest.raises(Unavailable, match="closed"):
        node.config.set("a/b", 1)


def test_a_good_guest_leaves_nothing_behind(tmp_path: Path) -> None:
    path = single(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    root = list(logging.getLogger().handlers)
    process = psutil.Process()
    Node.open(path).close()
    before = (threading.active_count(), process.num_fds())
    for _ in range(100):
        Node.open(path).close()
    eventually(
        lambda: threading.active_count() <= before[0] and process.num_fds() <= before[1], what="all is given back"
    )
    assert handlers == {number: signal.getsignal(number) for number in handlers}
    assert root == logging.getLogger().handlers


def test_callers_that_wait_when_it_closes_are_told(tmp_path: Path) -> None:
    with Cluster(tmp_path, 2, lambda: [Counter()]) as cluster:
        node = cluster.nodes[0]
        cluster.stop(1)
        errors: list[Exception] = []

        def ask() -> None:
            try:
                node.propose("counter", "a", deadline=60.0)
            except (Unavailable, OutcomeUnknown) as error:
                errors.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: node._runtime.call(lambda r: len(r.outbox)) > 0)
        node.close()
        asking.join(60)
        assert len(errors) == 1
