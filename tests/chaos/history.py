"""What was written, what was answered, who led; and whether that fits what the nodes hold in the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from raftcluster.errors import OutcomeUnknown, RaftclusterError
from tests.chaos.victim import Victim

PREFIX = "chaos/"
WRITE_EVERY_SECONDS = 0.05
LOOK_EVERY_SECONDS = 0.2


class Stoppable(threading.Thread):
    """A thread that ends soon after `stopped` is set."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.stopped = threading.Event()


class Writer(Stoppable):
    """Writes one new key after the other at its node and keeps what it was told. Read the results after `join`."""

    def __init__(self, victim: Victim) -> None:
        super().__init__(f"writer at {victim.name}")
        self._victim = victim
        self.acknowledged: dict[str, int] = {}  # key -> revision, in the order of the answers
        self.unknown: set[str] = set()
        self.refused: set[str] = set()

    def run(self) -> None:
        number = 0
        while not self.stopped.wait(WRITE_EVERY_SECONDS):
            number += 1
            key = f"{PREFIX}{self._victim.name}/{number}"
            try:
                self.acknowledged[key] = self._victim.client.config.set(key, key)
            except OutcomeUnknown:
                self.unknown.add(key)
            except RaftclusterError:
                self.refused.add(key)

    def told(self) -> str:
        """The counts."""
        return f"{len(self.acknowledged)} acknowledged, {len(self.unknown)} unknown, {len(self.refused)} refused"


class Observer(Stoppable):
    """Asks every node who leads which term."""

    def __init__(self, victims: Sequence[Victim]) -> None:
        super().__init__("observer")
        self._victims = victims
        self.leaders: dict[int, set[str]] = {}

    def run(self) -> None:
        while not self.stopped.wait(LOOK_EVERY_SECONDS):
            for victim in self._victims:
                try:
                    status = victim.status()
                except RaftclusterError:  # killed, frozen or starting
                    continue
                if status["leader"] == status["id"]:
                    self.leaders.setdefault(status["term"], set()).add(victim.name)

    def violations(self) -> list[str]:
        """Terms that more than one node led."""
        return [f"term {term} was led by {sorted(names)}" for term, names in self.leaders.items() if len(names) > 1]


def disagreements(victims: Sequence[Victim]) -> list[str]:
    """Why the nodes are not at one yet: no answer, leaders, keys."""
    try:
        leaders = {victim.status()["leader"] for victim in victims}
        keys = {tuple(victim.client.config.keys(PREFIX)) for victim in victims}
    except RaftclusterError as error:
        return [str(error)]
    wrong = [] if len(leaders) == 1 and None not in leaders else [f"leaders {leaders}"]
    return wrong if len(keys) == 1 else [*wrong, "the nodes hold different keys"]


def violations(victims: Sequence[Victim], writers: Sequence[Writer]) -> Iterator[str]:
    """Everything that was promised and is not so. To be asked when nothing is written any more."""
    acknowledged = {key: revision for writer in writers for key, revision in writer.acknowledged.items()}
    refused = set().union(*(writer.refused for writer in writers))
    if not acknowledged:
        yield "nothing was acknowledged at all"
    if len(set(acknowledged.values())) != len(acknowledged):
        yield "two acknowledged writes have one revision"
    for writer in writers:
        revisions = list(writer.acknowledged.values())
        if revisions != sorted(revisions):
            yield f"{writer.name}: revisions went back"
    for victim in victims:
        entries: dict[str, Any] = {key: victim.client.config.entry(key) for key in acknowledged}
        for key, revision in acknowledged.items():
            entry = entries[key]
            if entry is None:
                yield f"{victim.name} lost {key}, acknowledged at revision {revision}"
            elif (entry["revision"], entry["value"]) != (revision, key):
                yield f"{victim.name} holds {entry} for {key}, acknowledged at revision {revision}"
        for key in refused & set(victim.client.config.keys(PREFIX)):
            yield f"{victim.name} holds {key}, which was refused"
