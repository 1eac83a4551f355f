"""One client's connection: requests in, one answer each, in order.

1. One request is decided at a time. Reading stops when more arrives meanwhile, or while the client does not take its
   answers, so a pipelining client costs one buffer.
2. Every request is answered within the deadline, or the connection is closed without an answer: after garbage, after
   a request that does not end, after a client that does not read.
3. A verdict that comes after its deadline is dropped: `ticket` numbers the decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from raftcluster.errors import FrameError
from raftcluster.policy.decision import Question
from raftcluster.policy.protocol import Attributes, Parser, response


class Owner(Protocol):
    """What a connection needs of its server."""

    def opened(self, connection: Connection) -> bool: ...
    def closed(self, connection: Connection) -> None: ...
    def decide(self, connection: Connection, attributes: Attributes) -> str | None: ...
    def trouble(self, kind: str, message: str) -> None: ...


class Connection(asyncio.Protocol):
    """Loop thread only."""

    def __init__(self, owner: Owner, clock: Callable[[], float]) -> None:
        self.ticket = 0
        self.since = clock()  # when it became idle, or when the request under way began
        self._owner = owner
        self._clock = clock
        self._parser = Parser()
        self._transport: asyncio.Transport | None = None
        self._deciding = self._paused = self._choked = self._ended = False
        self.asked: Question | None = None  # what the decision under way is about; set by the owner
        self.timer: asyncio.TimerHandle | None = None  # of the decision under way; set by the owner, stopped here

    # --- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._owner.opened(self):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.stop_timer()
        self.ticket += 1
        self._owner.closed(self)

    def data_received(self, data: bytes) -> None:
        if not self._deciding and not self._parser.unfinished:
            self.since = self._clock()
        self._parser.feed(data)
        if (self._deciding or self._choked) and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._proceed()

    def eof_received(self) -> bool:
        self._ended = True
        return self._deciding or self._choked  # a client may half-close and still wait for its answer

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self._proceed()

    # --- for the server

    def overdue(self, now: float, idle_seconds: float, request_seconds: float) -> str | None:
        """Why this connection has to go, or None."""
        waited = now - self.since
        if self._choked and waited > request_seconds:
            return "does not read its answers"
        if not self._deciding and self._parser.unfinished and waited > request_seconds:
            return "does not end its request"
        if waited > idle_seconds:
            return "is idle"
        return None

    def answer(self, action: str) -> None:
        """Answer the request under way, which `decide` had left open, and go on with the next one."""
        self.stop_timer()
        self._deciding = False
        self._write(action)
        self._proceed()

    def finish(self) -> None:
        """Disconnect, but answer the request under way before."""
        if self._deciding:
            self._ended = True
        else:
            self.close()

    def close(self) -> None:
        """Disconnect without a (further) answer."""
        self._deciding = False
        self.ticket += 1
        self.stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    # --- inside

    def _proceed(self) -> None:
        while (transport := self._transport) and not (transport.is_closing() or self._deciding or self._choked):
            try:
                attributes = self._parser.next()
            except FrameError as error:
                self._owner.trouble("malformed", f"{error.message}; the client is disconnected")
                self.close()
                return
            if attributes is None:
                if self._ended:
                    transport.close()
                elif self._paused:
                    self._paused = False
                    transport.resume_reading()
                return
            self._deciding = True
            if (action := self._owner.decide(self, attributes)) is not None:
                self._deciding = False
                self._write(action)

    def _write(self, action: str) -> None:
        self.ticket += 1
        self.since = self._clock()
        if self._transport is not None:
            self._transport.write(response(action))
