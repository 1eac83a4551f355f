"""Each guard earns its place: without it a named seed or a named schedule fails, with it none does."""

from __future__ import annotations

import subprocess
import sys

from raftcluster.engine.guards import GUARDS
from tests import checkout
from tests.simulation.mutation import PROFILES, SCHEDULES


def test_every_guard_is_missed_by_one_thing() -> None:
    assert sorted([*PROFILES, *SCHEDULES]) == sorted(GUARDS)


def test_the_mutation_score_is_all_of_all() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--mutation"],
        cwd=checkout.ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    print(ran.stdout)
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(GUARDS)
    assert lines[-1] == f"killed {len(GUARDS)} of {len(GUARDS)}" and ran.returncode == 0
