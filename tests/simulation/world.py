"""Virtual time, and everything that happens in it, in order."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final

READ_SECONDS: Final = 1e-6  # a reading of the clock takes a moment, so that two readings are never equal

Event = Callable[[], None]


class World:
    """The only source of time and of chance. Two runs of one seed are the same, in any process.

    Invariant: `time` never decreases. Events of one moment happen in the order in which they were planned.
    """

    def __init__(self, seed: str, story: Callable[[str], None] | None = None) -> None:
        self.random = Random(seed)
        self.time = 100.0
        self.read_seconds = READ_SECONDS
        """What a reading of the clock costs; more of it is a slow processor."""
        self.rate, self.offset = 1.0, 0.0
        """The clock of the process that runs at the moment, against true time."""
        self.counts: Counter[str] = Counter()
        self.fingerprint = 0
        """Of all that was said on the network: equal for equal runs."""
        self._story = story
        self._events: list[tuple[float, int, Event]] = []
        self._planned = 0

    def read(self) -> float:
        """The monotonic clock of the running process, in seconds."""
        self.time += self.read_seconds
        return self.time * self.rate + self.offset

    def at(self, time: float, event: Event) -> None:
        """Plan `event`."""
        self._planned += 1
        heappush(self._events, (time, self._planned, event))

    def after(self, seconds: float, event: Event) -> None:
        """Plan `event` for so many seconds from now."""
        self.at(self.time + seconds, event)

    def run(self, until: float, stop: Callable[[], bool]) -> None:
        """Let happen what is planned before `until`, or before `stop` is true."""
        events = self._events
        while events and events[0][0] <= until and not stop():
            time, _, event = heappop(events)
            self.time = max(self.time, time)
            event()
        if not stop():
            self.time = max(self.time, until)

    def chance(self, probability: float) -> bool:
        """True so often."""
        return self.random.random() < probability

    def heard(self, payload: bytes) -> None:
        """A message has arrived."""
        self.fingerprint = zlib.crc32(payload, self.fingerprint)

    def tell(self, who: str, text: str) -> None:
        """One line of the story."""
        if self._story is not None:
            self._story(f"{self.time - 100:8.3f} {who:>4} {text}")
