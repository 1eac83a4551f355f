"""After a lost quorum: what a survivor holds becomes a new cluster, and the old one's members are told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import raftcluster
from examples.counter import Counter
from raftcluster import Node, backup
from raftcluster.backup.offline import Offline
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.statement import Statement
from raftcluster.codec import pack, unpack
from raftcluster.errors import Rejected, StorageFailed, StorageFull, StorageRefusal, Unavailable
from raftcluster.storage import segment
from raftcluster.storage.directory import DataDirectory
from raftcluster.storage.log import LogStore
from raftcluster.transport.certificates import fingerprint, issue, make_request
from tests.clusters import Cluster
from tests.helpers import eventually, free_ports

pytestmark = pytest.mark.usefixtures("impatient")


class Lost:
    """Three nodes, of which one has stopped after all the others: nothing runs any more."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder, 3, lambda: [Counter()])
        nodes = self.cluster.nodes
        nodes[0].config.set("antispam/threshold", 5)
        for number in range(20):
            nodes[number % 3].propose("counter", "a")
        nodes[0].greylist.check(client="192.0.2.7", sender="a@example.net", recipient="b@example.org")
        self.survivor = next(number for number in (2, 1) if number != self.cluster.leader())
        self.name = nodes[self.survivor].name
        eventually(self.cluster.settled)
        self.former = nodes[0].cluster_id
        self.path = self.cluster.path(self.survivor)
        self.others = [number for number in range(3) if number != self.survivor]
        for number in self.others:
            self.cluster.stop(number)
        self.cluster.stop(self.survivor)

    def recover(self, path: Path | None = None) -> backup.Recovered:
        return backup.recover(
            path or self.path, confirm="test", machines=[Counter()], author="admin", reason="two are on fire"
        )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    return Lost(tmp_path_factory.mktemp("template"))


@pytest.fixture
def copy(template: Lost, tmp_path: Path) -> Path:
    """The survivor's directory."""
    shutil.copytree(template.path, tmp_path / "node")
    return tmp_path / "node"


def files(path: Path) -> dict[str, bytes]:
    """What is in a directory, but for LMDB's files and the lock."""
    found = sorted(each for each in path.rglob("*") if each.is_file() and each.suffix != ".mdb" and each.name != "LOCK")
    return {str(each.relative_to(path)): each.read_bytes() for each in found}


def recoveries(path: Path) -> list[dict[str, Any]]:
    """What the node has told of recoveries that somebody decided."""
    told = [each["fields"] for each in raftcluster.read_events(path) if each["event"] == "cluster-changed"]
    return [each for each in told if each["action"] == "recover"]


def test_the_preview_shows_what_is_kept_and_lost_and_changes_nothing(template: Lost, copy: Path) -> None:
    before = files(copy)
    shown = backup.preview(copy, machines=[Counter()])
    assert files(copy) == before
    assert (shown.cluster, shown.cluster_id, shown.node) == ("test", template.former, template.name)
    assert shown.voters == ["mx0", "mx1", "mx2"] and shown.quorum == 2 and shown.voter and not shown.unfinished
    assert [each.name for each in shown.members if each.here] == [template.name] and len(shown.members) == 3
    assert shown.last_index - shown.commit_index == shown.uncertain >= 0
    assert shown.applied_index <= shown.last_index and shown.last_term <= shown.term
    assert shown.config_revision == 1 and shown.generation == 3
    assert backup.preview(copy, machines=[Counter()]) == shown


def test_a_survivor_goes_on_with_everything_as_a_new_cluster(template: Lost, copy: Path) -> None:
    shown = backup.preview(copy, machines=[Counter()])
    done = template.recover(copy)
    assert done.former_id == template.former != done.cluster_id and done.generation == 4
    assert done.node == template.name and len(done.removed) == 2 and done.index == shown.last_index + 1
    with Node.open(copy, machines=[Counter()]) as node:
        assert (node.cluster_id, node.name) == (done.cluster_id, template.name)
        assert node.config.get("antispam/threshold") == 5 and node.greylist.stats()["records"] == 1
        assert node.propose("counter", "a") == 21
        status = node.status()
        assert status["voters"] == [node.id] and status["term"] > shown.term
        eventually(lambda: node.status()["alarms"] == {}, what="all is well")
        assert node.certs.show().generation == 4
        newest, *older = node.members.log()
        assert (newest.action, newest.subject) == ("recover", f"cluster {template.former} at entry {shown.last_index}")
        assert (newest.author, newest.origin, newest.reason) == ("admin", template.name, "two are on fire")
        assert [each.action for each in reversed(older)] == ["init", *2 * ["invite", "join"]], "it goes on from there"
        decided = eventually(lambda: recoveries(copy), what="it tells who decided that")
        assert [each["number"] for each in decided] == [newest.number]
    (told,) = (each for each in raftcluster.read_events(copy) if each["event"] == "cluster-recovered")
    assert told["fields"]["removed"] == done.removed and told["fields"]["reason"] == "two are on fire"
    assert told["cluster_id"] == done.cluster_id
    assert [each.name for each in (copy / "certificates").iterdir() if each.is_dir()] == ["4"], "old keys are gone"
    with Node.open(copy, machines=[Counter()]) as node:
        assert node.propose("counter", "a") == 22
    with pytest.raises(Rejected) as caught:
        template.recover(copy)
    assert caught.value.code == "quorum-not-lost"


