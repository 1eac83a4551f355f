"""A stopped node's log and tables, and how they become the first state of a new cluster.

Nothing of the log is left out: every entry in it is applied, also those that this node does not know to be committed --
a majority that is gone may have acknowledged them. Then the cluster's own tables (members, tokens, certificates) are
replaced by what the new cluster's genesis makes of empty ones; their audit log alone is kept. Both is **one** durable unit of the tables, at an index
and in a term of its own; the log is made to follow it. In that unit this node is the only voter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from raftcluster.cluster import auditing
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.view import FACTS, View
from raftcluster.codec import Value, pack
from raftcluster.engine import membership, recovery
from raftcluster.engine.applier import Applier
from raftcluster.engine.operations import NO_OP
from raftcluster.engine.ports import Bounds
from raftcluster.engine.recovery import Anchor
from raftcluster.errors import StorageFailed, StorageFull
from raftcluster.machine import StateMachine
from raftcluster.storage.directory import DataDirectory
from raftcluster.storage.log import LogStore
from raftcluster.storage.ports import Chunk, Record
from raftcluster.storage.tables import TableStore


class Offline:
    """The state of the node in `directory`, which is locked by the caller. Use as a context manager. Thread: one.

    Nothing is written but by `refound` and `follow`. Raises `StorageFailed` for stores that are damaged.
    """

    def __init__(self, directory: DataDirectory, machines: Sequence[StateMachine], founders: Iterable[str]) -> None:
        self._log = LogStore(directory.log)
        try:
            self._store = TableStore(directory.tables, log=lambda: self._log.written)  # fewer than there were, maybe
        except BaseException:
            self._log.close()
            raise
        try:
            self._load(machines, founders)
        except BaseException:
            self.close()
            raise

    def _load(self, machines: Sequence[StateMachine], founders: Iterable[str]) -> None:
        image = self._log.load()
        stored = self._store.anchor()
        self.anchor = None if stored is None else Anchor.decode(stored[1])
        found = recovery.recover(image, self.anchor)
        self.entries = found.entries
        self.term = max([image.term, *(entry[2] for entry in found.entries[-1:])])
        """The greatest that this node has heard of."""
        self.commit = found.commit
        self.checkpoint = 0 if self.anchor is None else self.anchor.index
        """What the tables on the disk have reached."""
        self.applier = Applier(machines, self._store, Bounds().ring, self.anchor.stamp if self.anchor else 0)
        tail = [entry for entry in found.entries if entry[1] > max(self.checkpoint, 1)]
        for entry in tail:
            self.applier.apply(entry)
        changes = [change for entry in tail if (change := membership.decode(entry[0])) is not None]
        self.voters = membership.fold(self.anchor.voters if self.anchor else founders, changes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._log.close()
        self._store.close()

    @property
    def last(self) -> tuple[int, int]:
        """(index, term) of the last entry; (0, 0) when there is none."""
        return (self.entries[-1][1], self.entries[-1][2]) if self.entries else (0, 0)

    def view(self) -> View:
        """The cluster's record with everything applied."""
        return View.read(self.applier.tables("cluster"), self.applier.stamp)

    def refound(self, genesis: Value, why: Value, me: str, time: int, revision: int) -> None:
        """Write the state as that of the cluster that `genesis` makes, with `me` as its only voter, in one durable unit.

        `why` is the command that says who has decided it: the audit log goes on from the former cluster's.
        `time` is its cluster time, `revision` that of its record. Raises `StorageFull`, `StorageFailed`: nothing has changed.
        """
        overlay, machine = self.applier.overlay, ClusterMachine()
        overlay.begin()
        tables = overlay.view(machine.name, machine.tables)
        audited = auditing.read_count(tables)
        for table in (each for each in machine.tables if each != auditing.AUDIT):
            while rows := tables.scan(table):
                for key, _ in rows:
                    tables.delete(table, key)
        machine.apply(genesis, tables, time)
        tables.put(FACTS, auditing.COUNT, pack(audited))
        machine.apply(why, tables, time)
        tables.put(FACTS, b"revision", pack(revision))
        overlay.commit()
        index, term = self.last
        self.anchor = Anchor(index + 1, self.term + 1, NO_OP, term, (me,), max(time, self.applier.stamp))
        unit = overlay.freeze(self.anchor.index, self.anchor.encode())
        if not settle(self._store, lambda done: self._store.checkpoint(unit, done)):
            raise StorageFailed(f"the tables are beyond entry {self.anchor.index}", subject=me, remedy="use a backup")

    def follow(self) -> None:
        """Make the log begin at the tables' state, with a term in which nobody has voted. Can be repeated."""
        assert self.anchor is not None, "the tables hold a state"
        appends: list[Record] = [("append", command, index, term) for command, index, term in self.anchor.entries()]
        term = max(self.term, self.anchor.term)
        self._log.submit([("reset",), *appends, ("vote", term, None), ("commit", self.anchor.index)])
        self._log.block()


def install(directory: DataDirectory, index: int, anchor: bytes, chunks: Iterable[Chunk]) -> None:
    """Fill the empty tables of a directory. Raises `StorageFull`, `StorageFailed`; `chunks` must be known to be good."""
    store = TableStore(directory.tables)
    try:
        if not settle(store, lambda done: store.install(index, anchor, chunks, done)):
            raise StorageFailed(
                "the rows were not installed", subject=str(directory.path), remedy="verify the backup, try again"
            )
    finally:
        store.close()


def settle(store: TableStore, begin: Callable[[Callable[[bool], None]], None]) -> bool:
    """Begin a write and wait for its end; raises what keeps it from ending."""
    settled = threading.Event()
    answers: list[bool] = []
    troubles: list[tuple[str, str]] = []

    def done(good: bool) -> None:
        answers.append(good)
        settled.set()

    def health(now: str, reason: str) -> None:
        troubles.append((now, reason))
        settled.set()

    store.on_health = health
    if store.health == "failed":  # before anybody asked: it says so once
        raise StorageFailed("the tables had failed", remedy="check the disk")
    begin(done)
    settled.wait()
    if troubles:
        kind = StorageFull if troubles[0][0] == "full" else StorageFailed
        raise kind(troubles[0][1], remedy="free disk space" if kind is StorageFull else "check the disk")
    return answers[0]
