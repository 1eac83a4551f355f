"""A cluster's whole life with the commands of docs/operations.md ("A whole life") and real `serve` processes, in order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import ROOT
from tests.children import Child
from tests.helpers import eventually, free_ports
from tests.rollover.load import Load

SECONDS = 90.0
PER_SECOND = 100.0
COMMAND = (sys.executable, "-m", "raftcluster.cli")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Host:
    """One host of the transcript: its directory, its port, and the process of `serve` if one runs."""

    def __init__(self, name: str, folder: Path, port: int, policy: int) -> None:
        self.name, self.directory = name, folder / name
        self.address, self.policy = f"127.0.0.1:{port}", f"inet:127.0.0.1:{policy}"
        self.serving: Child | None = None

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        words = [*COMMAND, "-C", str(self.directory), *arguments]
        return subprocess.run(words, input=given, capture_output=True, text=True, timeout=SECONDS, env=ENVIRONMENT)

    def said(self, *arguments: str, given: str = "") -> str:
        """What a command prints that succeeds."""
        done = self.run(*arguments, given=given)
        print(f"{self.name}# raftcluster {' '.join(arguments)}\n{done.stdout}{done.stderr}", end="")
        assert done.returncode == 0, f"{self.name}: {arguments}: {done.stderr}"
        return done.stdout

    def asked(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def serve(self) -> None:
        """Returns when it knows a leader."""
        self.launch()
        eventually(lambda: self.asked("status").get("leader"), SECONDS, f"{self.name} has a leader")

    def launch(self) -> None:
        print(f"{self.name}# raftcluster serve")
        words = [*COMMAND, "-C", str(self.directory), "serve", "--policy", self.policy, "--deadline", "30s"]
        self.serving = Child(self.name, words, self.directory.with_suffix(".log"), env=ENVIRONMENT)

    def kill(self) -> None:
        assert self.serving is not None
        print(f"({self.name} is switched off)")
        self.serving.kill()
        self.serving = None

    def end(self) -> None:
        if self.serving is not None:
            self.serving.kill()

    def ended(self) -> int:
        """Its process has ended by itself, or does so soon: the exit code."""
        assert self.serving is not None
        process, self.serving = self.serving.process, None
        status = process.wait(SECONDS)
        print(f"({self.name}: `raftcluster serve` has ended by itself, exit code {status})")
        return status

    def join(self, member: Host, token: str) -> None:
        self.said("join", member.address, "--node", self.name, "--listen", self.address, given=token)
        self.serve()

    def stop(self) -> int:
        """As `systemctl stop` does; its exit status."""
        assert self.serving is not None
        child, self.serving = self.serving, None
        return child.stop(SECONDS)

    def leader(self) -> str:
        """The leader's name, as this node knows it; "" while it knows of none."""
        state = self.asked("status")
        return next((str(row["name"]) for row in state.get("members", ()) if row["id"] == state["leader"]), "")

    def votes(self, count: int) -> None:
        eventually(lambda: len(self.asked("status").get("voters", ())) == count, SECONDS, f"{count} voters")
        eventually(lambda: self.asked("certs").get("pending", 0) is None, SECONDS, "their certificates are in force")

    def events(self) -> list[str]:
        """What is in its event record, each once."""
        names = [json.loads(line)["event"] for line in self.run("events", "--json").stdout.splitlines()]
        print(f"{self.name}# raftcluster events\n({', '.join(dict.fromkeys(names))})")
        return names


