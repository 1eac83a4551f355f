"""A worker's side of the connection: it dials, says what it is asked, dials again.

Theory of operation. One thread runs an asyncio loop with the connection. Callers on any thread put what they ask into a mailbox;
all that has gathered leaves in one write. An ask waits here until it is answered, until its deadline, or until there has been
no node for `patience` seconds. When the connection is lost, what may be said again -- because it carries a request id, or changes
nothing -- is said again on the next one; of the rest nobody can tell whether it was done: `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.control.wire import revive
from raftcluster.errors import (
    FrameError,
    MissingPrivilege,
    NotRunning,
    OutcomeUnknown,
    RaftclusterError,
    Rejected,
    Unavailable,
)
from raftcluster.loop import LoopThread, Mailbox
from raftcluster.workers.wire import CANCEL, ERROR, ITEM, VERSION, Reader, answer, frames, packed_request

log = logging.getLogger("raftcluster.workers")

SWEEP_SECONDS: Final = 0.02
DIAL_SECONDS: Final = (0.02, 1.0)
"""The first pause between two attempts to connect, and the longest."""

Heard = Callable[[int, Value], None]
"""(VALUE | ITEM | END, value), or (ERROR, the error). On the link's thread: it must not block."""
_Resolved = tuple["asyncio.Future[tuple[int, Value]]", tuple[int, Value]]


class HungUp(OutcomeUnknown):
    """The connection was lost: what was under way may have been done."""


class Ask:
    """One message, and who is told what comes of it."""

    __slots__ = ("again", "born", "deadline", "heard", "method", "number", "packed", "patience", "said")

    def __init__(
        self, number: int, method: str, packed: bytes, heard: Heard, deadline: float, again: bool, patience: float
    ) -> None:
        """`deadline` is a moment of the loop's clock; `again` says that it may be said on another connection, too."""
        self.number, self.method, self.packed, self.heard = number, method, packed, heard
        self.deadline, self.again, self.patience = deadline, again, patience
        self.said = False
        self.born = 0.0


