"""Accepts connections and gives each a thread, at most `HANDSHAKES` in their handshake at once.

A peer that stalls cannot keep others out: when all places are taken, the connection that has been in its handshake for
longest gives way, once it has had `PRESSED_SECONDS`; those that come meanwhile wait in the kernel's backlog. One address has
at most `HANDSHAKES_PER_HOST` of the places: its own oldest gives way at once, so that a flood from there keeps nobody else
waiting.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from raftcluster import limits
from raftcluster.transport import sockets
from raftcluster.transport.refusals import LOGGER
from raftcluster.transport.sockets import Socket

_NO_DESCRIPTORS_SECONDS: Final = 0.2  # a pause when the process has none left


class Door:
    """One accept thread, and one thread per connection until its receiver returns."""

    def __init__(self, listener: Socket, receive: Callable[[Socket, str, Callable[[], None]], None]) -> None:
        """`receive(socket, host, settled)` owns the socket; it calls `settled` when the handshake is over."""
        self._listener = listener
        self._receive = receive
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._condition = threading.Condition()
        self._under_way: dict[Socket, tuple[float, str]] = {}  # socket -> since and from where, oldest first
        self._threads: set[threading.Thread] = set()
        self._accepting = threading.Thread(target=self._accept, name="raftcluster-accept", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._accepting.start()

    def close(self, timeout: float) -> None:
        """Stop accepting, fail what is in its handshake, and wait up to `timeout` seconds for the threads.

        Services that still run must be told to end by their owner, before.
        """
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        os.eventfd_write(self._stop, 1)
        if self._accepting.is_alive():  # there may have been no thread for it
            self._accepting.join()
        self._listener.close()
        os.close(self._stop)
        with self._condition:
            for sock in self._under_way:
                sockets.abort(sock)
            threads = list(self._threads)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._stop, select.POLLIN)
        end = select.poll()  # select takes no descriptor beyond 1,023, which is what a process has that has none left
        end.register(self._stop, select.POLLIN)
        while not self._stopping:
            poller.poll()
            if not self._wait_for_a_place():
                return
            try:
                accepted = sockets.accept(self._listener)
            except OSError as error:
                LOGGER.error("cannot accept a connection: %s", error)
                end.poll(1000 * _NO_DESCRIPTORS_SECONDS)
                continue
            if accepted is not None:
                self._let_in(*accepted)

    def _wait_for_a_place(self) -> bool:
        """False when the door is closing."""
        with self._condition:
            while not self._stopping and len(self._under_way) >= limits.HANDSHAKES:
                oldest, (since, _) = next(iter(self._under_way.items()))
                left = since + limits.PRESSED_SECONDS - time.monotonic()
                if left > 0:
                    self._condition.wait(left)
                else:
                    LOGGER.info("all %d handshakes are taken: the oldest gives way", limits.HANDSHAKES)
                    self._give_way(oldest)
            return not self._stopping

    def _give_way(self, sock: Socket) -> None:
        """With the condition held."""
        del self._under_way[sock]
        sockets.abort(sock)

    def _let_in(self, sock: Socket, address: tuple[str, int]) -> None:
        thread = threading.Thread(target=self._run, args=(sock, address[0]), name="raftcluster-handshake", daemon=True)
        with self._condition:
            same = [each for each, (_, host) in self._under_way.items() if host == address[0]]
            if len(same) >= limits.HANDSHAKES_PER_HOST:
                self._give_way(same[0])
            self._under_way[sock] = time.monotonic(), address[0]
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no more threads: as without descriptors
            LOGGER.exception("no thread for a connection")
            self._settled(sock)
            self._threads.discard(thread)
            sock.close()

    def _run(self, sock: Socket, host: str) -> None:
        try:
            self._receive(sock, host, partial(self._settled, sock))
        except Exception:  # noqa: BLE001 - a defect of ours or of a service: this connection ends, the next ones do not
            LOGGER.exception("connection from %s failed", host)
        finally:
            self._settled(sock)
            with self._condition:
                self._threads.discard(threading.current_thread())

    def _settled(self, sock: Socket) -> None:
        with self._condition:
            self._under_way.pop(sock, None)
            self._condition.notify_all()
