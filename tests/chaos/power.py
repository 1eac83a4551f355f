"""Power loss: three writing nodes, each on a volume that forgets what was not synced; some or all lose their power.

A round: all write; at a chosen moment -- a failpoint in one of them, or after some acknowledgements -- the power goes at a
chosen set of nodes, in a chosen manner; they come back, and everything acknowledged must be there, counted once, with equal
tables on all nodes; over all rounds nobody may have voted twice in a term, and no term may have had two leaders.

`lying` is the proof that this can fail: volumes that only say that they have synced, and a check that must see the loss.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.chaos.volumes import FaultyVolume
from tests.crashes import deaths
from tests.crashes.account import LOST
from tests.crashes.cluster import ANSWER_SECONDS, SMALL, Cluster
from tests.helpers import eventually

NODES = 3
BEFORE = (20, 250)
"""Acknowledgements of each node before the cut, at least and at most."""
AFTER = 5
"""And of each survivor that has a majority, after it."""
FILES = 5
"""So many files, at least, does a node write while certificates are replaced."""
SUBSETS = [each for size in range(1, NODES + 1) for each in combinations(range(NODES), size)]
MANNERS: tuple[str | int, ...] = ("all", "loss", 512, 4096)
"""What is lost: see `disk`."""
LOSSES = ("writes lost", "writes torn", "names lost")
PATIENCE = 5

Death = Callable[[Cluster, int, str, int], int | None]


class Moment(NamedTuple):
    """When the power goes."""

    name: str
    work: Death | None = None
    failpoints: tuple[str, ...] = ()
    times: int = 1
    """The greatest number of times that the failpoint is reached by then."""


MOMENTS = (
    Moment("while writing"),
    Moment("log commit", deaths.write, ("log.commit.before", "log.commit.after", "log.durable"), 5),
    Moment("checkpoint", deaths.write, ("tables.commit.before", "tables.commit.after"), 3),
    Moment("log segment", deaths.write, ("log.segment.before", "log.segment.after"), 5),
    Moment("log compaction", deaths.write, ("log.cut",), 3),
    Moment("election", deaths.campaign, ("vote.persist.before", "vote.persist.after")),
    Moment("snapshot install", deaths.receive, ("snapshot.install.before", "snapshot.install.after", "log.reset")),
    Moment("certificate switch", deaths.rotate, ("file.rename.before", "file.rename.after"), FILES),
)


@dataclass
class Outcome:
    """What a run has done and found."""

    seed: int
    rounds: int = 0
    acknowledged: int = 0
    votes: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Counts of the volumes, of each of `LOSSES`."""
    moments: Counter[str] = field(default_factory=Counter)
    subsets: Counter[int] = field(default_factory=Counter)
    """By the number of nodes."""
    problems: list[str] = field(default_factory=list)

    def told(self) -> Iterator[str]:
        yield f"power: seed {self.seed}: {self.rounds} cuts, {self.acknowledged} checks acknowledged, {self.votes} votes heard of"
        yield "power: " + ", ".join(f"{count} {name}" for name, count in sorted(self.lost.items()))
        yield "power: cuts " + ", ".join(f"at {name}: {count}" for name, count in sorted(self.moments.items()))
        yield "power: cuts of " + ", ".join(f"{size} nodes: {count}" for size, count in sorted(self.subsets.items()))

    def shortcomings(self) -> list[str]:
        """Why a run without problems still proves too little."""
        found = [f"nothing was cut at: {each.name}" for each in MOMENTS if not self.moments[each.name]]
        found += [f"the disks have no {each}" for each in LOSSES if not self.lost[each]]
        return found


