"""A real process dies at each failpoint, comes back, and nothing acknowledged is missing, doubled or different anywhere.

Three processes write all the time; the log is cut all the time, so that a short absence needs a snapshot.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom
from typing import NamedTuple

import pytest

from tests.crashes import deaths
from tests.crashes.cluster import ANSWER_SECONDS, SMALL, Cluster, Refused, places
from tests.helpers import eventually

NODES = 3
BEFORE = 20
"""Acknowledgements of each node before the crash."""
AFTER = 5
"""And of each survivor after it."""


class Case(NamedTuple):
    """One crash: where, at what work, and who dies."""

    name: str
    work: Callable[[Cluster, int, str], int | None]
    """Has the victim die: (cluster, victim, failpoint); who still owes an answer."""
    leads: bool
    """Whether the victim is the leader."""


def rotate(cluster: Cluster, victim: int, failpoint: str) -> None:
    """A new certificate hierarchy, which is complete in the end."""
    generation = cluster.ask(victim, "generation")
    owing = deaths.rotate(cluster, victim, failpoint)
    assert owing is not None
    cluster.forgive(owing)
    cluster.stop()
    cluster.start([victim])
    rotated(cluster, generation)


def rotated(cluster: Cluster, generation: int) -> None:
    eventually(
        lambda: cluster.settled() and cluster.ask(0, "generation") > generation, ANSWER_SECONDS, "a new generation"
    )
    assert [cluster.ask(number, "root_keys") for number in cluster.nodes] == [[]] * NODES


def mint(cluster: Cluster, victim: int, failpoint: str) -> None:
    """The victim's minting child dies, again and again; the victim does not."""
    generation = cluster.ask(victim, "generation")
    assert cluster.ask(victim, "arm", failpoint, 1) == "armed"
    cluster.insist(victim, "rotate")
    eventually(
        lambda: f"ended with status {-signal.SIGKILL}" in str(cluster.ask(victim, "status")["alarms"]),
        ANSWER_SECONDS,
        "the minting child dies",
    )
    assert cluster.ask(victim, "arm", None, 1) == "armed"
    cluster.stop()
    rotated(cluster, generation)


def remove(cluster: Cluster, victim: int, failpoint: str) -> None:
    """A member is removed; afterwards its host joins as a new one."""
    cluster.stop()
    leader = cluster.leader()
    gone = next(number for number in range(1, NODES) if number not in (victim, leader))
    asked = next(number for number in cluster.nodes if number not in (victim, gone))
    cluster.tell(victim, "arm", failpoint, 1)
    cluster.tell(asked, "remove", cluster.ids[gone])
    deaths.dies(cluster, victim)
    cluster.start([victim])
    cluster.forgive(asked)
    out(cluster, gone, asked)
    cluster.admit(gone)
    eventually(lambda: cluster.voters() == NODES, ANSWER_SECONDS, "the new member votes")


def out(cluster: Cluster, gone: int, asked: int) -> None:
    """It is removed, if it is not yet, and its directory is empty."""

    def removed() -> bool:
        try:
            cluster.ask(asked, "remove", cluster.ids[gone])
        except Refused as refused:
            return refused.code == "no-member"
        return True

    eventually(removed, ANSWER_SECONDS, "the member is removed")
    cluster.crash([gone])
    eventually(lambda: cluster.voters() == NODES - 1, ANSWER_SECONDS, "the member votes no more")
    eventually(cluster.settled, ANSWER_SECONDS, "a generation without it")
    shutil.rmtree(cluster.path(gone))


def make_room(cluster: Cluster, victim: int) -> int:
    """Another one than the victim is removed, so that its host can join as a new one; its number."""
    cluster.stop()
    leader = cluster.leader()
    gone = next(number for number in range(1, NODES) if number not in (victim, leader))
    out(cluster, gone, leader)
    return gone


def join(cluster: Cluster, victim: int, failpoint: str) -> None:
    """A host joins."""
    new = make_room(cluster, victim)
    cluster.tell(victim, "arm", failpoint, 1)
    joined = cluster.ask_to_join(new, deaths.other(cluster, victim))
    deaths.dies(cluster, victim)
    cluster.start([victim])
    joined()
    cluster.start([new])
    eventually(lambda: cluster.voters() == NODES, ANSWER_SECONDS, "the new member votes")


