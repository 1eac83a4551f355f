"""Failpoints: what arms one, and that nothing does by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from raftcluster import failpoints

PASSING = "from raftcluster import failpoints\nfor n in range(3):\n print(n, flush=True)\n failpoints.reach('log.cut')"


def run(program: str, setting: str | None) -> tuple[int, list[str]]:
    """Exit status and lines of a Python program with the variable set so."""
    env = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
    if setting is not None:
        env[failpoints.VARIABLE] = setting
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("setting", "status", "lines"),
    [
        (None, 0, ["0", "1", "2"]),
        ("log.durable", 0, ["0", "1", "2"]),
        ("log.cut", -signal.SIGKILL, ["0"]),
        ("log.cut:2", -signal.SIGKILL, ["0", "1"]),
        ("log.cut:4", 0, ["0", "1", "2"]),
    ],
)
def test_a_process_ends_where_its_environment_says(setting: str | None, status: int, lines: list[str]) -> None:
    assert run(PASSING, setting) == (status, lines)


def test_a_failpoint_that_does_not_exist_is_no_silence() -> None:
    assert run(PASSING, "log.cutt")[0] == 1
    with pytest.raises(ValueError, match="no failpoint"):
        failpoints.arm("log.cut", 0)


def test_a_child_is_told_by_its_environment_alone() -> None:
    assert failpoints.environment() == {}
    try:
        failpoints.arm("mint.key")
        assert failpoints.environment() == {failpoints.VARIABLE: "mint.key"}
    finally:
        failpoints.arm(None)
