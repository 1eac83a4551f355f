"""Mail while nodes are replaced: strangers who come again, as sending servers do -- at the next node when one has gone -- and
whether each of them was told what it had to be told.

`python -m tests.e2e.traffic PLAN`: the process that asks; PLAN is JSON, [[policy server, ...], delay in seconds, checks per second, seed].
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.children import ask_until_told
from tests.policy_client import PolicyClient

ASKERS: Final = 6
DECIDED: Final = "DEFER_IF_PERMIT 4.2.0"
DEGRADED: Final = "DEFER_IF_PERMIT 4.3.0"
"""With `on_unavailable = defer`."""
MARGIN_SECONDS: Final = 1.0
"""By which an answer may come later than what it is about."""
AWAY_SECONDS: Final = 0.05
"""A node that is down is not asked more often."""


@dataclass(slots=True)
class Stranger:
    """A triplet, first seen no earlier than `begun`, and no later than `known`."""

    number: int
    begun: float = 0.0
    known: float = 0.0
    asked: int = 0


@dataclass(slots=True)
class Seen:
    """What one asker was told."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    moved: int = 0
    """Connections that ended, or were refused: the same was asked at the next node."""


class Asker(threading.Thread):
    """Asks about strangers of its own: each at once, again before its time, and after it."""

    def __init__(self, name: str, servers: list[str], delay: float, per_second: float, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.seen = Seen()
        self._servers, self._delay, self._pause = servers, delay, 1.0 / per_second
        self._random = random.Random(seed)
        self._at = self._random.randrange(len(servers))
        self._open: PolicyClient | None = None
        self._ending = threading.Event()

    def run(self) -> None:
        due: list[tuple[float, int]] = []
        strangers: dict[int, Stranger] = {}
        turn = time.monotonic()
        while not self._ending.is_set():
            now = time.monotonic()
            if due and due[0][0] <= now:
                stranger = strangers[heapq.heappop(due)[1]]
            else:
                stranger = strangers[len(strangers)] = Stranger(len(strangers))
            self._ask(stranger)
            if stranger.asked < 3:
                # The second time is too early, the third is not, whatever is on the way meanwhile.
                wait = self._delay * (0.4 if stranger.asked == 1 else 1.0) + (
                    MARGIN_SECONDS if stranger.asked > 1 else 0
                )
                heapq.heappush(due, (time.monotonic() + wait, stranger.number))
            turn = max(turn + self._pause, now - 1.0)
            self._ending.wait(max(0.0, turn - time.monotonic()))

    def end(self) -> None:
        self._ending.set()
        self.join()

    def _ask(self, stranger: Stranger) -> None:
        begun = time.monotonic()
        stranger.begun = stranger.begun or begun
        stranger.asked += 1
        action = self._answer(stranger)
        now = time.monotonic()
        kind = "degraded" if action.startswith(DEGRADED) else "deferred" if action.startswith(DECIDED) else "passed"
        self.seen.answers[kind] += 1
        if kind == "passed" and now < stranger.begun + self._delay:
            self.seen.wrong.append(f"{self.name}.{stranger.number} passed after {now - stranger.begun:.2f} s: {action}")
        if kind == "deferred" and stranger.known and begun > stranger.known + self._delay + MARGIN_SECONDS:
            late = begun - stranger.known
            self.seen.wrong.append(f"{self.name}.{stranger.number} was deferred after {late:.2f} s: {action}")
        if kind == "deferred":
            stranger.known = stranger.known or now

    def _answer(self, stranger: Stranger) -> str:
        """Of whichever node answers; each time another one is asked first."""
        if self._random.random() < 0.2:
            self._leave()
        while True:
            try:
                if self._open is None:
                    self._open = PolicyClient(self._servers[self._at])
                return self._open.ask(
                    client_address=f"10.{stranger.number // 250 % 250}.{stranger.number % 250}.7",
                    sender=f"{self.name}n{stranger.number}x@sender.example",
                    recipient="box@example.org",
                    instance=f"{self.name}.{stranger.number}.{stranger.asked}",
                )
            except (OSError, EOFError):
                self.seen.moved += 1
                self._leave()
                self._ending.wait(AWAY_SECONDS)

    def _leave(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open, self._at = None, (self._at + 1) % len(self._servers)


def main() -> None:
    """It asks until standard input says so, or ends; then one line of JSON."""
    servers, delay, per_second, seed = json.loads(sys.argv[1])
    askers = [Asker(f"a{n}", servers, delay, per_second / ASKERS, seed + n) for n in range(ASKERS)]
    ask_until_told(askers)
    answers = sum((asker.seen.answers for asker in askers), Counter[str]())
    wrong = [each for asker in askers for each in asker.seen.wrong]
    print(json.dumps([answers, wrong, sum(asker.seen.moved for asker in askers)]), flush=True)


if __name__ == "__main__":
    main()
