"""Seeds of the long run that were bad, each once and for its reason: they stay good."""

from __future__ import annotations

import pytest

from tests.simulation.simulation import simulate

SEEDS = {
    "a holder was told before its predecessors of the same entry were looked at": ("small", 300315),
    "a stamp was only in the new leader's log, and its time known to nobody": ("membership_snapshot", 301534),
    "an older leader's time was gone on with, which had missed how the last one steered": (
        "membership_snapshot",
        306532,
    ),
    "a generation was minted before its minter heard that a learner votes": ("members", 302760),
}


@pytest.mark.parametrize(("profile", "seed"), SEEDS.values(), ids=SEEDS)
def test_a_seed_that_was_bad_is_good(profile: str, seed: int) -> None:
    assert simulate(profile, seed).violations == []
