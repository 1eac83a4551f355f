"""The door lets in whatever else the process does: with many descriptors, without any, without threads."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from queue import SimpleQueue

import pytest

from raftcluster.transport import sockets
from raftcluster.transport.door import Door
from raftcluster.transport.sockets import Socket
from tests.helpers import eventually

SELECTABLE = 1024
"""select(2) takes no descriptor from here on."""


@pytest.fixture
def crowded() -> Iterator[None]:
    """All small descriptors are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= 2 * SELECTABLE
    with ExitStack() as undo:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * SELECTABLE), hard))
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (taken := os.open("/dev/null", os.O_RDONLY)) < SELECTABLE:
            undo.callback(os.close, taken)
        os.close(taken)
        yield


def test_it_lets_in_again_after_the_process_had_no_descriptors_left(
    crowded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has run out of descriptors has many: the pause was made with select, which takes none beyond 1,023, and that
    ended the thread that accepts."""
    failures, accept = [OSError(errno.EMFILE, "Too many open files")] * 2, sockets.accept
    met: SimpleQueue[str] = SimpleQueue()

    def scarce(listener: Socket) -> object:
        if failures:
            raise failures.pop()
        return accept(listener)

    def receive(sock: Socket, host: str, settled: Callable[[], None]) -> None:
        met.put(host)
        sock.close()

    monkeypatch.setattr(sockets, "accept", scarce)
    listener = sockets.listen(("127.0.0.1", 0))
    door = Door(listener, receive)
    door.start()
    try:
        with socket.create_connection(sockets.bound(listener)):
            eventually(lambda: not met.empty(), what="the connection is let in")
            assert met.get() == "127.0.0.1" and not failures
    finally:
        door.close(60)
