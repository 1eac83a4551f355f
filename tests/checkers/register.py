"""Is one key's history that of a register? Wing and Gong's search, with Lowe's memory of states already seen.

G. Lowe, "Testing for linearizability" (2017). Values are unique within a key, so that a compare-and-set by revision is
one by value. Keep a history to about a thousand operations: the search is exponential in what overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

STATES = 400_000
"""States visited before the search gives up."""

Value = int | None


class Step(NamedTuple):
    """One operation on the key. Times in seconds of one clock; `ret` is infinite when nobody knows whether it took place.

    read: `value` was seen. write: `value` was set. cas: `value` was set over `expected`. mismatch: a compare-and-set that
    was refused because `expected` was not what was there.
    """

    call: float
    ret: float
    kind: Literal["read", "write", "cas", "mismatch"]
    value: Value = None
    expected: Value = None
    who: str = ""


class Undecided(Exception):
    """The search was given up: too many operations overlap."""


def violation(history: Sequence[Step], initial: Value = None, states: int = STATES) -> str | None:
    """None when the history is linearizable, else where it ceases to be. Raises `Undecided`."""
    seen = {step.value for step in history if step.kind == "read"}
    seen |= {step.expected for step in history if step.kind == "cas"}
    # A write of unknown outcome whose value nobody saw most likely did not happen: without it the search is short.
    likely = [step for step in history if step.ret < math.inf or step.value in seen]
    found = _search(likely, initial, states)
    if found is not None and len(likely) < len(history):
        found = _search(history, initial, states)
    return found


def _search(history: Sequence[Step], initial: Value, states: int) -> str | None:
    steps = sorted(history)
    count = len(steps)
    known = sum(1 << i for i, step in enumerate(steps) if step.ret < math.inf)
    visited: set[tuple[int, Value]] = set()
    stack: list[tuple[int, Value]] = [(0, initial)]
    furthest, best, value_there = -1, 0, initial
    while stack:
        done, value = stack.pop()
        done, candidates = _settle(steps, done, value)
        if done & known == known:
            return None
        if (done, value) in visited:
            continue
        visited.add((done, value))
        if len(visited) > states:
            raise Undecided(f"{count} operations, {states} states")
        if (reached := (done & known).bit_count()) > furthest:
            furthest, best, value_there = reached, done, value
        for i in reversed(candidates):
            step = steps[i]
            if step.kind == "write" or (step.kind == "cas" and step.expected == value):
                stack.append((done | 1 << i, step.value))
    stuck = [steps[i] for i in _candidates(steps, best)]
    return f"after {furthest} of {count} operations the value is {value_there}, and none of these can follow: {stuck}"


def _settle(steps: Sequence[Step], done: int, value: Value) -> tuple[int, list[int]]:
    """Do all that can be done and changes nothing, which never is a mistake; then what may come next."""
    while True:
        candidates = _candidates(steps, done)
        idle = 0
        for i in candidates:
            step = steps[i]
            if (step.kind == "read" and step.value == value) or (step.kind == "mismatch" and step.expected != value):
                idle |= 1 << i
        if not idle:
            return done, candidates
        done |= idle


def _candidates(steps: Sequence[Step], done: int) -> list[int]:
    """What was called before the first answer among all that is left."""
    first = math.inf
    found = []
    for i in range((done ^ (done + 1)).bit_length() - 1, len(steps)):
        if done >> i & 1:
            continue
        step = steps[i]
        if step.call > first:
            break
        found.append(i)
        first = min(first, step.ret)
    return [i for i in found if steps[i].call <= first]
