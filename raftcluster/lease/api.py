"""Leases as a program sees them: `node.lease`.

    with node.lease("nightly-scan", seconds=30, at_least=600) as lease:   # LeaseHeld: another node does it
        for mailbox in mailboxes:
            lease.check()                                                # LeaseLost: stop
            scan(mailbox, fence=lease.token)

A task that is scheduled on every node alike runs on one: the node that gets the lease. `at_least` keeps the lease from others
for so long even if the task is done in a second, so that a host whose clock is behind does not run it once more.

    async with node.lease("nightly-scan", on_lost=lambda why: loop.call_soon_threadsafe(task.cancel)) as lease:
        await scan(fence=lease.token)                                    # the same from asyncio

Thread: every method may be called from any thread, but never from a node's callback: they wait. Those that begin with `a` are
for asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from raftcluster import limits
from raftcluster.host import Consistency, Host
from raftcluster.iteration import Followers
from raftcluster.lease.holding import Lease, OnLost
from raftcluster.lease.machine import NAME, Tenure, read_leases
from raftcluster.lease.rules import check_name, check_times
from raftcluster.machine import ReadTables


class Leases:
    """See the head of the file."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._followers = Followers()
        host.on_apply(NAME, self._followers.signal)

    def __call__(
        self,
        name: str,
        *,
        seconds: float = limits.LEASE_SECONDS,
        at_least: float = 0.0,
        wait: float = 0.0,
        on_lost: OnLost | None = None,
    ) -> Lease:
        """A lease to be acquired: use it in `with`, or call its `acquire`. Nothing is sent yet.

        `seconds` is its term: for so long at most nobody does the work after its holder has died. It is renewed at a third
        of it. `wait` is for how long `acquire` waits for it. `on_lost` is told when it is lost while held, by 0.9 of the term
        after the last renewal, before another can hold it. Raises `Rejected` for a name or times that cannot be.
        """
        check_name(name)
        check_times(_milliseconds(seconds), _milliseconds(at_least))
        return self._followers.add(Lease(self._host, name, seconds, at_least, wait, on_lost))

    def list(self, *, consistency: Consistency = "local") -> list[Tenure]:
        """Who holds what, by name; what was released is in it as long as it is kept from others."""
        found: list[Tenure] = []
        while True:
            page = self._host.query(NAME, _after(found[-1].name if found else ""), consistency=consistency)
            found += page
            if len(page) < limits.SCAN_ROWS:
                time = self._host.query(NAME, lambda tables, time: time)
                return [each for each in found if time < each.ends]

    async def alist(self, *, consistency: Consistency = "local") -> Sequence[Tenure]:
        """`list` from asyncio."""
        return await asyncio.to_thread(self.list, consistency=consistency)

    def close(self) -> None:
        """Tell all holders that they hold nothing any more. Idempotent; `Node.close` does it."""
        self._followers.close()


def _milliseconds(seconds: float) -> int:
    """What is no number, or no time, becomes one that cannot be."""
    return int(seconds * 1000) if abs(seconds) < limits.TIME_MS else -1


def _after(name: str) -> Callable[[ReadTables, int], list[Tenure]]:
    return lambda tables, _: read_leases(tables, name, limits.SCAN_ROWS)
