"""At most one leader in a term, and terms that never go back -- from samples of what nodes say of themselves."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple


class Sample(NamedTuple):
    """One look at one node; `leader` is whom it believes to lead in `term`, or None."""

    at: float
    node: str
    term: int
    leader: str | None
    leads: bool


def violations(samples: Iterable[Sample]) -> list[str]:
    found: list[str] = []
    leaders: dict[int, str] = {}
    terms: dict[str, Sample] = {}
    for sample in sorted(samples, key=lambda sample: sample.at):
        claimed = sample.node if sample.leads else sample.leader
        if claimed is not None and leaders.setdefault(sample.term, claimed) != claimed:
            found.append(f"term {sample.term} has two leaders, {leaders[sample.term]} and {claimed} ({sample.at:.3f})")
        before = terms.get(sample.node)
        if before is not None and sample.term < before.term:
            found.append(f"{sample.node} goes back from term {before.term} to {sample.term} ({sample.at:.3f})")
        terms[sample.node] = sample
    return found


def changes(samples: Iterable[Sample]) -> int:
    """How often another node led than before."""
    ordered = [sample.node for sample in sorted(samples, key=lambda sample: sample.term) if sample.leads]
    return sum(before != after for before, after in pairwise(ordered))
