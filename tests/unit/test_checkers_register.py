"""The register checker accepts what registers do and nothing else."""

from __future__ import annotations

import math
from random import Random

import pytest

from tests.checkers.register import Step, Undecided, violation


def generated(seed: int, count: int, clients: int) -> list[Step]:
    """What a register shows to clients that overlap: every operation takes effect at a moment between call and answer."""
    random = Random(seed)
    free = [0.0] * clients
    planned = []
    for number in range(count):
        client = min(range(clients), key=free.__getitem__)
        call = free[client] + random.random() * 0.1
        ret = free[client] = call + random.random()
        planned.append((random.uniform(call, ret), call, ret, number))
    value: int | None = None
    steps = []
    for _, call, ret, number in sorted(planned):
        answered = ret if random.random() > 0.03 else math.inf
        match random.choice(("read", "write", "cas", "mismatch")):
            case "write":
                value = number
                steps.append(Step(call, answered, "write", number))
            case "cas":
                steps.append(Step(call, answered, "cas", number, value))
                value = number
            case "mismatch":
                steps.append(Step(call, ret, "mismatch", number, -1))
            case _:
                steps.append(Step(call, ret, "read", value))
    return steps


@pytest.mark.parametrize("seed", range(5))
def test_histories_of_a_register_are_accepted(seed: int) -> None:
    assert violation(generated(seed, 600, 6)) is None


@pytest.mark.parametrize("seed", range(5))
def test_one_stale_read_among_hundreds_is_found(seed: int) -> None:
    history = generated(seed, 600, 6)
    writes = [step for step in history if step.kind in ("write", "cas") and step.ret < math.inf]
    old = writes[10].value
    at = next(i for i in reversed(range(len(history))) if history[i].kind == "read")
    history[at] = history[at]._replace(value=old)
    assert "none of these can follow" in (violation(history) or "")


def test_a_lost_update_is_found() -> None:
    both = [Step(0, 1, "write", 1), Step(2, 3, "cas", 2, 1), Step(2, 3, "cas", 3, 1)]
    assert violation(both) is not None
    assert violation(both[:2]) is None


def test_a_refusal_that_had_no_reason_is_found() -> None:
    history = [Step(0, 1, "write", 1), Step(2, 3, "mismatch", 2, 1)]
    assert violation(history) is not None
    assert violation([*history, Step(1.5, math.inf, "write", 9)]) is None, "an unanswered write may have come between"


def test_an_unanswered_write_may_have_happened_or_not_but_not_come_and_gone() -> None:
    unanswered = Step(0, math.inf, "write", 1)
    seen, unseen = Step(2, 3, "read", 1), Step(2, 3, "read", None)
    assert violation([unanswered, seen]) is None
    assert violation([unanswered, unseen]) is None
    assert violation([unanswered, seen, Step(4, 5, "read", None)]) is not None


def test_a_value_that_nobody_wrote_is_found() -> None:
    assert violation([Step(0, 1, "read", 5)]) is not None


def test_the_search_gives_up_in_time() -> None:
    overlapping = [Step(0, 100, "write", number) for number in range(30)]
    impossible = [Step(101, 102, "read", 0), Step(103, 104, "read", 1)]
    with pytest.raises(Undecided):
        violation([*overlapping, *impossible], states=2_000)
