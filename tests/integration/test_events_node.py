"""What a real node records of its life, and that `raftcluster events` prints it, running or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import raftcluster
from raftcluster import Node
from raftcluster.cli.main import main
from raftcluster.errors import Rejected, StorageRefusal
from raftcluster.events import log
from raftcluster.greylist.api import Greylist
from tests.helpers import eventually, free_ports


def names(path: Path) -> list[str]:
    return [each["event"] for each in raftcluster.read_events(path)]


def test_a_nodes_life_is_in_its_file(tmp_path: Path) -> None:
    path, port = tmp_path / "mx0", free_ports(1)[0]
    raftcluster.init(path, cluster="mail", node="mx0", listen=("127.0.0.1", port), product="mta/1.0")
    with pytest.raises(StorageRefusal, match="recorded anything"):
        names(path)
    with Node.open(path, product="mta/1.0") as node:
        eventually(lambda: "leader-changed" in names(path))
        token = node.members.invite("mx2.example.org")
        stranger = raftcluster.join
        with pytest.raises(Rejected) as caught:
            stranger(
                tmp_path / "mx1", address=node.mesh.address, token=str(token), node="mx1", listen=("127.0.0.1", 1),
                product="mta/1.0",
            )  # fmt: skip
        assert caught.value.code == "token-name"
        eventually(lambda: {"token-created", "join-refused"} <= set(names(path)))
    with Node.open(path, product="mta/1.0"):
        pass
    found = names(path)
    assert found[0] == "node-started" and found[-1] == "node-stopped"
    assert found.count("node-started") == found.count("node-stopped") == 2
    assert found.count("token-created") == found.count("join-refused") == 1
    for secret in (str(token), token.secret.hex(), str(token).split(".")[2]):
        assert secret.encode() not in (path / "events.log").read_bytes()
    assert oct((path / "events.log").stat().st_mode)[-3:] == "600"
    run = CliRunner().invoke(main, ["-C", str(path), "events", "--json"])
    records = [json.loads(line) for line in run.stdout.splitlines()]
    assert [each["event"] for each in records] == found and records == list(log.read(path / "events.log"))
    shown = CliRunner().invoke(main, ["-C", str(path), "events", "--event", "join-refused"]).stdout
    assert shown.count("\n") == 1 and "was not let in: token-name" in shown
    assert CliRunner().invoke(main, ["-C", str(tmp_path / "none"), "events"]).exit_code == 8


def test_a_lab_cluster_is_one_when_its_founder_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is made first would make it none, for good."""
    ready, configure = threading.Event(), Greylist.configure

    def slow(greylist: Greylist, changes: Mapping[str, Any], **options: Any) -> int:
        if "lab" in changes:
            ready.wait(0.5)
        return configure(greylist, changes, **options)

    monkeypatch.setattr(Greylist, "configure", slow)
    raftcluster.init(tmp_path / "mx0", cluster="mail", node="mx0", listen=("127.0.0.1", free_ports(1)[0]), lab=True)
    with Node.open(tmp_path / "mx0") as node:
        node.greylist.configure({"delay": 1})
        assert node.greylist.settings(consistency="linearizable").lab
