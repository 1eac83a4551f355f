"""One established link, on the tick thread: never waits.

Messages are dicts; what the link says for itself is a list: `[PING, stamp]`, `[PONG, stamp]`, `[RELINK]`.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import FrameError
from raftcluster.transport import frames
from raftcluster.transport.ports import Event, LinkInfo, Message
from raftcluster.transport.trust import Connection

PING: Final = 0
PONG: Final = 1
RELINK: Final = 2
"""The acceptor asks the dialler for a new link, which will show new certificates."""

READ_BYTES: Final = 256 * limits.KIB
_WRITE_BYTES: Final = 256 * limits.KIB  # encrypted at once: more would only wait, in buffers that TLS never gives back


class Link:
    """Takes over an authenticated connection. Every method raises `OSError` or `RaftclusterError` when the link is over.

    Invariant: `queued` is the length of all frames accepted by `send` whose ciphertext the kernel has not taken.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.peer = connection.shown.subject.node_id
        self.since = time.monotonic()
        self.heard = self.since
        self.blocked = False
        """Whether the kernel takes nothing more for now."""
        self.relink_asked = False
        """The peer has asked for a new link."""
        self.pending = False
        """Bytes have come that `receive` has left for another turn."""
        self._stream = connection.stream
        self._socket = connection.stream.socket
        self._channel = connection.stream.channel
        self._decoder = connection.stream.decoder
        self._socket.setblocking(False)
        self.descriptor = self._socket.fileno()
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._encrypted = memoryview(b"")
        self._pinged = 0.0
        self._begun: float | None = None  # since when a frame is unfinished
        self._round_trip: float | None = None

    @property
    def queued(self) -> int:
        """Bytes accepted and not yet taken by the kernel."""
        return self._queued + len(self._encrypted)

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False when the queue is full."""
        if self._queued + len(self._encrypted) + len(frame) > limits.LINK_QUEUE_BYTES:
            return False
        self._queue.append(frame)
        self._queued += len(frame)
        return True

    def flush(self) -> None:
        """Give the kernel what it takes; `blocked` tells whether some is left."""
        while True:
            if not self._encrypted:
                if not self._queue:
                    self.blocked = False
                    return
                self._encrypt()
            try:
                sent = self._socket.send(self._encrypted)
            except BlockingIOError:
                self.blocked = True
                return
            self._encrypted = self._encrypted[sent:]

    def receive(self, scratch: memoryview, events: list[Event], now: float) -> None:
        """Append the messages that have come, at most `LINK_BURST_MESSAGES` and about `LINK_BURST_BYTES` of them. With
        `pending` there are more here already: nothing will tell, it must be called again."""
        for value in self._stream.leftover():
            self._take(value, events, now)
        channel, decoder = self._channel, self._decoder
        budget, left = limits.LINK_BURST_BYTES, limits.LINK_BURST_MESSAGES
        more = True
        self.pending = False
        while True:
            for value in decoder.values():
                if type(value) is dict:
                    events.append(Message(self.peer, value))
                else:
                    self._take(value, events, now)
                left -= 1
                if left <= 0:
                    self.heard, self._begun, self.pending = now, None, True
                    return
            if count := channel.read_into(decoder.room()):
                decoder.advance(count)
                continue
            if not more or budget <= 0:
                break
            try:
                count = self._socket.recv_into(scratch)
            except BlockingIOError:
                break
            if count == 0:
                raise ConnectionResetError("the connection has ended")
            self.heard = now
            channel.feed(scratch[:count])
            budget -= count
            more = count == len(scratch)
        self._begun = (self._begun or now) if decoder.unfinished else None

    def sweep(self, now: float) -> None:
        """Ping when it is time. Raises `TimeoutError` when the link is dead or a frame does not end."""
        if now - self.heard > limits.LINK_IDLE_SECONDS:
            raise TimeoutError(f"silent for {limits.LINK_IDLE_SECONDS} s")
        if self._begun is not None and now - self._begun > limits.FRAME_SECONDS:
            raise TimeoutError(f"a frame did not end within {limits.FRAME_SECONDS} s")
        self._decoder.trim()
        if now - self._pinged >= limits.PING_SECONDS:
            self._pinged = now
            self.send(frames.encode([PING, time.monotonic()]))

    def ask_relink(self) -> None:
        """Ask the dialler for a new link."""
        self.send(frames.encode([RELINK]))

    def close(self) -> None:
        """Drop what is unread and unsent. Idempotent."""
        self._queue.clear()
        self._queued = 0
        if not self._encrypted:  # else the end would come in the middle of a record
            self._channel.end()
            with contextlib.suppress(OSError):  # gone, or full: it will see the end without a word
                self._socket.send(self._channel.drain())
        self._socket.close()

    def info(self, now: float) -> LinkInfo:
        """Any thread: how it stands."""
        return LinkInfo(
            peer=self.peer,
            address=self._stream.address,
            dialled=self.connection.dialled,
            age=now - self.since,
            generation=self.connection.shown.subject.generation,
            own_generation=self.connection.own_generation,
            round_trip=self._round_trip,
            queued=self.queued,
            hello=self.connection.hello,
        )

    def _encrypt(self) -> None:
        """Move up to `_WRITE_BYTES` from the queue through TLS: small frames share records, a large one goes in pieces."""
        first = self._queue.popleft()
        if len(first) > _WRITE_BYTES:
            view = memoryview(first)
            first, rest = view[:_WRITE_BYTES], view[_WRITE_BYTES:]
            self._queue.appendleft(rest)
        batch = [first]
        size = len(first)
        while self._queue and size + len(self._queue[0]) <= _WRITE_BYTES:
            frame = self._queue.popleft()
            size += len(frame)
            batch.append(frame)
        self._queued -= size
        self._channel.write(first if len(batch) == 1 else b"".join(batch))
        self._encrypted = memoryview(self._channel.drain())

    def _take(self, value: Value, events: list[Event], now: float) -> None:
        match value:
            case dict():
                events.append(Message(self.peer, value))
            case [int(kind), float(stamp)] if kind == PING:
                self.send(frames.encode([PONG, stamp]))
            case [int(kind), float(stamp)] if kind == PONG:
                self._round_trip = max(0.0, time.monotonic() - stamp)
            case [int(kind)] if kind == RELINK:
                self.relink_asked = True
            case _:
                raise FrameError(f"neither a message nor one of the link's own: {value!r:.80}", subject="frame")
