"""Keys and trust on the disk, the making of a first node, and the unmaking of one."""

from __future__ import annotations

import datetime
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import raftcluster
from raftcluster.cluster import carried, create, destroy
from raftcluster.cluster.auditing import ATTRIBUTED
from raftcluster.cluster.keystore import UNNUMBERED, Keystore, Trust
from raftcluster.cluster.reconcile import GENESIS
from raftcluster.cluster.records import Facts
from raftcluster.cluster.verification import verify
from raftcluster.codec import unpack
from raftcluster.ending import finish
from raftcluster.errors import Refusal, Rejected, StorageFailed, StorageFull, StorageRefusal
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.certificates import issue, issue_root, new_key, subject_of, verify_leaf
from raftcluster.transport.ports import Peer
from raftcluster.transport.tls import Credentials


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    with DataDirectory.create(tmp_path / "node") as made:
        yield made


def init(path: Path, **options: Any) -> str:
    return create.init(path, "mx1.example.org", ("127.0.0.1", 0), ("192.0.2.1", 9777), "mta/1", **options)


def test_a_generation_from_key_to_certificate(directory: DataDirectory) -> None:
    keys = Keystore(directory, "c1", "n1")
    request = keys.request(1)
    assert keys.request(1) == request, "the same key, however often it is asked for"
    assert keys.requests() == {1: request} and keys.stored() == set() and keys.on_disk() == {1}
    minted = issue("c1", 1, {"n1": request})
    keys.store(1, minted.root_pem, minted.certificates["n1"])
    keys.store(1, minted.root_pem, minted.certificates["n1"])
    assert keys.requests() == {} and keys.stored() == {1}
    Credentials(keys.identity(1), keys.roots([1]))
    assert [oct(file.stat().st_mode & 0o777) for file in directory.certificates(1).iterdir()] == ["0o600"] * 3
    keys.forget([1, 7])
    assert keys.on_disk() == set()
    with pytest.raises(StorageFailed):
        keys.identity(1)


@pytest.mark.parametrize("kept", [["node.key"], ["node.key", "request.pem"], ["node.key", "request.pem", "root.pem"]])
def test_a_crash_between_any_two_files(directory: DataDirectory, kept: list[str]) -> None:
    keys = Keystore(directory, "c1", "n1")
    request = keys.request(1)
    minted = issue("c1", 1, {"n1": request})
    key = (directory.certificates(1) / "node.key").read_bytes()
    keys.add_root(1, minted.root_pem)
    for file in directory.certificates(1).iterdir():
        if file.name not in kept:
            file.unlink()
    again = Keystore(directory, "c1", "n1")
    assert again.stored() == set()
    request = again.request(1)
    assert (directory.certificates(1) / "node.key").read_bytes() == key
    minted = issue("c1", 1, {"n1": request})
    again.store(1, minted.root_pem, minted.certificates["n1"])
    assert again.stored() == {1}


def test_certificates_that_are_not_ours_are_refused(directory: DataDirectory) -> None:
    keys = Keystore(directory, "c1", "n1")
    request = keys.request(2)
    good = issue("c1", 2, {"n1": request})
    for cluster, number, node in (("c2", 2, "n1"), ("c1", 3, "n1"), ("c1", 2, "n2")):
        other = issue(cluster, number, {node: request})
        with pytest.raises(Rejected):
            keys.store(2, other.root_pem, other.certificates[node])
    other_root = issue("c1", 2, {"n1": request}).root_pem
    with pytest.raises(Rejected):
        keys.store(2, other_root, good.certificates["n1"])
    directory.write("certificates/2/node.key", new_key())
    with pytest.raises(Rejected) as caught:
        keys.store(2, good.root_pem, good.certificates["n1"])
    assert caught.value.code == "key-lost" and keys.stored() == set()


def test_a_joiners_key_is_kept_until_it_is_a_node(directory: DataDirectory) -> None:
    keys = Keystore(directory, "c1", "n1")
    request = keys.request(UNNUMBERED)
    assert keys.on_disk() == set(), "not of a generation yet"
    minted = issue("c1", 5, {"n1": request})
    keys.store(5, minted.root_pem, minted.certificates["n1"])
    assert keys.stored() == {5} and keys.request(UNNUMBERED) == request
    keys.forget([UNNUMBERED])
    assert keys.stored() == {5}


