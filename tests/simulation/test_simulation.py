"""The simulation itself: every profile runs clean, and a seed is one run wherever and whenever it is run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import checkout
from tests.simulation.profiles import PROFILES
from tests.simulation.simulation import simulate

SEEDS = range(5_000, 5_002)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_few_seeds_of_each_profile_keep_every_promise(profile: str) -> None:
    for seed in SEEDS:
        outcome = simulate(profile, seed)
        assert outcome.violations == [], f"python -m tests.simulation --profile {profile} --seed {seed} --story"
        assert outcome.counts["acknowledged"] > 0, f"{profile}/{seed} did nothing"


@pytest.mark.parametrize("profile", ["membership_snapshot", "adversarial"])
def test_a_seed_is_one_run_whatever_python_hashes(profile: str) -> None:
    program = f"from tests.simulation.simulation import simulate; o = simulate({profile!r}, 7); print(o.fingerprint, o.counts)"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hashseed},
            cwd=checkout.ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hashseed in ("1", "2")
    }
    outcome = simulate(profile, 7)
    assert told == {f"{outcome.fingerprint} {outcome.counts}\n"}