class Link:
    """See the head of the file. Thread: `ask`, `tell`, `wait_about` and `close` from any, all else on the link's own."""

    def __init__(self, path: str, patience: float) -> None:
        self.path, self.patience = path, patience
        self.about: dict[str, Value] | None = None
        """What the node last said of itself."""
        self._resolved: dict[asyncio.AbstractEventLoop, list[_Resolved]] = {}
        """What is to be handed to the event loops of callers, one call per loop and moment."""
        self._told = threading.Event()
        self._numbers = count(1)
        self._pending: dict[int, Ask] = {}
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._why: RaftclusterError | None = None
        self._down_since = 0.0
        self.closed = False
        self._closing = threading.Lock()
        """Held while something is put into the mailbox that has to be answered: what is there when it closes is."""
        self._thread = LoopThread("raftcluster-worker")
        self.clock = self._thread.loop.time
        self._down_since = self.clock()
        self._mailbox = Mailbox(self._thread.loop, self._take)
        self._thread.run(self._start())

    # ---- any thread

    def ask(
        self,
        method: str,
        arguments: Value,
        ident: bytes | None,
        heard: Heard,
        seconds: float,
        *,
        again: bool,
        patience: float | None = None,
    ) -> int:
        """Say it, and have `heard` told what comes of it, within `seconds`; its number. Raises `FrameError`, `Unavailable`."""
        if len(self._pending) >= limits.WORKER_PENDING:
            raise Unavailable(f"{limits.WORKER_PENDING} calls are under way", subject=self.path, remedy="wait for some")
        number = next(self._numbers)
        packed = packed_request(number, method, arguments, ident)
        patience = self.patience if patience is None else patience
        asked = Ask(number, method, packed, heard, self.clock() + seconds, again, patience)
        with self._closing:
            if self.closed:
                raise Unavailable("the worker's connection is closed", subject=self.path)
            self._mailbox.put(asked)
        return number

    def wait(
        self, method: str, arguments: Value, ident: bytes | None, seconds: float, *, again: bool
    ) -> tuple[int, Value]:
        """`ask`, and wait: (VALUE, it) or (ERROR, it). Raises as `check_may_wait` does, too."""
        self.check_may_wait()
        box: SimpleQueue[tuple[int, Value]] = SimpleQueue()
        self.ask(method, arguments, ident, lambda kind, value: box.put((kind, value)), seconds, again=again)
        return box.get()

    async def await_(
        self, method: str, arguments: Value, ident: bytes | None, seconds: float, *, again: bool
    ) -> tuple[int, Value]:
        """`wait` from asyncio."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[int, Value]] = loop.create_future()

        def heard(kind: int, value: Value) -> None:
            self._resolved.setdefault(loop, []).append((future, (kind, value)))

        self.ask(method, arguments, ident, heard, seconds, again=again)
        return await future

    def check_may_wait(self) -> None:
        """Raises `Rejected` on the link's own thread, whose callbacks nobody else can answer."""
        if self._thread.is_current():
            raise Rejected(
                "a callback on the connection's thread must not wait", subject="thread", remedy="use another thread"
            )

    def tell(self, number: int, method: str, arguments: Value) -> None:
        """Say something that has no answer, about an earlier ask."""
        self._mailbox.put(number, packed_request(number, method, arguments, None), method == CANCEL)

    def wait_about(self, seconds: float) -> dict[str, Value]:
        """What the node says of itself. Raises `NotRunning`, `MissingPrivilege` when it has said nothing within `seconds`."""
        self._told.wait(seconds)
        if self.about is None:
            raise self._nobody()
        return self.about

    def close(self) -> None:
        """Hang up; who still waits is told. Idempotent."""
        with self._closing:
            closed, self.closed = self.closed, True
        if not closed:
            self._thread.run(self._end())
            self._thread.close()

    # ---- inside (the link's thread)

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._busy = asyncio.Event()
        self._tasks = [loop.create_task(self._keep()), loop.create_task(self._sweep())]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.abort()
        for ask in list(self._pending.values()):
            self._answer(ask, ERROR, self._failed(ask, "the worker's connection was closed"))
        self._hand_over()

    def _take(self, first: Ask | int, packed: bytes = b"", forget: bool = False) -> None:
        """From the mailbox."""
        if isinstance(first, int):
            if forget:
                self._pending.pop(first, None)
            self._say(packed)
            return
        first.born = self.clock()
        self._pending[first.number] = first
        self._busy.set()
        if self._transport is not None:
            first.said = True
            self._say(first.packed)

    def _say(self, packed: bytes) -> None:
        if self._transport is not None:
            if not self._out:
                self._thread.loop.call_soon(self._write)
            self._out.append(packed)

    def _write(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.writelines(list(frames(out)))

    async def _keep(self) -> None:
        """Be connected, always."""
        loop = asyncio.get_running_loop()
        pause = DIAL_SECONDS[0]
        while True:
            try:
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), self.path)
            except OSError as error:
                self._why = _cannot(error, self.path)
            else:
                pause = DIAL_SECONDS[0]
                await connection.lost
            await asyncio.sleep(pause)
            pause = min(2 * pause, DIAL_SECONDS[1])

    async def _sweep(self) -> None:
        """Give up what has waited too long. Nobody is woken while nothing waits."""
        while True:
            if not self._pending:
                self._busy.clear()
                await self._busy.wait()
            await asyncio.sleep(SWEEP_SECONDS)
            now = self.clock()
            gone = self._transport is None
            for ask in list(self._pending.values()):
                if now >= ask.deadline:
                    self._answer(ask, ERROR, self._failed(ask, "no answer came in time"))
                elif gone and now >= max(ask.born, self._down_since) + ask.patience:
                    self._answer(ask, ERROR, self._failed(ask, "the node has gone") if ask.said else self._nobody())
            self._hand_over()

    def _failed(self, ask: Ask, text: str) -> RaftclusterError:
        if ask.said:
            return HungUp(f"{ask.method}: {text}", subject=self.path, remedy="look before you repeat it")
        return Unavailable(f"{ask.method}: {text}", subject=self.path, remedy="ask again")

    def _nobody(self) -> RaftclusterError:
        return self._why or NotRunning(
            f"no node answers at {self.path}", subject=self.path, remedy="start the process that opens the node"
        )

    def _answer(self, ask: Ask, kind: int, value: Value) -> None:
        if kind != ITEM:
            self._pending.pop(ask.number, None)
        try:
            ask.heard(kind, value)
        except Exception:  # it may do anything but harm the link: others wait, too
            log.exception("a caller's callback failed")

    def _hand_over(self) -> None:
        if self._resolved:
            resolved, self._resolved = self._resolved, {}
            for loop, results in resolved.items():
                with contextlib.suppress(RuntimeError):  # nobody waits on a loop that is closed
                    loop.call_soon_threadsafe(_resolve, results)

    # ---- for the connection (the link's thread)

    def up(self, transport: asyncio.Transport, about: Value) -> None:
        """The node has said who it is: from now on it is asked."""
        if not isinstance(about, dict) or about.get("version") != VERSION:
            self._why = Rejected("the node speaks another version", subject=self.path, remedy="restart this process")
            transport.abort()
            return
        self.about = about
        self._told.set()
        if self._transport is not None:
            return
        self._transport = transport
        self._why = None
        for ask in self._pending.values():
            ask.said = True
            self._say(ask.packed)

    def hear(self, number: int, kind: int, value: Value) -> None:
        """One message of the node. Raises `FrameError`."""
        ask = self._pending.get(number)
        if ask is not None:
            self._answer(ask, kind, revive(value) if kind == ERROR else value)

    def heard(self) -> None:
        """All that came at one moment was heard."""
        self._hand_over()

    def down(self, transport: asyncio.BaseTransport | None) -> None:
        """The connection is gone."""
        if transport is not self._transport:
            return
        self._transport = None
        self._out.clear()
        self._down_since = self.clock()
        for ask in list(self._pending.values()):
            if ask.said and not ask.again:
                self._answer(ask, ERROR, self._failed(ask, "the node has hung up"))
        self._hand_over()


class _Connection(asyncio.Protocol):
    """Frames of the node, for a link."""

    def __init__(self, link: Link) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._link = link
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=limits.WORKER_FRAME_BYTES)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.down(self._transport)
        with contextlib.suppress(asyncio.InvalidStateError):
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._reader.feed(data)
        try:
            while (messages := self._reader.next()) is not None:
                for each in messages:
                    number, kind, value = answer(each)
                    self._link.hear(number, kind, value) if number else self._link.up(self._transport, value)
        except FrameError as error:
            log.warning("the node at %s sent nonsense: %s", self._link.path, error)
            self._transport.abort()
        self._link.heard()


def _resolve(results: list[_Resolved]) -> None:
    for future, result in results:
        if not future.done():
            future.set_result(result)


def _cannot(error: OSError, path: str) -> RaftclusterError:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError | BlockingIOError):
        return NotRunning(f"no node answers at {path}", subject=path, remedy="start the process that opens the node")
    return MissingPrivilege(
        f"cannot open {path}: {error.strerror or error}", subject=path, remedy="have the node serve this user's group"
    )
