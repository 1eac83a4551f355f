"""Notifications: what was acknowledged as published is there once, consumers miss nothing, one has seen to each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

Outcome = Literal["done", "never", "unknown"]


class Publication(NamedTuple):
    """What the publisher of a text, which nobody else publishes, was told."""

    text: str
    outcome: Outcome
    position: int | None = None


class Handed(NamedTuple):
    """A subscription of `consumer` was handed this one. In the order of time."""

    consumer: str
    subscription: str
    position: int
    text: str


class Seen(NamedTuple):
    """Somebody acknowledged the notification at `position`, and was told whether it was the first."""

    position: int
    outcome: Outcome
    first: bool = False


def violations(publications: Iterable[Publication], seen: Iterable[Seen], final: Mapping[int, str]) -> list[str]:
    """`final`: position -> text, of all that is there in the end, when nothing has expired and nothing was dropped."""
    found: list[str] = []
    places: dict[str, list[int]] = defaultdict(list)
    for position, text in final.items():
        places[text].append(position)
    asked = set()
    for text, outcome, told in publications:
        asked.add(text)
        held = places.get(text, [])
        if len(held) > 1:
            found.append(f"{text} is there {len(held)} times")
        if outcome == "done" and held != [told]:
            found.append(f"{text} was acknowledged at {told} and is at {held}")
        if outcome == "never" and held:
            found.append(f"{text} is at {held} though its publisher was told that it never will be")
    found += [f"{text} is there and nobody has published it" for text in places if text not in asked]
    firsts = Counter(each.position for each in seen if each.outcome == "done" and each.first)
    found += [
        f"{count} were told to be the first to acknowledge {position}"
        for position, count in firsts.items()
        if count > 1
    ]
    return found


def stream_violations(handed: Iterable[Handed], final: Mapping[int, str], batch: int) -> list[str]:
    """Each subscription goes forward, each begins where the one before has left off or at most `batch` before that, and what
    they were handed is all that there is up to where they came."""
    found: list[str] = []
    by_consumer: dict[str, dict[str, list[Handed]]] = defaultdict(lambda: defaultdict(list))
    for each in handed:
        by_consumer[each.consumer][each.subscription].append(each)
        if final.get(each.position) != each.text:
            found.append(
                f"{each.consumer} was handed {each.text} at {each.position}, where {final.get(each.position)} is"
            )
    for consumer, subscriptions in by_consumer.items():
        reached, known = 0, set[int]()
        for name, rows in subscriptions.items():
            positions = [row.position for row in rows]
            if positions != sorted(set(positions)):
                found.append(f"{name} of {consumer} goes back: {_falls(positions)}")
            again = known & set(positions)
            if len(again) > batch:
                found.append(f"{name} of {consumer} was handed {len(again)} again: {sorted(again)}")
            known |= set(positions)
            reached = max(reached, *positions)
        missed = sorted(position for position in final if position <= reached and position not in known)
        if missed:
            found.append(f"{consumer} came to {reached} and was not handed {[final[each] for each in missed]}")
    return found


def _falls(positions: Sequence[int]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairwise(positions) if b <= a]
