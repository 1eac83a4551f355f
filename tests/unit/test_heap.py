"""What was freed goes back to the system, also what other threads have freed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from raftcluster import heap
from tests.soak.growth import MIB, measured

BLOCK_BYTES = 64 * 1024  # from an arena, not mapped by itself
BLOCKS = 1000


def held(folder: Path) -> float:
    return measured(os.getpid(), folder)["anonymous"]


def test_free_memory_of_every_arena_goes_back(tmp_path: Path) -> None:
    for name in ("log", "tables"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.mdb").touch()
    kept: list[list[bytes]] = []

    def fill() -> None:
        blocks = [os.urandom(BLOCK_BYTES) for _ in range(BLOCKS)]
        kept.append(blocks[::100])  # so that nothing can be given back but what lies between

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    before = held(tmp_path)
    heap.trim()
    assert before - held(tmp_path) > 0.5 * BLOCKS * BLOCK_BYTES, f"{before / MIB:.0f} MiB"
    assert all(len(block) == BLOCK_BYTES for blocks in kept for block in blocks)
