"""A TCP proxy that records all that passes, both ways: what somebody on the wire can read."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

BUFFER = 65_536


class Tap:
    """Listens on a port of the loopback and passes everything on to `target`. Use as a context manager. Thread: any."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", int(self._listener.getsockname()[1]))
        self._lock = threading.Lock()
        self._flows: list[bytearray] = []
        self._sockets = [self._listener]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def flows(self) -> list[bytes]:
        """One stream of bytes for each connection and direction, from the beginning."""
        with self._lock:
            return [bytes(flow) for flow in self._flows]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket()
            try:
                far.connect(self.target)
            except OSError:  # nobody listens there now: nor does anybody here
                near.close()
                far.close()
                continue
            there, back = bytearray(), bytearray()
            with self._lock:
                self._sockets += [near, far]
                self._flows += [there, back]
                for source, sink, flow in ((near, far, there), (far, near, back)):
                    self._threads.append(threading.Thread(target=self._pass, args=(source, sink, flow), daemon=True))
                    self._threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket, flow: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(BUFFER):
                with self._lock:
                    flow += data
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