def test_trust_never_turns_back(directory: DataDirectory) -> None:
    keys = Keystore(directory, "c1", "n1")
    with pytest.raises(StorageFailed):
        keys.trust()
    peers = {"n2": Peer("n2", ("mx2.example.org", 9777), frozenset([b"a" * 32, b"b" * 32]))}
    keys.keep(Trust(7, 2, (1, 2), peers))
    assert keys.trust() == Trust(7, 2, (1, 2), peers)
    keys.keep(Trust(5, 2, (2,), {}))
    assert keys.trust() == Trust(7, 2, (2,), {})
    for damage in (b"", b"{}", b"[]", b'{"revision": 1, "presented": 1, "trusted": [1], "peers": {"n2": {}}}'):
        directory.write("certificates/trust.json", damage)
        with pytest.raises(StorageFailed):
            keys.trust()


def test_a_roots_key_would_be_found_wherever_it_lies(directory: DataDirectory) -> None:

    keys = Keystore(directory, "c1", "n1")
    minted = issue("c1", 1, {"n1": keys.request(1)})
    keys.store(1, minted.root_pem, minted.certificates["n1"])
    assert keys.root_keys() == []
    root_key = ec.generate_private_key(ec.SECP256R1())

    root = issue_root(root_key, "c1", 2, datetime.datetime.now(datetime.UTC))
    keys.add_root(2, root.public_bytes(serialization.Encoding.PEM))
    pem = root_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    directory.write("local/deep/in/some.bin", b"\0" * 100_000 + pem + b"\xff" * 1000)
    directory.write("local/empty", b"")
    assert keys.root_keys() == [directory.path / "local/deep/in/some.bin"]


def test_init_makes_a_complete_node(tmp_path: Path) -> None:
    path = tmp_path / "mx1"
    cluster_id = init(path, cluster="mail", realm="dns:example.org")
    with DataDirectory.open(path) as directory:
        node = directory.read_node()
        assert node["cluster_id"] == cluster_id and node["founder"] == node["node_id"] and node["cluster"] == "mail"
        keys = Keystore(directory, cluster_id, node["node_id"])
        identity, trust = keys.identity(1), keys.trust()
        assert trust == Trust(0, 1, (1,), {})
        subject = verify_leaf(identity.certificate, keys.roots([1])[0])
        assert subject == subject_of(identity.certificate)
        assert (subject.cluster_id, subject.generation, subject.node_id) == (cluster_id, 1, node["node_id"])
        wrapped, _, (verb, facts, founder, first) = unpack((path / GENESIS).read_bytes())
        assert (
            wrapped == ATTRIBUTED
            and verb == "genesis"
            and Facts.of(facts).realm == "dns:example.org"
            and founder[1] == "mx1.example.org"
        )
        assert [link.content().generation for link in keys.chain()] == [1]
        assert b"PRIVATE" not in (path / GENESIS).read_bytes() and first[0] == 1
        assert keys.root_keys() == []
    with pytest.raises(StorageRefusal):
        init(path)
    for name, advertise in (("MX1", ("192.0.2.1", 9777)), ("mx1", ("", 1)), ("mx1", ("192.0.2.1", 0))):
        with pytest.raises(Rejected):
            create.init(tmp_path / "other", name, ("127.0.0.1", 0), advertise, "mta/1")
        assert not (tmp_path / "other").exists()


def test_init_again_after_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mx1"

    def fail(*_: Any, **__: Any) -> None:
        raise StorageFull("no space")

    for step in (
        "raftcluster.cluster.create.mint",
        "raftcluster.cluster.keystore.Keystore.store",
        "raftcluster.cluster.keystore.Keystore.keep",
        "raftcluster.storage.directory.DataDirectory.write_node",
    ):
        with monkeypatch.context() as patched:
            patched.setattr(step, fail)
            with pytest.raises(StorageFull):
                init(path)
    cluster_id = init(path)
    with DataDirectory.open(path) as directory:
        node = directory.read_node()
        keys = Keystore(directory, cluster_id, node["node_id"])
        Credentials(keys.identity(1), keys.roots([1]))
        assert unpack((path / GENESIS).read_bytes())[2][1][0] == cluster_id


def test_init_leaves_alone_what_another_one_has_finished_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mx1"
    DataDirectory.create(path).close()
    finished: list[str] = []

    def late(where: Path) -> DataDirectory:
        monkeypatch.undo()
        finished.append(init(path))
        return DataDirectory.open(where)

    monkeypatch.setattr(DataDirectory, "open", late)
    with pytest.raises(StorageRefusal, match="is a data directory already"):
        init(path)
    with DataDirectory.open(path) as directory:
        assert [directory.read_node()["cluster_id"]] == finished


