"""A node that is killed at any step of the end of its cluster: started again, it finishes, and nothing is done out of order."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

import raftcluster
from raftcluster import failpoints
from raftcluster.control.client import Client
from raftcluster.errors import RaftclusterError
from tests.children import Child
from tests.helpers import eventually, free_ports

COMMAND = [sys.executable, "-m", "raftcluster.cli"]
STEPS = [
    "destroy.record.before",
    "destroy.record.after",
    "destroy.mark.before",
    "destroy.mark.after",
    "destroy.wipe:1",
    "destroy.wipe:2",
    "destroy.wipe:6",
    "destroy.wipe:9",
    "destroy.wipe.marker",
    "destroy.wipe.directory",
    "destroy.wipe.after",
]


def serve(path: Path, failpoint: str | None = None) -> Child:
    settings = {failpoints.VARIABLE: failpoint} if failpoint else {}
    command = [*COMMAND, "-C", str(path), "serve", "--policy", "none"]
    return Child("mx0", command, path.parent / "log", env={**os.environ, **settings})


def leads(path: Path) -> bool:
    try:
        status = Client(path / "control.sock").status()
        return bool(status["leader"] == status["id"] and status["members"])
    except RaftclusterError:
        return False


def event_names(path: Path) -> list[str]:
    return [each["event"] for each in raftcluster.read_events(path)]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_it_finishes(tmp_path: Path, step: str) -> None:
    path, where = tmp_path / "mx0", ("127.0.0.1", free_ports(1)[0])
    raftcluster.init(path, cluster="one", node="mx0", listen=where)
    node = serve(path, step)
    try:
        eventually(lambda: node.alive() and leads(path))
        Client(path / "control.sock").destroy("one")
        eventually(lambda: node.process.poll() is not None, 60, "it reaches the step")
        assert node.process.returncode == -signal.SIGKILL, node.tail()
        if (path / "certificates").exists() is False:
            assert "cluster-destroyed" in event_names(path), "recorded before anything was removed"
    finally:
        node.kill()
    again = serve(path)
    try:
        eventually(lambda: again.process.poll() is not None, 60, "what is left is finished")
    finally:
        again.kill()
    assert not path.exists() or not list(path.iterdir())
    told = event_names(path)
    assert told.count("cluster-destroyed") in (1, 2), "once, or again when the kill came before it was kept"
    assert told.index("cluster-destroyed") < told.index("teardown-step") and "teardown-finished" in told
    raftcluster.init(path, cluster="two", node="mx0", listen=where)
