"""The disk of a process: a log writer and a checkpoint thread that take their time, and what a crash leaves of it.

The writer takes all tickets that wait into one transaction, as the real one does; they become durable after the disk's
delay, and the process hears of it later still, through its own queue. A crash keeps any prefix of the records and units
that wait: a power loss in the middle of a write.

Modes, by what a write of the log takes: `fast` up to 5 ms; `mixed` mostly up to 0.2 s, rarely up to 2 s; `slow` the same,
often up to 2 s; `crawl` 0.05 to 0.4 s always; `second` about a second always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raftcluster.storage.memory import MemoryDisk, MemoryLog, MemoryTables
from raftcluster.storage.ports import Record
from tests.simulation.world import World


class WatchedLog(MemoryLog):
    """A log whose records somebody sees as they are submitted."""

    def __init__(self, disk: MemoryDisk, watch: Callable[[Sequence[Record]], None], wait: Callable[[], None]) -> None:
        super().__init__(disk)
        self._watch, self._wait = watch, wait

    def submit(self, records: Sequence[Record]) -> int:
        self._watch(records)
        return super().submit(records)

    def block(self) -> int:
        self._wait()
        return super().block()


class Disk:
    """Both stores of one process and their two threads."""

    def __init__(
        self,
        world: World,
        image: MemoryDisk,
        mode: str,
        watch: Callable[[Sequence[Record]], None],
        unit: Callable[[], None],
    ) -> None:
        self._world, self._image, self._mode, self._unit = world, image, mode, unit
        self.log = WatchedLog(image, watch, self._block)
        self.tables = MemoryTables(image)
        self.healing = False
        self._logging = False
        self._saving = False

    def kick(self) -> None:
        """Begin to write what waits."""
        log, tables = self.log, self.tables
        if not self._logging and log.ticket > log.durable and log.health == "ok":
            self._logging = True
            ticket = log.ticket
            self._world.after(self._log_seconds(), lambda: self._logged(ticket))
        if not self._saving and tables.units and tables.health == "ok":
            self._saving = True
            self._world.after(self._unit_seconds(), self._saved)

    def _logged(self, ticket: int) -> None:
        self._logging = False
        if not self.log.closed:
            self.log.complete(ticket)
            self.kick()

    def _saved(self) -> None:
        self._saving = False
        if not self.tables.closed and self.tables.units:
            self.tables.write(1)
            self._unit()
            self.tables.notify()
            self.kick()

    def _block(self) -> None:
        if self.log.health == "ok":
            self._world.time += self._log_seconds()

    def crash(self) -> None:
        """Power loss, in the middle of whatever was being written."""
        random = self._world.random
        records, units = self.log.records, self.tables.units
        kept = random.choice((0, random.randint(0, records), records))
        self._world.counts["lost tails"] += kept < records
        self._world.counts["torn writes"] += 0 < kept < records
        self._image.crash(kept, random.choice((0, random.randint(0, units), units)))

    def fail(self) -> None:
        """A write of one of the stores fails, for good; what was in it may be there or not."""
        if self._world.chance(0.3):
            self.tables.fail()
        else:
            self.log.write(self._world.random.randint(0, self.log.records))
            self.log.fail()

    def fill(self) -> None:
        self.log.fill()
        self.tables.fill()

    def empty(self) -> None:
        self.log.empty()
        self.tables.empty()
        self.kick()

    def _log_seconds(self) -> float:
        seconds = self._seconds()
        self._world.counts["slow writes"] += seconds > 0.5
        return seconds

    def _seconds(self) -> float:
        random = self._world.random
        if self.healing:
            return random.uniform(0.0001, 0.01)
        if self._mode == "fast":
            return random.uniform(0.0001, 0.005)
        if self._mode == "second":
            return random.uniform(0.7, 1.3)
        if self._mode == "crawl":
            return random.uniform(0.05, 0.4)
        if random.random() < (0.15 if self._mode == "slow" else 0.01):
            return random.uniform(0.5, 2.0)
        return float(10 ** random.uniform(-4, -0.7))

    def _unit_seconds(self) -> float:
        random = self._world.random
        if self.healing:
            return random.uniform(0.001, 0.05)
        return random.uniform(0.5, 2.0) if random.random() < 0.05 else float(10 ** random.uniform(-3, -0.3))
