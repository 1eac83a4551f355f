"""What every test may use."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], deadline_s: float = 10.0, what: str = "the condition") -> T:
    """The first true value of `condition`; AssertionError when `deadline_s` seconds pass without one."""
    end = time.monotonic() + deadline_s
    pause = 0.001
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come true within {deadline_s} s"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return value


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback that nobody used a moment ago, for servers that must come back to theirs."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in taken]
    for each in taken:
        each.close()
    return ports
