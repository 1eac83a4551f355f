"""What the callers of a cluster asked and what was acknowledged to them, and what its tables must therefore have counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.crashes.writer import IN_FLIGHT, TRIPLETS, triplet_of

LOST = "an acknowledged one is lost"
TWICE = "one was applied twice"


class Account:
    """Rounds of writing, one at a time: `begin`, then `acknowledge`, then `compare` as often as wanted, then `settle`."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.seed = seed
        self.round = -1
        self.total = 0
        """Checks acknowledged in all rounds."""
        self._before: Counter[int] = Counter()
        """triplet -> checks, of all rounds that are over."""
        self._acknowledged: list[set[int]] = [set() for _ in range(nodes)]
        self._stopped: set[int] = set()

    def begin(self) -> int:
        """A new round; its number."""
        self.round += 1
        self._acknowledged = [set() for _ in self._acknowledged]
        self._stopped = set()
        return self.round

    def acknowledge(self, node: int, number: int) -> None:
        self.total += number not in self._acknowledged[node]
        self._acknowledged[node].add(number)

    def stopped(self, node: int) -> None:
        """Nothing was asked there that is not acknowledged by now."""
        self._stopped.add(node)

    def acknowledged(self, node: int) -> list[int]:
        """The numbers of this round, ascending."""
        return sorted(self._acknowledged[node])

    def unknown(self, node: int) -> list[int]:
        """The numbers of this round that were asked, and not acknowledged: they may have been counted."""
        numbers = self._acknowledged[node]
        asked = 0 if node in self._stopped else len(numbers) + IN_FLIGHT
        return sorted(set(range(asked)) - numbers)

    def compare(self, counts: Sequence[int]) -> list[str]:
        """What is wrong with the numbers of checks that a node has counted, per triplet."""
        least = self._before + Counter(
            triplet_of(self.seed, self.round, node, number)
            for node, numbers in enumerate(self._acknowledged)
            for number in numbers
        )
        most = least + Counter(
            triplet_of(self.seed, self.round, node, number)
            for node in range(len(self._acknowledged))
            for number in self.unknown(node)
        )
        assert len(counts) == TRIPLETS
        return [
            f"round {self.round}, triplet {triplet}: {count} checks counted, "
            + (LOST if count < least[triplet] else TWICE)
            + f" ({least[triplet]} to {most[triplet]} would be right)"
            for triplet, count in enumerate(counts)
            if not least[triplet] <= count <= most[triplet]
        ]

    def settle(self) -> None:
        """The end of the round: everything that was asked in it has been acknowledged by now, some when asked again."""
        assert not any(self.unknown(node) for node in range(len(self._acknowledged)))
        self._before += Counter(
            triplet_of(self.seed, self.round, node, number)
            for node, numbers in enumerate(self._acknowledged)
            for number in numbers
        )
        self._acknowledged = [set() for _ in self._acknowledged]
