"""One run: trouble for some seconds, then healing, then all that must be true of a healthy cluster."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from raftcluster import limits
from raftcluster.engine import seam
from tests.simulation.checker import Checker
from tests.simulation.faults import Faults
from tests.simulation.network import Network
from tests.simulation.process import Process, machines
from tests.simulation.profiles import Options, options_of
from tests.simulation.residents import Residents
from tests.simulation.workload import Workload
from tests.simulation.world import World

NOTIFICATIONS: Final = 12
"""So many are kept: few enough for the oldest to be dropped in a run of some seconds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    profile: str
    seed: int
    violations: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    fingerprint: int = 0
    healed_seconds: float = 0.0
    """How long the healing took."""


class Simulation:
    """One seed's run. There is one at a time in a process: the engine has one clock."""

    def __init__(
        self,
        profile: str,
        seed: int,
        *,
        disabled: Collection[str] = (),
        options: Options | None = None,
        story: Callable[[str], None] | None = None,
    ) -> None:
        self.profile, self.seed = profile, seed
        self.options = options or options_of(profile, seed)
        self.world = World(f"{profile}/{seed}", story)
        founders = [f"n{i}" for i in range(1, self.options.voters + 1)]
        names = founders + [f"s{i}" for i in range(1, self.options.spares + 1)]
        self.processes: dict[str, Process] = {}
        ring, compare = self.options.bounds.ring, self.options.compare
        self.checker = Checker(self.world, self.processes, founders, machines(), ring, compare, NOTIFICATIONS)
        for name in names:
            self.processes[name] = Process(name, founders, self.world, self.options, self.checker, disabled)
        self.network = Network(self.world, self.options, self.processes)
        for process in self.processes.values():
            process.network, process.peers = self.network, self.processes
        self.workload = Workload(self.world, self.options, self.processes, self.checker)
        self.residents: Residents | None = None
        if self.options.residents:
            self.residents = residents = Residents(self.world, self.processes, founders[0], self.checker)
            self.network.admits, self.checker.record = residents.admits, residents.committed
        self.faults = Faults(
            self.world, self.options, self.processes, self.network, self.workload.burst, self.residents
        )
        self._founders = founders

    def begin(self) -> None:
        """Take the engine's clock, let few notifications be kept, and start the founders."""
        logging.getLogger("raftcluster").setLevel(logging.CRITICAL + 1)
        logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)
        seam.use_clock(self.world.read)
        limits.NOTIFICATIONS = NOTIFICATIONS  # type: ignore[misc]
        world = self.world
        world.tell("", f"-- {self.profile}/{self.seed}: {self.options}")
        for name in self._founders:
            world.after(world.random.uniform(0, 0.1), self.processes[name].start)
        self._sweep()

    def run(self) -> Outcome:
        """Carry it out, up to the first violation."""
        world = self.world
        self.begin()
        if self.residents is not None:
            self.residents.begin()
        self.workload.begin()
        self.faults.begin()
        world.run(world.time + self.options.seconds, self._failed)
        healed = self.heal()
        if not self._failed():
            self.checker.sweep()
            self.checker.finish()
        counts = world.counts
        counts["passed"] = self.checker.greylist.passed
        counts["timelines"] = self.checker.time.timelines
        counts["leases"] = self.checker.leases.granted
        counts["published"] = self.checker.notifications.published
        counts["released"] = self.checker.quarantine.delivered
        return Outcome(self.profile, self.seed, self.checker.violations, counts, world.fingerprint, healed)

    def _failed(self) -> bool:
        return bool(self.checker.violations)

    def _sweep(self) -> None:
        self.checker.sweep()
        self.checker.same_tables(self.world.random.choice(list(self.processes.values())))
        self.world.after(self.options.sweep, self._sweep)

    def heal(self) -> float:
        """Liveness: runs apart from the trouble, so that it may ask for more."""
        began = self.world.time
        self.workload.patient = True
        if self.residents is not None:
            self.residents.healed = True
        if self.options.part:
            self._until_healthy(self.faults.heal_in_part(self._founders))
        self.faults.heal()
        self._until_healthy(list(self.processes))
        return self.world.time - began

    def _until_healthy(self, well: list[str]) -> None:
        """Until those have a leader, and all clients their answers."""
        world = self.world
        began = world.time
        for _ in range(3):
            self.workload.operation()
        while not self._failed():
            world.run(world.time + 0.5, self._failed)
            wanting = self._wanting(well)
            if not wanting:
                world.run(world.time + 0.5, self._failed)
                if not self._wanting(well):
                    break
            elif world.time > began + self.options.healed:
                self.checker.violate("liveness", f"{wanting} {self.options.healed} s after the last fault")

    def _wanting(self, well: list[str]) -> str:
        """What these are missing of a healthy cluster; empty when nothing is."""
        if self.residents is not None and (wanting := self.residents.wanting() or self.residents.destroying):
            return "" if wanting is True else str(wanting)
        up = [p.replica for p in self.processes.values() if p.replica is not None and p.name in well]
        leaders = [r for r in up if r.engine.is_leader]
        if not leaders:
            return "no leader " + str([(r.me, r.engine.term, sorted(r.journal.voters())) for r in up])
        leader = max(leaders, key=lambda r: r.engine.term)
        last = leader.journal.last[1]
        for replica in up:
            if replica.me in leader.journal.voters() and (
                not replica.engine.applied == replica.engine.commit_index == replica.journal.last[1] == last
                or replica.engine.leader != leader.me
                or replica.journal.durable_index < last
            ):
                engine = replica.engine
                return (
                    f"{replica.me} has applied {engine.applied}, committed {engine.commit_index}, written "
                    f"{replica.journal.last[1]}, follows {engine.leader}; the leader {leader.me} is at {last}"
                )
        missing = leader.journal.voters() - {r.me for r in up}
        if missing and len(well) == len(self.processes):
            return f"{sorted(missing)} are not up"
        if self.faults.replacing:
            return f"{self.faults.replacing} are not replaced"
        if self.workload.open:
            return f"operations {sorted(self.workload.open)[:5]} have no result"
        return ""


def simulate(
    profile: str, seed: int, disabled: Collection[str] = (), story: Callable[[str], None] | None = None
) -> Outcome:
    """The run of one seed."""
    return Simulation(profile, seed, disabled=disabled, story=story).run()
