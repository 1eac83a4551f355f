"""One node: a replica, its two stores, its clocks, and the duties of whoever drives a replica."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from random import Random
from typing import Final, Protocol

from raftcluster.builtin import all_machines
from raftcluster.engine.ports import Observer, Ports
from raftcluster.engine.replica import Replica
from raftcluster.errors import StorageFailed
from raftcluster.machine import StateMachine
from raftcluster.storage.memory import MemoryDisk
from raftcluster.storage.ports import Chunk, Entry
from tests.simulation.checker import Checker
from tests.simulation.disk import Disk
from tests.simulation.machines import Ledger
from tests.simulation.network import FETCH_FAILS, NEVER, Message, Network
from tests.simulation.profiles import Options
from tests.simulation.world import World

EPOCH_MS: Final = 1.7e12
"""True time 0 as wall clocks show it."""

STRIKES: Final = {"request_vote": 0.1, "response_vote": 0.3, "next_node_idx": 0.01, "append_entries": 0.01}
"""How often a process dies soon after it has sent such a message while its disk is behind."""


def machines() -> list[StateMachine]:
    """What every node of the simulation runs."""
    return [Ledger(), *all_machines()]


class Resident(Protocol):
    """Whoever wants to know of this process's starts and links."""

    def started(self) -> None: ...
    def link_up(self, peer: str) -> None: ...
    def link_down(self, peer: str) -> None: ...


