"""Reads that must be fresh: linearizable ones, and those that may be so many seconds old.

A linearizable read waits until this node has applied what was committed before it: the leader finds that index
(`read_index`), a follower asks the leader for it. A bounded one looks at how old the state is, and does not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raftcluster.engine.cluster_time import ClusterTime
from raftcluster.engine.guard import Guard
from raftcluster.engine.guards import Message, Seam
from raftcluster.errors import RaftclusterError, Unavailable


@dataclass(slots=True)
class Query:
    """A read that waits: `read` or `fail` is called once, unless it is dropped."""

    read: Callable[[], None]
    fail: Callable[[RaftclusterError], None]
    index: int = 0


class Queries:
    """One node's. Thread: tick thread only. `first_number` begins anywhere: the leader's answer to this node's predecessor
    must not pass for one to it."""

    def __init__(
        self, seam: Seam, guard: Guard, clock: ClusterTime, send: Callable[[str, Message], bool], first_number: int
    ) -> None:
        self._seam, self._guard, self._clock, self._send = seam, guard, clock, send
        self._number = first_number
        self._waiting: list[Query] = []
        """Confirmed, until their index is applied."""
        self._asked: dict[tuple[str, int], Query] = {}
        """Of a follower: this leader has been asked for their index, and nobody else may tell it."""
        self._fresh_time: float | None = None
        """Cluster time at which this node's state was the leader's."""

    def ask(
        self, read: Callable[[], None], fail: Callable[[RaftclusterError], None], *, within: float | None
    ) -> Query | None:
        """Run `read` once this node's state is fresh enough: at most `within` seconds old, or, with None, linearizable.

        Returns a handle for `drop` while it waits, None when it is done already.
        """
        seam = self._seam
        query = Query(read, fail)
        if within is not None:
            if self.staleness() <= within:
                read()
            else:
                text = f"this node's state is older than {within} s"
                fail(Unavailable(text, subject=seam.me, remedy="ask another node"))
            return None
        if seam.is_leader:
            self._guard.reads.ask(lambda index: self._confirmed(query, index))
            return query
        leader = seam.leader
        self._number += 1
        if leader is None or not self._send(leader, {"type": "read_index", "number": self._number}):
            fail(Unavailable("no leader is known", subject="cluster", remedy="ask again"))
            return None
        self._asked[leader, self._number] = query
        return query

    def drop(self, query: Query) -> None:
        """The caller has given up."""
        self._waiting = [q for q in self._waiting if q is not query]
        self._asked = {n: q for n, q in self._asked.items() if q is not query}
        query.read = lambda: None

    def staleness(self) -> float:
        """How old this node's applied state may be, in seconds of cluster time; infinite when that is not known.

        A leader's state is as old as the last sign that it leads; a follower's as old as its leader's was.
        """
        seam = self._seam
        if seam.is_leader:
            return self._guard.staleness() if seam.applied == seam.commit_index else float("inf")
        now = self._clock.now()
        return float("inf") if now is None or self._fresh_time is None else max(0.0, (now - self._fresh_time) / 1000)

    def heard(self, append: Message) -> None:
        """An append of the current leader: this node's state may be as fresh as its leader's."""
        fresh = append.get("fresh")
        if fresh is not None and append["commit_index"] <= self._seam.applied:
            self._fresh_time = max(self._fresh_time or 0.0, float(fresh))

    def asked(self, peer: str, number: int) -> None:
        """A follower wants the index for a read."""
        self._guard.reads.ask(lambda index: self._tell(peer, number, index))

    def _tell(self, peer: str, number: int, index: int | None) -> None:
        self._send(peer, {"type": "read_at", "number": number, "index": index})

    def answered(self, peer: str, number: int, index: int | None) -> None:
        """The leader has found the index for a read of this node."""
        query = self._asked.pop((peer, number), None)
        if query is not None:
            self._confirmed(query, index)

    def lost(self, peer: str) -> None:
        """The link to `peer` is gone, and what it was asked with it, even if another replaces it at once."""
        for asked in [a for a in self._asked if a[0] == peer]:
            self._confirmed(self._asked.pop(asked), None)

    def _confirmed(self, query: Query, index: int | None) -> None:
        if index is None:
            query.fail(Unavailable("the leader changed", subject="cluster", remedy="ask again"))
            return
        query.index = index
        self._waiting.append(query)

    def serve(self) -> None:
        """Run the reads whose index is applied by now; fail those that a former leader was asked for."""
        if self._asked:
            for asked in [a for a in self._asked if a[0] != self._seam.leader or a[0] not in self._guard.linked]:
                self._confirmed(self._asked.pop(asked), None)
        if self._waiting:
            applied = self._seam.applied
            ready = [q for q in self._waiting if q.index <= applied]
            self._waiting = [q for q in self._waiting if q.index > applied]
            for query in ready:
                query.read()
