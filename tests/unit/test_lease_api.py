"""How a holder has its lease: renewed, given up in time, told of its loss. The clocks are the test's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from raftcluster import limits
from raftcluster.errors import Rejected, StorageFailed, Unavailable
from raftcluster.lease.api import Leases
from raftcluster.lease.holding import Lease
from raftcluster.lease.machine import LeaseMachine
from raftcluster.lease.rules import LeaseHeld, LeaseLost
from tests.helpers import eventually, no_more_threads
from tests.local_host import LocalHost


class Clock:
    """A host's CLOCK_BOOTTIME and the cluster's time, moved together."""

    def __init__(self, host: LocalHost) -> None:
        self.host, self.now = host, 1_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float, rate: float = 1.0) -> None:
        """Cluster time runs `rate` as fast as this clock."""
        self.host.now += round(seconds * rate * 1000)
        self.now += seconds


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([LeaseMachine()])


@pytest.fixture
def leases(host: LocalHost) -> Iterator[Leases]:
    leases = Leases(host)
    yield leases
    leases.close()


def holds(lease: Lease) -> bool:
    """Asked anew: what was true a moment ago says nothing."""
    return lease.held


def timed(host: LocalHost, clock: Clock, told: list[str], term: float = 10.0) -> Lease:
    return Lease(host, "job", term, 0.0, 0.0, told.append, clock)


def test_a_context_manager_holds_and_releases(leases: Leases) -> None:
    with leases("job") as lease:
        assert lease.held and lease.token == 1 and lease.seconds_left > 5
        assert [(each.name, each.token, each.released) for each in leases.list()] == [("job", 1, False)]
        with pytest.raises(LeaseHeld, match="held by another"), leases("job"):
            raise AssertionError("two have it")
        with pytest.raises(Rejected, match="held by this lease already"):
            lease.acquire()
    assert not holds(lease) and lease.wait_lost(0) and leases.list() == []
    with pytest.raises(LeaseLost, match="it was released"):
        lease.check()
    with lease:
        assert lease.token == 2


def test_it_is_released_when_the_job_fails(leases: Leases) -> None:
    with pytest.raises(ZeroDivisionError), leases("job"):
        raise ZeroDivisionError
    assert leases.list() == []


def test_what_is_kept_stays_listed_and_taken(leases: Leases) -> None:
    with leases("job", at_least=600):
        pass
    assert [each.released for each in leases.list()] == [True]
    assert not leases("job").acquire()


def test_waiting_gets_it_when_it_is_released(leases: Leases) -> None:
    first, told = leases("job"), list[str]()
    assert first.acquire()
    second = leases("job", wait=20.0, on_lost=told.append)
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(second.acquire()))
    thread.start()
    first.release()
    thread.join(60)
    assert got == [True] and second.token == 2
    leases.close()
    assert told == ["the node was closed"] and not second.held
    assert [each.released for each in leases.list()] == [False], "its job may be at work yet"


def test_it_is_renewed_at_a_third_of_its_term(host: LocalHost) -> None:
    clock, told = Clock(host), list[str]()
    lease = timed(host, clock, told)
    assert lease.acquire()
    for _ in range(20):
        clock.advance(4.0)
        lease.signal()
        eventually(lambda: lease.seconds_left == pytest.approx(9.0), what="it is renewed")
    assert lease.held and lease.token == 1 and told == []
    assert lease.release()


def test_the_holder_is_told_before_anybody_else_can_have_it(host: LocalHost) -> None:
    """Cluster time as fast as it may run: at the end of belief the term is not over yet."""
    clock, told = Clock(host), list[str]()
    lease = timed(host, clock, told)
    assert lease.acquire()
    host.failure = Unavailable("no quorum")
    clock.advance(10.0 * limits.LEASE_BELIEF - 0.001, rate=1 + limits.CLOCK_SLEW)
    assert holds(lease)
    clock.advance(0.001, rate=1 + limits.CLOCK_SLEW)
    assert not holds(lease), "it knows without having been told"
    lease.signal()
    eventually(lambda: told == ["it could not be renewed in time"], what="the holder is told")
    host.failure = None
    assert not Lease(host, "job", 10.0, 0.0, 0.0, None).acquire(), (
        "the cluster still keeps it for the one that was told"
    )
    clock.advance(0.5, rate=1 + limits.CLOCK_SLEW)
    assert not Lease(host, "job", 10.0, 0.0, 0.0, None).acquire(), "for half a tenth of the term at least"
    clock.advance(0.5)
    other = Lease(host, "job", 10.0, 0.0, 0.0, None)
    assert other.acquire() and other.token == 2
    other.release()


def test_a_term_that_began_late_is_counted_from_before_it_was_asked_for(host: LocalHost) -> None:
    clock, told = Clock(host), list[str]()
    propose = host.propose

    def slow(*arguments: object, **options: object) -> object:
        clock.advance(4.0)
        answer = propose(*arguments, **options)  # type: ignore[arg-type]
        clock.advance(3.0)
        host.propose = propose  # type: ignore[method-assign]
        host.failure = Unavailable("no quorum")  # or it would be renewed at once
        return answer

    host.propose = slow  # type: ignore[method-assign]
    lease = timed(host, clock, told)
    assert lease.acquire() and lease.seconds_left == pytest.approx(2.0)
    lease.close()
    assert told == ["the node was closed"]


def test_an_answer_that_comes_after_the_term_is_no_lease(host: LocalHost) -> None:
    clock = Clock(host)
    propose = host.propose

    def slow(*arguments: object, **options: object) -> object:
        answer = propose(*arguments, **options)  # type: ignore[arg-type]
        clock.advance(9.0)
        return answer

    host.propose = slow  # type: ignore[method-assign]
    lease = timed(host, clock, [])
    assert not lease.acquire() and not lease.held


def test_a_successor_that_this_node_has_seen_ends_it_at_once(host: LocalHost) -> None:
    """Cluster time leapt, as it may when a majority has forgotten it: the holder's own clock says nothing."""
    leases, told = Leases(host), list[str]()
    lease = leases("job", on_lost=told.append, seconds=100)
    assert lease.acquire()
    host.now += 200_000
    assert leases("job").acquire()
    eventually(lambda: told == ["the cluster has ended it"], what="the holder is told")
    assert not lease.held and not lease.release()
    leases.close()


