"""At most one leader in a term, and terms that never go back -- from samples of what nodes say of themselves.

A process never goes back. Its successor may: a term counts once it is durable, which it must be before the node asks for
votes or gives one, and not when it has only been heard of. So after a restart a node is held to the terms that it led.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple


class Sample(NamedTuple):
    """One look at one node; `leader` is whom it believes to lead in `term`, or None."""

    at: float
    node: str
    process: str
    term: int
    leader: str | None
    leads: bool


def violations(samples: Iterable[Sample]) -> list[str]:
    found: list[str] = []
    leaders: dict[int, str] = {}
    terms: dict[str, int] = {}
    for sample in sorted(samples, key=lambda sample: sample.at):
        claimed = sample.node if sample.leads else sample.leader
        if claimed is not None and leaders.setdefault(sample.term, claimed) != claimed:
            found.append(f"term {sample.term} has two leaders, {leaders[sample.term]} and {claimed} ({sample.at:.3f})")
        before = max(terms.get(sample.process, 0), terms.get(sample.node, 0))
        if sample.term < before:
            found.append(f"{sample.node} goes back from term {before} to {sample.term} ({sample.at:.3f})")
        terms[sample.process] = sample.term
        if sample.leads:
            terms[sample.node] = max(terms.get(sample.node, 0), sample.term)
    return found


def changes(samples: Iterable[Sample]) -> int:
    """How often another node led than before."""
    ordered = [sample.node for sample in sorted(samples, key=lambda sample: sample.term) if sample.leads]
    return sum(before != after for before, after in pairwise(ordered))
