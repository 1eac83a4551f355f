"""What tests of nodes in one process may share."""

from __future__ import annotations

from functools import partial

import pytest

from raftcluster.cluster import dismantling, lifecycle, reconcile
from raftcluster.seeking import Seeker


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of one process have no network between them that could be slow: they wait shorter for each other, and are cut off,
    ask strangers what they have slept through, and look for a tombstone sooner. `./run e2e` waits as long as the product does."""
    monkeypatch.setattr(lifecycle, "LONELY_SECONDS", 0.5)
    monkeypatch.setattr(reconcile, "ASK_SECONDS", 0.5)
    monkeypatch.setattr(reconcile, "PROPOSE_SECONDS", 1.0)
    monkeypatch.setattr(dismantling, "FAREWELL_SECONDS", 1.0)
    monkeypatch.setattr("raftcluster.node.Seeker", partial(Seeker, interval_s=0.5))
