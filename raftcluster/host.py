"""What the APIs (greylist, configuration, members) need of a node, and nothing more.

`raftcluster.Node` is one; the tests have one of a single process. An API written against it knows nothing of Raft.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from raftcluster.codec import Value
from raftcluster.errors import RaftclusterError
from raftcluster.machine import ReadTables

Consistency = Literal["local", "linearizable"] | float
"""How fresh a read must be: what this node has applied; everything acknowledged anywhere before the call; or, as a
number, what was current at most so many seconds ago."""

Completion = Callable[[Value | None, RaftclusterError | None], None]
"""Receives (result, None) or (None, error), once, on the tick thread: it must not block."""

T = TypeVar("T")


class Host(Protocol):
    """Thread: every method may be called from any thread.

    Errors of the three ways to propose: `Unavailable` (not applied), `OutcomeUnknown` (may be), `Rejected` (never).
    `deadline` is in seconds from the call; `id` is a request id of 16 bytes -- an operation that is sent again under
    the id of an earlier one is not applied again, it gets the earlier one's result. Without one the node makes one.
    An id names one command for ever: with another command it gets the first one's result. Results are kept for the last
    `limits.RING_RESULTS` commands of the cluster. Asked again after that, what had ended in `OutcomeUnknown` ends so
    again on the same node; on another one, or after a restart, it is carried out anew.
    """

    @property
    def id(self) -> str:
        """The node's id: never changes, never used again for another node."""

    @property
    def name(self) -> str:
        """The node's name, for people."""

    def propose(self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = 2.0) -> Value:
        """Have `command` applied by `machine` on every node; the result of its `apply`. Waits."""

    async def apropose(self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = 2.0) -> Value:
        """The same from asyncio."""

    def submit(
        self,
        machine: str,
        command: Value,
        callback: Completion,
        *,
        id: bytes | None = None,
        deadline: float = 2.0,
    ) -> None:
        """The same without waiting; `callback` is told. Raises nothing that `callback` is told."""

    def query(
        self,
        machine: str,
        read: Callable[[ReadTables, int], T],
        *,
        consistency: Consistency = "local",
        deadline: float = 2.0,
    ) -> T:
        """What `read(tables, cluster_time_ms)` returns, run between two log entries. Waits for its turn.

        A `local` read that is asked for on the tick thread itself (by a `Completion`) runs at once.
        """

    def on_apply(self, machine: str, callback: Callable[[int], None]) -> None:
        """Call `callback(index)` on the tick thread after each entry that changed tables of `machine`.

        It must only signal; `DataVersion` stops the node, what else it raises is logged. There is no way to take it
        back: one per API object, not one per caller.
        """


class GlanceHost(Host, Protocol):
    """A host that can be looked at without waiting: what the greylist needs besides."""

    def glance(
        self,
        machine: str,
        read: Callable[[ReadTables, int, float], T],
        callback: Callable[[T], None],
        refused: Callable[[RaftclusterError], None],
    ) -> None:
        """Have `callback(read(tables, cluster_time_ms, staleness_s))` called on the tick thread, soon, between two log entries: what
        this node has applied was current at most `staleness_s` seconds ago (infinite: nobody knows). `refused` is called instead
        when the node stops before. None of them must block. Raises what `query` raises of a node that has stopped."""
