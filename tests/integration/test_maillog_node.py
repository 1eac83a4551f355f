"""The mail log of real nodes: whoever decides is in it, and nothing of it is in what is replicated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raftcluster
from raftcluster.control.client import Client
from raftcluster.errors import Rejected
from raftcluster.workers.client import Worker
from tests.helpers import eventually, free_ports
from tests.policy_client import PolicyClient

MARK = "helo-7c1f0b.example.net"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[raftcluster.Service]:
    path = tmp_path / "mx1"
    raftcluster.init(path, cluster="test", node="mx1", listen=("127.0.0.1", free_ports(1)[0]), lab=True)
    with raftcluster.Service(path, policy="inet:127.0.0.1:0", workers=tmp_path / "workers.sock") as running:
        eventually(lambda: running.node.status()["voters"])
        yield running


def holds(folder: Path, what: bytes) -> list[str]:
    """Files below `folder` in which these bytes are."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and what in path.read_bytes()]


def test_each_decision_is_logged_whoever_asks(service: raftcluster.Service, tmp_path: Path) -> None:
    node = service.node
    mail: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}
    control = Client(node.directory.control_socket)
    with PolicyClient(control.status()["policy"]["address"]) as client:
        client.ask(helo_name=MARK, instance="1")
        client.ask(protocol_state="DATA")

    def a_moment_ago() -> bool:
        seen = node.greylist.explain(**mail)
        return bool(seen["first_seen_ms"] < seen["cluster_time_ms"])

    eventually(a_moment_ago, what="another millisecond: an attempt in the same one is told as a new one")
    node.greylist.check(**mail, helo=MARK)
    heard: list[object] = []
    node.greylist.submit(lambda *both: heard.append(both), **mail, helo=MARK)
    eventually(lambda: heard)
    node.greylist.check(**mail, authenticated=True)
    with Worker(tmp_path / "workers.sock") as worker:
        worker.greylist.check(**mail, helo=MARK)
        worker.maillog.write("antivirus", "Cleaned", recipient="d@example.org", source="worker")
        asyncio.run(worker.maillog.awrite("antivirus", "Deleted", recipient="d@example.org", source="worker"))
        with pytest.raises(Rejected, match="category of its own"):
            worker.maillog.write("log", "Dropped")
    node.maillog.write("antispam", "Deleted", recipient="c@example.org", subject="win", message_id="<1@x>")
    assert node.maillog.flush()
    found = list(node.maillog.read())
    assert [(each.source, each.action, each.reason, each.helo) for each in found] == [
        ("policy", "Rejected", "new", MARK),
        ("api", "Rejected (not verified)", "early", MARK),
        ("api", "Rejected (not verified)", "early", MARK),
        ("api", "Passed", "authenticated", ""),
        ("worker", "Rejected (not verified)", "early", MARK),
        ("worker", "Cleaned", "", ""),
        ("worker", "Deleted", "", ""),
        ("product", "Deleted", "", ""),
    ]
    assert found[0].client_name == "mail.example.net" and found[0].instance == "1"
    assert 0 < found[1].seconds_left <= found[0].seconds_left
    assert [each.sequence for each in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert node.status()["maillog"]["last"] == 8


def test_no_byte_of_the_log_is_in_what_is_replicated(service: raftcluster.Service) -> None:
    node = service.node
    before = node.status()
    for number in range(3_000):
        node.maillog.write("antispam", "Deleted", helo=MARK, subject=f"{MARK} {number}")
    assert node.maillog.flush()
    after = node.status()
    assert after["maillog"]["last"] == 3_000 and after["maillog"]["bytes"] > 3_000 * len(MARK)
    assert (after["last_index"], after["log_bytes"]) == (before["last_index"], before["log_bytes"]), "no entry for it"
    node.greylist.check(client="192.0.2.7", sender="a@example.net", recipient="b@example.org", helo=MARK)
    assert node.maillog.flush()
    node.config.local.set("local/maillog/keep_days", 7)
    path = node.directory.path
    node.close()
    assert holds(path / "maillog", MARK.encode()) != []
    assert holds(path / "log", MARK.encode()) == holds(path / "tables", MARK.encode()) == []
    assert holds(path / "log", b"maillog") == holds(path / "tables", b"maillog") == []
    assert {file.stat().st_mode & 0o777 for file in (path / "maillog").iterdir()} == {0o600}
