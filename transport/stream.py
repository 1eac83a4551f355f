"""A blocking connection with deadlines: handshakes, joins and snapshots. Links take over from it (`link.py`)."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import Unavailable
from raftcluster.transport import frames, sockets
from raftcluster.transport.sockets import Socket
from raftcluster.transport.tls import Channel, Shown

_READ_BYTES: Final = 64 * limits.KIB
_LINGER_SECONDS: Final = 0.5
_LINGER_BYTES: Final = 64 * limits.KIB


class Stream:
    """Values both ways over one TLS connection.

    Thread: one at a time, and never the tick thread; only :meth:`abort` may be called from another one meanwhile.
    """

    peer: str = ""
    """The member's id, from its certificate; "" when it has shown none (or is not believed)."""
    greeting: Value = None
    """The server's first frame, on a stream dialled without a certificate: its hello, and "root" (PEM)."""
    peer_certificate: bytes | None = None
    """PEM. Verified, except after `dial_untrusted`."""
    certificate: bytes | None = None
    """PEM of what this end has shown."""
    ends: float = float("inf")
    """Monotonic time after which nothing is sent or received any more, whatever the single calls allow."""

    shown: Shown | None = None
    """What the peer has been admitted by; None for a stranger, and for a listener that a joiner talks to."""

    def __init__(self, sock: Socket, channel: Channel) -> None:
        self.socket = sock
        self.channel = channel
        self.decoder = frames.Decoder()
        self.address = sockets.far_end(sock)
        self._ready: deque[Value] = deque()

    def handshake(self, deadline: float) -> None:
        """TLS, until `deadline` (monotonic clock). Raises `Refused`, or `OSError` (`TimeoutError`)."""
        try:
            while not self.channel.handshake():
                self._push(deadline)
                self._pull(deadline)
        finally:  # an alert that says why must reach the peer, too
            self._push(deadline)

    def send(self, value: Value, timeout: float = limits.FRAME_SECONDS) -> None:
        """Send one value within `timeout` seconds. Raises `Unavailable` when the connection is gone or too slow."""
        try:
            self.channel.write(frames.encode(value))
            self._push(time.monotonic() + timeout)
        except OSError as error:
            raise self._lost(error) from error

    def receive(self, timeout: float = limits.FRAME_SECONDS) -> Value:
        """The next value, waiting at most `timeout` seconds for all of it.

        Raises `Unavailable` when the connection is gone or too slow, `FrameError` for a malformed or oversized frame,
        `Refused` when the peer has turned down our certificate.
        """
        deadline = time.monotonic() + timeout
        try:
            while not self._ready:
                if count := self.channel.read_into(self.decoder.room()):
                    self.decoder.advance(count)
                    self._ready.extend(self.decoder.values())
                else:
                    self._pull(deadline)
        except OSError as error:
            raise self._lost(error) from error
        return self._ready.popleft()

    def leftover(self) -> list[Value]:
        """Values received and not taken: they belong to who takes over the connection."""
        values = list(self._ready)
        self._ready.clear()
        return values

    def close(self) -> None:
        """End the connection; what the peer has sent and nobody has read is dropped. Idempotent."""
        self.channel.end()
        with contextlib.suppress(OSError):  # it does not want to hear it
            self._push(time.monotonic())
        self.socket.close()

    def abort(self) -> None:
        """Any thread: let the one that uses the stream fail now; that one closes it."""
        sockets.abort(self.socket)

    def part(self, value: Value = None) -> None:
        """Send a last value (unless None) and close, reading on for a moment: closing with unread bytes would reset the
        connection, and the peer might never see why."""
        deadline = time.monotonic() + _LINGER_SECONDS
        with contextlib.suppress(OSError):  # it has gone without listening
            if value is not None:
                self.channel.write(frames.encode(value))
            self._push(deadline)
            sockets.finish_sending(self.socket)
            left = _LINGER_BYTES
            while left > 0 and (data := self._recv(deadline)):
                left -= len(data)
        self.socket.close()

    def _push(self, deadline: float) -> None:
        if data := self.channel.drain():
            self.socket.settimeout(max(0.001, min(deadline, self.ends) - time.monotonic()))
            self.socket.sendall(data)

    def _pull(self, deadline: float) -> None:
        self.channel.feed(self._recv(deadline))

    def _recv(self, deadline: float) -> bytes:
        left = min(deadline, self.ends) - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        self.socket.settimeout(left)
        return self.socket.recv(_READ_BYTES)

    def _lost(self, error: OSError) -> Unavailable:
        who = f"{self.peer} ({self.address})" if self.peer else self.address
        return Unavailable(
            f"connection to {who} lost: {str(error) or type(error).__name__}", subject=who, remedy="try again"
        )
