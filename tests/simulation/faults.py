"""What goes wrong, and the administrator who changes things meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from raftcluster.engine.membership import Change
from tests.simulation.network import Network
from tests.simulation.process import Process
from tests.simulation.profiles import Options
from tests.simulation.replacement import Replacement
from tests.simulation.residents import Residents
from tests.simulation.world import World

DAY: Final = 86_400.0

KINDS: Final = (
    "partitions",
    "leaders cut off",
    "links cut",
    "links cut one way",
    "resets",
    "second connections",
    "stale messages",
    "changes of delay",
    "crashes",
    "leader crashes",
    "strikes",
    "power cuts",
    "lost tails",
    "torn writes",
    "slow writes",
    "slow processes",
    "pauses",
    "slow processors",
    "full disks",
    "failed disks",
    "stopped by their disk",
    "clock jumps",
    "leadership transfers",
    "voters added",
    "voters removed",
    "replacements",
    "empty disks refused",
    "snapshots",
    "broken snapshots",
    "truncations",
    "runs with 7 voters",
    "runs healed in part",
)
"""What is counted when it has come about, not when it was tried. A run over every profile in which one has not is no run."""


class Faults:
    """Lets something happen now and then, as the options say; `heal` ends it all."""

    def __init__(
        self,
        world: World,
        options: Options,
        processes: Mapping[str, Process],
        network: Network,
        burst: Callable[[Process], None],
        residents: Residents | None = None,
    ) -> None:
        self._world, self._options, self._processes, self._network = world, options, processes, network
        self._burst, self._residents = burst, residents
        self._over = False
        self._names = list(processes)
        self._replacements: list[Replacement] = []

    def begin(self) -> None:
        self._world.counts["runs with 7 voters"] += self._options.voters == 7
        self._world.after(1.0, self._next)
        if self._options.wall_jumps:
            self._jump()

    def _next(self) -> None:
        if not self._over:
            kind = self._world.random.choice(self._options.faults)
            self._world.counts["faults"] += 1
            self._world.tell("", f"-- {kind}")
            getattr(self, "_" + kind.replace(" ", "_"))()
            self._world.after(self._world.random.expovariate(self._options.faults_per_second), self._next)

    def heal(self) -> None:
        """From now on nothing goes wrong any more, and everybody is there."""
        self._over = True
        self._world.tell("", "-- healing")
        if self._residents is not None and self._options.destroyed:
            self._residents.destroy()
        self._network.healing = True
        self._network.delays = "lan"
        self._world.read_seconds = 1e-6
        self._network.unblock()
        for process in self._processes.values():
            process.slow_until = process.paused_until = 0.0
            process.wake()
            if process.disk is not None:
                process.disk.healing = self._options.disks_heal
                process.disk.empty()
                process.disk.kick()
            elif process.incarnation:
                self._world.after(0.1, process.start)

    def heal_in_part(self, voters: list[str]) -> list[str]:
        """A majority of the voters is well from now on; the others are gone, or cut off in one direction or both. Returns
        those who are well."""
        random, network = self._world.random, self._network
        well = sorted(random.sample(voters, len(voters) // 2 + 1))
        self._world.counts["runs healed in part"] += 1
        self.heal()
        self._world.tell("", f"-- only {well}")
        for name in sorted(set(self._names) - set(well)):
            how = random.choice(("gone", "cut off", "deaf", "dumb"))
            if how == "gone":
                self._processes[name].crash()  # and cut off: it may be about to start again
            for other in self._names:
                if other != name and how in ("gone", "cut off", "deaf"):
                    network.block(other, name)
                if other != name and how in ("gone", "cut off", "dumb"):
                    network.block(name, other)
        return well

    @property
    def replacing(self) -> list[str]:
        """Members whose replacement has not come about yet."""
        return [each.going.name for each in self._replacements if not each.done]

    # ---- who

    def _up(self) -> list[Process]:
        return [p for p in self._processes.values() if p.up]

    def _leader(self) -> Process | None:
        leaders = [p for p in self._up() if p.replica is not None and p.replica.engine.is_leader]
        return self._world.random.choice(leaders) if leaders else None

    def _back(self) -> float:
        return self._options.stretch * self._world.random.choice((0.05, self._world.random.uniform(0.05, 3.0)))

    # ---- the network

    def _count(self, kind: str) -> None:
        self._world.counts[kind] += 1

    def _cut(self, group: list[str]) -> None:
        for one in self._names:
            for other in self._names:
                if one != other and (one in group) != (other in group):
                    self._network.block(one, other)
        self._lift_later()

    def _lift_later(self) -> None:
        random = self._world.random
        seconds = random.choice((random.uniform(0.1, 1.5), random.uniform(0.5, 5.0)))
        self._world.after(self._options.stretch * seconds, self._lift)

    def _lift(self) -> None:
        if not self._over:  # what is cut then is cut by `heal_in_part`
            self._world.tell("", "-- partitions end")
            self._network.unblock()

    def _cut_off(self) -> None:
        if len(self._names) > 1:
            self._count("partitions")
            self._cut(self._world.random.sample(self._names, self._world.random.randint(1, len(self._names) // 2)))

    def _cut_off_the_leader(self) -> None:
        leader = self._leader()
        if leader is not None:
            group = {leader.name}
            if len(self._names) > 3 and self._world.chance(0.5):
                group.add(self._world.random.choice(self._names))
            self._burst(leader)
            self._count("leaders cut off")
            self._cut(sorted(group))

    def _cut_one_link(self) -> None:
        if len(self._names) > 1:
            self._count("links cut")
            one, other = self._world.random.sample(self._names, 2)
            self._network.block(one, other)
            self._network.block(other, one)
            self._lift_later()

    def _cut_one_way(self) -> None:
        if len(self._names) > 1:
            self._count("links cut one way")
            self._network.block(*self._world.random.sample(self._names, 2))
            self._lift_later()

    def _reset(self) -> None:
        self._network.reset(self._world.chance(0.6))

    def _second_connection(self) -> None:
        self._network.second()

    def _delays(self) -> None:
        self._count("changes of delay")
        self._network.delays = self._world.random.choice(("lan", "jitter", "wan"))

    # ---- processes

    def _crash(self) -> None:
        up = self._up()
        if up:
            self._world.random.choice(up).crash(self._back())

    def _crash_the_leader(self) -> None:
        leader = self._leader()
        if leader is not None:
            self._count("leader crashes")
            leader.crash(self._back())

    def _strike(self) -> None:
        up = self._up()
        if up:
            self._world.random.choice(up).strike()

    def _power(self) -> None:
        """All at once."""
        self._count("power cuts")
        for process in self._up():
            process.crash(self._back())

    def _slow(self) -> None:
        process = self._processes[self._world.random.choice(self._names)]
        self._count("slow processes")
        process.slow_until = self._world.time + self._options.stretch * self._world.random.uniform(0.5, 4.0)

    def _pause(self) -> None:
        process = self._processes[self._world.random.choice(self._names)]
        self._count("pauses")
        process.paused_until = self._world.time + self._options.stretch * self._world.random.uniform(0.2, 3.0)

    def _slow_processor(self) -> None:
        self._count("slow processors")
        self._world.read_seconds = self._world.random.choice((1e-6, 1e-6, 0.001, 0.004))

    # ---- disks and clocks

    def _full_disk(self) -> None:
        up = [p for p in self._up() if p.disk is not None]
        if up:
            process = self._world.random.choice(up)
            incarnation, disk = process.incarnation, process.disk
            assert disk is not None
            self._count("full disks")
            disk.fill()

            def empty() -> None:
                if process.incarnation == incarnation and process.up:
                    disk.empty()

            self._world.after(self._world.random.uniform(0.2, 4.0), empty)

    def _failed_disk(self) -> None:
        up = [p for p in self._up() if p.disk is not None]
        if up:
            disk = self._world.random.choice(up).disk
            assert disk is not None
            self._count("failed disks")
            disk.fail()

    def _jump(self) -> None:
        """A minority of wall clocks goes wrong; the others are about right."""
        if self._over:
            return
        random, founders = self._world.random, [p for p in self._processes.values() if p.name[0] == "n"]
        for process in self._processes.values():
            process.wall_offset = random.uniform(-0.5, 0.5)
        for process in random.sample(founders, random.randint(0, (len(founders) - 1) // 2)):
            self._count("clock jumps")
            process.wall_offset = random.choice((-DAY, DAY, 30.0, -30.0))
        self._world.after(random.uniform(1.0, 8.0), self._jump)

    # ---- the administrator

    def _admit(self) -> None:
        if self._residents is not None:
            self._residents.admit()

    def _remove(self) -> None:
        if self._residents is not None:
            self._residents.remove()

    def _rotate(self) -> None:
        if self._residents is not None:
            self._residents.command(["rotate", "x", [], self._world.chance(0.3)])

    def _transfer(self) -> None:
        leader = self._leader()
        if leader is not None and leader.replica is not None:
            target = self._world.random.choice((None, *self._names))
            leader.run(partial(leader.replica.leadership.transfer, target))
            leader.wake()

    def _membership(self) -> None:
        """Add somebody who is no voter, or remove a voter."""
        random, leader = self._world.random, self._leader()
        if leader is None or leader.replica is None:
            return
        voters = leader.replica.journal.voters()
        absent = [n for n in self._names if n not in voters]
        removable = sorted(voters - {leader.name})
        if absent and (not removable or len(voters) <= self._options.least_voters or random.random() < 0.5):
            self._add(random.choice(absent), 1 if random.random() < 0.2 else 20)
        elif len(voters) > self._options.least_voters and removable:
            if random.random() < 0.2:  # the leader itself: hand over first, then the successor removes it
                leader.run(partial(leader.replica.leadership.transfer, None))
                self._world.after(random.uniform(0.2, 1.0), partial(self._change, Change("rem", leader.name)))
            else:
                self._change(Change("rem", random.choice(removable)))

    def _newcomer(self) -> Process | None:
        """Somebody who has never been here, unless a replacement is under way already."""
        new = [p for p in self._processes.values() if not p.incarnation and p.name[0] == "s"]
        return new[0] if new and not self.replacing else None

    def _replace(self) -> None:
        """Another host takes a voter's seat, be that well, down or the leader."""
        leader, newcomer = self._leader(), self._newcomer()
        if leader is not None and leader.replica is not None and newcomer is not None:
            going = self._world.random.choice(sorted(leader.replica.journal.voters()))
            self._replacements.append(Replacement(self._world, self._processes[going], newcomer, self._leader))

    def _empty_disk(self) -> None:
        """A voter loses its stores. It must not come back as if nothing had been; another host takes its seat."""
        leader, newcomer = self._leader(), self._newcomer()
        if leader is not None and leader.replica is not None and newcomer is not None:
            voters = leader.replica.journal.voters()
            process = self._world.random.choice([p for p in self._up() if p.name in voters])
            process.wipe(self._back())
            self._replacements.append(Replacement(self._world, process, newcomer, self._leader))

    def _add(self, name: str, patience: int) -> None:
        """Start it as a learner, wait until it has caught up, make it a voter. Little patience is no harm."""
        process = self._processes[name]
        if not process.incarnation:
            process.start()
        leader = self._leader()
        if self._over or patience == 0:
            return
        if leader is not None and leader.replica is not None and (patience == 1 or leader.replica.caught_up(name)):
            self._change(Change("add", name))
        else:
            self._world.after(0.2, partial(self._add, name, patience - 1))

    def _change(self, change: Change) -> None:
        leader = self._leader()
        if leader is None or leader.replica is None or self._over:
            return
        replica, counts = leader.replica, self._world.counts
        if change.action == "rem" and len(replica.journal.voters()) <= self._options.least_voters:
            return

        def done(committed: bool) -> None:
            counts["member changes lost"] += not committed
            if committed:
                counts["voters added" if change.action == "add" else "voters removed"] += 1

        leader.run(lambda: self._world.tell(leader.name, f"{change}: {replica.change_voters(change, done)}"))
        leader.wake()
