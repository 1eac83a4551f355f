"""Nodes that have applied the same entries hold the same tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Digest(NamedTuple):
    """What a node's tables were, as a hash, after it had applied `entry`."""

    node: str
    entry: int
    hash: str


def violations(digests: Iterable[Digest]) -> list[str]:
    found: list[str] = []
    first: dict[int, Digest] = {}
    for digest in digests:
        known = first.setdefault(digest.entry, digest)
        if known.hash != digest.hash:
            found.append(f"after entry {digest.entry} {known.node} and {digest.node} hold different tables")
    return found


def compared(digests: Iterable[Digest]) -> int:
    """After how many entries at least two nodes were compared."""
    nodes: dict[int, set[str]] = {}
    for digest in digests:
        nodes.setdefault(digest.entry, set()).add(digest.node)
    return sum(len(names) > 1 for names in nodes.values())
