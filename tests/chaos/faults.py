"""The faults, and how long each lasts."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence

from raftcluster.errors import RaftclusterError
from tests.chaos.victim import Victim
from tests.e2e.hosts import Hosts

LASTS_SECONDS = (0.5, 6.0)
KINDS = ("kill", "kill the leader", "freeze", "cut", "transfer", "kill all")


class Faults:
    """Strikes one victim, or all; every fault is over when `strike` returns. Main thread only."""

    def __init__(self, hosts: Hosts, victims: Sequence[Victim], chance: random.Random) -> None:
        self._hosts, self._victims, self._chance = hosts, victims, chance
        self._counts: Counter[str] = Counter()
        self._clock = threading.Event()  # never set: its wait is how long a fault lasts

    def told(self) -> str:
        """How often each was done."""
        return ", ".join(f"{count} x {kind}" for kind, count in sorted(self._counts.items()))

    def strike(self) -> None:
        """One fault, chosen and timed by chance, from its beginning to its end."""
        kind, victim = self._chance.choice(KINDS), self._chance.choice(self._victims)
        lasting = self._chance.uniform(*LASTS_SECONDS)
        self._counts[kind] += 1
        if kind == "transfer":
            self._transfer(victim)
        elif kind == "freeze":
            victim.freeze()
            self._clock.wait(lasting)
            victim.thaw()
        elif kind == "cut":
            self._hosts.cut(victim.number)
            self._clock.wait(lasting)
            self._hosts.heal(victim.number)
        else:
            struck = {"kill": [victim], "kill the leader": [self._leader() or victim], "kill all": self._victims}[kind]
            for each in struck:
                each.kill()
            self._clock.wait(lasting)
            for each in struck:
                each.restart()

    def _transfer(self, victim: Victim) -> None:
        try:
            victim.client.transfer(victim.name)
        except RaftclusterError:  # there was no leader to hand over, or no time: that is an answer
            self._counts["transfer that was refused"] += 1

    def _leader(self) -> Victim | None:
        for victim in self._victims:
            try:
                status = victim.status()
            except RaftclusterError:  # still starting
                continue
            if status["leader"] == status["id"]:
                return victim
        return None
