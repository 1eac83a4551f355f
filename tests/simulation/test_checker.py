"""The checker sees what it is there for: each lie is told once, by a node or to the checker itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftcluster.engine.read_index import ReadIndex
from raftcluster.greylist.check import RESULT, command
from tests.simulation.greylisting import Greylisting
from tests.simulation.profiles import options_of
from tests.simulation.simulation import Simulation

KEY = bytes(16)


def test_a_read_that_no_majority_has_confirmed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadIndex, "_confirmed", lambda reads: reads._number)
    for seed in range(30):
        often = replace(options_of("static", seed), faults=("cut off the leader",), operations_per_second=40.0)
        violations = Simulation("static", seed, options=often).run().violations
        if violations:
            assert violations[0].startswith("linearizable read: "), violations
            return
    pytest.fail("30 seeds with unconfirmed reads, and none was seen")


def verdicts(*told: tuple[int, bool, int]) -> list[str]:
    """What is said of checks of one triplet, each (stamp, passes, first seen), with the waits of `Greylisting` (180 s)."""
    violations: list[str] = []
    greylist = Greylisting(lambda kind, detail: violations.append(f"{kind}: {detail}"))
    for stamp, passes, first in told:
        greylist.told(command(0, KEY, bytes(8), False, b""), [0, RESULT.pack(passes, False, first, 0, 0)], stamp)
    return violations


def test_a_triplet_that_waits_and_passes_is_well() -> None:
    assert (
        verdicts((1_000, False, 1_000), (100_000, False, 1_000), (181_000, True, 1_000), (182_000, True, 1_000)) == []
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([(1_000, True, 1_000)], "passes without a committed first attempt"),
        ([(1_000, False, 1_000), (180_999, True, 1_000)], "passes 179999 ms after its first attempt"),
        ([(1_000, False, 1_000), (181_000, True, 1_000), (200_000, False, 1_000)], "is deferred within its life"),
        ([(1_000, False, 1_000), (181_000, False, 1_000)], "is deferred after 180000 ms"),
        ([(1_000, False, 1_000), (2_000, False, 2_000)], "the first attempt moves"),
    ],
)
def test_what_no_triplet_may_be_told_is_seen(told: list[tuple[int, bool, int]], expected: str) -> None:
    assert expected in verdicts(*told)[0]
