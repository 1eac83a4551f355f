"""What was not done on this node is done again: an error in between leaves no half of it behind."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from raftcluster.cluster import reconcile
from raftcluster.cluster.actions import Depart
from raftcluster.cluster.create import init
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.reconcile import Reconciler
from raftcluster.cluster.teardown import Teardown
from raftcluster.cluster.view import View
from raftcluster.errors import StorageFull, Unavailable
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.node import Node
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.certificates import make_request, new_key, request_hash
from raftcluster.transport.ports import Identity, LinkInfo, Links, Peer
from tests.cluster_nodes import PRODUCT, Access, Engine
from tests.helpers import no_more_threads

ABOUT = {"product": PRODUCT, "schema": {"cluster": 1}}


class Told:
    """Links as the reconciler has set them."""

    def __init__(self) -> None:
        self.peers: set[str] = set()
        self.generation = 1
        self.trusted = 1
        self.outcomes: list[Exception | None] = []
        """What comes of the next changes."""

    def configure(self, peers: Mapping[str, Peer]) -> None:
        self._fail()
        self.peers = set(peers)

    def use(self, identity: Identity, roots: Sequence[bytes]) -> None:
        self._fail()
        self.generation, self.trusted = identity.generation, len(roots)

    def relink(self, peers: Collection[str]) -> None: ...

    def links(self) -> dict[str, LinkInfo]:
        return {}

    def _fail(self) -> None:
        if self.outcomes and (error := self.outcomes.pop(0)) is not None:
            raise error


class Founder:
    """A founder whose reconciler is turned by hand."""

    def __init__(self, path: Path) -> None:
        where = ("127.0.0.1", 9777)
        init(path, "mx1.example.org", where, where, PRODUCT, cluster="mail")
        self.directory = DataDirectory.open(path)
        node = self.directory.read_node()
        self.engine = Engine()
        self.host = Access(self.engine, node["node_id"])
        self.engine.leading, self.engine.seats = self.host.id, {self.host.id}
        self.keystore = Keystore(self.directory, node["cluster_id"], self.host.id)
        recorder = Recorder(EventLog(self.directory.events), node, Outlet(None, None))
        self.links = Told()
        self.reconciler = Reconciler(
            self.host, self.directory, self.keystore, cast(Links, self.links), self.host,
            teardown=Teardown(self.directory, self.keystore, self.host.id, recorder),
            on_destroyed=lambda: self.end("destroyed"), on_removed=lambda: self.end("removed"), hello=ABOUT,
        )  # fmt: skip
        self.ended: list[str] = []
        self.trouble: Exception | None = None
        self.until(lambda: self.view().active is not None)

    def end(self, why: str) -> None:
        """The node is to stop; `trouble` keeps it from that once."""
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble
        self.ended.append(why)

    def view(self) -> View:
        return self.engine.query("cluster", View.read)

    def until(self, condition: Callable[[], object]) -> None:
        """Step until it is so."""
        for _ in range(50):
            if condition():
                return
            self.reconciler.step()
        raise AssertionError(f"not so after 50 steps: {self.reconciler.troubles()}")

    def let_in(self, node: str) -> None:
        """A host has used its invitation, and has its certificate: the next step is to find it."""
        self.engine.propose("cluster", ["invite", "t2", b"k" * 32, node, 60, []])
        request = make_request(new_key(), node)
        joiner = [node, node, "192.0.2.2", 9777, PRODUCT, 1, "standalone", "t2", request_hash(request), request]
        self.engine.propose("cluster", ["begin", "x", joiner])
        self.until(lambda: node in self.view().live() and self.view().live()[node].pins)


@pytest.fixture
def founder(tmp_path: Path) -> Iterator[Founder]:
    made = Founder(tmp_path / "mx1")
    yield made
    made.directory.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """What comes of the next writes of what is trusted."""
    outcomes, write = list[Exception | None](), DataDirectory.write

    def scarce(directory: DataDirectory, file: str, data: bytes) -> None:
        if file == "certificates/trust.json" and outcomes and (error := outcomes.pop(0)) is not None:
            raise error
        write(directory, file, data)

    monkeypatch.setattr(DataDirectory, "write", scarce)
    return outcomes


def test_members_that_could_not_be_kept_are_kept_later(founder: Founder, disk: list[Exception | None]) -> None:
    """They were taken for kept and linked with, until the record said something new again."""
    founder.let_in("mx2")
    disk.append(StorageFull("no space"))
    with pytest.raises(StorageFull):
        founder.reconciler.step()
    assert founder.links.peers == set()
    founder.reconciler.step()
    assert founder.links.peers == {"mx2"}
    assert set(founder.keystore.trust().peers) == {"mx2"}


def test_members_that_could_not_be_linked_with_are_told_to_the_links_again(founder: Founder) -> None:
    founder.let_in("mx2")
    founder.links.outcomes.append(Unavailable("no more threads"))
    with pytest.raises(Unavailable):
        founder.reconciler.step()
    assert founder.links.peers == set()
    founder.reconciler.step()
    assert founder.links.peers == {"mx2"}


@pytest.mark.parametrize("where", ["disk", "links"])
@pytest.mark.parametrize("before", range(3), ids=["both roots", "its certificate", "its root alone"])
def test_what_could_not_be_shown_or_trusted_is_so_later(
    founder: Founder, disk: list[Exception | None], where: str, before: int
) -> None:
    """It was taken for done, and reported: so the old root stayed in force here until the node was restarted, or on its disk as one
    to start with, which is not there any more."""
    outcomes = disk if where == "disk" else founder.links.outcomes
    outcomes += [*[None] * before, OSError(errno.EMFILE, "Too many open files")]
    founder.engine.propose("cluster", ["rotate", "g2", [], False])
    founder.until(lambda: not outcomes)
    for _ in range(20):
        founder.reconciler.step()
        view, kept = founder.view(), founder.keystore.trust()
        assert (kept.presented, len(kept.trusted)) == (founder.links.generation, founder.links.trusted)
        if view.pending is not None:
            assert len(kept.trusted) == 2 or founder.host.id not in view.pending.trusted
            assert kept.presented == 2 or founder.host.id not in view.pending.switched
    assert founder.view().pending is None and founder.keystore.on_disk() == {2}
    assert (founder.links.generation, founder.links.trusted) == (2, 1)


@pytest.mark.parametrize("trouble", [StorageFull("no space"), Unavailable("no more threads")])
@pytest.mark.parametrize("why", ["removed", "destroyed"])
def test_an_end_that_failed_comes_later(
    founder: Founder, why: str, trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for done: the node went on, as a member that it was no more, or of a cluster that is gone."""
    if why == "removed":
        monkeypatch.setattr(reconcile, "decide", lambda view, local: [Depart()])
    else:
        founder.engine.propose("cluster", ["destroy", "e1", "mail", False, "moved", False])
    founder.trouble = trouble
    founder.until(lambda: founder.trouble is None)
    assert founder.ended == []
    founder.until(lambda: founder.ended)
    founder.reconciler.step()
    assert founder.ended == [why]


def test_a_teardown_for_which_there_is_no_thread_comes_later() -> None:
    with no_more_threads(), pytest.raises(Unavailable, match="new thread"):
        Node._destroyed(Node.__new__(Node))
