"""What real time demands of numbers that a cluster hands out: what was acknowledged earlier is smaller."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Numbered(NamedTuple):
    """One acknowledged change and the number that it was given. Times in seconds of one clock."""

    call: float
    ret: float
    number: int
    what: str


def violations(changes: Iterable[Numbered]) -> list[str]:
    """Each number is given once, and a change that was called after another's answer has the greater number."""
    found: list[str] = []
    owners: dict[int, str] = {}
    rows = list(changes)
    for row in rows:
        if owners.setdefault(row.number, row.what) != row.what:
            found.append(f"number {row.number} was given to {owners[row.number]} and to {row.what}")
    answered = sorted(rows, key=lambda row: row.ret)
    greatest: Numbered | None = None
    at = 0
    for row in sorted(rows, key=lambda row: row.call):
        while at < len(answered) and answered[at].ret < row.call:
            if greatest is None or answered[at].number > greatest.number:
                greatest = answered[at]
            at += 1
        if greatest is not None and row.number <= greatest.number and row.what != greatest.what:
            found.append(
                f"{row.what} got {row.number} though {greatest.what} had been given {greatest.number} before it was called"
            )
    return found
