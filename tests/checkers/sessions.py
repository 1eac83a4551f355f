"""What one client sees of one node never goes back, and its own changes are in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple


class Sight(NamedTuple):
    """A revision that a session was shown, or was given for its own change. In the order of the session."""

    session: str
    subject: str
    """What has the revision: a key, an index, a clock."""
    revision: int
    kind: Literal["read", "write"] = "read"
    at: float = 0.0


def violations(sights: Iterable[Sight]) -> list[str]:
    found: list[str] = []
    latest: dict[tuple[str, str], Sight] = {}
    for sight in sights:
        place = (sight.session, sight.subject)
        before = latest.get(place)
        if before is not None and sight.revision < before.revision:
            found.append(
                f"{sight.session} saw {sight.subject} at {sight.revision} ({sight.at:.3f}) after its own "
                f"{before.kind} of {before.revision} ({before.at:.3f})"
            )
        else:
            latest[place] = sight
    return found
