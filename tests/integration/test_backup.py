"""Backups of running nodes, and new clusters from them: with real nodes, disks and certificates."""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from pathlib import Path

import pytest

import raftcluster
from examples.counter import Counter
from raftcluster import Node, backup
from raftcluster.backup import restore as restoring
from raftcluster.backup.file import Reader
from raftcluster.codec import unpack
from raftcluster.errors import (
    BackupDamaged,
    BackupForeign,
    LinkRefused,
    RaftclusterError,
    Refusal,
    Rejected,
    StorageFull,
    StorageRefusal,
    Unavailable,
)
from raftcluster.storage.directory import DataDirectory
from raftcluster.storage.tables import TableStore
from tests.clusters import Cluster
from tests.helpers import eventually, free_ports


def single(path: Path, lab: bool = True) -> Path:
    raftcluster.init(path, cluster="mail", node="mx0", listen=("127.0.0.1", free_ports(1)[0]), lab=lab)
    return path


def fill(node: Node, records: int = 200) -> None:
    node.config.set("antispam/threshold", 5, reason="holiday wave")
    for number in range(records):
        node.greylist.check(client="192.0.2.7", sender=f"a{number}x@example.net", recipient="b@example.org")


def restored(path: Path, file: Path, **other: object) -> backup.Restored:
    where = ("127.0.0.1", free_ports(1)[0])
    return raftcluster.restore(path, file, **{"node": "mx9", "listen": where, **other})  # type: ignore[arg-type]


def tables(rows: object) -> dict[str, dict[bytes, bytes]]:
    found: dict[str, dict[bytes, bytes]] = {}
    for table, chunk in rows:  # type: ignore[attr-defined]
        found.setdefault(table, {}).update(chunk)
    return found


def in_file(file: Path) -> dict[str, dict[bytes, bytes]]:
    with Reader(file) as reader:
        return tables(reader.chunks())


def on_disk(path: Path) -> dict[str, dict[bytes, bytes]]:
    store = TableStore(path / "tables")
    try:
        snapshot = store.snapshot()
        assert snapshot is not None
        with closing(snapshot.chunks) as chunks:
            return tables(chunks)
    finally:
        store.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with Node.open(single(tmp_path / "old")) as node:
        fill(node)
        node.backup(tmp_path / "file")
    return tmp_path / "file"


def test_a_backup_holds_all_that_was_acknowledged_before_it_and_one_index(tmp_path: Path) -> None:
    """Two keys are always set in turn: in no backup are they more than one apart, nor behind what was acknowledged."""
    with Cluster(tmp_path, 3) as cluster:
        acknowledged = [0]
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                number = acknowledged[0] + 1
                try:
                    cluster.nodes[1].config.set("pair/a", number)
                    cluster.nodes[2].config.set("pair/b", number)
                except RaftclusterError as error:
                    raise AssertionError(error) from error
                acknowledged[0] = number

        writing = threading.Thread(target=write)
        writing.start()
        try:
            for number in range(6):
                eventually(lambda n=number: acknowledged[0] > 10 * n)  # type: ignore[misc]
                before = acknowledged[0]
                found = cluster.nodes[number % 3].backup(tmp_path / f"file{number}")
                with Reader(tmp_path / f"file{number}") as reader:
                    values = tables(reader.chunks())["config.values"]
                pair = [unpack(values[key])[2] for key in (b"pair/a", b"pair/b")]
                assert pair[1] >= before and pair[0] - pair[1] in (0, 1), (pair, before)
                assert found.members == ["mx0", "mx1", "mx2"] and found.node == f"mx{number % 3}"
        finally:
            stop.set()
            writing.join()