def test_entries_that_only_the_survivors_log_holds_are_kept(template: Lost, tmp_path: Path) -> None:
    """Proposed to a leader that never heard of a majority again: it may have been acknowledged, for all that it knows."""
    with Cluster(tmp_path, 2, lambda: [Counter()]) as cluster:
        leader = cluster.leader()
        cluster.stop(1 - leader)
        with pytest.raises((Unavailable, raftcluster.OutcomeUnknown)):
            cluster.nodes[leader].propose("counter", "late", deadline=0.3)
        cluster.stop(leader)
        log = LogStore(cluster.path(leader) / "log")
        held = any(b"late" in command for command, _, _ in log.load().entries)
        log.close()
        shown = backup.preview(cluster.path(leader), machines=[Counter()])
        assert shown.uncertain > 0 or not held
        template.recover(cluster.path(leader))
        with Node.open(cluster.path(leader), machines=[Counter()]) as node:
            kept = node.query("counter", lambda tables, now: tables.get("totals", b"late"))
            assert kept == (b"1" if held else None)


def test_old_members_say_why_the_recovered_one_does_not_come_back(template: Lost, tmp_path: Path) -> None:
    shutil.copytree(template.path.parent, tmp_path / "all")
    paths = {number: tmp_path / "all" / f"node{number}" for number in range(3)}
    done = template.recover(paths[template.survivor])
    with Node.open(paths[template.survivor], machines=[Counter()]) as recovered:
        with Node.open(paths[template.others[0]], machines=[Counter()], ready_seconds=0) as old:
            alarm = eventually(lambda: old.status()["alarms"].get("recovered"))
            assert template.name in alarm and done.cluster_id in alarm and "empty data directory" in alarm
            assert old.mesh.links() == {} and recovered.mesh.links() == {}
            with Node.open(paths[template.others[1]], machines=[Counter()], ready_seconds=60.0) as third:
                assert third.propose("counter", "a") == 21, "the old cluster has a majority of its own after all"
                assert len(third.mesh.links()) == 1 and recovered.mesh.links() == {}
        token = str(recovered.members.invite(f"mx{template.others[0]}"))
        raftcluster.join(
            tmp_path / "anew",
            address=(recovered.facts["listen"][0], recovered.facts["listen"][1]),
            token=token,
            node=f"mx{template.others[0]}",
            listen=("127.0.0.1", free_ports(1)[0]),
            machines=[Counter()],
        )
        with Node.open(tmp_path / "anew", machines=[Counter()], ready_seconds=60.0) as joined:
            eventually(lambda: len(joined.status()["voters"]) == 2)
            assert joined.config.get("antispam/threshold", consistency="linearizable") == 5


def test_while_a_majority_answers_nothing_is_recovered_by_mistake(template: Lost, tmp_path: Path) -> None:
    shutil.copytree(template.path.parent, tmp_path / "all")
    paths = {number: tmp_path / "all" / f"node{number}" for number in range(3)}
    here, (first, second) = paths[template.survivor], template.others
    with Node.open(paths[first], machines=[Counter()], ready_seconds=0) as one:
        before = files(here)
        shown = backup.preview(here, machines=[Counter()])
        assert [each.name for each in shown.members if each.answers] == [one.name]
        with pytest.raises(Rejected, match=f"{one.name} answer: with this node they are a majority") as caught:
            template.recover(here)
        assert caught.value.code == "quorum-alive" and "start this node instead" in caught.value.remedy
        assert files(here) == before, "nothing has changed"
        with Node.open(paths[second], machines=[Counter()], ready_seconds=60.0):
            assert one.propose("counter", "a") == 21
            done = backup.recover(here, confirm="test", machines=[Counter()], force=True)
            assert done.cluster_id != template.former
            with Node.open(here, machines=[Counter()]) as recovered:
                assert recovered.propose("counter", "a") == 21, "two clusters, as it was told to"
                assert one.propose("counter", "a") == 22
                assert recovered.mesh.links() == {}


