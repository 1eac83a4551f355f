"""`verify` on real clusters: equal where nodes are equal, also under load; what was planted is found and named."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random, SystemRandom

import lmdb
import pytest
from click.testing import CliRunner

import raftcluster
from raftcluster import Damaged, Node, Unavailable
from raftcluster.cli.main import main
from raftcluster.codec import Value
from raftcluster.control.server import ControlServer
from raftcluster.errors import StorageRefusal
from raftcluster.greylist.record import HEAD, NODE_BYTES
from raftcluster.machine import Tables
from raftcluster.verify import verifier
from raftcluster.verify.report import DIFFERENT, EQUAL, SILENT, Report
from tests.clusters import Cluster
from tests.helpers import eventually

RECORDS = "greylist.records"
CHECKS_PER_SECOND = 500
WORKERS = 40


def check(node: Node, number: int) -> None:
    node.greylist.check(client=f"192.0.{number % 200}.7", sender=f"s{number}@example.net", recipient="r@example.org")


def states(report: Report, table: str) -> dict[str, str]:
    return next(dict(each.nodes) for each in report.tables if each.table == table)


def rewrite(path: Path, table: str, change: Callable[[bytes, bytes], bytes | None]) -> bytes:
    """Plant another value for a row of a node that does not run, None for no row; the row's key."""
    env = lmdb.open(str(path / "tables"), max_dbs=64)
    try:
        with env.begin(write=True) as transaction:
            database = env.open_db(table.encode(), txn=transaction)
            cursor = transaction.cursor(database)
            assert cursor.first()
            key, value = cursor.item()
            new = change(key, value)
            if new is None:
                transaction.delete(key, db=database)
            else:
                transaction.put(key, new, db=database)
            return key
    finally:
        env.close()


@contextmanager
def load(nodes: list[Node], seed: int) -> Iterator[list[int]]:
    """About `CHECKS_PER_SECOND` checks, half of them of triplets seen before, and changes of the configuration; the numbers
    of those that were answered, so far."""
    answered: list[int] = []
    stop = threading.Event()

    def work(worker: int) -> None:
        choice = Random(seed + worker)
        while not stop.wait(WORKERS / CHECKS_PER_SECOND):
            check(choice.choice(nodes), choice.randrange(len(answered) + 100))
            answered.append(worker)
            if choice.random() < 0.01:
                choice.choice(nodes).config.set(f"load/{choice.randrange(50)}", len(answered), deadline=60.0)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        yield answered
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 3) as made:
        yield made


def test_equal_nodes_are_equal_at_each_of_them_while_checks_go_on(cluster: Cluster) -> None:
    seed = SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    began = time.monotonic()
    with load(list(cluster.nodes.values()), seed) as answered:
        eventually(lambda: cluster.nodes[0].config.keys("load/"), what="changes of the configuration")
        reports: list[Report] = []
        for number in range(30):
            before = len(answered)
            reports.append(cluster.nodes[number % 3].verify())
            eventually(lambda before=before: len(answered) > before, what="checks go on")  # type: ignore[misc]
    for report in reports:
        report.check()
        assert report.verdict == "sound" and [each.name for each in report.nodes] == ["mx0", "mx1", "mx2"]
        assert {state for each in report.tables for state in each.nodes.values()} == {EQUAL}
        assert all(each.log_entries and each.rows and each.index == report.index for each in report.nodes)
    assert [each.index for each in reports] == sorted({each.index for each in reports})
    assert {"cluster.members", "config.values", "engine.ring", RECORDS} <= {each.table for each in reports[-1].tables}
    seconds = time.monotonic() - began
    print(
        f"{len(answered) / seconds:.0f} checks/s for {seconds:.1f} s, {len(reports)} times verified, {reports[-1].nodes[0].rows} rows at last"
    )


def test_what_was_planted_in_one_nodes_store_is_found_and_named(cluster: Cluster, tmp_path: Path) -> None:
    for number in range(300):
        check(cluster.nodes[number % 3], number)
        cluster.nodes[0].config.set(f"key/{number}", number)
    cluster.stop(2)
    counter = HEAD.size + NODE_BYTES + 3
    changed = rewrite(cluster.path(2), RECORDS, lambda _, value: flipped(value, counter))
    cut = rewrite(cluster.path(2), "greylist.expiry", lambda _, value: value[:-1])
    gone = rewrite(cluster.path(2), "config.values", lambda _, value: None)
    cluster.start(2)
    for node in cluster.nodes.values():
        report = node.verify()
        assert report.verdict == "damaged" and report.more_ranges == 0
        for table in (RECORDS, "greylist.expiry", "config.values"):
            assert states(report, table) == {"mx0": EQUAL, "mx1": EQUAL, "mx2": DIFFERENT}
        assert [(each.table, each.key, list(each.odd)) for each in report.rows] == [
            ("config.values", gone, ["mx2"]),
            ("greylist.expiry", cut, ["mx2"]),
            (RECORDS, changed, ["mx2"]),
        ]
        assert report.rows[0].nodes["mx2"] is None and report.rows[0].nodes["mx0"] == report.rows[0].nodes["mx1"]
        assert [(each.name, trouble.where, trouble.key) for each in report.nodes for trouble in each.troubles] == [
            ("mx2", "greylist.expiry", cut)
        ]
        with pytest.raises(Damaged, match=r"config\.values, greylist\.expiry, greylist\.records of mx2"):
            report.check()

    follower = next(number for number in cluster.nodes if number != cluster.leader())
    server = ControlServer(cluster.nodes[follower], tmp_path / "control.sock")
    server.start()
    try:
        shown = CliRunner().invoke(main, ["-C", str(tmp_path), "verify"])
        assert shown.exit_code == 14, shown.output
        assert "mx2: greylist.expiry" in shown.stdout and "key/" in shown.stdout and "absent" in shown.stdout
        lines = {line.split()[0]: line.split()[2:] for line in shown.stdout.splitlines() if " equal" in line}
        assert lines[RECORDS] == [EQUAL, EQUAL, DIFFERENT] and lines["config.history"] == [EQUAL] * 3
        assert shown.stderr.splitlines()[-1].startswith(
            "error: config.values, greylist.expiry, greylist.records of mx2"
        )
        told = json.loads(CliRunner().invoke(main, ["-C", str(tmp_path), "verify", "--json"]).stdout)
        assert told["verdict"] == "damaged" and told["error"]["code"] == "damaged"
        assert {"table": RECORDS, "key": changed.hex(), "odd": ["mx2"]}.items() <= told["rows"][2].items()
    finally:
        server.close()