def test_no_private_key_and_no_token_is_in_a_backup(tmp_path: Path) -> None:
    with Node.open(single(tmp_path / "old")) as node:
        token = node.members.invite("mx1")
        node.backup(tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    assert token.id.encode() in data, "the search finds what is there"
    for secret in (b"PRIVATE KEY", token.secret, token.secret.hex().encode(), str(token).split(".")[2].encode()):
        assert secret not in data
    (key,) = (tmp_path / "old").rglob("node.key")
    assert key.read_bytes()[40:100] not in data


def test_a_new_cluster_has_the_tables_and_nothing_of_the_old_one_else(tmp_path: Path, file: Path) -> None:
    old = backup.verify(file)
    done = restored(tmp_path / "new", file)
    (told,) = raftcluster.read_events(tmp_path / "new")
    assert (told["event"], told["fields"]["checksum"]) == ("cluster-restored", old.sha256)
    assert any(each["event"] == "backup-taken" for each in raftcluster.read_events(tmp_path / "old"))
    assert done.cluster == "mail" and done.cluster_id != old.cluster_id and done.index == old.index + 1
    before, after = in_file(file), on_disk(tmp_path / "new")
    for table in set(before) | set(after):
        if not table.startswith("cluster."):
            assert before.get(table) == after.get(table), table
    assert list(after["cluster.members"]) == [done.node_id.encode()] and "cluster.tokens" not in after
    with Node.open(tmp_path / "new") as node:
        assert node.cluster_id == done.cluster_id and node.id == done.node_id
        assert node.config.get("antispam/threshold") == 5 and node.config.history("antispam/threshold")
        assert node.greylist.stats()["records"] == 200
        eventually(lambda: node.status()["alarms"] == {}, what="all is well")
        assert [each.name for each in node.members.list()] == ["mx9"]
        assert node.status()["term"] > old.term and node.status()["cluster_time_ms"] >= old.cluster_time_ms
        assert node.config.set("antispam/threshold", 6) == 2, "revisions go on"
        newest = node.members.log(1)[0]
        assert (newest.action, newest.subject) == ("restore", f"cluster {old.cluster_id} at entry {old.index}")
        assert newest.origin == "mx9" and newest.number > 1, "so does the audit log"
        again = node.backup(tmp_path / "second")
        assert again.index > old.index and again.cluster_id == done.cluster_id
    with Node.open(tmp_path / "new") as node:
        assert node.config.get("antispam/threshold") == 6


def test_a_restored_cluster_grows(tmp_path: Path, file: Path) -> None:
    port, other = free_ports(2)
    restored(tmp_path / "new", file, node="mx0", listen=("127.0.0.1", port), cluster="phoenix")
    with Node.open(tmp_path / "new") as first:
        token = str(first.members.invite("mx1"))
        joined = raftcluster.join(
            tmp_path / "second", address=("127.0.0.1", port), token=token, node="mx1", listen=("127.0.0.1", other)
        )
        assert joined.cluster == "phoenix" and joined.generation == first.certs.show().generation + 1
        with Node.open(tmp_path / "second", ready_seconds=60) as second:
            eventually(lambda: len(first.status()["voters"]) == 2)
            assert second.config.get("antispam/threshold", consistency="linearizable") == 5
            second.config.set("antispam/threshold", 7)
            assert first.config.get("antispam/threshold", consistency="linearizable") == 7


def test_members_of_the_old_cluster_are_refused(tmp_path: Path) -> None:
    with Cluster(tmp_path, 2) as cluster:
        fill(cluster.nodes[0], 3)
        token = str(cluster.nodes[0].members.invite("mx3"))
        cluster.nodes[0].backup(tmp_path / "file")
        cluster.stop(0)
        where = ("127.0.0.1", cluster.ports[0])
        restored(tmp_path / "new", tmp_path / "file", node="mx0", listen=where)
        with Node.open(tmp_path / "new") as node:
            (former,) = (each.node_id for each in cluster.nodes[1].members.list() if each.name == "mx0")
            with pytest.raises(LinkRefused) as refused:
                cluster.nodes[1].mesh.open_stream(former, "snapshot")
            assert refused.value.reason == "cluster"  # type: ignore[attr-defined]
            assert node.mesh.links() == {} and [each.name for each in node.members.list()] == ["mx0"]
            assert cluster.nodes[1].mesh.links() == {}
            with pytest.raises(Rejected) as caught:
                raftcluster.join(
                    tmp_path / "late", address=where, token=token, node="mx3", listen=("127.0.0.1", free_ports(1)[0])
                )
            assert caught.value.code == "fingerprint"


def test_without_a_quorum_only_what_this_node_has_applied(tmp_path: Path) -> None:
    with Cluster(tmp_path, 2) as cluster:
        cluster.nodes[0].config.set("x", 1)
        eventually(lambda: cluster.nodes[0].config.get("x") == 1)
        cluster.stop(1)
        with pytest.raises(Unavailable):
            cluster.nodes[0].backup(tmp_path / "file", deadline=0.5)
        assert not (tmp_path / "file").exists()
        found = cluster.nodes[0].backup(tmp_path / "file", consistency="local")
        assert b"x" in in_file(tmp_path / "file")["config.values"] and len(found.members) == 2


def test_a_backup_of_another_product_or_of_other_tables_is_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(BackupForeign, match=r"'raftcluster/0\.1', this is 'gateway/2'"):
        restored(tmp_path / "new", file, product="gateway/2")
    with pytest.raises(BackupForeign, match="counter absent in the backup, 1 here"):
        restored(tmp_path / "new", file, machines=[Counter()])
    assert not (tmp_path / "new").exists()
    restored(tmp_path / "new", file, product="raftcluster/7")


def test_a_directory_that_is_not_empty_is_refused_and_keeps_what_it_has(tmp_path: Path, file: Path) -> None:
    before = on_disk(tmp_path / "old")
    with pytest.raises(StorageRefusal, match="is a data directory already"):
        restored(tmp_path / "old", file)
    assert on_disk(tmp_path / "old") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(StorageRefusal, match="is not empty: it holds letter"):
        restored(tmp_path / "mine", file)
    with Node.open(tmp_path / "old"), pytest.raises(StorageRefusal):
        restored(tmp_path / "old", file)
    (tmp_path / "empty").mkdir()
    restored(tmp_path / "empty", file)


def test_a_damaged_backup_makes_no_directory(tmp_path: Path, file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(BackupDamaged):
        restored(tmp_path / "new", file)
    assert not (tmp_path / "new").exists()
    for wrong in ({"node": "Not A Host"}, {"advertise": ("", 1)}):
        with pytest.raises(Rejected):
            restored(tmp_path / "new", file, **wrong)


def test_an_interrupted_restore_is_no_node_and_is_repeated(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks off at each of its durable steps in turn."""
    steps = 0
    new = tmp_path / "new"
    write = DataDirectory.write
    for allowed in range(30):
        left = [allowed]

        def failing(self: DataDirectory, name: str, data: bytes, left: list[int] = left) -> None:
            if left[0] == 0:
                raise StorageFull("no space", subject=name)
            left[0] -= 1
            write(self, name, data)

        shutil.rmtree(new, ignore_errors=True)
        monkeypatch.setattr(DataDirectory, "write", failing)
        try:
            restored(new, file)
        except StorageFull:
            steps += 1
        else:
            break
        finally:
            monkeypatch.setattr(DataDirectory, "write", write)
        with pytest.raises(Refusal):
            Node.open(new, ready_seconds=0)
        if (new / "restore.json").exists():
            with pytest.raises(StorageRefusal):
                raftcluster.init(new, cluster="x", node="x", listen=("127.0.0.1", 1))
        restored(new, file)
        with Node.open(new) as node:
            assert node.config.get("antispam/threshold") == 5
    assert steps >= 7 and not (new / "restore.json").exists()


def test_what_the_disk_does_not_take_is_said(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "install", lambda *_: (_ for _ in ()).throw(StorageFull("no space")))
    with pytest.raises(StorageFull):
        restored(tmp_path / "new", file)
    monkeypatch.undo()
    restored(tmp_path / "new", file)
