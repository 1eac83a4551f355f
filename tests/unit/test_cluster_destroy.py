"""The end of a cluster, decision by decision; what a tombstone proves; what is removed and what is kept."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftcluster import ending, seeking
from raftcluster.cluster import destroy
from raftcluster.cluster.actions import Alarm, Local, Propose, Record, Sign, Wipe
from raftcluster.cluster.archive import Archive
from raftcluster.cluster.create import init
from raftcluster.cluster.dismantling import DESTROY_SECONDS, FAREWELL_SECONDS
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.lifecycle import decide
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.tombstone import Statement, Tombstone, signature, signers
from raftcluster.cluster.view import View, links
from raftcluster.codec import pack, unpack
from raftcluster.errors import FrameError, Refusal, Rejected
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.seeking import Seeker
from raftcluster.storage.directory import DataDirectory, read_file
from raftcluster.transport.certificates import new_key
from raftcluster.transport.ports import Address, Peer
from tests.cluster_log import Log
from tests.cluster_world import three
from tests.helpers import eventually
from tests.local_host import LocalHost

LINKED = {"n2": 3, "n3": 3}
HERE = Local("n1", True, 0, {}, {3}, {3}, 3, (3,), LINKED, voters={"n1", "n2", "n3"}, rooted={3})


def destroying() -> Log:
    log = three()
    log.apply("destroy", "e1", "mail", True, "moved", False)
    return log


def actions(log: Log, local: Local) -> list[type]:
    return [type(each) for each in decide(log.view, local)]


def test_nobody_goes_on_before_a_majority_has_signed() -> None:
    log = destroying()
    assert actions(log, HERE) == [Sign]
    assert actions(log, replace(HERE, signed=True)) == []
    assert actions(log, replace(HERE, signed=True, recorded=True)) == []
    waiting = replace(HERE, signed=True, destroying_s=DESTROY_SECONDS)
    assert actions(log, waiting) == [Alarm], "however long it takes"
    assert actions(log, replace(HERE, signed=True, entombed=True)) == [Record]
    assert actions(log, replace(HERE, entombed=True)) == [Sign, Record], "one signature more does no harm"


def test_it_is_recorded_by_all_before_any_goes() -> None:
    log = destroying()
    here = replace(HERE, signed=True, entombed=True, recorded=True)
    assert decide(log.view, here) == [Propose(["recorded", "n1"])]
    log.apply("recorded", "n1")
    log.apply("recorded", "n2")
    assert actions(log, here) == [], "n3 is linked and has not recorded it"
    assert actions(log, replace(here, destroying_s=FAREWELL_SECONDS)) == []
    assert actions(log, replace(here, destroying_s=DESTROY_SECONDS)) == [Wipe], "the decision stands"
    log.apply("recorded", "n3")
    follower = replace(here, node_id="n2", leader=False, links={"n1": 3, "n3": 3})
    assert actions(log, follower) == [Wipe]
    assert actions(log, here) == [], "the others may not have heard yet"
    assert actions(log, replace(here, links={})) == [Wipe]
    assert actions(log, replace(here, destroying_s=FAREWELL_SECONDS)) == [Wipe]


def test_who_is_down_is_not_waited_for_long() -> None:
    log = destroying()
    log.apply("recorded", "n1")
    log.apply("recorded", "n2")
    here = replace(HERE, signed=True, entombed=True, recorded=True, links={"n2": 3})
    follower = replace(here, node_id="n2", leader=False, links={"n1": 3})
    assert actions(log, follower) == []
    assert actions(log, replace(follower, destroying_s=FAREWELL_SECONDS)) == [Wipe]
    assert actions(log, replace(here, destroying_s=FAREWELL_SECONDS)) == [], "the leader goes last"
    assert actions(log, replace(here, destroying_s=FAREWELL_SECONDS, links={})) == [Wipe]
    assert actions(log, replace(here, destroying_s=2 * FAREWELL_SECONDS)) == [Wipe]


def test_a_follower_that_nobody_hears_any_more_goes_by_itself() -> None:
    log = destroying()
    alone = replace(HERE, node_id="n3", leader=False, signed=True, entombed=True, recorded=True, links={})
    assert decide(log.view, alone) == [Propose(["recorded", "n3"])]
    assert actions(log, replace(alone, destroying_s=FAREWELL_SECONDS)) == [Wipe]


class One:
    """A destroyed cluster of one, with its real keys."""

    def __init__(self, folder: Path) -> None:
        init(folder, "mx1", ("127.0.0.1", 9777), ("192.0.2.1", 9777), "mta/1", cluster="mail")
        self.directory = DataDirectory.open(folder)
        self.node = self.directory.read_node()
        self.host = LocalHost([ClusterMachine()])
        self.host.propose("cluster", unpack((folder / "genesis").read_bytes()))
        self.host.propose("cluster", ["destroy", "e1", "mail", False, "moved", True])
        self.view = self.host.query("cluster", View.read)
        self.links: list[Link] = self.host.query("cluster", lambda rows, now: links(rows))
        self.statement = Statement.of_view(self.view).pack()
        keystore = Keystore(self.directory, self.node["cluster_id"], self.node["node_id"])
        self.key = keystore.identity(1).key

    def tombstone(self, **other: Any) -> Tombstone:
        signatures = {self.node["node_id"]: signature(self.key, self.statement)}
        return Tombstone(**{"statement": self.statement, "signatures": signatures, "links": self.links, **other})

    def refusal(self, **other: Any) -> str:
        with pytest.raises(Rejected) as caught:
            self.tombstone(**other).verify(self.links[0], self.node["cluster_id"])
        return caught.value.code


@pytest.fixture
def one(tmp_path: Path) -> One:
    return One(tmp_path / "mx1")


def test_a_tombstone_proves_itself(one: One) -> None:
    made = one.tombstone()
    assert Tombstone.unpack(made.pack()) == made
    assert made.content().keep_software, "as it was decided: also for who returns"
    said = made.verify(one.links[0], one.node["cluster_id"])
    assert (said.event_id, said.reason, said.cluster) == ("e1", "moved", "mail")
    assert list(said.members.values()) == [["mx1", "192.0.2.1", 9777]]
    assert one.view.head is not None
    assert signers(one.view.head.content(), made.statement, made.signatures) == [one.node["node_id"]]


def test_what_proves_nothing_is_refused(one: One, tmp_path: Path) -> None:
    me = one.node["node_id"]
    assert one.refusal(signatures={}) == "tombstone-unsigned"
    assert one.refusal(signatures={me: signature(new_key(), one.statement)}) == "tombstone-unsigned"
    assert one.refusal(signatures={"other": signature(one.key, one.statement)}) == "tombstone-unsigned"
    assert one.refusal(statement=one.statement.replace(b"moved", b"other")) == "tombstone-unsigned"
    other = One(tmp_path / "mx2")
    with pytest.raises(Rejected) as caught:
        other.tombstone().verify(one.links[0], one.node["cluster_id"])
    assert caught.value.code == "tombstone-other"
    with pytest.raises(Rejected) as caught:
        one.tombstone().verify(other.links[0], one.node["cluster_id"])
    assert caught.value.code.startswith("chain-")
    replaced = replace(Statement.read(one.statement), head=b"h" * 32).pack()
    assert one.refusal(statement=replaced, signatures={me: signature(one.key, replaced)}) == "tombstone-unsigned"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"", b"\xc1", pack(None), pack([]), pack(["raftcluster-tombstone-v1", b"", {}, []]),
        pack(["raftcluster-tombstone-v1", b"x", {"n": 1}, []]), pack(["raftcluster-tombstone-v1", b"x", {}, [1]]),
        pack(["raftcluster-tombstone-v1", pack(["c"] * 8), {}, []]), pack(["other", b"", {}, []]),
    ],
)  # fmt: skip
def test_rubbish_is_no_tombstone(rubbish: bytes, one: One) -> None:
    with pytest.raises(FrameError):
        Tombstone.unpack(rubbish).verify(one.links[0], one.node["cluster_id"])


def test_what_is_damaged_in_an_archive_is_not_there(one: One, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive, cluster_id = Archive(tmp_path / "kept"), one.node["cluster_id"]
    good = one.tombstone().pack()
    archive.keep(cluster_id, good)
    assert archive.find(cluster_id) == good
    for damaged in (b"", good[:-1], b"\xc1", pack(None)):
        archive.keep(cluster_id, damaged)
        caplog.clear()
        assert archive.find(cluster_id) is None and list(archive.statements(60)) == []
        assert str(archive.tombstone(cluster_id)) in caplog.text
    archive.keep("0" * 36, good)
    assert archive.find("0" * 36) is None, "it is another cluster's"
    archive.tombstone(cluster_id).unlink()
    archive.tombstone(cluster_id).mkdir()  # it cannot be read, whoever asks
    assert archive.find(cluster_id) is None and len(list(archive.statements(60))) == 1
    (tmp_path / "file").write_bytes(b"")
    assert list(Archive(tmp_path / "file").statements(60)) == []


def test_who_looks_for_a_tombstone_goes_on_until_one_proves_something(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[int, bytes | None] = {1: None, 2: b"forged", 3: b"good", 4: b"never asked for"}
    asked, believed = [], []

    def ask(address: Address, cluster_id: str) -> bytes | None:
        asked.append(address[1])
        return answers[address[1]]

    def found(data: bytes, source: str) -> None:
        if data != b"good":
            raise FrameError("not a tombstone")
        believed.append(source)

    monkeypatch.setattr(seeking, "ask", ask)
    peers = [Peer(f"n{port}", ("192.0.2.1", port), frozenset()) for port in answers]
    Seeker("c1", lambda: peers, lambda: True, found, lambda: b"damaged").look()
    assert asked == [1, 2, 3] and believed == ["192.0.2.1:3"]
    Seeker("c1", lambda: peers, lambda: True, found, lambda: b"good").look()
    assert asked == [1, 2, 3] and believed[1:] == ["this host's archive"]


def test_who_looks_for_a_tombstone_goes_on_when_its_own_disk_does_not_answer(
    one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its peers were is read from the disk: without a descriptor left that raises, and it ended the thread."""
    keystore = Keystore(one.directory, one.node["cluster_id"], one.node["node_id"])
    trust, failures = keystore.trust(), [OSError(errno.EMFILE, "Too many open files")]
    believed: list[str] = []

    def read(file: Path) -> bytes:
        if file.name == "trust.json" and failures:
            raise failures.pop()
        return read_file(file)

    def peers() -> list[Peer]:
        assert keystore.trust() == trust
        return [Peer("n2", ("192.0.2.1", 2), frozenset())]

    monkeypatch.setattr("raftcluster.cluster.keystore.read_file", read)
    monkeypatch.setattr(seeking, "ask", lambda address, cluster_id: b"good")
    seeker = Seeker(
        "c1", peers, lambda: True, lambda data, source: believed.append(source), lambda: None, interval_s=0.01
    )
    seeker.start()
    try:
        eventually(lambda: believed, what="a tombstone is found")
    finally:
        seeker.close()
    assert not failures


