"""What tests of nodes in one process may share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from raftcluster import limits
from raftcluster.cluster import dismantling, lifecycle, reconcile
from raftcluster.cluster.reconcile import Reconciler
from raftcluster.seeking import Seeker


@pytest.fixture(autouse=True, scope="session")
def looks_often() -> Iterator[None]:
    """Nodes of one process look every fifth of a second at what the cluster's record wants of them. What nothing wakes them for
    waits for that look: the last step of each generation, of which every cluster that is made has some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raftcluster.node.Reconciler", partial(Reconciler, interval_s=0.2))
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those that are about nodes that were away, in one process: there is no network between them that could be slow. They wait
    shorter for each other, and cut off they ask strangers what they have slept through, or for a tombstone, sooner -- all from one
    address. `./run e2e` waits as long as the product does."""
    monkeypatch.setattr(lifecycle, "LONELY_SECONDS", 1.0)
    monkeypatch.setattr(reconcile, "ASK_SECONDS", 1.0)
    monkeypatch.setattr(reconcile, "PROPOSE_SECONDS", 1.0)
    monkeypatch.setattr(dismantling, "FAREWELL_SECONDS", 1.0)
    monkeypatch.setattr(limits, "JOIN_PER_SECOND", 50.0)
    monkeypatch.setattr("raftcluster.node.Seeker", partial(Seeker, interval_s=0.5))
