"""What a simulation does to its process ends with its test: other tests run real nodes, and read logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from raftcluster import limits


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Limits are what they were, and logs are written again."""
    kept = limits.NOTIFICATIONS
    yield
    limits.NOTIFICATIONS = kept  # type: ignore[misc]
    for name in ("raftcluster", "pysyncobj"):
        logging.getLogger(name).setLevel(logging.NOTSET)
