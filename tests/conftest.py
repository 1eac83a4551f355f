"""What holds for every test: Hypothesis' profiles -- `default` for every run, `fuzz` for `./run fuzz`, `deep` for a night --, and
that a clock which a test has given to the engine is the engine's no more when another test runs in the same process."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from raftcluster.engine import seam

BUSY = (HealthCheck.too_slow,)  # a machine with other work is no finding, nor is a deadline that it made us miss
settings.register_profile("default", deadline=None, suppress_health_check=BUSY, print_blob=True)
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=400)
settings.register_profile("deep", settings.get_profile("default"), max_examples=20_000)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def engine_reads_the_clock() -> Iterator[None]:
    """Real nodes elect nobody while the engine reads a simulator's clock."""
    yield
    seam.use_clock(time.monotonic)