class Plant:
    """The cluster, its volumes, and the switch. Use as a context manager; root only."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._stack = ExitStack()
        self.random = Random(f"power {seed}")
        self._directory, self._seed = directory, seed
        self.volumes: list[FaultyVolume] = []

    def __enter__(self) -> Plant:
        with ExitStack() as starting:
            for number in range(NODES):
                volume = FaultyVolume(self._directory / f"disk{number}", self._seed + number)
                starting.callback(volume.close)
                self.volumes.append(volume)
            places = [volume.path for volume in self.volumes]
            made = Cluster(self._directory, self._seed, places=places, options=SMALL, histories=True)
            self.cluster = starting.enter_context(made)
            self.cluster.found()
            self._stack = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut(self, numbers: tuple[int, ...], manner: str | int) -> None:
        """These nodes lose their power."""
        self.cluster.crash(numbers)
        for number in numbers:
            self.volumes[number].lose_power(manner)

    def round(self, numbers: tuple[int, ...], moment: Moment, manner: str | int) -> list[str]:
        """One round; what is wrong after it."""
        cluster = self.cluster
        cluster.write()
        for number in range(NODES):
            cluster.acknowledged(number, self.random.randint(*BEFORE))
        owing: int | None = None
        if moment.work is not None:
            victim, failpoint = self.random.choice(numbers), self.random.choice(moment.failpoints)
            owing = moment.work(cluster, victim, failpoint, self.random.randint(1, moment.times))
        self.cut(numbers, manner)
        if owing is not None and owing in cluster.nodes:
            cluster.forgive(owing)
        if 2 * len(cluster.nodes) > NODES:
            for number in sorted(cluster.writing):
                cluster.acknowledged(number, AFTER)
            cluster.stop()  # such a short log is cut faster than a snapshot comes as long as they write
        cluster.start(set(range(NODES)) - set(cluster.nodes))
        cluster.stop()
        eventually(cluster.settled, ANSWER_SECONDS, "all agree")
        return cluster.check()

    def lost(self) -> Counter[str]:
        """What all volumes have lost so far."""
        total: Counter[str] = Counter()
        for volume in self.volumes:
            total.update(volume.command())
        return Counter({name: total[name] for name in LOSSES})


def rounds(random: Random) -> Iterator[tuple[tuple[int, ...], Moment, str | int]]:
    """Every moment once, and every set of nodes at least once, in each eight rounds."""
    more = len(MOMENTS) - len(SUBSETS)
    while True:
        sets, moments = (
            random.sample([*SUBSETS, *random.choices(SUBSETS, k=more)], len(MOMENTS)),
            random.sample(MOMENTS, len(MOMENTS)),
        )
        yield from ((numbers, moment, random.choice(MANNERS)) for numbers, moment in zip(sets, moments, strict=True))


def run(directory: Path, seed: int, seconds: float, tell: Callable[[str], None] = lambda text: None) -> Outcome:
    """As many rounds as begin within so many seconds, and at least until every moment and every kind of loss was there once; of
    the kinds, which are at random, at most `PATIENCE` times as many as there are moments."""
    outcome = Outcome(seed)
    end = time.monotonic() + seconds
    with Plant(directory, seed) as plant:
        for numbers, moment, manner in rounds(plant.random):
            if outcome.rounds >= len(MOMENTS) and time.monotonic() >= end:
                outcome.lost = plant.lost()
                if not outcome.shortcomings() or outcome.rounds >= PATIENCE * len(MOMENTS):
                    break
            began = time.monotonic()
            found = plant.round(numbers, moment, manner)
            outcome.rounds += 1
            outcome.moments[moment.name] += 1
            outcome.subsets[len(numbers)] += 1
            names = " and ".join(f"node{number}" for number in numbers)
            tell(f"  {names} at {moment.name}, losing {manner}: {time.monotonic() - began:.1f} s")
            outcome.problems += [f"cut {outcome.rounds}, {names} at {moment.name}: {text}" for text in found]
        outcome.problems += plant.cluster.votes()
        outcome.votes = plant.cluster.votes_seen()
        outcome.acknowledged = plant.cluster.account.total
        outcome.lost = plant.lost()
    return outcome


def lying(directory: Path, seed: int) -> list[str]:
    """What the checks find when all disks lie from some moment on and then lose their power: they must find a loss."""
    with Plant(directory, seed) as plant:
        cluster = plant.cluster
        cluster.write()
        for volume in plant.volumes:
            volume.command(lie=True)
        for number in range(NODES):
            cluster.acknowledged(number, BEFORE[1])
        plant.cut(tuple(range(NODES)), "all")
        for volume in plant.volumes:
            volume.command()
        cluster.start(range(NODES))
        read = partial(cluster.read, plant.random.randrange(NODES))
        return cluster.account.compare(read()) + cluster.votes()


def power(directory: Path, seed: int, seconds: float) -> bool:
    """What `./run chaos --power` does; True when all is well. `directory` exists, and keeps logs and data."""
    began = time.monotonic()
    problems: list[str] = []
    for name, act in (("cuts", partial(run, seconds=seconds, tell=partial(print, flush=True))), ("lies", lying)):
        place = directory / name
        place.mkdir()
        found = act(place, seed)
        if isinstance(found, Outcome):
            print(*found.told(), sep="\n")
            problems += found.problems + found.shortcomings()
        else:
            print(f"power: on disks that lie the checks find {len(found)} losses")
            problems += [] if any(LOST in text for text in found) else ["disks that lie are not found out"]
    for text in problems[:50]:
        print(f"PROBLEM: {text}")
    print(f"power: seed {seed}: {len(problems)} problems, {time.monotonic() - began:.0f} s")
    return not problems
