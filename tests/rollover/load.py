"""Strangers' checks at every node, each counted, timed and compared with what the tables say in the end.

`python -m tests.rollover.load PLAN`: the process that asks; PLAN is JSON, [[name, policy server, checks per second, whether it returns], ...].
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol

from tests.children import Child, ask_until_told
from tests.policy_client import PATIENCE_SECONDS, PolicyClient
from tests.served import Served

DECIDED = "DEFER_IF_PERMIT 4.2.0 Greylisted"
"""What the cluster tells a stranger; without the cluster it would be something else (`on_unavailable`)."""
CLIENT, RECIPIENT = "192.0.2.7", "box@example.org"
TRIPLETS = 40
START_SECONDS = 60.0
AGAIN_SECONDS = 0.05


def sender_of(triplet: int) -> str:
    return f"t{triplet}x@sender.example"


@dataclass(frozen=True, slots=True)
class Answer:
    """One check."""

    at: float
    """Monotonic, when it was asked."""
    seconds: float
    triplet: int
    action: str


class Place(Protocol):
    """A node that is asked."""

    @property
    def name(self) -> str: ...
    @property
    def policy(self) -> str: ...


class Asker(threading.Thread):
    """One connection to one node: a check, its answer, the next one, at most `per_second`. When the connection ends that is an
    error; with `returns` it asks the same again over another one, as Postfix does."""

    def __init__(self, name: str, policy: str, per_second: float, returns: bool) -> None:
        super().__init__(name=name, daemon=True)
        self.answers: list[Answer] = []
        self.errors: list[str] = []
        self._policy, self._pause, self._returns = policy, 1.0 / per_second, returns
        self._ending = threading.Event()
        self._number, self._due = 1, time.monotonic()

    def run(self) -> None:
        while not self._ending.is_set():
            try:
                with PolicyClient(self._policy) as client:
                    while not self._ending.is_set():
                        self._ask(client)
            except (OSError, EOFError) as error:
                self.errors.append(f"{self.name}: {type(error).__name__}: {error}")
                if not self._returns:
                    return
                self._ending.wait(AGAIN_SECONDS)

    def _ask(self, client: PolicyClient) -> None:
        triplet, begun = self._number % TRIPLETS, time.monotonic()
        action = client.ask(
            client_address=CLIENT,
            sender=sender_of(triplet),
            recipient=RECIPIENT,
            instance=f"{self.name}.{self._number}",
        )
        self.answers.append(Answer(begun, time.monotonic() - begun, triplet, action))
        self._number += 1
        self._due = max(self._due + self._pause, begun)
        self._ending.wait(max(0.0, self._due - time.monotonic()))

    def end(self) -> None:
        """After the check under way."""
        self._ending.set()
        self.join()


class Load:
    """Askers at all these nodes, in a process of their own: what the rest of a test does must not look like latency.

    Use as a context manager. What they have seen is there after `end`.
    """

    def __init__(
        self, nodes: Sequence[Place], per_second: float, folder: Path, *, connections: int = 4, returns: bool = False
    ) -> None:
        self.answers: list[Answer] = []
        self.errors: list[str] = []
        """Connections that ended."""
        each = per_second / (len(nodes) * connections)
        plan = [(f"{node.name}.{n}", node.policy, each, returns) for node in nodes for n in range(connections)]
        command = [sys.executable, "-m", "tests.rollover.load", json.dumps(plan)]
        self._child = Child("load", command, folder / "load.log", pipes=True)

    def __enter__(self) -> Load:
        assert self._child.line(START_SECONDS) == "begun"
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    def end(self) -> None:
        """Stop asking, and take what was seen."""
        self._child.tell("end")
        answers, self.errors = json.loads(self._child.line(PATIENCE_SECONDS))
        self.answers = [Answer(*each) for each in answers]

    def between(self, since: float, until: float) -> list[Answer]:
        """What was asked in that time (monotonic)."""
        return [each for each in self.answers if since <= each.at < until]

    def degraded(self) -> list[str]:
        """Answers that are not the cluster's."""
        return [each.action for each in self.answers if not each.action.startswith(DECIDED)]

    def wrong(self, nodes: Sequence[Served]) -> dict[str, int]:
        """Per node, how many checks its table has counted too many or too few."""
        asked = Counter(each.triplet for each in self.answers)
        found = {}
        for node in nodes:
            counted = Counter({triplet: _counted(node, triplet) for triplet in range(TRIPLETS)})
            found[node.name] = sum(abs(asked[triplet] - counted[triplet]) for triplet in range(TRIPLETS))
        return found


def percentile(answers: Sequence[Answer], share: float) -> float:
    """In seconds; nearest rank. 0 without any answer."""
    ordered = sorted(each.seconds for each in answers)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _counted(node: Served, triplet: int) -> int:
    explained = node.client.greylist.explain(CLIENT, sender_of(triplet), RECIPIENT)
    return sum(int(row["deferred"]) + int(row["passed"]) for row in explained["seen_by"])


def main() -> None:
    """The askers' process: it asks until standard input says so, or ends."""
    askers = [Asker(*each) for each in json.loads(sys.argv[1])]
    ask_until_told(askers)
    answers = [astuple(answer) for asker in askers for answer in asker.answers]
    print(json.dumps([answers, [error for asker in askers for error in asker.errors]]), flush=True)


if __name__ == "__main__":
    main()
