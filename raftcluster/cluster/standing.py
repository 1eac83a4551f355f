"""Whether the cluster can do without a member: counted in voters that are up. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from raftcluster.cluster.records import rejected


@dataclass(frozen=True, slots=True)
class Seating:
    """The engine's voters at one moment, as one node knows them."""

    leader: bool
    """Whether this node leads."""
    led: bool
    """Whether it leads, or hears from who does."""
    voters: frozenset[str]
    changing: bool
    """Whether a change of them is not committed yet."""
    caught_up: frozenset[str]
    """Of those that were asked about: who has all but the newest entries, as the leader knows."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The engine's voters, and who is up, as one node sees it: itself and whom it is linked with."""

    voters: frozenset[str]
    up: frozenset[str]

    def has_quorum(self) -> bool:
        """Whether a majority of the voters is up."""
        return len(self.voters & self.up) >= quorum(len(self.voters))

    def can_lose(self, node_id: str) -> bool:
        """Whether a majority of the voters without this one is up."""
        rest = self.voters - {node_id}
        return len(rest & self.up) >= quorum(len(rest))

    def check(self, node_id: str, names: Mapping[str, str]) -> None:
        """Raise `Rejected`, saying why, when the cluster could decide nothing any more without this member, or cannot now."""
        name = names.get(node_id, node_id)
        if not self.has_quorum():
            raise rejected(
                "no-quorum",
                f"of {len(self.voters)} voters only {len(self.voters & self.up)} are up, {quorum(len(self.voters))} are "
                f"needed to decide anything; down: {_list(self.voters - self.up, names)}",
                subject=name,
                remedy="start them; if they are gone for good: raftcluster recover",
            )
        rest = self.voters - {node_id}
        if not self.can_lose(node_id):
            raise rejected(
                "would-lose-quorum",
                f"without {name} {quorum(len(rest))} of {len(rest)} voters are needed and {len(rest & self.up)} are up; "
                f"down: {_list(rest - self.up, names)}",
                subject=name,
                remedy="start them, or remove those first that are gone for good",
            )

    def check_endorsers(
        self, node_id: str, named: Collection[str], awake: Collection[str], names: Mapping[str, str]
    ) -> None:
        """Raise `Rejected`, saying why, when no generation could come after this member: of those that the chain of manifests has
        `named`, as many as must endorse the next one are members that are not asleep, so that this one is not asked for its
        endorsement before it goes (`beginnings.leave`), but too few of them are up."""
        rest, needed = frozenset(named) & frozenset(awake) - {node_id}, quorum(len(named))
        if node_id in named and len(rest & self.up) < needed <= len(rest):
            name = names.get(node_id, node_id)
            raise rejected(
                "would-lose-quorum",
                f"without {name} {needed} of {len(named)} voters must endorse the next certificates and {len(rest & self.up)} "
                f"are up; down: {_list(rest - self.up, names)}",
                subject=name,
                remedy="start them, or remove those first that are gone for good",
            )


def quorum(voters: int) -> int:
    """How many of so many voters are a majority."""
    return voters // 2 + 1


def _list(nodes: frozenset[str], names: Mapping[str, str]) -> str:
    return ", ".join(sorted(names.get(each, each) for each in nodes))
