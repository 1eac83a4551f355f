"""How much one input may cost. Counted in calls, not in seconds: a busy machine is no finding."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

CALLS: Final = 60_000
CALLS_PER_BYTE: Final = 300
MEMORY_BYTES: Final = 24 * 1024 * 1024
MEMORY_PER_BYTE: Final = 200


class TooMuch(AssertionError):
    """An input that costs more than it may."""


def counted(run: Callable[[bytes], object], data: bytes) -> int:
    """Run `run(data)`; how many functions it called, Python's own included. Raises `TooMuch` in the middle of it."""
    bound = CALLS + CALLS_PER_BYTE * len(data)
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1
            if calls == bound:
                raise TooMuch(f"more than {bound} calls for {len(data)} bytes")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run(data)
    finally:
        sys.setprofile(before)
    return calls
