"""The leader is killed during counted traffic: `--kills 200` in short. And a cluster that forgets its results is found out."""

from __future__ import annotations

import pytest

from raftcluster.engine.operations import Ring
from tests.simulation.counting import Counting


@pytest.mark.parametrize("seed", [1, 2])
def test_counters_are_equal_to_the_distinct_events(seed: int) -> None:
    found = Counting(10, seed).carry_out()
    assert (found.kills, found.wrong) == (10, [])
    assert found.counted == found.events > 100
    assert found.asked > found.events


def test_a_cluster_that_forgets_its_results_counts_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ring, "get", lambda self, ident: None)
    counting = Counting(3, 1)
    try:
        found = counting.carry_out()
    except AssertionError:
        return  # the simulation's own checker was first
    assert found.wrong
