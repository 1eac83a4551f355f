"""What every test may use."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")

PORTS = range(16_384, 32_768)


def eventually(condition: Callable[[], T], deadline_s: float = 60.0, what: str = "the condition") -> T:
    """The first true value of `condition`; AssertionError when `deadline_s` seconds pass without one."""
    end = time.monotonic() + deadline_s
    pause = 0.001
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come true within {deadline_s} s"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return value


@contextmanager
def no_more_threads(left: int = 0) -> Iterator[None]:
    """The system gives this process so many threads, and no more."""
    places, real = iter(range(left)), threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if next(places, None) is None:
            raise RuntimeError("can't start new thread")
        real(thread)

    threading.Thread.start = start  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        threading.Thread.start = real  # type: ignore[method-assign]


def memory() -> str | None:
    """A directory whose files meet no disk, for tests of what is written and not of whether it lasts; None without one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback that nobody used a moment ago, for servers that must come back to theirs.

    Below those that the kernel gives to outgoing connections: one of these would take a server's port while it is down.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"{count} ports are free")
