"""A node as the APIs (greylist, configuration, members) are written against it: see `host.Host`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import RaftclusterError
from raftcluster.host import Completion, Consistency
from raftcluster.machine import ReadTables
from raftcluster.request_ids import request_id
from raftcluster.runtime import Runtime
from raftcluster.twins import twin

T = TypeVar("T")


class Hosting:
    """Who the node is, and the ways to propose and to read. Thread: any."""

    facts: dict[str, Any]
    """node.json: who this node is, where it listens, of which cluster it is."""
    _runtime: Runtime

    @property
    def id(self) -> str:
        """This node's id: a UUID that never changes."""
        return str(self.facts["node_id"])

    @property
    def name(self) -> str:
        """This node's name, for people."""
        return str(self.facts["name"])

    @property
    def cluster_id(self) -> str:
        return str(self.facts["cluster_id"])

    @property
    def failure(self) -> RaftclusterError | None:
        """Why this node has stopped for good; None while it has not."""
        return self._runtime.failure

    def propose(
        self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = limits.CALL_SECONDS
    ) -> Value:
        """Have `command` applied by `machine` on every node; the result of its `apply`. Waits at most `deadline` seconds."""
        return self._runtime.propose(machine, command, id=request_id(id), deadline=deadline)

    async def apropose(
        self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = limits.CALL_SECONDS
    ) -> Value:
        """The same from asyncio."""
        return await self._runtime.apropose(machine, command, id=request_id(id), deadline=deadline)

    def submit(
        self,
        machine: str,
        command: Value,
        callback: Completion,
        *,
        id: bytes | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> None:
        """The same without waiting: `callback(value, error)` on the tick thread; it must not block."""
        self._runtime.submit(machine, command, callback, id=id, deadline=deadline)

    def query(
        self,
        machine: str,
        read: Callable[[ReadTables, int], T],
        *,
        consistency: Consistency = "local",
        deadline: float = limits.CALL_SECONDS,
    ) -> T:
        """`read(tables, cluster_time_ms)`, run between two log entries.

        `consistency`: `local` (what this node has applied), `linearizable` (all that was acknowledged anywhere before), or a
        number of seconds that the state may be old.
        """
        return self._runtime.query(machine, read, consistency=consistency, deadline=deadline)

    aquery = twin(query)

    def glance(
        self,
        machine: str,
        read: Callable[[ReadTables, int, float], T],
        callback: Callable[[T], None],
        refused: Callable[[RaftclusterError], None],
    ) -> None:
        """See `GlanceHost.glance`. Does not wait."""
        self._runtime.glance(machine, read, callback, refused)

    def on_apply(self, machine: str, callback: Callable[[int], None]) -> None:
        """Call `callback(index)` on the tick thread after each entry with a command for `machine`; it must only signal."""
        self._runtime.on_apply(machine, callback)
