"""What leases need of a node, over the worker socket: they are held in the worker's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.host import Completion, Consistency
from raftcluster.lease import machine as lease
from raftcluster.machine import ReadTables

T = TypeVar("T")


class Asking(Protocol):
    """What is needed of a worker. Thread: any."""

    def about(self) -> dict[str, Value]: ...
    def call(self, method: str, **arguments: Value) -> Value: ...
    def propose(self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = 2.0) -> Value: ...
    async def apropose(
        self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = 2.0
    ) -> Value: ...
    def submit(
        self,
        machine: str,
        command: Value,
        callback: Completion,
        *,
        id: bytes | None = None,
        deadline: float = 2.0,
    ) -> None: ...


class LeaseHost:
    """A `Host` for the leases of this process: they are held here, by its own CLOCK_BOOTTIME, which is the node's, too."""

    def __init__(self, worker: Asking) -> None:
        self._worker = worker
        self.propose, self.apropose, self.submit = worker.propose, worker.apropose, worker.submit

    @property
    def id(self) -> str:
        return str(self._worker.about()["id"])

    @property
    def name(self) -> str:
        return str(self._worker.about()["name"])

    def query(
        self,
        machine: str,
        read: Callable[[ReadTables, int], T],
        *,
        consistency: Consistency = "local",
        deadline: float = limits.CALL_SECONDS,
    ) -> T:
        """Each row that `read` wants is a call."""
        tables = LeaseTables(self._worker, consistency)
        tables.get(lease.STATE, b"token")
        return read(tables, tables.now)

    def on_apply(self, machine: str, callback: Callable[[int], None]) -> None:
        """Who waits for a lease looks every half second anyway."""


class LeaseTables:
    """The tables of leases, row by row over the socket."""

    def __init__(self, worker: Asking, consistency: Consistency) -> None:
        self._call, self._consistency = worker.call, consistency
        self.now = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        self.now, row = self._call("lease.get", table=table, key=key, consistency=self._consistency)
        return row  # type: ignore[no-any-return]

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = limits.SCAN_ROWS
    ) -> list[tuple[bytes, bytes]]:
        asked = {"table": table, "start": start, "stop": stop, "limit": limit, "consistency": self._consistency}
        self.now, rows = self._call("lease.scan", **asked)
        return [(key, row) for key, row in rows]
