"""The tick thread: it drives the replica, and is the way for all other threads to ask it for something.

Callers append to queues and wake the thread; answers go back through callbacks, `SimpleQueue`s or event loops. The
thread sleeps in `Mesh.poll` and nowhere else, until the replica or a call wants it (`Replica.pause`, `WHEEL_SECONDS`).

Whatever the replica raises is the end of this node's part in the cluster (fail-stop): links are closed, nothing is sent
any more, and every call is told so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from raftcluster import limits
from raftcluster.calls import SAME_ID, Calls, tell
from raftcluster.codec import Value
from raftcluster.engine.operations import ID_BYTES, Operation
from raftcluster.engine.replica import Replica
from raftcluster.errors import (
    DataVersion,
    FrameError,
    OutcomeUnknown,
    RaftclusterError,
    Rejected,
    StorageFailed,
    Unavailable,
)
from raftcluster.host import Completion, Consistency
from raftcluster.machine import ReadTables
from raftcluster.storage.ports import Entry
from raftcluster.transport.ports import Down, Links, Up

log = logging.getLogger("raftcluster.node")

T = TypeVar("T")
_Resolved = tuple[asyncio.Future[Value], Value, RaftclusterError | None]

WHEEL_SECONDS = 0.02
"""Deadlines are kept this exactly: a call is never given up early, and at most a step later than this."""
LOOK_AHEAD = round(10.0 / WHEEL_SECONDS)
"""Calls are looked at this often, in steps of the wheel: those that are done are kept no longer, however late their
deadline."""

_Ask = tuple[str, Value, Completion, bytes | None, float]
"""(machine, command, callback, id chosen by the caller, deadline by `time.monotonic`)"""


class Runtime:
    """See above. It exists before its replica, which posts to it from its first moment on; `start` brings them together.

    Thread: every public method from any thread, unless it says otherwise.
    """

    replica: Replica

    def __init__(self, links: Links) -> None:
        self._links = links
        self._pid = os.getpid()
        self._posts: deque[Callable[[], None]] = deque()
        self._asked: deque[_Ask] = deque()
        self._glances: deque[Completion] = deque()
        self._wheel: dict[int, list[Calls]] = {}
        """Deadline in units of `WHEEL_SECONDS`, rounded up -> calls. Tick thread only."""
        self._turned = int(time.monotonic() / WHEEL_SECONDS)
        self._futures: dict[asyncio.AbstractEventLoop, list[_Resolved]] = {}
        self._listeners: dict[str, list[Callable[[int], None]]] = {}
        self._role_listeners: list[Callable[[], None]] = []
        self._doubtful: OrderedDict[bytes, int] = OrderedDict()
        """Ids given by callers, whose calls were given up with a copy on its way -> what had been applied when they were
        first asked. What is asked again is as old as that: beyond the ring it is not carried out twice. Tick thread only."""
        self._asleep = False
        self._stopping = False
        self._over = True
        """The thread takes no calls, not yet or not any more; whoever adds one refuses it."""
        self._flushing: tuple[float, threading.Event] | None = None
        """A last checkpoint is wanted: until when, and who is told that there is nothing left to write."""
        self.failure: RaftclusterError | None = None
        """Why this node has stopped for good; None while it runs."""
        self._thread = threading.Thread(target=self._run, name="raftcluster-tick", daemon=True)
        self._thread_id: int | None = None

    # ---- life

    def start(self, replica: Replica) -> None:
        """Begin to drive `replica`; once."""
        self.replica = replica
        self._over = False
        self._thread.start()

    def stop(self, *, flush_seconds: float = 5.0) -> None:
        """Write a last checkpoint, then end the thread. Idempotent."""
        if self._thread.is_alive() and not self._stopping:
            if self.failure is None:
                end = time.monotonic() + flush_seconds
                flushed = threading.Event()
                self._flushing = (end, flushed)
                self._wake()
                flushed.wait(flush_seconds)
            self._stopping = True
            self._links.wake()
        if self._thread_id is not None and threading.get_ident() != self._thread_id:
            self._thread.join(2 * flush_seconds)

    def _flush(self, end: float, flushed: threading.Event) -> None:
        """Everything applied goes to the tables, then `flushed` is set: a checkpoint may be under way, and another follow."""
        replica = self.replica
        if replica.engine.applied <= replica.journal.base_index or time.monotonic() > end or self.failure is not None:
            flushed.set()
        else:
            replica.checkpoint_now()

    def is_tick_thread(self) -> bool:
        """Whether this is called on it: nothing may wait there."""
        return threading.get_ident() == self._thread_id

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` on the tick thread soon, in order."""
        self._posts.append(work)
        self._wake()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._links.wake()

    def call(self, work: Callable[[Replica], T], *, deadline: float = limits.CALL_SECONDS) -> T:
        """The result of `work(replica)`, run on the tick thread between two steps; what it raises is raised here."""
        self._check()
        if self.is_tick_thread():
            return work(self.replica)
        box: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

        def run() -> None:
            try:
                box.put((True, work(self.replica)))
            except Exception as error:  # noqa: BLE001 - it is the caller's, and raised there
                box.put((False, error))

        self.post(run)
        try:
            good, value = box.get(timeout=deadline)
        except Empty:
            raise self._timed_out("the node did not answer in time") from None
        if not good:
            raise value
        return value  # type: ignore[no-any-return]

    def _timed_out(self, message: str) -> RaftclusterError:
        if self.failure is not None:
            return self.failure.with_traceback(None)
        return Unavailable(message, subject=self.replica.me, remedy="ask again")

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise Rejected(
                f"this node was opened in process {self._pid} and this is a fork of it",
                subject="fork",
                remedy="open the node after forking, or ask it over its worker socket",
            )
        if self.failure is not None:
            raise self.failure.with_traceback(None)  # else it would gather the frames of all who were told
        if self._stopping or self._over:
            raise self._closed()

    # ---- the thread

    def _run(self) -> None:
        self._thread_id = threading.get_ident()
        replica, links = self.replica, self._links
        try:
            while not self._stopping:
                self._asleep = True
                idle = not self._posts and not self._asked and not self._glances
                events = links.poll(self._pause() if idle else 0.0)
                self._asleep = False
                for event in events:
                    if isinstance(event, Up):
                        replica.link_up(event.peer)
                    elif isinstance(event, Down):
                        replica.link_down(event.peer)
                    else:
                        try:
                            replica.deliver(event.peer, event.value)
                        except FrameError as error:
                            log.warning("%s sent nonsense, its link is closed: %s", event.peer, error)
                            links.drop(event.peer, str(error))
                for _ in range(len(self._posts)):
                    self._posts.popleft()()
                for _ in range(len(self._glances)):
                    tell(self._glances.popleft(), None, None)
                self._take()
                links.flush()  # acknowledgements do not wait for what is applied next
                replica.step()
                self._expire()
                links.flush()
                if self._futures:
                    self._resolve()
                if self._flushing is not None:
                    self._flush(*self._flushing)
        except BaseException as error:  # noqa: BLE001 - whatever it was: the node stops, and says why
            self._fail(error)
        finally:
            self._end()

    def _pause(self) -> float:
        return min(WHEEL_SECONDS, self.replica.pause()) if self._wheel else self.replica.pause()

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, RaftclusterError):
            self.failure = error
        else:
            log.critical("the node stops for good", exc_info=error)
            self.failure = StorageFailed(
                f"the node has stopped for good: {error!r}",
                subject=self.replica.me,
                remedy="see the log, then restart the node",
            )
        log.critical("the node takes no part in the cluster any more: %s", self.failure)

    def _end(self) -> None:
        """Tell everybody who still waits, then close the links."""
        error = self.failure
        self._over = True
        for calls in self._wheel.values():
            for call in calls:
                if call.done:
                    continue
                if self.replica.outbox.give_up(call.ident, call.answer):
                    call.answer(None, error or self._closed())
                else:
                    text = str(error or "the node was closed meanwhile")
                    call.answer(None, OutcomeUnknown(text, subject=self.replica.me, remedy="ask another node"))
        self._refuse_asked()
        for _ in range(len(self._posts)):
            post = self._posts.popleft()
            if error is None:
                post()
        self._resolve()
        self._links.close()

    def _closed(self) -> Unavailable:
        return Unavailable("the node is closed", subject=self.replica.me)

    def _refuse_asked(self) -> None:
        """Any thread, once it is over."""
        while True:
            try:
                callback = self._glances.popleft() if self._glances else self._asked.popleft()[2]
            except IndexError:
                return
            tell(callback, None, self.failure or self._closed())

    def _take(self) -> None:
        """Hand all that was asked to the replica. Commands without an id of their own travel together, by machine and step
        of the wheel: what they share then ends for all of them at the same moment."""
        together: dict[tuple[str, int], list[_Ask]] = {}
        for _ in range(len(self._asked)):
            ask = self._asked.popleft()
            if ask[3] is not None:
                self._submit([ask])
                continue
            group = (ask[0], int(ask[4] / WHEEL_SECONDS))
            asks = together.get(group)
            if asks is None:
                together[group] = [ask]
            elif len(asks) < limits.OPERATION_COMMANDS:
                asks.append(ask)
            else:
                self._submit(asks)
                together[group] = [ask]
        for asks in together.values():
            self._submit(asks)

    def _submit(self, asks: list[_Ask]) -> None:
        """All of `asks` under one id; what cannot be sent together is sent one by one."""
        machine, _, _, chosen, _ = asks[0]
        ident = os.urandom(ID_BYTES) if chosen is None else chosen  # nobody can guess it, and answer for us under it
        born = (
            self.replica.engine.applied if chosen is None else self._doubtful.get(chosen, self.replica.engine.applied)
        )
        calls = Calls(ident, chosen is not None, [ask[2] for ask in asks], max(ask[4] for ask in asks), born)
        calls.doubtful = chosen in self._doubtful
        try:
            self.replica.submit(Operation(machine, ident, born, [ask[1] for ask in asks]), calls.answer)
        except Rejected as error:
            if len(asks) == 1:
                calls.answer(None, error)
            else:
                for ask in asks:
                    self._submit([ask])
            return
        if not calls.done:
            self._keep(calls)

    def _keep(self, call: Calls) -> None:
        """Look at `call` when its deadline has passed, or earlier."""
        step = min(int(call.deadline / WHEEL_SECONDS), self._turned + LOOK_AHEAD)
        self._wheel.setdefault(max(step, self._turned) + 1, []).append(call)

    def _expire(self) -> None:
        """Give up the calls whose time is over."""
        now = int(time.monotonic() / WHEEL_SECONDS)
        while self._turned < now:
            self._turned += 1
            for call in self._wheel.pop(self._turned, ()):
                if not call.done and call.deadline > time.monotonic():
                    self._keep(call)
                elif not call.done:
                    self._give_up(call)

    def _give_up(self, call: Calls) -> None:
        if self.replica.outbox.give_up(call.ident, call.answer):
            call.answer(None, Unavailable("no leader took the request in time", subject="cluster", remedy="ask again"))
            return
        if call.named:
            self._doubtful[call.ident] = call.born
            if len(self._doubtful) > limits.PENDING_COMMANDS:
                self._doubtful.popitem(last=False)
        call.answer(None, OutcomeUnknown("no result came in time", subject="cluster", remedy=SAME_ID))

    def _resolve(self) -> None:
        """Hand results to their event loops, one call per loop and step."""
        futures, self._futures = self._futures, {}
        for loop, results in futures.items():
            _hand(loop, results)

    # ---- operations

    def submit(
        self,
        machine: str,
        command: Value,
        callback: Completion,
        *,
        id: bytes | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> None:
        """See `Host.submit`."""
        self._check()
        if type(machine) is not str or (id is not None and (type(id) is not bytes or len(id) != ID_BYTES)):
            raise Rejected(f"a machine's name and an id of {ID_BYTES} bytes are needed", subject="request")
        if not deadline < threading.TIMEOUT_MAX / 2:  # nor is it, when it is no number
            raise Rejected(f"a deadline in {deadline} s is none", subject="deadline", remedy="give seconds")
        self._asked.append((machine, command, callback, id, time.monotonic() + deadline))
        self._wake()
        if self._over:
            self._refuse_asked()

    def propose(
        self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = limits.CALL_SECONDS
    ) -> Value:
        """See `Host.propose`."""
        if self.is_tick_thread():
            raise Rejected("a callback on the tick thread must not wait", subject="thread", remedy="use submit")
        box: SimpleQueue[tuple[Value, RaftclusterError | None]] = SimpleQueue()
        self.submit(machine, command, lambda value, error: box.put((value, error)), id=id, deadline=deadline)
        try:
            value, error = box.get(timeout=deadline + 1.0)
        except Empty:
            raise OutcomeUnknown("the node did not answer in time", subject=self.replica.me, remedy=SAME_ID) from None
        if error is not None:
            raise error
        return value

    async def apropose(
        self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = limits.CALL_SECONDS
    ) -> Value:
        """See `Host.apropose`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()

        def done(value: Value, error: RaftclusterError | None) -> None:
            if self._over:  # no step follows that would hand it over
                _hand(loop, [(future, value, error)])
            else:
                self._futures.setdefault(loop, []).append((future, value, error))

        self.submit(machine, command, done, id=id, deadline=deadline)
        return await future

    # ---- reads

    def query(
        self,
        machine: str,
        read: Callable[[ReadTables, int], T],
        *,
        consistency: Consistency = "local",
        deadline: float = limits.CALL_SECONDS,
    ) -> T:
        """See `Host.query`."""
        if consistency == "local":
            return self.call(lambda replica: read(replica.applier.tables(machine), replica.time()), deadline=deadline)
        if self.is_tick_thread():
            raise Rejected("a callback on the tick thread must not wait", subject="thread", remedy="read locally")
        within = None if consistency == "linearizable" else float(consistency)
        box: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

        def run() -> None:
            try:
                box.put((True, read(self.replica.applier.tables(machine), self.replica.time())))
            except Exception as error:  # noqa: BLE001 - it is the caller's, and raised there
                box.put((False, error))

        end = time.monotonic() + deadline
        while True:
            waiting = self.call(
                lambda r: r.queries.ask(run, lambda e: box.put((False, e)), within=within), deadline=deadline
            )
            try:
                good, value = box.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                if waiting is not None:
                    self.post(partial(self.replica.queries.drop, waiting))
                raise self._timed_out("the read was not confirmed in time") from None
            if good:
                return value  # type: ignore[no-any-return]
            if not isinstance(value, Unavailable) or time.monotonic() + limits.HEARTBEAT_SECONDS >= end:
                raise value
            # the leader changed, or nobody leads yet: wait for a heartbeat, off the tick thread, and ask again
            threading.Event().wait(limits.HEARTBEAT_SECONDS)

    def glance(
        self,
        machine: str,
        read: Callable[[ReadTables, int, float], T],
        callback: Callable[[T], None],
        refused: Callable[[RaftclusterError], None],
    ) -> None:
        """See `GlanceHost.glance`."""
        self._check()

        def look(_: object, error: RaftclusterError | None) -> None:
            if error is not None:
                refused(error)
                return
            replica = self.replica
            callback(read(replica.applier.tables(machine), replica.time(), replica.queries.staleness()))

        if self.is_tick_thread():
            tell(look, None, None)
            return
        self._glances.append(look)
        self._wake()
        if self._over:
            self._refuse_asked()

    # ---- what others want to hear

    def on_apply(self, machine: str, callback: Callable[[int], None]) -> None:
        """See `Host.on_apply`."""
        self._listeners.setdefault(machine, []).append(callback)

    def on_role(self, callback: Callable[[], None]) -> None:
        """Call `callback()` on the tick thread when this node's role, or the leader it knows, has changed."""
        self._role_listeners.append(callback)

    def applied(self, entry: Entry, machines: Any) -> None:
        """The replica's observer; tick thread."""
        for machine in machines:
            for listener in self._listeners.get(machine, ()):
                try:
                    listener(entry[1])
                except DataVersion:
                    raise  # what follows may be what this program does not understand
                except Exception:
                    log.exception("a listener failed")

    def role(self) -> None:
        """The replica's observer; tick thread."""
        for listener in self._role_listeners:
            listener()


def _hand(loop: asyncio.AbstractEventLoop, results: Sequence[_Resolved]) -> None:
    try:
        loop.call_soon_threadsafe(_resolve_all, results)
    except RuntimeError:
        log.warning("%d results came for an event loop that is closed", len(results))


def _resolve_all(results: Sequence[_Resolved]) -> None:
    for future, value, error in results:
        if not future.done():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
