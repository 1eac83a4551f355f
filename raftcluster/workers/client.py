"""The node's API in a worker process, over the worker socket: the same calls, the same errors, the same deadlines.

    worker = Worker("/run/mail-gateway/raftcluster.sock")          # after the fork
    verdict = worker.greylist.check(client="192.0.2.7", sender="a@example.net", recipient="b@example.org")
    verdict = await worker.greylist.acheck(...)                    # hundreds at once: they share writes
    for change in worker.config.watch("antispam/"): ...            # goes on where it was when the node restarts
    with worker.lease("nightly-scan", seconds=30): ...
    id = worker.quarantine.capture(envelope, digest=..., size=..., reference=...)

When the node restarts, the worker connects again by itself, and says again what it was saying, under the same request ids: what
had been done is not done twice. Of `quarantine.release` alone nobody can say so: it ends in `OutcomeUnknown`.
A check is answered always, as `Node.greylist.check` does: while the node is away, as `on_unavailable` said when it last was
there; it is counted once however often it is said when it has an `instance`.

Records that the node gives as objects come as dicts here, but verdicts and leases. Thread: every method may be called from any
thread, and waits; from asyncio there are `acheck`, `acall`, `apropose`, `acapture`.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.config.watch import FellBehind as WatchFellBehind
from raftcluster.control import client as control
from raftcluster.control import greylisting
from raftcluster.errors import FrameError, NotRunning, RaftclusterError, Rejected, Unavailable
from raftcluster.greylist.decider import CANNOT_DECIDE
from raftcluster.greylist.rules import DEFER, PASS
from raftcluster.greylist.verdict import Verdict
from raftcluster.host import Completion
from raftcluster.lease.api import Leases
from raftcluster.lease.rules import LeaseHeld, LeaseLost
from raftcluster.notifications.rules import FellBehind
from raftcluster.quarantine.envelope import Envelope
from raftcluster.quarantine.rules import KINDS
from raftcluster.request_ids import ID_BYTES, request_id
from raftcluster.workers.leases import LeaseHost
from raftcluster.workers.link import Heard, HungUp, Link
from raftcluster.workers.place import Place
from raftcluster.workers.wire import CANCEL, CHECK, END, ERROR, ITEM, MORE, VALUE

T = TypeVar("T")

ANSWER_SECONDS: Final = control.ANSWER_SECONDS
PATIENCE_SECONDS: Final = 10.0
SLACK_SECONDS: Final = 1.0  # a command's deadline is the node's to keep; so much later nobody keeps it
NOT_AGAIN: Final = frozenset({"quarantine.release"})
"""What has effects that no request id covers."""
CLASSES: Final = {each.code: each for each in (*KINDS.values(), LeaseHeld, LeaseLost)}


class Worker:
    """See the head of the file. Nothing is connected before the first call; after a fork every call raises `Rejected`."""

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float = ANSWER_SECONDS, patience: float = PATIENCE_SECONDS
    ) -> None:
        """`path` is the node's worker socket. `timeout` is for calls that have no deadline of their own; for `patience` seconds a
        call waits for a node that is away."""
        self.path, self.timeout, self._patience = os.fspath(path), timeout, patience
        self._pid = 0
        self._link: Link | None = None
        self._closed = False
        self._lock = threading.Lock()
        self.greylist = Greylist(self, self._linked)
        twins: Any = self  # they need `call` and `stream` of a client, and this is one
        self.config = control.Config(twins)
        self.notifications = control.Notifications(twins)
        self.maillog = MailLog(self)
        self.quarantine = Quarantine(self)
        self.lease = Leases(LeaseHost(self))

    def call(self, method: str, **arguments: Value) -> Value:
        """One call by name. Raises what the node raises; `NotRunning` when there is none within the patience."""
        return _value(*self._linked().wait(**self._call(method, arguments)))

    async def acall(self, method: str, **arguments: Value) -> Value:
        """`call` from asyncio."""
        return _value(*await self._linked().await_(**self._call(method, arguments)))

    def stream(self, method: str, **arguments: Value) -> Iterator[Value]:
        """The items of a streaming call, each once, also when the node restarts meanwhile; until the iterator is closed."""
        if method == "config.watch" and arguments.get("since") is None:
            arguments["since"] = self.call("config.revision")
        place, link, patience = Place(method, arguments), self._linked(), self._patience
        link.check_may_wait()
        while True:
            box: SimpleQueue[tuple[int, Value]] = SimpleQueue()
            number = link.ask(method, place.arguments, None, _put(box), math.inf, again=False, patience=patience)
            taken = 0
            try:
                while (heard := box.get())[0] == ITEM:
                    if place.is_new(heard[1]):
                        yield heard[1]
                    taken += 1
                    if taken == limits.WORKER_WINDOW // 2:
                        link.tell(number, MORE, taken)
                        taken = 0
            finally:
                if not link.closed:
                    link.tell(number, CANCEL, None)
            if heard[0] == END:
                return
            if heard[0] == VALUE:
                raise FrameError(f"{method} is no stream of this node", subject=self.path)
            if not isinstance(heard[1], HungUp):
                raise _error_of(method, heard[1])
            if place.begun and not place.lasting:
                raise Unavailable(f"the node hung up during {method}", subject=self.path, remedy="ask again")
            place.again()
            patience = math.inf if place.lasting else patience  # what has begun goes on when the node is back

    def propose(
        self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = limits.CALL_SECONDS
    ) -> Value:
        """`Node.propose`, for the embedder's own machines. Without an `id` the worker makes one: once, whatever happens."""
        return _value(*self._linked().wait(**self._command(machine, command, id, deadline)))

    async def apropose(
        self, machine: str, command: Value, *, id: bytes | None = None, deadline: float = limits.CALL_SECONDS
    ) -> Value:
        """`propose` from asyncio."""
        return _value(*await self._linked().await_(**self._command(machine, command, id, deadline)))

    def submit(
        self,
        machine: str,
        command: Value,
        callback: Completion,
        *,
        id: bytes | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> None:
        """`propose` without waiting: `callback(value, error)` on the connection's thread; it must not block."""

        def heard(kind: int, value: Value) -> None:
            try:
                result = _value(kind, value)
            except RaftclusterError as error:
                callback(None, error)
            else:
                callback(result, None)

        self._linked().ask(**self._command(machine, command, id, deadline), heard=heard)

    def about(self) -> dict[str, Value]:
        """The node's `id` and `name`. Waits for it."""
        return self._linked().wait_about(self._patience)

    def close(self) -> None:
        """Hang up; who still waits is told. Leases end by themselves. Idempotent. Raises `Rejected` in a callback, whose thread cannot
        wait for its own end."""
        if (link := self._link) is not None:
            link.check_may_wait()
        self.lease.close()
        with self._lock:
            self._closed, link, self._link = True, self._link, None
        if link is not None and self._pid == os.getpid():
            link.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside

    def _linked(self) -> Link:
        link = self._link
        if link is None:
            with self._lock:
                if self._closed:
                    raise Unavailable("the worker was closed", subject=self.path)
                if self._link is None:
                    self._link, self._pid = Link(self.path, self._patience), os.getpid()
                link = self._link
        if self._pid != os.getpid():
            raise Rejected(
                f"this worker was connected in process {self._pid} and this is a fork of it",
                subject="fork",
                remedy="make the Worker after forking",
            )
        return link

    def _call(self, method: str, arguments: dict[str, Value]) -> dict[str, Any]:
        """How a call is asked."""
        ident = request_id(None) or os.urandom(ID_BYTES)
        again = method not in NOT_AGAIN
        return {"method": method, "arguments": arguments, "ident": ident, "seconds": self.timeout, "again": again}

    @staticmethod
    def _command(machine: str, command: Value, id: bytes | None, deadline: float) -> dict[str, Any]:
        """How a command is asked."""
        ident = request_id(id) or os.urandom(ID_BYTES)
        asked = {"machine": machine, "command": command, "deadline": deadline}
        seconds = deadline + SLACK_SECONDS
        return {"method": "propose", "arguments": asked, "ident": ident, "seconds": seconds, "again": True}


class Greylist:
    """`Node.greylist` in a worker: checks, and what an administrator asks."""

    def __init__(self, worker: Worker, linked: Callable[[], Link]) -> None:
        self._linked = linked
        twin = greylisting.Greylist(worker)  # type: ignore[arg-type]  # it needs `call`, and a worker has that
        self.lists, self.explain, self.stats = twin.lists, twin.explain, twin.stats
        self.settings, self.configure = twin.settings, twin.configure
        self._last: tuple[Value, Verdict | None] = ([], None)
        """All first attempts of one moment have the same verdict."""

    def check(
        self,
        *,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        client_name: str | None = None,
        instance: str | None = None,
        authenticated: bool = False,
        spf_pass: bool = False,
        helo: str = "",
        deadline: float = limits.CALL_SECONDS,
    ) -> Verdict:
        """`Greylist.check`."""
        fields = [client, sender, recipient, client_name, instance, authenticated, spf_pass, helo, float(deadline)]
        link = self._linked()
        return self._verdict(link, *link.wait(CHECK, fields, None, deadline, again=True))

    async def acheck(
        self,
        *,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        client_name: str | None = None,
        instance: str | None = None,
        authenticated: bool = False,
        spf_pass: bool = False,
        helo: str = "",
        deadline: float = limits.CALL_SECONDS,
    ) -> Verdict:
        """`Greylist.acheck`: as many at once as you like, up to `limits.WORKER_PENDING`."""
        fields = [client, sender, recipient, client_name, instance, authenticated, spf_pass, helo, float(deadline)]
        link = self._linked()
        return self._verdict(link, *await link.await_(CHECK, fields, None, deadline, again=True))

    def submit(
        self,
        callback: Callable[[Verdict | None, RaftclusterError | None], None],
        *,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        client_name: str | None = None,
        instance: str | None = None,
        authenticated: bool = False,
        spf_pass: bool = False,
        helo: str = "",
        deadline: float = limits.CALL_SECONDS,
    ) -> None:
        """`check` without waiting: `callback(verdict, None)`, or `callback(None, error)` where `check` would raise, once, on the
        connection's thread: it must not block."""
        fields = [client, sender, recipient, client_name, instance, authenticated, spf_pass, helo, float(deadline)]
        link = self._linked()

        def heard(kind: int, value: Value) -> None:
            try:
                verdict = self._verdict(link, kind, value)
            except RaftclusterError as error:
                callback(None, error)
            else:
                callback(verdict, None)

        link.ask(CHECK, fields, None, heard, deadline, again=True)

    def _verdict(self, link: Link, kind: int, value: Value) -> Verdict:
        if kind == VALUE:
            known, verdict = self._last
            if verdict is None or known != value:
                verdict = Verdict(*value)
                self._last = value, verdict
            return verdict
        if not isinstance(value, (*CANNOT_DECIDE, NotRunning)) or link.about is None:
            raise _typed(value)
        action, delay, text = link.about["without"]
        if action == PASS:
            return Verdict(PASS, value.code, 0, 0, None, True, "")
        seconds = math.ceil(delay)
        return Verdict(DEFER, value.code, seconds, 0, None, True, text % seconds)


class MailLog:
    """`Node.maillog` in a worker: what its protections have decided goes into the node's mail log."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def write(self, category: str, action: str, **about: str | bytes) -> None:
        """See `MailLog.write`, of which `about` are the other arguments."""
        self._worker.call("maillog.write", category=category, action=action, **about)

    async def awrite(self, category: str, action: str, **about: str | bytes) -> None:
        """`write` from asyncio."""
        await self._worker.acall("maillog.write", category=category, action=action, **about)


class Quarantine(control.Quarantine):
    """`Node.quarantine` in a worker. The key stays in the node's process: that seals."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)  # type: ignore[arg-type]  # it needs `call`, and a worker has that
        self._worker = worker

    def new_id(self) -> str:
        """See `Quarantine.new_id`."""
        return str(self._worker.call("quarantine.new_id"))

    def capture(
        self,
        envelope: Envelope,
        *,
        digest: bytes,
        size: int,
        reference: str,
        reason: str = "",
        lifetime: float = limits.QUARANTINE_SECONDS,
        id: str | None = None,
    ) -> str:
        """See `Quarantine.capture`."""
        about = {"digest": digest, "size": size, "reference": reference, "reason": reason, "lifetime": lifetime}
        ident = self.new_id() if id is None else id
        return str(self._worker.call("quarantine.capture", envelope=envelope.values(), **about, id=ident))

    async def acapture(
        self,
        envelope: Envelope,
        *,
        digest: bytes,
        size: int,
        reference: str,
        reason: str = "",
        lifetime: float = limits.QUARANTINE_SECONDS,
        id: str | None = None,
    ) -> str:
        """`capture` from asyncio."""
        about = {"digest": digest, "size": size, "reference": reference, "reason": reason, "lifetime": lifetime}
        ident = await self._worker.acall("quarantine.new_id") if id is None else id
        asked = {"envelope": envelope.values(), **about, "id": ident}
        return str(await self._worker.acall("quarantine.capture", **asked))


def _put(box: SimpleQueue[tuple[int, Value]]) -> Heard:
    return lambda kind, value: box.put((kind, value))


def _value(kind: int, value: Value) -> Value:
    if kind == ERROR:
        raise _typed(value)
    return value


def _error_of(method: str, error: RaftclusterError) -> RaftclusterError:
    """A stream's error in its own class."""
    if error.code == FellBehind.code:
        kind = WatchFellBehind if method == "config.watch" else FellBehind
        return kind(error.message, subject=error.subject, remedy=error.remedy)
    return _typed(error)


def _typed(error: RaftclusterError) -> RaftclusterError:
    """`error` in its own class, when it is one that every process knows by its code."""
    kind = CLASSES.get(error.code)
    return error if kind is None else kind(error.message, subject=error.subject, remedy=error.remedy)