def expire(paths: list[Path]) -> None:
    """As if all had been off for longer than their certificates live: the same keys, signed 95 days ago."""
    nodes = [json.loads((path / "node.json").read_bytes()) for path in paths]
    folders = [next((path / "certificates").glob("*/node.key")).parent for path in paths]
    requests = {
        node["node_id"]: make_request((folder / "node.key").read_bytes(), node["node_id"])
        for node, folder in zip(nodes, folders, strict=True)
    }
    long_ago = datetime.now(UTC) - timedelta(days=95)
    minted = issue(nodes[0]["cluster_id"], int(folders[0].name), requests, at=long_ago)
    for node, folder in zip(nodes, folders, strict=True):
        (folder / "root.pem").write_bytes(minted.root_pem)
        (folder / "node.pem").write_bytes(minted.certificates[node["node_id"]])


def test_certificates_that_have_expired_everywhere_end_in_a_recovery_as_documented(
    template: Lost, tmp_path: Path
) -> None:
    shutil.copytree(template.path.parent, tmp_path / "all")
    paths = [tmp_path / "all" / f"node{number}" for number in range(3)]
    expire(paths)
    here, (first, second) = paths[template.survivor], template.others
    with (
        Node.open(paths[first], machines=[Counter()], ready_seconds=0) as one,
        Node.open(paths[second], machines=[Counter()], ready_seconds=0) as other,
    ):
        for node in (one, other):
            said = eventually(lambda n=node: n.status()["alarms"].get("certificate-expired", ""))  # type: ignore[misc]
            assert "raftcluster recover on one node" in said
        eventually(lambda: one.mesh.refusals.get("expired", 0) + other.mesh.refusals.get("expired", 0) > 0)
        assert one.mesh.links() == other.mesh.links() == {}
        done = template.recover(here)
    assert done.generation == 4
    with Node.open(here, machines=[Counter()]) as recovered:
        assert recovered.propose("counter", "a") == 21
        eventually(lambda: recovered.status()["alarms"] == {}, what="all is well")
        token = str(recovered.members.invite(f"mx{first}"))
        where = (recovered.facts["listen"][0], recovered.facts["listen"][1])
        listen = ("127.0.0.1", free_ports(1)[0])
        raftcluster.join(
            tmp_path / "anew", address=where, token=token, node=f"mx{first}", listen=listen, machines=[Counter()]
        )
        with Node.open(tmp_path / "anew", machines=[Counter()], ready_seconds=60.0):
            eventually(lambda: len(recovered.status()["voters"]) == 2)


def test_another_cluster_at_the_addresses_of_the_old_one_is_no_majority(template: Lost, tmp_path: Path) -> None:
    shutil.copytree(template.path, tmp_path / "node")
    other = template.cluster.ports[template.others[0]]
    raftcluster.init(tmp_path / "other", cluster="test", node="mx0", listen=("127.0.0.1", other))
    with Node.open(tmp_path / "other"):
        assert template.recover(tmp_path / "node").former_id == template.former


