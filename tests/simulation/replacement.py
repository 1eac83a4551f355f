"""One member for another, the way the product's reconciler does it: whoever leads at the moment takes the next step.

The newcomer starts as a learner, becomes a voter once it has caught up, and only then does the other one cease to be one. A
leader that is to go hands over first. What is refused or lost is tried again, for as long as it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from raftcluster.engine.membership import Change
from tests.simulation.process import Process
from tests.simulation.world import World

LOOK_SECONDS = 0.3


class Replacement:
    """One such change. `done` once the voters are as wanted; the one that went does not come back."""

    def __init__(self, world: World, going: Process, coming: Process, leader: Callable[[], Process | None]) -> None:
        self.going, self.coming = going, coming
        self._world, self._leader = world, leader
        self.done = False
        coming.start()
        self._look()

    def _look(self) -> None:
        leader = self._leader()
        if leader is not None and leader.replica is not None:
            self._step(leader)
        if not self.done:
            self._world.after(LOOK_SECONDS, self._look)

    def _step(self, leader: Process) -> None:
        replica = leader.replica
        assert replica is not None
        voters, coming, going = replica.journal.voters(), self.coming.name, self.going.name
        if coming not in voters:
            if replica.caught_up(coming):
                self._change(leader, Change("add", coming))
        elif leader is self.going:
            leader.run(partial(replica.leadership.transfer, None))
            leader.wake()
        elif going in voters:
            self._change(leader, Change("rem", going))
        elif not replica.journal.change_after(replica.engine.commit_index):
            self.done = True
            self._world.counts["replacements"] += 1
            self._world.tell(going, f"is replaced by {coming}")
            self.going.retire()

    def _change(self, leader: Process, change: Change) -> None:
        replica, counts = leader.replica, self._world.counts
        assert replica is not None

        def told(committed: bool) -> None:
            if committed:
                counts["voters added" if change.action == "add" else "voters removed"] += 1

        leader.run(lambda: self._world.tell(leader.name, f"{change}: {replica.change_voters(change, told)}"))
        leader.wake()
