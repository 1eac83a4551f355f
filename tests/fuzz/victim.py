"""One node in memory, driven by an input, and what must hold whatever it is sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from raftcluster.cluster.machine import ClusterMachine
from raftcluster.codec import pack, unpack
from raftcluster.config.machine import ConfigMachine
from raftcluster.engine import seam, wire
from raftcluster.engine.guards import Message
from raftcluster.engine.ports import Bounds, Ports
from raftcluster.engine.replica import Replica
from raftcluster.errors import FrameError
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.lease.machine import LeaseMachine
from raftcluster.notifications.machine import NotificationsMachine
from raftcluster.storage.memory import MemoryDisk, MemoryLog, MemoryTables
from raftcluster.storage.ports import Entry, LogImage

ME, PEERS = "b", ("a", "c", "d")
"""`d` is linked and no voter."""


class Victim:
    """Node b of a, b and c. Everything durable at once; what it sends is kept in `sent`."""

    def __init__(self, image: LogImage | None = None, anchor: bytes | None = None) -> None:
        self.now = 100.0
        seam.use_clock(self._clock)
        self.disk = MemoryDisk()
        if image is not None:
            self.disk.entries, self.disk.term, self.disk.vote, self.disk.commit = list(image.entries), *image[1:]
        if anchor is not None:
            self.disk.index, self.disk.anchor = unpack(anchor)[0], anchor
        self.sent: deque[tuple[str, Message]] = deque(maxlen=200)
        self.posts: deque[Callable[[], None]] = deque()
        self.fetching: str | None = None
        self.links: set[str] = set()
        ports = Ports(
            send=self._send,
            post=self.posts.append,
            fetch=self._fetch,
            now=self._clock,
            boot=lambda: self.now * 1000,
            wall=lambda: self.now * 1000,
            random=Random(1),
        )
        self.replica = Replica(
            ME,
            ["a", "b", "c"],
            [
                ClusterMachine(),
                ConfigMachine(),
                GreylistMachine(),
                LeaseMachine(),
                NotificationsMachine(),
                ListsMachine(),
            ],
            MemoryLog(self.disk, auto=True),
            MemoryTables(self.disk, auto=True),
            ports,
            bounds=Bounds(ring=16, keep_entries=4),
        )
        self._committed: dict[int, tuple[bytes, int]] = {}
        self._commit = 0
        self._vote: tuple[int, str | None] = (0, None)
        for peer in PEERS:
            self.link(peer)
        self.settle()
        self.check()

    def _clock(self) -> float:
        self.now += 1e-6
        return self.now

    def _send(self, peer: str, message: Message) -> bool:
        if peer not in self.links:
            return False
        self.sent.append((peer, message))
        return True

    def _fetch(self, peer: str) -> None:
        assert self.fetching is None, "two fetches at once"
        self.fetching = peer

    def link(self, peer: str) -> None:
        """A link of `peer` comes up, the first one or a newer one."""
        if peer in self.links:
            self.unlink(peer)
        self.links.add(peer)
        self.replica.link_up(peer)

    def unlink(self, peer: str) -> None:
        """The link of `peer` is gone."""
        self.links.discard(peer)
        self.replica.link_down(peer)

    def deliver(self, peer: str, message: Any) -> None:
        """What the node does with a message of a peer: nonsense closes the link, and a new one follows."""
        if peer not in self.links:
            return
        try:
            self.replica.deliver(peer, message)
        except FrameError:
            self.unlink(peer)
            self.link(peer)
        self.settle()

    def turn(self, seconds: float) -> None:
        """Time passes, then a step."""
        self.now += seconds
        self.replica.step()
        self.settle()

    def settle(self) -> None:
        """Run what storage has answered."""
        self.replica.journal.flush()
        while self.posts:
            self.posts.popleft()()

    def lead(self) -> None:
        """Have it elected by `a`, and its first entry committed."""
        engine = self.replica.engine
        for _ in range(4):
            self.now += 2.0
            engine.campaign()
            self.turn(0.0)
            self.deliver("a", {"type": "response_vote", "term": engine.term})
            self.turn(0.0)
            if engine.is_leader:
                break
        assert engine.is_leader
        self.acknowledge()

    def acknowledge(self) -> None:
        """`a` holds all of its log."""
        last, term = self.replica.journal.last[1], self.replica.engine.term
        sequence = self.replica.guard._sequence.get("a", 0)
        self.deliver(
            "a",
            {"type": "next_node_idx", "term": term, "next_node_idx": last + 1, "reset": False, "success": True}
            | {"seq": sequence, "wall": self.now * 1000, "time": None},
        )
        self.turn(0.01)

    def check(self) -> None:
        """Raft's promises of one node, and that it sends nothing that a node of ours would take for nonsense."""
        replica = self.replica
        journal, engine = replica.journal, replica.engine
        entries: list[Entry] = journal.entries
        first = entries[0][1]
        assert [entry[1] for entry in entries] == list(range(first, first + len(entries)))
        assert engine.applied <= engine.commit_index <= entries[-1][1], (engine.applied, engine.commit_index, first)
        assert self._commit <= engine.commit_index
        self._commit = engine.commit_index
        for index in range(max(journal.base_index, self._commit - 50), self._commit + 1):
            entry = journal.get(index)
            assert entry is not None
            assert self._committed.setdefault(index, (entry[0], entry[2])) == (entry[0], entry[2]), (
                "a committed entry changed"
            )
        term, vote = journal.getCurrentTerm(), journal.getVotedForNodeId()
        assert term >= self._vote[0] and (term > self._vote[0] or self._vote[1] in (None, vote)), (
            "a second vote in a term"
        )
        self._vote = (term, vote)
        for _, message in self.sent:
            wire.check(unpack(pack(message)), max(0, engine.term))
        self.sent.clear()
