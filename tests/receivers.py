"""Syslog receivers of a test: real sockets of the three transports, which can be stopped, stalled and started again."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from contextlib import suppress
from typing import Final, Self

SECONDS: Final = 20.0


class StreamReceiver:
    """TCP, or TLS with a context: octet counting, RFC 6587. `messages` are those that were whole."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port, self._context = port, context
        self.messages: list[bytes] = []
        self.errors: list[str] = []
        self._listener: socket.socket | None = None
        self._sessions: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.reading = threading.Event()
        self.reading.set()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # the sessions' as well
        self._begin(self._accept, self._listener)

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                self._begin(self._serve, listener.accept()[0])

    def _serve(self, session: socket.socket) -> None:
        self._sessions.append(session)
        try:
            if self._context is not None:
                session = self._context.wrap_socket(session, server_side=True)
                self._sessions.append(session)
            self._read(session)
        except OSError as error:
            self.errors.append(str(error))
        finally:
            session.close()

    def _read(self, session: socket.socket) -> None:
        data = b""
        while True:
            assert self.reading.wait(SECONDS)
            more = session.recv(65_536)
            if not more:
                assert not data, f"cut short: {data[:80]!r}"
                return
            data += more
            while (count := re.match(rb"(\d+) ", data)) and len(data) >= count.end() + int(count[1]):
                end = count.end() + int(count[1])
                self.messages.append(data[count.end() : end])
                data = data[end:]

    def stop(self) -> None:
        """As a process that is killed: what it has not read is lost."""
        for each in [self._listener, *self._sessions]:
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
        self.reading.set()
        for thread in self._threads:
            thread.join(SECONDS)
        self._listener, self._sessions, self._threads = None, [], []

    def sequences(self) -> list[int]:
        return sequences(self.messages)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class DatagramReceiver:
    """UDP, RFC 5426."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.messages: list[bytes] = []
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.bind(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._thread.start()

    def _read(self, sock: socket.socket) -> None:
        with suppress(OSError):
            while data := sock.recv(65_536):
                self.messages.append(data)

    def stop(self) -> None:
        if self._socket is not None and self._thread is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(SECONDS)
            self._socket.close()
            self._socket = None

    def sequences(self) -> list[int]:
        return sequences(self.messages)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def sequences(messages: list[bytes]) -> list[int]:
    """The numbers of these messages, in the order in which they came."""
    return [int(found[1]) for each in list(messages) if (found := re.search(rb' sequence="(\d+)"', each))]