def test_what_a_teardown_that_broke_off_has_recorded_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "mx1", shutil.rmtree
    init(path)
    with DataDirectory.open(path) as directory:
        with closing(Recorder(EventLog(directory.events), directory.read_node(), Outlet(None, None))) as events:
            events.note("node-started", version="mta/1", listen="127.0.0.1:0")
        destroy.mark(directory, "event-1")

    def refuse(target: Any, **how: Any) -> None:
        if Path(target).name == "tables":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        real(target, **how)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refuse)
        with pytest.raises(Refusal, match="Input/output error"):
            finish(path, outlet=Outlet(None, None))
    finish(path, outlet=Outlet(None, None))
    told = list(raftcluster.read_events(path))
    steps = [each["fields"]["step"] for each in told if each["event"] == "teardown-step"]
    assert steps[0] == f"{path}/certificates removed" and len(steps) == len(set(steps))
    assert [each["event"] for each in told if each["event"] != "teardown-step"] == ["node-started", "teardown-finished"]
    assert [each["sequence"] for each in told] == list(range(1, len(told) + 1))


DAMAGED = [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"token": 1, "node_id": []}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_marker_that_is_damaged_is_named_and_nothing_is_removed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mx1"
    init(path)
    with pytest.raises(StorageRefusal, match="is not marked"):
        finish(path)
    (path / destroy.MARKER).write_bytes(content)
    with pytest.raises(StorageFailed, match="DESTROYED is damaged"):
        finish(path)
    assert (path / "certificates/1/node.key").exists()


@pytest.mark.parametrize("content", DAMAGED)
def test_what_was_begun_and_is_damaged_is_named(tmp_path: Path, content: bytes) -> None:
    def request() -> None:
        where = ("127.0.0.1", 9777)
        carried.request(path, tmp_path / "request", name="mx1", listen=where, advertise=where, product="p", machines={})

    path = tmp_path / "mx1"
    request()
    (path / "join.json").write_bytes(content)
    with suppress(StorageFailed):  # an object is another attempt
        request()
    (path / "join.json").write_bytes(content)
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"")
    with pytest.raises(StorageRefusal):
        carried.take(path, tmp_path)
    with DataDirectory.open(path) as directory:
        directory.write("certificates/endorsed", content)
        with pytest.raises(StorageFailed, match="endorsed is damaged"):
            Keystore(directory, "c1", "n1").endorse(1, b"digest", 1)


def test_a_key_that_is_gone_is_missed(tmp_path: Path) -> None:
    path, where = tmp_path / "mx1", ("127.0.0.1", 9777)
    about: dict[str, Any] = {"name": "mx1", "listen": where, "advertise": where, "product": "p", "machines": {}}
    carried.request(path, tmp_path / "request", **about)
    (path / "certificates/0/node.key").unlink()
    with pytest.raises(StorageFailed, match="no key for the request"):
        carried.request(path, tmp_path / "request", **about)
    with pytest.raises(StorageRefusal):
        carried.request(tmp_path / "mx2", tmp_path / "absent" / "request", **about)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_files_that_cannot_be_looked_at_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As for another user: the tests may run as root, who is refused nothing."""
    path, real = tmp_path / "mx1", os.stat
    init(path)

    def refuse(file: Any, **how: Any) -> os.stat_result:
        if str(file).startswith(f"{path}/"):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, **how)

    monkeypatch.setattr(os, "stat", refuse)
    for ask in (verify, destroy.is_marked, lambda where: list(raftcluster.read_events(where)), raftcluster.read_logs):
        with pytest.raises(Refusal) as caught:
            ask(path)
        assert str(path) in caught.value.message and caught.value.remedy


def test_a_folder_that_cannot_be_listed_hides_no_roots_key(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.write("local/deep/file", b"")
    real = os.scandir

    def refuse(folder: Any) -> Any:
        if Path(folder).name == "deep":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        Keystore(directory, "c1", "n1").root_keys()


def test_wiping_is_finished_however_often_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mx1"
    init(path)
    destroy.wipe(path)
    assert (path / "node.json").exists(), "without the marker nothing is removed"
    with DataDirectory.open(path) as directory:
        destroy.mark(directory, "event-1")

    removed: list[str] = []
    real = shutil.rmtree
    allowed = 0

    def interrupted(target: Path) -> None:
        if len(removed) >= allowed:
            raise OSError("crash")
        removed.append(target.name)
        real(target)

    with monkeypatch.context() as patched:
        patched.setattr("raftcluster.cluster.destroy.shutil.rmtree", interrupted)
        while allowed < 4:
            with pytest.raises(OSError, match="crash"):
                destroy.wipe(path)
            assert destroy.is_marked(path)
            allowed += 1
    assert removed[0] == "certificates", "what gives access goes first"
    destroy.wipe(path)
    assert not path.exists()
    destroy.wipe(path)
    with pytest.raises(Refusal):
        DataDirectory.open(path)