def test_a_teardown_whose_archive_takes_nothing_says_so_and_goes_on_later(
    one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it runs on a thread of its own, what was raised was told nobody."""
    one.directory.events.write_bytes(b"")
    destroy.mark(one.directory, "e1")
    one.directory.close()

    def full(archive: Archive, target: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Archive, "_write", full)
        with pytest.raises(Refusal, match="No space left"):
            ending.finish(one.directory.path, outlet=Outlet(None, None))
    assert destroy.is_marked(one.directory.path)
    ending.finish(one.directory.path, outlet=Outlet(None, None))
    assert not one.directory.path.exists()


def test_the_archive_answers_about_clusters_only(one: One, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "kept")
    cluster_id = one.node["cluster_id"]
    assert archive.find(cluster_id) is None and list(archive.statements(60)) == []
    archive.keep(cluster_id, one.tombstone().pack())
    assert not archive.holds(cluster_id, "e1"), "the event is not recorded yet"
    recorder = Recorder(EventLog(one.directory.events), one.node, Outlet(None, None))
    recorder.write("destroy-decided", event_id="e1", reason="moved")
    archive.follow(cluster_id, one.directory.path)
    assert not archive.holds(cluster_id, "e1"), "that was another event"
    recorder.write("cluster-destroyed", event_id="e1", reason="moved", decided="then", signed_by=["mx1"])
    archive.follow(cluster_id, one.directory.path)
    assert archive.holds(cluster_id, "e1") and not archive.holds(cluster_id, "e2")
    assert archive.events(cluster_id).read_bytes() == one.directory.events.read_bytes()
    assert oct(archive.tombstone(cluster_id).stat().st_mode)[-3:] == "600"
    assert [each.event_id for each in archive.statements(60)] == ["e1"] and list(archive.statements(-60)) == []
    (tmp_path / "secret.tombstone").write_bytes(b"x")
    for name in ("../secret", "", "x" * 36, f"{cluster_id}/..", cluster_id.upper()):
        assert archive.find(name) is None
