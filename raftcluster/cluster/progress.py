"""How far a generation is, in words, and whom it waits for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from raftcluster.cluster.view import View


def progress(view: View, number: int) -> str:
    """One line about generation `number`: what has been done by how many, and who is missing."""
    coming = view.pending
    if coming is None or coming.number != number:
        active = view.active is not None and view.active.number >= number
        return f"generation {number}: {'in force' if active else 'not under way'}"
    if coming.phase == "collect":
        return f"generation {number}: requests {_share(view, coming.requests, coming.holders())}"
    done = "trusted" if coming.phase == "trust" else "switched"
    return f"generation {number}: minted, {done} {_share(view, getattr(coming, done), coming.members)}"


def _share(view: View, done: Collection[str], of: Sequence[str]) -> str:
    missing = sorted(view.members[each].name for each in of if each not in done)
    rest = f", waiting for {', '.join(missing)}" if missing else ""
    return f"{len(of) - len(missing)}/{len(of)}{rest}"
