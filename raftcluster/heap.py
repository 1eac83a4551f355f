"""What the process has freed goes back to the system, and there is little that could not.

A snapshot is much memory for a moment, on several threads; glibc keeps for every thread's arena what it once held. A node
that sends and installs one now and then would hold half as much again as it uses, and rise for hours until all arenas
have seen one.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

COLLECT: Final = 20_000
"""So many new objects, less those that are gone, make Python look for cycles among them; its own default is 700."""
LARGE_BYTES: Final = 256 * 1024
"""More than what a check, or a batch of them, asks for at once: to map and to unmap costs some microseconds."""
_MMAP_THRESHOLD: Final = -3  # M_MMAP_THRESHOLD and M_ARENA_MAX of malloc.h
_ARENA_MAX: Final = -8


def trim() -> None:
    """Give free pages back; takes some milliseconds, during which other threads run. Thread: any. Where the C library is not
    glibc it does nothing."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Meanwhile look for garbage in cycles less often, and not at all in what is there now. A check makes some dozens of objects
    that live until it is answered and form no cycles: to look through them every 700 cost 1.7 of 5.7 us of its caller's time. Cycles are
    still found: `COLLECT` objects are some megabytes. For a process that is the node's own (gc.set_threshold, gc.freeze)."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def lean() -> None:
    """Let what is freed go back by itself. For a process that is the node's own, before it starts its threads; another one has
    the environment's MALLOC_ARENA_MAX and MALLOC_MMAP_THRESHOLD_ (mallopt(3)). Where the C library is not glibc it does nothing.

    All threads share two of glibc's arenas instead of up to eight a core: what is left in use in each keeps its pages from
    going back. And what is large is mapped by itself, always: glibc would take the first large block that is freed for a
    reason to have the next ones in its arenas, where whatever is behind them keeps them. The tables of large dictionaries,
    which are made anew now and then, and the blocks of snapshots were such: a node's memory rose by steps of 5 MB.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_ARENA_MAX, 2)
        option(_MMAP_THRESHOLD, LARGE_BYTES)