def test_a_recovery_that_breaks_off_anywhere_is_finished_by_repeating_it(
    template: Lost, copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write, refound, follow = DataDirectory.write, Offline.refound, Offline.follow
    forget = Keystore.forget
    steps = decided = 0
    for allowed in range(40):
        left = [allowed]

        def counted(step: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
            def failing(*arguments: Any) -> Any:
                if left[0] == 0:
                    raise StorageFull("no space")
                left[0] -= 1
                return step(*arguments)

            return failing

        path = tmp_path / f"copy{allowed}"
        shutil.copytree(copy, path)
        with monkeypatch.context() as patch:
            patch.setattr(DataDirectory, "write", counted(write))
            patch.setattr(Offline, "refound", counted(refound))
            patch.setattr(Offline, "follow", counted(follow))
            patch.setattr(Keystore, "forget", counted(forget))
            try:
                template.recover(path)
            except StorageFull:
                steps += 1
            else:
                break
        if (path / "recover.json").exists():
            decided += 1
            with pytest.raises(StorageRefusal, match="`raftcluster recover` was begun"):
                Node.open(path, machines=[Counter()], ready_seconds=0)
            assert backup.preview(path, machines=[Counter()]).unfinished
            plan = (path / "recover.json").read_bytes()
            done = template.recover(path)
            assert done.cluster_id.encode() in plan
            with Node.open(path, machines=[Counter()]) as node:
                assert node.cluster_id == done.cluster_id and node.propose("counter", "a") == 21
            assert (path / "statement").exists()
        else:
            assert files(path) == files(copy), "before the decision nothing has changed"
        shutil.rmtree(path)
    assert steps >= 10 and decided == steps - 1


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_a_decision_that_is_damaged_is_named_and_nothing_is_done(template: Lost, copy: Path, content: bytes) -> None:
    (copy / "recover.json").write_bytes(content)
    before = files(copy)
    with pytest.raises(StorageFailed, match=r"recover\.json is damaged"):
        template.recover(copy)
    assert files(copy) == before


def test_a_recovery_that_is_done_stays_done_when_the_power_fails(
    template: Lost, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the decision came back, the node would not start, and who repeats the recovery resets a log that has gone on since."""
    kept: list[bool] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")) == copy:
            kept.append((copy / "recover.json").exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    template.recover(copy)
    assert kept[-2:] == [True, False]


@pytest.mark.parametrize("gone", ["all", "end"])
def test_a_survivor_whose_log_is_gone_or_has_no_end_is_recovered_from_its_tables_and_starts(
    template: Lost, copy: Path, gone: str
) -> None:
    """They know how many frames there were; the recovered node's log has fewer, and that is right."""
    for each in (copy / "log").iterdir():
        data = each.read_bytes()
        each.unlink()
        if gone == "end":  # the first half of its frames
            ends = [place.offset for place, _ in segment.frames(data, int(each.stem, 16))]
            each.write_bytes(data[: ends[len(ends) // 2]].ljust(len(data), b"\0"))
    with pytest.raises(StorageFailed, match="its end is missing"):
        Node.open(copy, machines=[Counter()])
    template.recover(copy)
    with Node.open(copy, machines=[Counter()]) as node:
        assert node.propose("counter", "a") == 21


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    path = tmp_path / "alone"
    raftcluster.init(path, cluster="mail", node="mx0", listen=("127.0.0.1", free_ports(1)[0]))
    return path


def test_what_cannot_be_recovered_is_refused(template: Lost, copy: Path, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        backup.recover(copy, confirm="other", machines=[Counter()])
    assert caught.value.code == "not-confirmed"
    with pytest.raises(Rejected) as caught:
        backup.recover(alone, confirm="mail")
    assert caught.value.code == "nothing-to-recover"
    with Node.open(alone):
        with pytest.raises(StorageRefusal, match="is already used by process"):
            backup.recover(alone, confirm="mail")
        with pytest.raises(StorageRefusal, match="is already used by process"):
            backup.preview(alone)
    with pytest.raises(Rejected) as caught:
        backup.recover(alone, confirm="mail")
    assert caught.value.code == "quorum-not-lost"
    with pytest.raises(StorageRefusal, match="is no data directory"):
        backup.preview(tmp_path / "absent")


def test_a_statement_is_believed_only_from_whom_it_is_about(template: Lost, copy: Path) -> None:
    with DataDirectory.open(copy) as directory:
        me = directory.read_node()["node_id"]
        store = Keystore(directory, template.former, me)
        identity = store.identity(store.trust().presented)
    done = template.recover(copy)
    data = (copy / "statement").read_bytes()
    pins = [fingerprint(identity.certificate)]
    said = Statement.checked(data, template.former, me, pins)
    assert said is not None and said.cluster_id == done.cluster_id and said.cluster == "test"
    assert Statement.checked(data, "another", me, pins) is None
    assert Statement.checked(data, template.former, "another", pins) is None
    assert Statement.checked(data, template.former, me, [b"\0" * 32]) is None
    values, certificate, signature = unpack(data)
    forged = replace(said, cluster_id="elsewhere")
    assert Statement.checked(pack([forged._values(), certificate, signature]), template.former, me, pins) is None
    for nonsense in (None, b"", 7, pack([]), pack([values, certificate]), pack([values, b"x", b"y"]), pack([7, 7, 7])):
        assert Statement.checked(nonsense, template.former, me, pins) is None
