"""What every test may use."""

from __future__ import annotations

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