def test_the_holder_is_told_when_the_node_has_stopped_for_good(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has stopped takes no command: `submit` itself raises. That ended the lease's thread, and nobody was told."""
    clock, told = Clock(host), list[str]()
    lease = timed(host, clock, told)
    assert lease.acquire()
    asked = threading.Event()

    def stopped(*arguments: object, **options: object) -> None:
        asked.set()
        raise StorageFailed("the disk has failed")

    monkeypatch.setattr(host, "submit", stopped)
    clock.advance(4.0)
    lease.signal()
    assert asked.wait(60)
    assert holds(lease)
    clock.advance(5.0)
    lease.signal()
    eventually(lambda: told == ["it could not be renewed in time"], what="the holder is told")
    assert lease.wait_lost(0)


def test_without_a_thread_to_keep_it_nothing_is_held(leases: Leases) -> None:
    """It was believed in, and nobody renewed it or told of its loss."""
    lease = leases("job")
    with no_more_threads(), pytest.raises(Unavailable, match="new thread"):
        lease.acquire()
    assert not lease.held and lease.wait_lost(0) and leases.list() == []
    assert lease.acquire() and lease.release()


def test_a_holder_that_fails_when_it_is_told_keeps_nobody_from_being_told(leases: Leases) -> None:
    """As `loop.call_soon_threadsafe` does, once the loop is closed."""
    told = list[str]()

    def lost(why: str) -> None:
        told.append(why)
        raise RuntimeError("Event loop is closed")

    held = [leases(name, on_lost=lost) for name in ("one", "two")]
    assert all(lease.acquire() for lease in held)
    leases.close()
    assert told == ["the node was closed"] * 2 and not any(lease.held for lease in held)


def test_names_and_times_that_cannot_be(leases: Leases, host: LocalHost) -> None:
    for arguments in ({"seconds": 0.5}, {"seconds": 1e9}, {"at_least": -1.0}, {"seconds": 1e300}):
        with pytest.raises(Rejected):
            leases("job", **arguments)  # type: ignore[arg-type]
    with pytest.raises(Rejected, match="no name of a lease"):
        leases("a job")
    host.failure = Unavailable("no quorum")
    with pytest.raises(Unavailable):
        leases("job").acquire()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_time_that_is_none_is_refused_by_name(leases: Leases, seconds: float) -> None:
    with pytest.raises(Rejected, match="a lease lasts"):
        leases("job", seconds=seconds)
    with pytest.raises(Rejected, match="a lease is kept"):
        leases("job", at_least=seconds)


# --- from asyncio


def test_an_asynchronous_holder_holds_and_releases(leases: Leases) -> None:
    async def work() -> None:
        async with leases("job") as lease:
            assert lease.held and lease.token == 1
            assert [each.name for each in await leases.alist()] == ["job"]
            with pytest.raises(LeaseHeld):
                async with leases("job"):
                    raise AssertionError("two have it")
            assert not await leases("job").aacquire()
        assert not holds(lease)
        with pytest.raises(ZeroDivisionError):
            async with lease:
                raise ZeroDivisionError
        assert await leases.alist() == []
        assert await lease.aacquire() and await lease.arelease() and not await lease.arelease()

    asyncio.run(work())


def test_an_asynchronous_job_can_be_ended_by_the_loss_of_its_lease(leases: Leases, host: LocalHost) -> None:
    async def work() -> str:
        loop, why = asyncio.get_running_loop(), list[str]()

        def lost(reason: str) -> None:
            why.append(reason)
            loop.call_soon_threadsafe(task.cancel)

        async def job() -> None:
            async with leases("job", on_lost=lost):
                await asyncio.to_thread(leases.close)
                await asyncio.Event().wait()

        task = asyncio.ensure_future(job())
        with pytest.raises(asyncio.CancelledError):
            await task
        return why[0]

    assert asyncio.run(work()) == "the node was closed"


def test_a_cancelled_acquisition_leaves_nothing_held(leases: Leases) -> None:
    """Cancelled while it waits, and cancelled while the answer is on its way."""

    async def work() -> None:
        with leases("job") as holder:
            waiting = asyncio.ensure_future(leases("job", wait=60.0).aacquire())
            done, _ = await asyncio.wait({waiting}, timeout=0.2)
            assert not done
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert holder.held
        assert leases.list() == []

    asyncio.run(work())


def test_what_was_got_in_the_moment_of_the_cancellation_is_released(host: LocalHost, leases: Leases) -> None:
    asked, go_on = threading.Event(), threading.Event()
    real = host.propose

    def propose(machine: str, command: object, **more: object) -> object:
        result = real(machine, command, **more)  # type: ignore[arg-type]
        if isinstance(command, list) and command[0] == "acquire":
            asked.set()
            assert go_on.wait(60)
        return result

    host.propose = propose  # type: ignore[method-assign]

    async def work() -> None:
        lease = leases("job")
        getting = asyncio.ensure_future(lease.aacquire())
        assert await asyncio.to_thread(asked.wait, 60)
        getting.cancel()
        asyncio.get_running_loop().call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await getting
        assert not lease.held and leases.list() == []
        host.propose = real  # type: ignore[method-assign]
        assert lease.acquire() and lease.release(), "it can be acquired anew"

    asyncio.run(work())
