"""A node dies at each step of the end of its cluster: what gives access is gone all the same, and the record is kept."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import raftcluster
from raftcluster import failpoints
from raftcluster.cluster.destroy import MARKER
from tests.crashes import deaths
from tests.crashes.cluster import Cluster, places
from tests.helpers import eventually

NODES = 3
GONE_SECONDS = 100.0
"""A node that waits for one that does not come back gives up before."""
STEPS = ("destroy.record.before", "destroy.record.after", "destroy.mark.before", "destroy.mark.after")
WIPING = (
    *(f"destroy.wipe:{count}" for count in range(1, 9)),
    "destroy.wipe.marker",
    "destroy.wipe.directory",
    "destroy.wipe.after",
)
CRASHED_AT = {*STEPS, *(each.partition(":")[0] for each in WIPING)}


class Founded:
    """A cluster that was founded and stopped, to be copied."""

    def __init__(self, directory: Path) -> None:
        self.seed = random.SystemRandom().randrange(2**32)
        self._places = places(directory, NODES)
        with Cluster(directory, self.seed, places=self._places) as cluster:
            cluster.found()
            self.addresses, self._ids = cluster.addresses, cluster.ids
            cluster.crash(range(NODES))

    def copy(self, directory: Path) -> Cluster:
        """One at a time: it has the same addresses. Its nodes run."""
        made = places(directory, NODES)
        for old, new in zip(self._places, made, strict=True):
            shutil.copytree(old, new, dirs_exist_ok=True)
        return Cluster(directory, self.seed, places=made, addresses=self.addresses)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return Founded(tmp_path_factory.mktemp("founded"))


def destroy(cluster: Cluster, victim: int, failpoint: str) -> None:
    """The cluster is destroyed, and the victim dies at the failpoint meanwhile."""
    cluster.start(range(NODES))
    cluster.tell(victim, "arm", failpoint, 1)
    cluster.tell(deaths.other(cluster, victim), "destroy", "crashes")
    deaths.dies(cluster, victim)


def recorded(cluster: Cluster, number: int) -> list[str]:
    """The ids of the destructions that the node has recorded."""
    events = [each for each in raftcluster.read_events(cluster.path(number)) if each["event"] == "cluster-destroyed"]
    return [str(event["fields"]["event_id"]) for event in events]


@pytest.mark.parametrize("failpoint", STEPS)
def test_a_cluster_ends_on_every_node_although_one_dies_meanwhile(
    founded: Founded, tmp_path: Path, failpoint: str
) -> None:
    with founded.copy(tmp_path) as cluster:
        victim = cluster.random.randrange(NODES)
        destroy(cluster, victim, failpoint)
        cluster.options["ready_seconds"] = 0  # it may come back when nobody else is left
        cluster.launch(victim)
        for number in range(NODES):
            eventually(lambda n=number: not cluster.path(n).exists(), GONE_SECONDS, f"node{number} is wiped")  # type: ignore[misc]
        assert len({event for number in range(NODES) for event in recorded(cluster, number)}) == 1


@pytest.fixture(scope="module")
def marked(founded: Founded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory that is marked and not wiped, to be copied."""
    directory = tmp_path_factory.mktemp("marked")
    with founded.copy(directory) as cluster:
        destroy(cluster, 0, "destroy.mark.after")
        yield cluster.path(0)


@pytest.mark.parametrize("failpoint", WIPING)
def test_wiping_goes_on_where_it_ended(marked: Path, tmp_path: Path, failpoint: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    data = place / "data"
    shutil.copytree(marked, data)
    with Cluster(tmp_path, 0, places=[place], addresses=[("127.0.0.1", 1)]) as cluster:
        cluster.launch(0, failpoint)
        assert cluster.bury(0) == -signal.SIGKILL
        keys = sorted(data.rglob("node.key"))
        assert keys == [] or failpoint == "destroy.wipe:1", "what gives access goes first"
        if data.exists() and any(data.iterdir()):
            assert (data / MARKER).exists(), "what is left is still marked"
            cluster.launch(0)
            assert cluster.bury(0) == 1
            assert not data.exists()
        else:
            assert failpoint in ("destroy.wipe.directory", "destroy.wipe.after")


def test_every_step_is_named() -> None:
    assert {name for name in failpoints.NAMES if name.startswith("destroy.")} == CRASHED_AT
