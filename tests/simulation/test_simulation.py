"""The simulation itself: every profile runs clean, and a seed is one run wherever and whenever it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_a_violation_is_named_with_the_command_that_repeats_it() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--profile", "single", "--seeds", "0:3", "--without", "single"]
    ran = subprocess.run(command, cwd=checkout.ROOT, check=False, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "single/0: durability: " in ran.stdout
    assert "python -m tests.simulation --profile single --seed 0 --without single --story" in ran.stdout


def test_what_was_done_of_a_long_run_is_not_done_again(tmp_path: Path) -> None:
    done = tmp_path / "done"
    command = [sys.executable, "-m", "tests.simulation", "--profile", "single", "--seeds", "0:2", "--long", str(done)]
    first, second = (
        subprocess.run(command, cwd=checkout.ROOT, check=True, capture_output=True, text=True).stdout for _ in range(2)
    )
    assert done.read_text() == "single 0:2\n"
    assert "2 seeds" in first and "2 seeds" not in second
