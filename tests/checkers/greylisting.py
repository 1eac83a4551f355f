"""What greylisting promises, seen by those who ask: from calls, answers and real time alone.

Degraded answers promise nothing and are left out; but such a check, or one without an answer, may have been counted, and
so may have begun a triplet's wait.

Cluster time may run up to `slew` fast or slow, and lag by `tolerance` seconds when leaders change; the waits are checked
within that, and a clock that is an hour wrong is far outside of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple


class Check(NamedTuple):
    """One check of one triplet. Times in seconds of one clock. `action` is None when the cluster did not decide it."""

    triplet: str
    call: float
    ret: float
    action: Literal["pass", "defer"] | None
    reason: str = ""
    delayed_seconds: int = 0
    request: str = ""
    """Which node was asked, in which SMTP instance; checks with the same one are one check. Empty: a check by itself."""


class Look(NamedTuple):
    """A linearizable look at a triplet's record; `first_ms` is None when there was none."""

    triplet: str
    call: float
    ret: float
    first_ms: int | None


class Rules(NamedTuple):
    """Seconds; the run must be shorter than window and life, so that nothing is forgotten in it."""

    delay: float
    tolerance: float = 1.0
    slew: float = 0.05


def violations(checks: Iterable[Check], looks: Iterable[Look], rules: Rules) -> list[str]:
    by_triplet: dict[str, tuple[list[Check], list[Look]]] = {}
    for check in _since_first_call(checks):
        by_triplet.setdefault(check.triplet, ([], []))[0].append(check)
    for look in looks:
        by_triplet.setdefault(look.triplet, ([], []))[1].append(look)
    found: list[str] = []
    for triplet, (asked, looked) in by_triplet.items():
        for text in (*_waits(asked, rules), *_accepted(asked), *_same_request(asked), *_first_seen(asked, looked)):
            found.append(f"{triplet}: {text}")
    return found


def _since_first_call(checks: Iterable[Check]) -> list[Check]:
    """A request that is repeated is told what was decided at any time since it was made first, be it that its first answer
    got lost."""
    rows = list(checks)
    first: dict[str, float] = {}
    for check in rows:
        if check.request:
            first[check.request] = min(check.call, first.get(check.request, check.call))
    return [check._replace(call=first.get(check.request, check.call)) for check in rows]


def _waits(checks: list[Check], rules: Rules) -> Iterable[str]:
    shortest = rules.delay / (1 + rules.slew) - rules.tolerance
    longest = rules.delay / (1 - rules.slew) + rules.tolerance
    decided = [check for check in checks if check.action is not None]
    if not decided:
        return
    began = min(check.call for check in checks)
    settled = min(check.ret for check in decided)
    for check in decided:
        if check.action == "pass":
            if check.ret - began < shortest:
                yield f"passed {check.ret - began:.3f} s after the first attempt, the delay is {rules.delay} s"
            if check.reason == "waited" and check.delayed_seconds < int(rules.delay):
                yield f"passed after {check.delayed_seconds} s of cluster time, the delay is {rules.delay} s"
        elif check.call - settled > longest:
            yield f"deferred {check.call - settled:.3f} s after the first answer, the delay is {rules.delay} s"


def _accepted(checks: list[Check]) -> Iterable[str]:
    accepted = min((check.ret for check in checks if check.action == "pass"), default=None)
    for check in checks:
        if check.action == "defer" and accepted is not None and check.call > accepted:
            yield f"deferred (called at {check.call:.3f}) though it had been accepted (at {accepted:.3f})"


def _same_request(checks: list[Check]) -> Iterable[str]:
    answers: dict[str, Check] = {}
    for check in checks:
        if check.request and check.action is not None:
            known = answers.setdefault(check.request, check)
            if (known.action, known.reason) != (check.action, check.reason):
                yield f"request {check.request} was told {known.action} {known.reason}, then {check.action} {check.reason}"


def _first_seen(checks: list[Check], looks: list[Look]) -> Iterable[str]:
    """The earliest time seen so far holds for all who ask later; what was acknowledged is remembered."""
    settled = min((check.ret for check in checks if check.action is not None), default=None)
    answered = sorted(looks, key=lambda look: look.ret)
    least: int | None = None
    at = 0
    for look in sorted(looks, key=lambda look: look.call):
        while at < len(answered) and answered[at].ret < look.call:
            first = answered[at].first_ms
            if first is not None:
                least = first if least is None else min(least, first)
            at += 1
        if look.first_ms is None:
            if least is not None or (settled is not None and look.call > settled):
                yield f"forgotten: there was no record at {look.call:.3f}"
        elif least is not None and look.first_ms > least:
            yield f"first seen moved from {least} to {look.first_ms} ms"


def count_violations(decided: int, undecided: int, counted: int) -> list[str]:
    """Exactly once in the counters: every check that was answered counts once, of the others nobody can say."""
    if decided <= counted <= decided + undecided:
        return []
    return [f"the cluster counted {counted} checks; {decided} were answered, of {undecided} nobody can say"]