def promote(cluster: Cluster, victim: int, failpoint: str) -> None:
    """A new member becomes a voter."""
    new = make_room(cluster, victim)
    cluster.ask_to_join(new, victim)()
    cluster.tell(victim, "arm", failpoint, 1)
    cluster.launch(new)
    deaths.dies(cluster, victim)
    cluster.start([victim])
    assert cluster.hear(new) == "open"
    cluster.know(new)
    eventually(lambda: cluster.voters() == NODES, ANSWER_SECONDS, "the new member votes")


CASES = [
    *(Case(f"log.append.{when}", deaths.write, leads) for when in ("before", "after") for leads in (True, False)),
    *(Case(f"log.commit.{when}", deaths.write, leads) for when in ("before", "after") for leads in (True, False)),
    *(Case("log.durable", deaths.write, leads) for leads in (True, False)),
    *(Case(f"log.segment.{when}", deaths.write, leads) for when, leads in (("before", True), ("after", False))),
    Case("log.cut", deaths.write, True),
    *(Case(f"append_entries.send.{when}", deaths.write, True) for when in ("before", "after")),
    *(Case(f"entry.apply.{when}", deaths.write, leads) for when in ("before", "after") for leads in (True, False)),
    *(Case(f"tables.commit.{when}", deaths.write, False) for when in ("before", "after")),
    *(
        Case(f"vote.persist.{when}", work, False)
        for when in ("before", "after")
        for work in (deaths.campaign, deaths.vote)
    ),
    *(
        Case(f"snapshot.{when}", deaths.receive, False)
        for when in ("write", "received", "install.before", "install.after")
    ),
    Case("log.reset", deaths.receive, False),
    Case("snapshot.send", deaths.send, True),
    *(Case(f"file.rename.{when}", rotate, leads) for when, leads in (("before", False), ("after", True))),
    *(Case(f"mint.{when}", rotate, True) for when in ("before", "after")),
    *(Case(f"mint.{when}", mint, True) for when in ("key", "signed", "answered")),
    Case("membership.append", remove, True),
    Case("membership.apply.before", remove, False),
    Case("membership.apply.after", promote, True),
    Case("members.keep", join, False),
]


class Clusters:
    """One cluster for all cases, and another one after a case that failed."""

    def __init__(self, directories: Callable[[], Path]) -> None:
        self._directories = directories
        self._running = ExitStack()
        self._free: Cluster | None = None

    def take(self) -> Cluster:
        """Whoever takes it gives it back when all is well with it."""
        if self._free is None:
            self.close()
            directory = self._directories()
            made = Cluster(directory, SystemRandom().randrange(2**32), places=places(directory, NODES), options=SMALL)
            made = self._running.enter_context(made)
            made.found()
            return made
        taken, self._free = self._free, None
        return taken

    def give_back(self, cluster: Cluster) -> None:
        self._free = cluster

    def close(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    made = Clusters(lambda: tmp_path_factory.mktemp("failpoints"))
    yield made
    made.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.work.__name__}-{case.leads}")
def test_a_crash_anywhere_costs_nothing_that_was_acknowledged(clusters: Clusters, case: Case) -> None:
    cluster = clusters.take()
    print(f"seed {cluster.account.seed}")
    leader = cluster.leader()
    victim = leader if case.leads else next(number for number in range(NODES) if number != leader)
    cluster.write()
    for number in range(NODES):
        cluster.acknowledged(number, BEFORE)
    owing = case.work(cluster, victim, case.name)
    if owing is not None:
        cluster.forgive(owing)
    for number in sorted(cluster.writing):
        cluster.acknowledged(number, AFTER)
    cluster.stop()
    cluster.start(set(range(NODES)) - set(cluster.nodes))
    eventually(cluster.settled, ANSWER_SECONDS, "all agree")
    assert cluster.check(reader=victim) == []
    clusters.give_back(cluster)
