"""One lease as its holder has it: kept alive by a thread, given up in time.

When is it lost? The holder measures on its own CLOCK_BOOTTIME, which nobody sets and which runs on while the machine is
suspended, from the moment *before* it asked: the cluster's term begins later than that, at the stamp of the entry. Cluster
time runs at most 5 % fast (`limits.CLOCK_SLEW`), also over a change of leader, so a term of T cannot have ended before
T / 1.05 has passed here. The holder stops believing at 0.9 T (`limits.LEASE_BELIEF`): half of the tenth is for the slew, the
other half, at least 50 ms, for its callbacks to be run before another can hold it.

What this cannot cover: a process that is stopped (SIGSTOP, a frozen virtual machine) between looking at `held` and acting, and
a majority that restarted at once, knows no cluster time any more and takes it from wall clocks that are far ahead. For
these there is the fencing token: whoever is written to refuses a token smaller than the greatest that it has seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final, Self

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import RaftclusterError, Rejected, Unavailable
from raftcluster.host import Host
from raftcluster.lease.machine import NAME, Tenure, read_lease
from raftcluster.lease.rules import LeaseHeld, LeaseLost

log = logging.getLogger("raftcluster.lease")

LONGEST_WAIT: Final = 0.5  # an Event's clock stands still while a machine is suspended: look at ours this often
RETRY_SECONDS: Final = 0.1

OnLost = Callable[[str], None]
"""Receives why. On the lease's thread: it should make the job stop, and must not wait for it longer than half a tenth of the
term."""


def boot_seconds() -> float:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One attempt to hold a lease, made by `node.lease(...)`; after `release` or a loss it may be acquired anew.

    Thread: `acquire`, `release` and `with` by one thread at a time; `held`, `check`, `token` and `wait_lost` by any. `aacquire`,
    `arelease` and `async with` are the same for asyncio; what waits runs in the loop's default executor.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        term: float,
        at_least: float,
        wait: float,
        on_lost: OnLost | None,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._host, self.name, self._term, self._wait, self._on_lost = host, name, term, wait, on_lost
        self._at_least = at_least
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._lost = threading.Event()
        self._lost.set()
        self._token = 0
        self._until = 0.0
        """On our clock: from then on the lease is not believed in."""
        self._asked: float | None = None
        """When the renewal under way was asked for."""
        self._renew_at = 0.0
        self._look = False
        """The table has changed since the lease was looked up in it."""
        self._why = "it was never acquired"
        self._keeper: threading.Thread | None = None
        self._closed = False

    # ---- the holder's side

    @property
    def held(self) -> bool:
        """Whether it is held for certain at this moment, as far as a host can know (see the head of the file)."""
        return not self._lost.is_set() and self._clock() < self._until

    @property
    def token(self) -> int:
        """The fencing token, to be passed to whatever the job writes to. Raises `LeaseLost` when it is not held."""
        self.check()
        return self._token

    @property
    def seconds_left(self) -> float:
        """For how long it is held yet without another renewal; 0 when it is not."""
        return max(0.0, self._until - self._clock()) if not self._lost.is_set() else 0.0

    def check(self) -> None:
        """Raise `LeaseLost` when it is not held: for a job to call between its steps."""
        if not self.held:
            raise LeaseLost(f"{self.name} is not held: {self._why}", subject=self.name, remedy="stop the work")

    def wait_lost(self, seconds: float | None = None) -> bool:
        """Wait until it is lost or released, at most `seconds`; whether it is."""
        return self._lost.wait(seconds)

    def acquire(self, *, wait: float | None = None) -> bool:
        """Get it, within `wait` seconds (default: the lease's own, by which 0 asks once); False when others have it.

        Raises `Unavailable` without a quorum, `Rejected` when it is held by this very object; after `OutcomeUnknown` it may be
        that nobody can have it until a term has passed.
        """
        return self._get(wait, threading.Event())

    def release(self) -> bool:
        """Let others have it, after `at_least`; whether it was held until now. Without a quorum it ends by itself."""
        with self._lock:
            was = self.held
            self._lose("it was released", tell=False)
        self._join()
        if not was:
            return False
        try:
            return bool(self._host.propose(NAME, ["release", self.name, self._token]))
        except RaftclusterError as error:
            log.info("the lease %s is not released but ends by itself: %s", self.name, error)
            return True

    def __enter__(self) -> Self:
        """Acquire it. Raises `LeaseHeld` when others have it."""
        if not self.acquire():
            raise self._held_by_another()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def aacquire(self, *, wait: float | None = None) -> bool:
        """`acquire` from asyncio. When it is cancelled the lease is not held: if it was got, it is released."""
        unwanted = threading.Event()
        asked = asyncio.ensure_future(asyncio.to_thread(self._get, wait, unwanted))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            unwanted.set()
            self._wake.set()
            await _ended(asked)
            if not asked.cancelled() and asked.exception() is None and asked.result():  # it was got a moment before
                await _ended(asyncio.ensure_future(asyncio.to_thread(self.release)))
            raise

    async def arelease(self) -> bool:
        """`release` from asyncio; carried out also when it is cancelled."""
        return await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.release)))

    async def __aenter__(self) -> Self:
        """Acquire it. Raises `LeaseHeld` when others have it."""
        if not await self.aacquire():
            raise self._held_by_another()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.arelease()

    def _held_by_another(self) -> LeaseHeld:
        return LeaseHeld(f"{self.name} is held by another", subject=self.name, remedy="leave the work to the holder")

    # ---- the node's side

    def signal(self) -> None:
        """Tick thread: the table of leases has changed."""
        self._look = True
        self._wake.set()

    def close(self) -> None:
        """The node ends: the holder is told. It is not released, because its job may be at work yet. Idempotent."""
        with self._lock:
            self._closed = True
            lost = self._lose("the node was closed", tell=True)
        self._tell(lost)
        self._join()

    # ---- inside

    def _get(self, wait: float | None, unwanted: threading.Event) -> bool:
        """`acquire`, until `unwanted` is set: then it is False, and the lease not held."""
        if self._keeper is not None:
            if not self._lost.is_set():
                raise Rejected(f"{self.name} is held by this lease already", subject=self.name)
            self._join()
        end = time.monotonic() + (self._wait if wait is None else wait)
        while True:
            asked = self._clock()
            try:
                answer = self._propose()
            except Rejected as error:
                if error.code != LeaseHeld.code:
                    raise
                if not self._comes_free(end, unwanted):
                    return False
            else:
                got = self._acquired(asked, int(answer[0]))
                if got and unwanted.is_set():
                    self.release()
                    return False
                return got

    def _propose(self) -> Value:
        host, term, at_least = self._host, int(self._term * 1000), int(self._at_least * 1000)
        return host.propose(NAME, ["acquire", self.name, host.id, host.name, term, at_least])

    def _comes_free(self, end: float, unwanted: threading.Event) -> bool:
        """Wait until it seems that nobody has it; False when that is not before `end`, or nobody wants it any more."""
        while (left := end - time.monotonic()) > 0:
            self._wake.clear()
            if unwanted.is_set():
                return False
            busy = self._host.query(NAME, lambda tables, now: _seconds_taken(read_lease(tables, self.name), now))
            if busy <= 0:
                self._wake.wait(min(left, 0.01))  # this node's idea of cluster time may be ahead of the leader's
                return True
            self._wake.wait(min(left, busy, LONGEST_WAIT))  # a release wakes it at once
        return False

    def _acquired(self, asked: float, token: int) -> bool:
        with self._lock:
            self._token = token
            self._until = asked + self._term * limits.LEASE_BELIEF
            self._renew_at = asked + self._term / 3
            self._asked, self._look = None, False
            self._why = "its term has ended"
            if self._closed or self._clock() >= self._until:  # the answer took too long
                return False
            self._lost.clear()
            keeper = threading.Thread(target=self._keep, name="raftcluster-lease", daemon=True)
            try:
                keeper.start()
            except RuntimeError as error:  # no more threads
                self._lose("there was no thread to keep it", tell=False)
                trouble = Unavailable(f"{self.name} cannot be kept: {error}", subject=self.name, remedy="ask again")
            else:
                self._keeper = keeper
                return True
        with contextlib.suppress(RaftclusterError):  # then it ends by itself
            self._host.propose(NAME, ["release", self.name, token])
        raise trouble

    def _keep(self) -> None:
        while not self._lost.is_set():
            self._wake.clear()
            now = self._clock()
            if now >= self._until:
                with self._lock:
                    lost = self._lose("it could not be renewed in time", tell=True)
                self._tell(lost)
            elif self._look and self._is_gone():
                with self._lock:
                    lost = self._lose("the cluster has ended it", tell=True)
                self._tell(lost)
            else:
                if self._asked is None and now >= self._renew_at:
                    self._renew(now)
                self._wake.wait(min(LONGEST_WAIT, self._until - now, max(0.001, self._renew_at - now)))

    def _is_gone(self) -> bool:
        """Whether this node has applied that somebody else has it."""
        self._look = False
        try:
            row = self._host.query(NAME, lambda tables, _: read_lease(tables, self.name))
        except RaftclusterError:
            return False
        return row is not None and row.token > self._token

    def _renew(self, now: float) -> None:
        self._asked, self._renew_at = now, now + self._term  # nothing more to ask for until this is answered
        command = ["renew", self.name, self._token, int(self._term * 1000)]
        left = max(0.05, self._until - now)
        renewed = partial(self._renewed, self._token)
        try:
            self._host.submit(NAME, command, renewed, deadline=min(limits.CALL_SECONDS, self._term / 3, left))
        except RaftclusterError as error:  # the node has stopped for good: the term ends, and the holder is told
            renewed(None, error)

    def _renewed(self, token: int, value: Value | None, error: RaftclusterError | None) -> None:
        """Tick thread."""
        if token != self._token:
            return  # it was released and acquired anew meanwhile
        asked = self._asked
        if asked is not None and error is None:
            self._until, self._renew_at = asked + self._term * limits.LEASE_BELIEF, asked + self._term / 3
        elif isinstance(error, Rejected) and error.code == LeaseLost.code:
            self._until = 0.0
        else:
            self._renew_at = self._clock() + RETRY_SECONDS
        self._asked = None
        self._wake.set()

    def _lose(self, why: str, *, tell: bool) -> OnLost | None:
        """With the lock: end it once. Returns whom to tell."""
        if self._lost.is_set():
            return None
        self._why = why
        self._lost.set()
        self._wake.set()
        return self._on_lost if tell else None

    def _tell(self, on_lost: OnLost | None) -> None:
        if on_lost is not None:
            log.warning("the lease %s is lost: %s", self.name, self._why)
            try:
                on_lost(self._why)
            except Exception:  # it may do anything but harm the node: others hold leases, too
                log.exception("a caller's callback failed")

    def _join(self) -> None:
        keeper = self._keeper
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join()
            self._keeper = None


async def _ended(task: asyncio.Future[bool]) -> None:
    """Wait until `task` is done, however often this is cancelled: a call has a deadline."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


def _seconds_taken(tenure: Tenure | None, now: int) -> float:
    """For how long nobody else can have it, in cluster time `now`; 0 when it is free."""
    return 0.0 if tenure is None else max(0.0, (tenure.ends - now) / 1000)