@pytest.mark.timeout(600)
def test_from_the_first_init_to_the_next_one(tmp_path: Path) -> None:
    names = ("mx1", "mx2", "mx3", "mx4", "mx5", "mx6")
    ports = free_ports(2 * len(names))
    hosts = [Host(name, tmp_path, *ports[2 * n : 2 * n + 2]) for n, name in enumerate(names)]
    mx1, mx2, mx3, mx4, mx5, mx6 = hosts
    with ExitStack() as stack:
        for host in hosts:
            stack.callback(host.end)

        mx1.said("init", "--name", "mail", "--node", "mx1", "--listen", mx1.address)
        mx1.serve()
        for number, host in ((2, mx2), (3, mx3)):
            host.join(mx1, mx1.said("invite", host.name))
            mx1.votes(number)
        mx1.said("config", "set", "kept", "through it all")
        first = mx1.asked("certs")["generation"]
        assert "in force" in mx2.said("certs", "rotate")
        mx1.votes(3)
        assert mx1.asked("certs")["generation"] == first + 1

        with Load([mx1, mx2, mx3], PER_SECOND, tmp_path) as load:
            mx4.join(mx1, mx1.said("invite", "mx4"))
            mx1.votes(4)
            load.end()
        print(
            f"(meanwhile {len(load.answers)} checks, {len(load.errors)} errors, {len(load.degraded())} without the cluster)"
        )
        assert load.answers and load.errors == [] and load.degraded() == [], "the mail has noticed nothing"

        mx1.said("transfer", "mx3")
        eventually(lambda: mx1.leader() == "mx3", SECONDS, "mx3 leads")
        mx1.said("members", "remove", "mx3")
        mx1.votes(3)
        assert mx3.ended() == 13 and mx1.leader() in ("mx1", "mx2", "mx4"), "it has handed over, was told, and stops"

        mx4.kill()
        token = mx1.said("members", "replace", "mx4", "mx5")
        mx1.votes(2)
        mx5.join(mx1, token)
        mx1.votes(3)
        assert sorted(row["name"] for row in mx2.asked("members")) == ["mx1", "mx2", "mx5"]
        mx4.launch()
        assert mx4.ended() == 13, "it was removed while it was dead, is shown that, and says so"
        assert "was removed from" in mx4.directory.with_suffix(".log").read_text()
        assert mx4.run("serve").returncode == 13, "and does not start again"

        request, bundle, backup = (str(tmp_path / name) for name in ("mx6.request", "mx6.bundle", "mail.backup"))
        mx6.said("certs", "request", request, "--node", "mx6", "--listen", mx6.address)
        mx1.said("certs", "export", "--request", request, bundle)
        mx6.said("certs", "import", bundle)
        mx6.serve()
        mx1.votes(4)

        mx6.said("backup", "write", backup)
        assert "mail" in mx6.said("backup", "verify", backup)

        for host in (mx2, mx5, mx6):
            host.kill()
        assert mx1.stop() == 0
        assert "mx2" in mx1.said("recover", "--preview")
        mx1.said("recover", "--confirm", "mail", "--reason", "three hosts have burnt down")
        mx1.serve()
        assert mx1.said("config", "get", "kept").strip() == "through it all"
        mx2.launch()
        eventually(lambda: "recovered" in mx2.asked("status").get("alarms", ()), SECONDS, "who comes back is told")
        mx2.kill()
        shutil.rmtree(mx2.directory)
        mx2.join(mx1, mx1.said("invite", "mx2"))
        mx1.votes(2)
        shutil.rmtree(mx4.directory)
        mx4.join(mx1, mx1.said("invite", "mx4"))
        mx1.votes(3)

        mx4.kill()
        assert [row["reached"] for row in mx1.asked("destroy", "--dry-run")] == [True, True, False]
        mx2.said("destroy", "--confirm", "mail", "--every-node", "--reason", "the end of the story")
        assert [mx1.ended(), mx2.ended()] == [0, 0]
        assert not mx1.directory.exists() and not mx2.directory.exists() and mx4.directory.exists()
        assert "cluster-destroyed" in mx1.events() and "cluster-destroyed" in mx2.events()

        mx1.said("init", "--name", "next", "--node", "mx1", "--listen", mx1.address)
        mx1.serve()
        mx4.launch()
        assert mx4.ended() == 0
        assert not mx4.directory.exists(), "it was down, and tore itself down when it was shown the tombstone"
        assert mx4.events()[-1] == "teardown-finished"
        mx4.join(mx1, mx1.said("invite", "mx4"))
        mx1.votes(2)
        assert mx4.run("config", "get", "kept").returncode == 1, "nothing of the old cluster is in the next one"
