"""Held messages: two that release at once are told apart, and what was delivered is delivered no more.

Who has claimed a message delivers it within 0.9 of the claim's term from when he asked, by his own clock; the cluster gives it to nobody
else before 0.952 of it. Twice it may come only when the first one's outcome was not known before the claim ended.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

BELIEF = 0.9


class Delivery(NamedTuple):
    """A server has taken the message. Times in seconds of one clock."""

    message: str
    at: float
    call: float
    """When its releaser asked."""
    told: float = math.inf
    """When he was told that it is delivered; infinite when he never was."""
    who: str = ""


class Refusal(NamedTuple):
    """Somebody was told that it is delivered already."""

    message: str
    at: float


class Standing(NamedTuple):
    """What the cluster says in the end."""

    state: str
    deliveries: int


def violations(
    deliveries: Iterable[Delivery], refusals: Iterable[Refusal], standings: Mapping[str, Standing], claim_seconds: float
) -> list[str]:
    """`claim_seconds` is the term of all claims."""
    found: list[str] = []
    by_message: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in sorted(deliveries, key=lambda each: each.at):
        for before in by_message[delivery.message]:
            apart = delivery.at - before.call
            if apart < BELIEF * claim_seconds:
                found.append(
                    f"{delivery.message}: delivered by {delivery.who} {apart:.3f} s after {before.who} had asked to, who did"
                )
            if delivery.call > before.told:
                found.append(
                    f"{delivery.message}: delivered by {delivery.who} at {delivery.at:.3f}, which {before.who} had done and "
                    f"was told at {before.told:.3f}"
                )
        by_message[delivery.message].append(delivery)
    for message, at in refusals:
        if not any(delivery.at < at for delivery in by_message[message]):
            found.append(f"{message}: said at {at:.3f} to be delivered, which nobody had done")
    for message, standing in standings.items():
        done = by_message[message]
        told = sum(delivery.told < math.inf for delivery in done)
        if not told <= standing.deliveries <= len(done):
            found.append(
                f"{message}: the cluster counts {standing.deliveries} deliveries of {len(done)}, {told} acknowledged"
            )
        if (standing.state == "delivered") != (standing.deliveries > 0):
            found.append(f"{message}: is {standing.state} after {standing.deliveries} deliveries")
    for message, done in by_message.items():
        if message not in standings and any(delivery.told < math.inf for delivery in done):
            found.append(f"{message}: was delivered and is lost")
    return found