def flipped(value: bytes, at: int) -> bytes:
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


def test_a_member_that_is_down_is_named_and_without_a_quorum_there_is_no_answer(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "PROPOSE_SECONDS", 2.0)
    asked = next(number for number in cluster.nodes if number != cluster.leader())
    down, last = (number for number in cluster.nodes if number != asked)
    server = ControlServer(cluster.nodes[asked], tmp_path / "control.sock")
    server.start()
    try:
        sound = CliRunner().invoke(main, ["-C", str(tmp_path), "verify", "--json"])
        assert sound.exit_code == 0 and json.loads(sound.stdout)["verdict"] == "sound", sound.output
        cluster.stop(down)
        cluster.leader()
        shown = CliRunner().invoke(main, ["-C", str(tmp_path), "verify"])
        assert shown.exit_code == 5, shown.output
        assert f"mx{down} did not answer: cannot reach" in shown.stdout
        assert f"error: no answer from mx{down}" in shown.stderr
        report = cluster.nodes[asked].verify()
        assert report.verdict == "incomplete"
        assert states(report, "cluster.members") == {f"mx{asked}": EQUAL, f"mx{last}": EQUAL, f"mx{down}": SILENT}
        with pytest.raises(Unavailable, match=f"no answer from mx{down}"):
            report.check()
        cluster.stop(last)
        alone = CliRunner().invoke(main, ["-C", str(tmp_path), "verify", "--json"])
        assert alone.exit_code == 5 and json.loads(alone.stdout)["error"]["code"] == "unavailable", alone.output
    finally:
        server.close()


class Own:
    """A state machine that breaks its first duty: what it writes depends on who runs it."""

    name, schema, tables = "own", 1, ("rows",)

    def __init__(self) -> None:
        self.odd = False

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        tables.put("rows", command.encode(), b"odd" if self.odd else b"common")
        return None

    def tick(self, tables: Tables, time: int) -> None: ...


def test_a_machine_that_is_not_deterministic_is_found_and_its_row_named(tmp_path: Path) -> None:
    machines: list[Own] = []
    with Cluster(tmp_path, 3, machines=lambda: [made(machines)]) as cluster:
        for number in range(1000):
            cluster.nodes[0].submit("own", f"row {number}", lambda value, error: None)
        cluster.nodes[0].propose("own", "same", deadline=60.0)
        cluster.nodes[0].verify().check()
        machines[-1].odd = True  # that of mx2, which was started last
        cluster.nodes[0].propose("own", "diverge")
        report = cluster.nodes[1].verify()
        assert [(each.table, each.key, list(each.odd)) for each in report.rows] == [("own.rows", b"diverge", ["mx2"])]
        assert {each.table for each in report.tables if DIFFERENT in each.nodes.values()} == {"own.rows"}


def made(machines: list[Own]) -> Own:
    machines.append(Own())
    return machines[-1]


def test_a_log_that_decays_under_a_running_node_is_found(cluster: Cluster) -> None:
    cluster.nodes[0].config.set("needle", "in the haystack")
    eventually(cluster.settled, what="all have it")
    (file,) = (cluster.path(1) / "log").glob("*.segment")
    found = file.read_bytes()
    with file.open("r+b") as writing:
        at = found.find(b"in the haystack")
        assert at > 0
        while at > 0:
            writing.seek(at)
            writing.write(b"I")
            at = found.find(b"in the haystack", at + 1)
    report = cluster.nodes[2].verify()
    assert {state for each in report.tables for state in each.nodes.values()} == {EQUAL}
    (trouble,) = report.nodes[1].troubles
    assert trouble.where == "log" and "fails its checksum" in trouble.text
    assert report.verdict == "damaged" and report.nodes[0].troubles == report.nodes[2].troubles == []


def test_a_directory_is_read_through_while_no_node_runs_there(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        for number in range(100):
            check(cluster.nodes[0], number)
        path = cluster.path(0)
        with pytest.raises(StorageRefusal, match="already used"):
            raftcluster.scrub(path)
        online = cluster.nodes[0].verify()
    sound = CliRunner().invoke(main, ["-C", str(path), "verify", "--offline", "--json"])
    assert sound.exit_code == 0, sound.output
    told = json.loads(sound.stdout)
    assert told["nodes"][0]["name"] == "mx0" and told["nodes"][0]["log_entries"] > 0
    before = {each.table: each.digests["mx0"] for each in online.tables}
    after = {each["table"]: each["digests"]["mx0"] for each in told["tables"]}
    assert before[RECORDS] == after[RECORDS]
    planted = rewrite(path, RECORDS, lambda _, value: flipped(value, len(value) - 1))
    report = raftcluster.scrub(path)
    assert [(each.where, each.key) for each in report.nodes[0].troubles] == [(RECORDS, planted)]
    assert CliRunner().invoke(main, ["-C", str(path), "verify", "--offline"]).exit_code == 14
