"""A simulator's clock is the process's: no test may leave it behind for one that runs real nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from raftcluster.engine import seam


@pytest.fixture(autouse=True)
def real_clock() -> Iterator[None]:
    yield
    seam.use_clock(time.monotonic)
