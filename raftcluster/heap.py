"""What the process has freed goes back to the system.

A snapshot is much memory for a moment, on several threads; glibc keeps for every thread's arena what it once held. A node
that sends and installs one now and then would hold half as much again as it uses, and rise for hours until all arenas
have seen one.
"""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Give free pages back; takes some milliseconds, during which other threads run. Thread: any. Where the C library is not
    glibc it does nothing."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
