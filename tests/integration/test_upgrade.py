"""A cluster is upgraded node by node while mail comes in, the leader last: version N and N-1 run together, a feature is enabled by
the last node, and from then on the older version is refused. Real processes; the newer version is this checkout with another
number and one feature more."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from raftcluster import builtin
from raftcluster.errors import DataVersion, Rejected
from tests.checkout import ROOT
from tests.helpers import eventually
from tests.rollover.load import Load
from tests.served import SECONDS, Cluster, Patient, Served

NEWER = "raftcluster/0.2"
FEATURE = "testing.next"
PER_SECOND = 100.0


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the newer version lies."""
    root = tmp_path_factory.mktemp("newer")
    shutil.copytree(ROOT / "raftcluster", root / "raftcluster", ignore=shutil.ignore_patterns("__pycache__"))
    file = root / "raftcluster" / "builtin.py"
    text = file.read_text()
    for old, new in (
        (f'"{builtin.PRODUCT}"', f'"{NEWER}"'),
        ("Sequence[str]] = ()", f'Sequence[str]] = ("{FEATURE}",)'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text)
    return root


def upgrade(cluster: Cluster, node: Served, root: Path) -> None:
    node.stop()
    node.code = root
    node.start()
    eventually(lambda: runs_newer(cluster, node.name), SECONDS, f"{node.name} says what it runs")
    eventually(cluster.settled, SECONDS, "the next one")


def runs_newer(cluster: Cluster, name: str) -> bool:
    return (name, NEWER) in [(row["name"], row["product"]) for row in cluster.nodes[0].client.members.list()]


def enabled(node: Served) -> bool:
    return (FEATURE, True) in [(row["name"], row["enabled"]) for row in node.client.members.features()]


def test_three_nodes_go_from_one_version_to_the_next_while_mail_comes_in(tmp_path: Path, newer: Path) -> None:
    with Cluster(tmp_path, 4, Patient) as cluster:
        for _ in range(2):
            cluster.grow()
        members = list(cluster.nodes)
        eventually(cluster.settled, SECONDS, "quiet")
        leader = cluster.leader()
        with Load(members, PER_SECOND, tmp_path, returns=True) as load:
            for node in [*(each for each in members if each is not leader), leader]:
                assert not any(enabled(each) for each in members), f"{node.name} does not know it yet"
                upgrade(cluster, node, newer)
            eventually(lambda: all(enabled(each) for each in members), SECONDS, "the last one enables it")
            load.end()
        assert load.degraded() == []
        assert {each.triplet for each in load.answers} and load.errors, "each node was away for a moment"
        eventually(lambda: not any(load.wrong(members).values()), SECONDS, f"all counted once: {load.wrong(members)}")
        told = [
            (row["action"], row["subject"]) for row in members[0].client.audit(limit=10) if row["action"] == "upgrade"
        ]
        assert told[0] == ("upgrade", f"{leader.name} from {builtin.PRODUCT} to {NEWER}; enabled: {FEATURE}")
        _refused_to_start(members[0])
        _refused_to_join(cluster)


def _refused_to_start(node: Served) -> None:
    """The older version, at the directory of a cluster that has gone on."""
    node.stop()
    done = subprocess.run(Served.command(node), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == DataVersion.exit_code
    assert (
        f"enabled {FEATURE}" in done.stderr and "install the version" in done.stderr and "Traceback" not in done.stderr
    )
    node.start()


def _refused_to_join(cluster: Cluster) -> None:
    """Tests join with this process's version, the older one."""
    with pytest.raises(Rejected, match=f"enabled {FEATURE}") as caught:
        cluster.grow()
    assert caught.value.code == "incompatible" and "install the version" in caught.value.remedy
