"""When a member may go: by who is up."""

from __future__ import annotations

import itertools

import pytest

from raftcluster.cluster.standing import Standing, quorum
from raftcluster.errors import Rejected

NAMES = {f"n{number}": f"mx{number}" for number in range(9)}


def standing(voters: int, up: str) -> Standing:
    return Standing(frozenset(f"n{number}" for number in range(voters)), frozenset(f"n{number}" for number in up))


def test_whoever_is_down_may_go_and_whoever_is_needed_may_not() -> None:
    standing(3, "01").check("n2", NAMES)
    with pytest.raises(Rejected) as caught:
        standing(3, "01").check("n1", NAMES)
    assert caught.value.code == "would-lose-quorum"
    assert caught.value.message == "without mx1 2 of 2 voters are needed and 1 are up; down: mx2"
    standing(3, "012").check("n0", NAMES)
    standing(2, "01").check("n0", NAMES)
    standing(5, "012").check("n4", NAMES)
    with pytest.raises(Rejected, match="without mx2 3 of 4 voters are needed and 2 are up; down: mx3, mx4"):
        standing(5, "012").check("n2", NAMES)


def test_without_a_quorum_nobody_may_go() -> None:
    for gone in ("n0", "n1"):
        with pytest.raises(Rejected) as caught:
            standing(2, "0").check(gone, NAMES)
        assert caught.value.code == "no-quorum" and "recover" in caught.value.remedy


def test_a_learner_may_always_go_where_there_is_a_quorum() -> None:
    standing(3, "01").check("n7", NAMES)


def test_after_every_removal_that_is_allowed_there_is_a_quorum() -> None:
    for voters in range(1, 7):
        for up in itertools.product((False, True), repeat=voters):
            found = standing(voters, "".join(str(number) for number in range(voters) if up[number]))
            for gone in sorted(found.voters) if voters > 1 else ():
                try:
                    found.check(gone, NAMES)
                except Rejected:
                    continue
                assert Standing(found.voters - {gone}, found.up - {gone}).has_quorum() and found.has_quorum()
    assert [quorum(number) for number in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


def test_whose_endorsement_the_chain_needs_may_not_go() -> None:
    """Of four voters one was down for good and another one removed first: the two that were left could decide, but three had to
    endorse the generation without it, and the one without the dead one after that. None ever came."""
    four = ["n0", "n1", "n2", "n3"]
    standing(4, "012").check("n2", NAMES)
    with pytest.raises(Rejected) as caught:
        standing(4, "012").check_endorsers("n2", four, four, NAMES)
    assert caught.value.code == "would-lose-quorum"
    assert caught.value.message == (
        "without mx2 3 of 4 voters must endorse the next certificates and 2 are up; down: mx3"
    )
    standing(4, "012").check_endorsers("n3", four, four, NAMES)
    standing(4, "0123").check_endorsers("n2", four, four, NAMES)
    standing(4, "012").check_endorsers(
        "n2", four, four[:3], NAMES
    )  # who sleeps is not counted on: n2 endorses, then goes
    standing(4, "012").check_endorsers("n7", four, four, NAMES)
    standing(2, "01").check_endorsers("n1", four[:2], four[:2], NAMES)
    standing(1, "0").check_endorsers("n0", [], ["n0"], NAMES)
