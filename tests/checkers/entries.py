"""A set that entries are added to and removed from, each name by one client: what was acknowledged holds, on every node."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

Outcome = Literal["done", "never", "unknown"]


class Change(NamedTuple):
    """What one client was told about adding or removing `name`, in the order in which it did these things."""

    name: str
    action: Literal["add", "remove"]
    outcome: Outcome


def violations(changes: Iterable[Change], final: Collection[str], who: str) -> list[str]:
    """`final`: the names that `who` holds in the end."""
    may: dict[str, set[bool]] = {}
    """Name -> whether it may be there, must be, or must not."""
    for change in changes:
        now = may.setdefault(change.name, {False})
        after = change.action == "add"
        if change.outcome == "done":
            may[change.name] = {after}
        elif change.outcome == "unknown":
            may[change.name] = now | {after}
    found = [
        f"{who} lacks {name}, which was added" for name, states in may.items() if states == {True} and name not in final
    ]
    found += [f"{who} has {name}, which is not to be there" for name in final if True not in may.get(name, {False})]
    return found
