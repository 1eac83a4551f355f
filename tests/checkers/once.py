"""Exactly once, and nothing lost: what clients were told of their operations against what was carried out in the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

Outcome = Literal["done", "never", "unknown"]


class Attempt(NamedTuple):
    """What one client was told about operation `name`; several may ask for the same one, under one request id."""

    name: str
    outcome: Outcome
    position: int | None = None
    """The result when it was done: the place that the operation has among all."""


def violations(attempts: Iterable[Attempt], counts: Mapping[str, int], positions: Mapping[str, int]) -> list[str]:
    """`counts` and `positions` are the final state: how often each was carried out, and in which place first."""
    found: list[str] = []
    told: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        told.setdefault(attempt.name, []).append(attempt)
    for name, count in counts.items():
        if count != 1:
            found.append(f"{name} was carried out {count} times")
        if name not in told:
            found.append(f"{name} was carried out and nobody has asked for it")
    for name, answers in told.items():
        outcomes = {answer.outcome for answer in answers}
        if "done" in outcomes and name not in counts:
            found.append(f"{name} was acknowledged and is lost")
        if outcomes == {"never"} and name in counts:
            found.append(f"{name} was carried out though every client was told that it never will be")
        for answer in answers:
            if answer.outcome == "done" and name in positions and answer.position != positions[name]:
                found.append(f"{name} is in place {positions[name]}; a client was told {answer.position}")
    return found
