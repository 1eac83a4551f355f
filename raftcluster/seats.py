"""The engine's voters, as the cluster's reconciler asks for them and changes them."""

from __future__ import annotations

import threading
from collections.abc import Collection

from raftcluster.cluster.records import rejected
from raftcluster.cluster.standing import Seating, Standing
from raftcluster.engine.membership import Change
from raftcluster.engine.replica import Replica
from raftcluster.errors import Unavailable
from raftcluster.runtime import Runtime


class Seats:
    """The engine's voters, as the reconciler asks for them and changes them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def standing(self) -> Standing:
        """Which voters there are, and which of them are up, as this node sees it."""
        return self._runtime.call(self._standing)

    @staticmethod
    def _standing(replica: Replica) -> Standing:
        return Standing(replica.journal.voters(), frozenset({replica.me, *replica.guard.linked}))

    def look(self, learners: Collection[str]) -> Seating:
        """All of it in one call; `learners` are those of whom is asked whether they have caught up."""
        return self._runtime.call(lambda replica: self._seating(replica, learners))

    @staticmethod
    def _seating(replica: Replica, learners: Collection[str]) -> Seating:
        return Seating(
            replica.engine.is_leader,
            replica.led,
            replica.journal.voters(),
            replica.journal.change_after(replica.engine.commit_index),
            frozenset(filter(replica.caught_up, learners)),
        )

    def _voters(self) -> frozenset[str]:
        return self._runtime.call(lambda replica: replica.journal.voters())

    def promote(self, node_id: str) -> None:
        """Make a learner a voter. Raises `Unavailable`."""
        if node_id not in self._voters():
            self._change(Change("add", node_id))

    def expel(self, node_id: str) -> None:
        """Make a voter none. A leader that is to go hands over: its successor does it. Raises `Unavailable`."""
        if node_id not in self._voters():
            return
        if self._runtime.call(lambda replica: replica.me == node_id and replica.leadership.transfer()):
            raise Unavailable("leadership is handed over first", subject=node_id, remedy="the next leader goes on")
        if self._runtime.call(lambda replica: not self._standing(replica).can_lose(node_id)):
            raise rejected(
                "would-lose-quorum",
                f"without {node_id} too few of the voters are up: its vote is kept until more are",
                subject=node_id,
                remedy="start the others",
            )
        self._change(Change("rem", node_id))

    def hand_over(self) -> None:
        """Have another voter lead. Raises `Unavailable`."""
        self._runtime.call(lambda replica: replica.engine.is_leader and replica.leadership.transfer())

    def _change(self, change: Change, seconds: float = 5.0) -> None:
        done = threading.Event()
        committed: list[bool] = []

        def answer(good: bool) -> None:
            committed.append(good)
            done.set()

        if not self._runtime.call(lambda replica: replica.change_voters(change, answer)):
            raise Unavailable(
                f"the voters cannot be changed now ({change.action} {change.node})",
                subject=change.node,
                remedy="another change is under way, this node does not lead, or the learner has not caught up: tried again",
            )
        if not done.wait(seconds) or committed != [True]:
            raise Unavailable(
                f"the change of voters was not committed ({change.action} {change.node})", subject=change.node
            )
