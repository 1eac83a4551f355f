"""Real nodes on disks that lose what was not synced: nothing acknowledged goes with the power."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.power import lying, run
from tests.crashes.account import LOST

SECONDS = 20.0


@pytest.mark.timeout(600)
def test_power_loss_anywhere_at_any_moment_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    outcome = run(tmp_path, seed, SECONDS, print)
    print(*outcome.told(), sep="\n")
    assert outcome.problems == []
    assert outcome.shortcomings() == []


def test_disks_that_lie_are_found_out(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    found = lying(tmp_path, seed)
    assert any(LOST in text for text in found)
