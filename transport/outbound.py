"""Connections to servers that are no members, such as syslog receivers: TCP, TLS and UDP, in one direction.

They say nothing back. What is known of a server is whether it has ended the connection (`ended`), and, once everything was said,
whether it has read to the end (`finish`): nothing but that is an acknowledgement.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from raftcluster.errors import Unavailable
from raftcluster.transport import sockets, tls
from raftcluster.transport.ports import Address
from raftcluster.transport.sockets import Socket

SLICE_SECONDS: Final = 0.5  # after which somebody is asked whether a send that waits shall wait on

READS: Final = 16  # of what a server says without being asked, at a time: it may never stop


class Files(NamedTuple):
    """PEM files for TLS, by their paths; "" where there is none."""

    ca: str = ""
    """Whom to believe; without it whom the operating system believes."""
    certificate: str = ""
    """What to show."""
    key: str = ""
    """The key to it; without it the certificate's file has the key as well."""


class Outbound:
    """One connection. Thread: one at a time; `abort` from any. Errors are `OSError`."""

    def __init__(self, sock: Socket) -> None:
        self._socket = sock

    def send(self, data: bytes, waits: Callable[[], bool]) -> None:
        """Send all of it. While the server takes nothing `waits` is called now and then: False gives up. Raises `OSError`."""
        view = memoryview(data)
        self._socket.settimeout(SLICE_SECONDS)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except TimeoutError:
                if not waits():
                    raise ConnectionAbortedError("it was given up, the receiver takes nothing") from None

    def ended(self) -> str | None:
        """Why the server is there no more, as far as that is known; None: it is. Never waits."""
        self._socket.settimeout(0.0)
        try:
            for _ in range(READS):
                if not self._socket.recv(4_096):  # whatever it says
                    return "the receiver has closed the connection"
        except tls.WAITS:
            pass
        except OSError as error:
            return error.strerror or str(error)
        return None

    def pending(self) -> int:
        """How much of what was sent has certainly not arrived, in bytes as they go over the wire; of TCP and TLS."""
        return sockets.unacknowledged(self._socket)

    def finish(self, seconds: float) -> bool:
        """Say that this was all; whether the server has read it to the end and said so by closing its side."""
        end = time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            tls.finish(self._socket)
            sockets.finish_sending(self._socket)
            while (left := end - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(4_096):
                    return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def dial(
    kind: str, address: Address, files: Files, name: str, seconds: float, opened: Callable[[Socket], None]
) -> Outbound:
    """Connect by `kind`: udp, tcp or tls; `name` is the server's in its certificate. `opened` gets the socket before it
    connects, so that another thread can `sockets.abort` it. Raises `OSError`, `Unavailable`."""
    deadline = time.monotonic() + seconds
    sock = sockets.outbound(address, kind == "udp", deadline, opened)
    if kind == "tls":
        try:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock = tls.outside(sock, name, files, opened)
        except BaseException:
            sock.close()
            raise
    return Outbound(sock)


def why(error: Exception) -> str:
    """An error of this file in words."""
    if isinstance(error, Unavailable):
        return error.message
    if isinstance(error, OSError):
        return tls.reason(error) or error.strerror or str(error) or type(error).__name__
    return str(error)