class Process:
    """See the module's text. `up` from `start` to `crash`; each start is one incarnation."""

    def __init__(
        self,
        name: str,
        founders: Sequence[str],
        world: World,
        options: Options,
        checker: Checker,
        disabled: Collection[str],
    ) -> None:
        self.name, self.founders, self.world, self.options, self.checker = name, founders, world, options, checker
        self.network: Network
        self.peers: dict[str, Process] = {}
        self._disabled = disabled
        self.image = MemoryDisk()
        self.mode = world.random.choice(options.disks)
        self.rate = 1.0 + world.random.uniform(-2e-4, 2e-4)
        self.wall_offset = world.random.uniform(-0.5, 0.5)
        self.replica: Replica | None = None
        self.disk: Disk | None = None
        self.incarnation = 0
        self.slow_until = 0.0
        self.paused_until = 0.0
        self.began = 0.0
        """When the work at hand began."""
        self._booted = 0.0
        self._offset = 0.0
        self._step_at = NEVER
        self._post_at = 0.0
        self._posts: deque[tuple[float, Callable[[], None]]] = deque()
        self._striking = False
        self.retired = False
        """It was replaced, or refused: it never comes back."""
        self._has_run = False
        self._wiped = False
        self.resident: Resident | None = None
        """Its part of the cluster's record, in runs that have one."""

    # ---- life

    @property
    def up(self) -> bool:
        return self.replica is not None

    @property
    def awake_at(self) -> float:
        return max(self.world.time, self.paused_until)

    def start(self) -> None:
        if self.up or self.retired:
            return
        world = self.world
        self.incarnation += 1
        self._booted = world.time - world.random.uniform(0, 1000)
        self._offset = world.random.uniform(0, 1000)
        self._step_at = NEVER
        self._post_at = 0.0
        self._posts.clear()
        self._striking = False
        disk = self.disk = Disk(
            world,
            self.image,
            self.mode,
            lambda records: self.checker.submitted(self, records),
            lambda: self.checker.unit(self),
        )
        disk.healing = self.network.healing and self.options.disks_heal
        ports = Ports(
            send=self._send,
            post=partial(self._post, self.incarnation),
            fetch=partial(self._fetch, self.incarnation),
            now=world.read,
            boot=lambda: (world.time - self._booted) * self.rate * 1000,
            wall=self.wall,
            random=Random(world.random.getrandbits(64)),
        )
        self.checker.started(self)
        world.rate, world.offset = self.rate, self._offset
        self.began = world.time
        try:
            self.replica = Replica(
                self.name,
                self.founders,
                machines(),
                disk.log,
                disk.tables,
                ports,
                timing=self.options.timing,
                bounds=self.options.bounds,
                observer=Observer(applied=self._applied, role=self._role, health=self._health),
                disabled=self._disabled,
                has_run=self._has_run,
            )
            if not self._has_run:
                disk.log.block()
                self._has_run = True
        except Exception as error:  # noqa: BLE001 - whatever else it is must not happen
            self.replica = None
            if self._wiped and isinstance(error, StorageFailed):
                world.counts["empty disks refused"] += 1
                world.tell(self.name, f"is refused: {error.message}")
                self.disk, self.retired = None, True
            else:
                self.checker.violate("exception", f"{self.name} cannot start: {error!r}")
            return
        if self._wiped:
            self.checker.violate("empty disk", f"{self.name} takes part again under its old id")
        if self.resident is not None:
            self.resident.started()
        engine = self.replica.engine
        world.tell(self.name, f"starts: term {engine.term}, commit {engine.commit_index}, applied {engine.applied}")
        disk.kick()
        self.checker.after(self)
        self.network.started(self.name)
        self.wake()

    def crash(self, back_after: float | None = None) -> None:
        """Lose what is not durable. With `back_after`, start again so many seconds later."""
        if self.disk is None or not self.up:
            return
        self.world.counts["crashes"] += 1
        self.world.tell(self.name, "crashes")
        self.replica = None
        self.disk.crash()
        self.disk = None
        self.checker.unit(self)
        self.checker.crashed(self)
        self.network.gone(self.name)
        self.paused_until = 0.0
        if back_after is not None:
            self.world.after(back_after, self.start)

    def retire(self) -> None:
        """Stop for good."""
        self.crash()
        self.retired = True

    def wipe(self, back_after: float) -> None:
        """Stop, lose both stores, and try to come back under the old id."""
        self.crash(back_after)
        self.checker.wiped(self)
        self.image = MemoryDisk()
        self._wiped = True

    def strike(self) -> None:
        """Crash within a moment, and be back at once: before the disk has caught up with what was said."""
        if self._striking:
            return
        random, incarnation = self.world.random, self.incarnation
        self._striking = True

        def fall() -> None:
            if self.up and self.incarnation == incarnation:
                self.world.counts["strikes"] += 1
                self.crash(random.uniform(0.02, 0.1))

        self.world.after(random.choice((0.001, 0.02, 0.1)) * random.random() + 1e-4, fall)

    # ---- driving the replica

    def run(self, work: Callable[[], object]) -> None:
        """Let the process do something, then look at what it did. Whatever it raises stops it (fail-stop)."""
        if self.replica is None or self.disk is None:
            return
        world = self.world
        world.rate, world.offset = self.rate, self._offset
        self.began = world.time
        try:
            work()
        except StorageFailed as error:
            if "failed" not in (self.disk.log.health, self.disk.tables.health):
                self.checker.violate("exception", f"{self.name} stops: {error!r}, and its disk is well")
            world.counts["stopped by their disk"] += 1
            self.crash(world.random.uniform(0.5, 3.0))
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not happen
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = "" if trace is None else f" at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
            self.checker.violate("exception", f"{self.name} stops: {error!r}{where}")
            self.crash(1.0)
            return
        self.checker.after(self)
        self.disk.kick()

    def wake(self) -> None:
        """Something happened: step soon."""
        world = self.world
        self._step_within(
            world.random.uniform(0.1, 1.0) if self.slow_until > world.time else world.random.uniform(0, 0.003)
        )

    def _step_within(self, seconds: float) -> None:
        when = self.world.time + seconds
        if when < self._step_at:
            self._step_at = when
            self.world.at(when, partial(self._step, self.incarnation, when))

    def _step(self, incarnation: int, when: float) -> None:
        if incarnation != self.incarnation or self._step_at != when or self.replica is None:
            return
        self._step_at = NEVER
        if self.paused_until > self.world.time:
            self._step_within(self.paused_until - self.world.time)
            return
        self.run(self.replica.step)
        if self.up:
            random = self.world.random
            slow = self.slow_until > self.world.time
            seconds = random.uniform(0.1, 1.0) if slow else random.uniform(0.02, 0.05)
            self._step_within(seconds * self.options.stretch)

    def _post(self, incarnation: int, work: Callable[[], None]) -> None:
        """From a storage thread: in order, and maybe a moment later."""
        if incarnation == self.incarnation:
            random, now = self.world.random, self.world.time
            self._post_at = max(self._post_at, now + (0.0 if random.random() < 0.5 else random.uniform(0, 0.03)))
            self._posts.append((self._post_at, work))
            self.world.at(self._post_at, partial(self._take_posts, incarnation))

    def _take_posts(self, incarnation: int) -> None:
        if self.paused_until > self.world.time:
            self.world.at(self.paused_until, partial(self._take_posts, incarnation))
            return
        while incarnation == self.incarnation and self.up and self._posts and self._posts[0][0] <= self.world.time:
            self.run(self._posts.popleft()[1])
            self.wake()

    # ---- network

    def link_up(self, peer: str) -> None:
        if self.replica is not None:
            if self.resident is not None:
                self.resident.link_up(peer)
            self.run(partial(self.replica.link_up, peer))
            self.wake()

    def link_down(self, peer: str) -> None:
        if self.replica is not None:
            if self.resident is not None:
                self.resident.link_down(peer)
            self.run(partial(self.replica.link_down, peer))
            self.wake()

    def receive(self, peer: str, message: Message, note: object) -> None:
        if self.replica is not None:
            self.checker.receives(self, peer, message, note)
            self.run(partial(self.replica.deliver, peer, message))
            self.wake()

    def _send(self, peer: str, message: Message) -> bool:
        sent = self.network.send(self.name, peer, message, self.checker.sends(self, peer, message))
        if self.options.strikes and sent and self.replica is not None and not self.network.healing:
            journal = self.replica.journal
            chance = STRIKES.get(message["type"])
            if chance is not None and journal.ticket > journal.done and self.world.chance(chance):
                self.strike()
        return sent

    def _fetch(self, incarnation: int, peer: str) -> None:
        """A snapshot over a connection of its own: it may not come about, break, or arrive late."""
        world, random = self.world, self.world.random

        def here() -> bool:
            return self.up and self.incarnation == incarnation

        def finish(installed: bool) -> None:
            if here() and self.replica is not None:
                world.counts["snapshots"] += installed
                world.tell(self.name, f"snapshot of {peer}: {'installed' if installed else 'not installed'}")
                self._post(incarnation, partial(self.replica.snapshot_done, installed))
                if installed and self.options.strikes and world.chance(0.2):
                    self.strike()

        def begin() -> None:
            other = self.peers[peer]
            if not here():
                return
            if other.disk is None or not self.network.reachable(self.name, peer) or world.chance(FETCH_FAILS):
                finish(False)
                return
            snapshot = other.disk.tables.snapshot()
            if snapshot is None:
                finish(False)
                return
            chunks: list[Chunk] = list(snapshot.chunks)
            broken = not self.network.healing and world.chance(0.1)
            world.counts["broken snapshots"] += broken

            def arrive() -> None:
                if here() and self.disk is not None:
                    self.disk.tables.install(snapshot.index, snapshot.anchor, _stream(chunks, broken), finish)
                    self.disk.kick()
                    if self.options.strikes and world.chance(0.2):
                        self.strike()

            world.after(random.uniform(0.005, 0.05 if self.network.healing else 1.0), arrive)

        world.after(random.uniform(0.005, 0.05 if self.network.healing else 0.5), begin)

    # ---- what the replica tells

    def _applied(self, entry: Entry, touched: Collection[str]) -> None:
        if self.replica is not None:
            self.checker.applied(self, entry)

    def _role(self) -> None:
        if self.replica is not None:
            self.checker.role(self)

    def _health(self, health: str, detail: str) -> None:
        self.world.tell(self.name, f"disk {health}: {detail}")
        if health == "failed":
            self.world.after(0.0, partial(self._stop, self.incarnation))

    def _stop(self, incarnation: int) -> None:
        if self.incarnation == incarnation:
            self.crash(self.world.random.uniform(0.1, 1.0))

    # ---- clocks

    def wall(self) -> float:
        """This host's wall clock in milliseconds."""
        return self.world.time * 1000 * self.rate + EPOCH_MS + self.wall_offset * 1000


def _stream(chunks: Sequence[Chunk], broken: bool) -> Iterator[Chunk]:
    """What arrives of a snapshot."""
    if broken:
        yield from chunks[: len(chunks) // 2]
        raise ConnectionError("the stream broke")
    yield from chunks
