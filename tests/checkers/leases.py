"""Leases: nobody believes in one that another has been given already, and tokens rise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tests.checkers import order
from tests.checkers.order import Numbered


class Grant(NamedTuple):
    """An acquisition that was answered. Times in seconds of one clock."""

    name: str
    token: int
    call: float
    ret: float
    who: str


class Belief(NamedTuple):
    """A holder was asked, not before `since`, and said that it holds the lease under this token."""

    name: str
    token: int
    since: float
    who: str


def violations(grants: Iterable[Grant], beliefs: Iterable[Belief]) -> list[str]:
    """Tokens of all names rise with real time. Who believes must not do so after a successor has got its answer."""
    rows = list(grants)
    found = order.violations(Numbered(g.call, g.ret, g.token, f"{g.who}'s {g.name} of {g.call:.3f}") for g in rows)
    by_name: dict[str, list[Grant]] = defaultdict(list)
    tokens = {(grant.name, grant.token, grant.who) for grant in rows}
    for grant in rows:
        by_name[grant.name].append(grant)
    for belief in beliefs:
        if (belief.name, belief.token, belief.who) not in tokens:
            found.append(f"{belief.who} believes to hold {belief.name} under {belief.token}, which nobody gave it")
        for grant in by_name[belief.name]:
            if grant.token > belief.token and grant.ret < belief.since:
                found.append(
                    f"{belief.who} believes at {belief.since:.3f} to hold {belief.name} under {belief.token}; "
                    f"{grant.who} was given {grant.token} at {grant.ret:.3f}"
                )
                break
    return found
