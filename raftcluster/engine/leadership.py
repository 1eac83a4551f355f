"""Handing leadership over: when asked, and when this leader's wall clock is off.

A leader that hands over appends nothing meanwhile, lets its successor catch up, and has it campaign at once (dissertation,
section 3.10): a gap of milliseconds instead of an election time-out. When it does not come about, it goes on.
"""

from __future__ import annotations

from raftcluster import limits
from raftcluster.engine.cluster_time import ClusterTime
from raftcluster.engine.ports import Ports
from raftcluster.engine.seam import Engine

CLOCK_SECONDS = 1.0
"""Wall clocks are compared this often."""
CLOCK_HANDOVER_SECONDS = 30.0
"""A leader whose wall clock is off tries to hand over this often: it may be the only one that can lead."""


class Leadership:
    """One node's. Thread: tick thread only."""

    def __init__(self, engine: Engine, clock: ClusterTime, ports: Ports, patience_seconds: float) -> None:
        self._engine, self._clock, self._ports, self._patience = engine, clock, ports, patience_seconds
        self._handover: tuple[str | None, float] | None = None
        """(target, deadline)"""
        self._asked = False
        self.skews: dict[str, float] = {}
        """At the leader: milliseconds that each node's wall clock is off the median, its own included."""
        self._compare_at = self._clock_handover_at = 0.0

    @property
    def leaving(self) -> bool:
        """Whether leadership is being handed over: nothing is appended then."""
        return self._handover is not None

    def transfer(self, target: str | None = None) -> bool:
        """Have `target` (or, with None, the other voter that has most) elected. A follower asks the leader to.

        False when there is no leader, or `target` is no other voter that is linked to it: it would be waited for, and
        nothing appended meanwhile. The change of role tells of success.
        """
        engine = self._engine
        leader = engine.leader
        if not engine.is_leader:
            return leader is not None and self._ports.send(leader, {"type": "transfer", "target": target})
        candidates = [peer for peer in engine.others if engine.linked(peer)]
        if not candidates or (target is not None and target not in candidates):
            return False
        self._handover = (target, self._ports.now() + self._patience)
        self._asked = False
        return True

    def step(self) -> None:
        """Carry on with a hand-over; look at the clocks."""
        self._compare()
        if self._handover is not None:
            target, until = self._handover
            if not self._engine.is_leader or self._ports.now() > until:
                self._handover = None
            elif not self._asked:
                self._asked = self._engine.hand_over(target)

    def _compare(self) -> None:
        """Nothing is decided by wall clocks but this: a leader that is off hands over, because its clock helps to steer."""
        engine, now = self._engine, self._ports.now()
        if not engine.is_leader:
            self.skews = {}
        elif now >= self._compare_at:
            self._compare_at = now + CLOCK_SECONDS
            self.skews = skews = self._clock.skews(engine.term, engine.journal.voters(), engine.me)
            if abs(skews.get(engine.me, 0.0)) > 1000 * limits.CLOCK_ALARM_SECONDS and now >= self._clock_handover_at:
                self._clock_handover_at = now + CLOCK_HANDOVER_SECONDS
                self.transfer(min(sorted(engine.others), key=lambda peer: abs(skews.get(peer, float("inf")))))
