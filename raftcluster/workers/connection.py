"""One worker's connection, at the node: messages in, answers out, in any order, bounded both ways.

1. What is unanswered is counted. At `limits.WORKER_PENDING` reading stops until half of it is answered: a flood costs one
   socket buffer. While the worker does not read its answers nothing of it is read, either.
2. Whatever becomes ready at one moment leaves in one frame and one write.
3. Nonsense, a frame that does not end and a worker that does not read end the connection: its calls go on and are answered to
   nobody, its streams end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import FrameError
from raftcluster.transport import sockets
from raftcluster.workers.wire import (
    CANCEL,
    END,
    ERROR,
    MORE,
    VALUE,
    Reader,
    Request,
    frames,
    packed_answer,
    packed_result,
    request,
)


class Owner(Protocol):
    """What a connection needs of its server. Loop thread only."""

    def opened(self, connection: Connection) -> bool: ...
    def closed(self, connection: Connection) -> None: ...
    def asked(self, connection: Connection, message: Request) -> None: ...
    def trouble(self, kind: str, message: str) -> None: ...


class Connection(asyncio.Protocol):
    """Loop thread only."""

    def __init__(self, owner: Owner, clock: Callable[[], float]) -> None:
        self.user = -1
        """Who has connected: a user id."""
        self.process = -1
        self.calls = 0
        """Of the unanswered ones, those that take a thread."""
        self.streams: dict[int, Callable[[int], None]] = {}
        """Number -> what to call when so many items were taken, 0 at the end."""
        self._owner, self._clock = owner, clock
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._pending: set[int] = set()
        self._out: list[bytes] = []
        self._paused = self._choked = False
        self._since = 0.0
        """When the frame under way began, or the worker's buffer became full."""

    # ---- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.process, self.user, _ = sockets.peer(transport)
        if not self._owner.opened(self):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for taken in list(self.streams.values()):
            taken(0)
        self.streams.clear()
        self._owner.closed(self)

    def data_received(self, data: bytes) -> None:
        if not self._reader.unfinished:
            self._since = self._clock()
        self._reader.feed(data)
        self._proceed()

    def pause_writing(self) -> None:
        self._choked, self._since = True, self._clock()
        self._pause(True)

    def resume_writing(self) -> None:
        self._choked = False
        self._proceed()

    # ---- for the server

    def overdue(self, now: float) -> str | None:
        """Why this connection has to go, or None."""
        if self._choked and now > self._since + limits.WORKER_ANSWER_SECONDS:
            return "does not read its answers"
        if not self._paused and self._reader.unfinished and now > self._since + limits.FRAME_SECONDS:
            return "does not end its frame"
        return None

    def say(self, number: int, kind: int, value: Value) -> None:
        """One message to the worker. What ends a call or a stream ends it here, too."""
        if kind in (VALUE, ERROR, END):
            self._pending.discard(number)
            self.streams.pop(number, None)
        self._send(packed_answer(number, kind, value))

    def result(self, number: int, packed: bytes) -> None:
        """What a call came to, when that is packed already."""
        self._pending.discard(number)
        self._send(packed_result(number, packed))

    def close(self) -> None:
        """Disconnect at once."""
        if self._transport is not None:
            self._transport.abort()

    def finish(self) -> None:
        """Disconnect when all that was said is on its way."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # ---- inside

    def _send(self, packed: bytes) -> None:
        if self._transport is None:
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        if self._paused and not self._choked and len(self._pending) <= limits.WORKER_PENDING // 2:
            self._loop.call_soon(self._proceed)

    def _proceed(self) -> None:
        try:
            while self._transport is not None and not self._choked and len(self._pending) < limits.WORKER_PENDING:
                messages = self._reader.next()
                if messages is None:
                    self._pause(False)
                    return
                self._since = self._clock()
                for each in messages:
                    self._ask(request(each))
        except FrameError as error:
            self._owner.trouble("malformed", f"process {self.process}: {error.message}; it is disconnected")
            self.close()
            return
        self._pause(True)

    def _ask(self, message: Request) -> None:
        if message.method in (MORE, CANCEL):
            if (taken := self.streams.get(message.number)) is not None:
                count = message.arguments
                taken(count if message.method == MORE and type(count) is int and count > 0 else 0)
            return
        if message.number in self._pending:
            raise FrameError("a number is used twice", subject="worker frame")
        self._pending.add(message.number)
        self._owner.asked(self, message)

    def _pause(self, pause: bool) -> None:
        if self._transport is None or self._transport.is_closing() or pause == self._paused:
            return
        self._paused = pause
        self._transport.pause_reading() if pause else self._transport.resume_reading()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.writelines(list(frames(out)))
