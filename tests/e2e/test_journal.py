"""Events in a real journal: what systemd-journald has taken over its native socket is read back with journalctl."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcluster.events.catalogue import SEVERITIES
from raftcluster.maillog.catalogue import KINDS
from tests.checkout import ROOT
from tests.children import Child
from tests.e2e.journal import Journal
from tests.e2e.node import COMMAND
from tests.helpers import eventually, free_ports
from tests.policy_client import PolicyClient

HOSTILE = """
from pathlib import Path
from raftcluster.events.log import EventLog
from raftcluster.events.recorder import Recorder
import sys
who = {"cluster_id": "c1", "cluster": "mail", "node_id": "n1", "name": "mx1"}
recorder = Recorder(EventLog(Path(sys.argv[1])), who)
recorder.write("node-failed", reason="first line\\nPRIORITY=0\\nMESSAGE=forged\\n\\nend")
recorder.write("node-failed", reason="large " + "x" * 1_000_000)
recorder.write("config-changed", revision=1, keys=["a/b", "c/d"], count=2, author="\\u00fc\\x01", reason="", origin="mx1", changed="")
"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path) as running:
        yield running


class Served:
    """One node where the journal's socket is."""

    def __init__(self, journal: Journal, folder: Path) -> None:
        self.journal, self.directory, self.log = journal, folder / "mx1", folder / "mx1.log"
        self.child: Child | None = None

    def words(self, *arguments: str) -> list[str]:
        return self.journal.command([COMMAND, "-C", str(self.directory), *arguments])

    def said(self, *arguments: str) -> str:
        done = subprocess.run(self.words(*arguments), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self) -> None:
        self.policy = f"inet:127.0.0.1:{free_ports(1)[0]}"
        self.child = Child("mx1", self.words("serve", "--policy", self.policy), self.log)
        eventually(lambda: self.child is not None and self.child.alive() and self._leads(), what="it leads")

    def _leads(self) -> bool:
        done = subprocess.run(self.words("status", "--json"), capture_output=True, text=True, timeout=60, check=False)
        return done.returncode == 0 and bool(json.loads(done.stdout)["leader"])

    def export(self) -> dict[str, Any]:
        """How far the mail log's export is."""
        found: dict[str, Any] = json.loads(self.said("status", "--json"))["maillog"]["export"]
        return found

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said("events", "--json").splitlines()]


def test_the_mail_log_is_in_the_journal_when_it_is_exported_there(journal: Journal, tmp_path: Path) -> None:
    node = Served(journal, tmp_path)
    node.said("init", "--name", "mail", "--node", "mx1", "--listen", f"127.0.0.1:{free_ports(1)[0]}")
    node.serve()
    assert node.child is not None
    try:
        node.said("config", "set", "--local", "local/maillog/export", "system")
        with PolicyClient(node.policy) as client:
            for number in range(50):
                client.ask(recipient=f"b{number}@example.org", instance=str(number), helo_name="mx.example.net")
        export = eventually(lambda: (found := node.export())["position"] == 50 and found)
        assert export["state"] == "connected" and export["lost"] == 0
    finally:
        node.child.stop()
    journal.sync()
    found = journal.records("RAFTCLUSTER_EVENT=mail-rejected")
    assert [each["RAFTCLUSTER_FIELD_RECIPIENT"] for each in found] == [f"b{n}@example.org" for n in range(50)]
    assert [int(each["RAFTCLUSTER_SEQUENCE"]) for each in found] == list(range(1, 51))
    kind = KINDS["greylisting", "Rejected"]
    assert {each["MESSAGE_ID"] for each in found} == {kind.id.replace("-", "")}
    assert {each["_TRANSPORT"] for each in found} == {"journal"} and {each["PRIORITY"] for each in found} == {"5"}


def text(value: Any) -> str:
    return "" if value is None else str(value)


def test_what_a_node_records_is_in_the_journal_field_by_field(journal: Journal, tmp_path: Path) -> None:
    node = Served(journal, tmp_path)
    node.said("init", "--name", "mail", "--node", "mx1", "--listen", f"127.0.0.1:{free_ports(1)[0]}")
    node.serve()
    assert node.child is not None
    try:
        node.said("invite", "mx2.example.org", "--reason", "a new host")
        eventually(lambda: any(each["event"] == "cluster-changed" for each in node.events()))
        node.said("destroy", "--confirm", "mail", "--reason", "over")
        assert node.child.process.wait(60) == 0
    finally:
        node.child.stop()
    recorded = node.events()
    names = [each["event"] for each in recorded]
    assert {"node-started", "token-created", "cluster-changed", "cluster-destroyed", "teardown-finished"} <= set(names)

    # The destruction was synced before anything was removed: not even the end of the daemon loses it.
    journal.kill()
    (destroyed,) = journal.records("RAFTCLUSTER_EVENT=cluster-destroyed")
    assert destroyed["RAFTCLUSTER_FIELD_REASON"] == "over"

    found = {int(each["RAFTCLUSTER_SEQUENCE"]): each for each in journal.records("SYSLOG_IDENTIFIER=raftcluster")}
    assert sorted(found) == sorted(each["sequence"] for each in recorded), "each once"
    for each in recorded:
        row = found[each["sequence"]]
        assert row["_TRANSPORT"] == "journal", "over the native socket"
        assert row["MESSAGE"] == each["message"] and row["RAFTCLUSTER_EVENT"] == each["event"]
        assert row["MESSAGE_ID"] == each["id"].replace("-", "")
        assert row["PRIORITY"] == str(SEVERITIES[each["severity"]])
        for name, value in each["fields"].items():
            if not isinstance(value, list):
                assert row[f"RAFTCLUSTER_FIELD_{name.upper()}"] == text(value), (each["event"], name)
    (invited,) = journal.records(
        "RAFTCLUSTER_EVENT=cluster-changed", "RAFTCLUSTER_FIELD_ACTION=invite", "RAFTCLUSTER_FIELD_REASON=a new host"
    )
    assert invited["MESSAGE_ID"] in {each["id"].replace("-", "") for each in recorded}


def test_what_hostile_values_hold_is_no_field_and_a_large_event_comes_whole(journal: Journal, tmp_path: Path) -> None:
    command = journal.command(
        ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", HOSTILE, str(tmp_path / "events.log")]
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    journal.sync()
    lines, large, several = journal.records("SYSLOG_IDENTIFIER=raftcluster")
    assert lines["RAFTCLUSTER_FIELD_REASON"] == "first line\nPRIORITY=0\nMESSAGE=forged\n\nend"
    assert lines["PRIORITY"] == str(SEVERITIES["critical"]) and lines["MESSAGE"].count("\n") == 0
    assert large["RAFTCLUSTER_FIELD_REASON"] == "large " + "x" * 1_000_000
    assert several["RAFTCLUSTER_FIELD_KEYS"] == ["a/b", "c/d"], "a list is a field that comes more than once"
