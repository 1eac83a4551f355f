"""What was freed goes back to the system, also what other threads have freed."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from raftcluster import heap, limits

BLOCK_BYTES = 64 * 1024  # from an arena, not mapped by itself
BLOCKS = 1000


def held() -> int:
    """The bytes of this process that no file backs."""
    found = re.search(r"^Anonymous: +(\d+) kB$", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def test_free_memory_of_every_arena_goes_back() -> None:
    kept: list[list[bytes]] = []

    def fill() -> None:
        blocks = [os.urandom(BLOCK_BYTES) for _ in range(BLOCKS)]
        kept.append(blocks[::100])  # so that nothing can be given back but what lies between

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    before = held()
    heap.trim()
    assert before - held() > 0.5 * BLOCKS * BLOCK_BYTES, f"{before / limits.MIB:.0f} MiB"
    assert all(len(block) == BLOCK_BYTES for blocks in kept for block in blocks)


def test_cycles_are_looked_for_less_often_and_still_found() -> None:
    class Node:
        def __init__(self) -> None:
            self.itself = self

    before = gc.get_threshold()
    gone: list[bool] = []
    with heap.rare_collections():
        assert gc.get_threshold()[0] == heap.COLLECT and gc.get_freeze_count() > 0
        weakref.finalize(Node(), gone.append, True)
        for _ in range(700):
            Node()
        assert not gone
        for _ in range(heap.COLLECT):
            Node()
        assert gone
    assert gc.get_threshold() == before and gc.get_freeze_count() == 0


ARENAS = """
import re, sys, threading
from raftcluster import heap
if sys.argv[1] == "lean":
    heap.lean()
kept, barrier = [], threading.Barrier(12)
def hold():
    barrier.wait()
    kept.append([bytes(100_000) for _ in range(8)])
    barrier.wait()
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
starts = [int(line.split("-")[0], 16) for line in open("/proc/self/maps") if re.search(r" rw-p 00000000 00:00 0 *$", line)]
print(sum(start % (64 << 20) == 0 for start in starts))
"""


def test_threads_share_few_arenas_when_told_to() -> None:
    """glibc's arenas but for the first are aligned to 64 MiB."""

    def arenas(how: str) -> int:
        command = [sys.executable, "-c", ARENAS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    assert arenas("lean") <= 1 < arenas("usual")


LARGE = """
import os, re, sys
from raftcluster import heap
if sys.argv[1] == "lean":
    heap.lean()
def held():
    return int(re.search(r"^Anonymous: +([0-9]+) kB$", open("/proc/self/smaps_rollup").read(), re.MULTILINE)[1])
os.urandom(16 << 20)  # the first large block that is freed
before = held()
large, kept = [], []
for _ in range(10):
    large.append(os.urandom(2 << 20))
    kept.append(os.urandom(100_000))
large.clear()
print(held() - before)
"""


def test_large_blocks_go_back_whatever_lies_behind_them() -> None:
    def kib(how: str) -> int:
        command = [sys.executable, "-c", LARGE, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    assert kib("lean") < 2 * 1024 < 10 * 1024 < kib("usual")
