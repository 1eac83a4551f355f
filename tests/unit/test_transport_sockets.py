"""Dialling a name that has several addresses."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any

import pytest

from raftcluster.transport import sockets


def test_an_address_that_this_kernel_has_no_sockets_for_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without IPv6, and a peer whose name has such an address first: it was never reached."""
    made, resolved = socket.socket, socket.getaddrinfo

    def without_ipv6(family: int = -1, *rest: Any, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return made(family, *rest, **named)

    def both(host: str, port: int, *rest: Any, **named: Any) -> list[Any]:
        six = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", port, 0, 0))
        return [six, *resolved("127.0.0.1", port, *rest, **named)]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(socket, "socket", without_ipv6)
        monkeypatch.setattr(socket, "getaddrinfo", both)
        address = ("mx2.example.org", int(listener.getsockname()[1]))
        with sockets.dial(address, time.monotonic() + 10, lambda sock: None) as dialled:
            assert dialled.getpeername() == listener.getsockname()
