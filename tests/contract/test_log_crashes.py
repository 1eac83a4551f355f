"""The log's files when the process ends in the middle of any call, or the power goes, or the disk is full or broken, over and over.

However often: an opened log is what some beginning of what was submitted comes to, and nothing is missing that was durable once --
reported, or read by an earlier opening. `RAFTCLUSTER_LOG_LIVES` sets how many directories are tried, each in ten processes or so.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random, SystemRandom

import pytest

from raftcluster import limits
from raftcluster.errors import StorageFailed, StorageFull
from raftcluster.storage import log
from raftcluster.storage.log import LogStore
from raftcluster.storage.ports import LogImage, Record
from tests.contract.disk import Disk, Ended
from tests.contract.models import LogModel
from tests.helpers import memory

LIVES = int(os.environ.get("RAFTCLUSTER_LOG_LIVES", "100"))
PROCESSES = 10
SEGMENTS = ((1_024, 4_096), (2_048, 2_048), (6_000, 20_000))
SIZES = (0, 10, 100, 500, 3_000)


class Threads:
    """The log's threads: the writer is called by the test, what fills the next segment runs at some moment that it may."""

    Condition, Event, Lock = threading.Condition, threading.Event, threading.Lock

    def __init__(self) -> None:
        self.ahead: list[Thread] = []

    def Thread(self, target: Callable[[], None], name: str, daemon: bool) -> Thread:  # noqa: N802 - as in threading
        made = Thread(target)
        if name.endswith("ahead"):
            self.ahead.append(made)
        return made


class Thread:
    def __init__(self, target: Callable[[], None]) -> None:
        self._target: Callable[[], None] | None = target

    def start(self) -> None:
        """It has not got its turn yet."""

    def join(self) -> None:
        target, self._target = self._target, None
        if target is not None:
            target()


class Life:
    """One directory, through several processes."""

    def __init__(self, folder: Path, seed: int, patch: pytest.MonkeyPatch, grains: tuple[int, ...]) -> None:
        self._chance = Random(seed)
        self.disk = Disk(folder, self._chance)
        self.disk.grains = grains
        self._threads = Threads()
        patch.setattr(log, "threading", self._threads)
        self.disk.install(patch)
        self._durable = LogModel()
        """What must be there."""
        self._submitted: list[Sequence[Record]] = []
        """What may be there, a ticket each, behind that."""
        self.opened = 0

    def live(self) -> None:
        for _ in range(PROCESSES):
            self.disk.left = self._chance.choice((-1, self._chance.randint(1, 8), self._chance.randint(1, 60)))
            if self._chance.random() < 0.3:
                self.disk.mood = self._chance.choice(("full", "full", "broken", "crowded"))
            try:
                self._process()
            except Ended:
                pass
            self._threads.ahead.clear()
            self.disk.end(power=self._chance.random() < 0.5)
        self._process(busy=False)

    def _process(self, *, busy: bool = True) -> None:
        mood, self.disk.mood = self.disk.mood, self._chance.choice(("well", self.disk.mood))
        try:
            store = LogStore(self.disk.folder)
        except (StorageFull, StorageFailed) as error:
            if self.disk.mood == "well" or "corrupt" in str(error):
                raise
            return
        self.opened += 1
        self.disk.mood = mood
        self._found(store.load())
        if busy:
            self._work(store)
        store.close()

    def _found(self, image: LogImage) -> None:
        model = self._durable
        while model.image() != image:
            assert self._submitted, f"{told(image)} is no state behind {told(self._durable.image())}"
            if model is self._durable:
                model = deepcopy(model)
            model.apply(self._submitted.pop(0))
        self._durable, self._submitted = model, []

    def _work(self, store: LogStore) -> None:
        chance = self._chance
        waiting: list[tuple[int, Sequence[Record]]] = []
        newest, ticket = deepcopy(self._durable), 0
        for _ in range(chance.randint(1, 25)):
            for _ in range(chance.choice((1, 1, 2, 5))):
                records = some(chance, newest)
                newest.apply(records)
                ticket += 1
                self._submitted.append(records)
                waiting.append((ticket, records))
            if self._threads.ahead and chance.random() < 0.5:
                self._threads.ahead.pop().join()
            store._attempt(waiting)
            if store.health == "failed":
                assert self.disk.mood == "broken", store._refused
                break
            if not waiting:
                self._durable, self._submitted = deepcopy(newest), []
            if chance.random() < 0.1:
                assert store._read() == self._durable.image()
            if chance.random() < 0.1:
                self.disk.mood = "broken" if self.disk.mood == "broken" else "well"


def some(chance: Random, model: LogModel) -> list[Record]:
    """A ticket's records, odd ones among them, which follow those of `model`."""
    model = deepcopy(model)
    records: list[Record] = []
    for _ in range(chance.randint(0, 4)):
        first, last = min(model.entries, default=0), max(model.entries, default=0)
        what = chance.random()
        record: Record
        if what < 0.60:
            index = last + 1 if last else chance.choice((1, model.commit + 1, chance.randint(1, 90)))
            record = ("append", chance.randbytes(chance.choice(SIZES)), index, chance.randint(1, 300))
        elif what < 0.72:
            record = ("vote", model.term + chance.randint(0, 1), chance.choice((None, "a", "node-b")))
        elif what < 0.80:
            record = (
                "truncate",
                chance.randint(first, last + 1) if chance.random() < 0.8 else chance.choice((0, last + 9)),
            )
        elif what < 0.90:
            record = ("cut", chance.randint(first, last) if chance.random() < 0.8 else chance.choice((0, last + 9)))
        elif what < 0.92:
            record = ("reset",)
        else:
            record = ("commit", chance.choice((last, 256 * last)))
        records.append(record)
        model.apply([record])
    return records


def told(image: LogImage) -> str:
    return f"{[(len(entry[0]), *entry[1:]) for entry in image.entries]} term {image.term} vote {image.vote} commit {image.commit}"


def lives(seeds: Sequence[int], grains: tuple[int, ...]) -> tuple[int, int]:
    """How often a process ended in the middle of a call, and how often the log was opened."""
    ends = opened = 0
    for seed in seeds:
        first, most = SEGMENTS[seed % len(SEGMENTS)]
        with tempfile.TemporaryDirectory(dir=memory()) as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "FIRST_SEGMENT_BYTES", first)
            patch.setattr(limits, "SEGMENT_BYTES", most)
            life = Life(Path(folder), seed, patch, grains)
            try:
                life.live()
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
            finally:
                life.disk.end(power=False)
        ends, opened = ends + life.disk.ends, opened + life.opened
    return ends, opened


def test_nothing_that_was_durable_is_missing_however_the_process_ends() -> None:
    start = SystemRandom().randrange(2**32)
    ends, opened = lives(range(start, start + LIVES), (512, 4096))
    print(f"{ends} processes ended in the middle of a call, {opened} logs were opened")
    assert ends > LIVES and opened > LIVES
