"""A node on a host, used as an administrator uses it: through the command `raftcluster` and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.children import Child
from tests.e2e.hosts import COMMAND_SECONDS, Hosts
from tests.helpers import eventually

PORT = 9777
READY_SECONDS = 60.0
COMMAND = str(Path(sys.executable).parent / "raftcluster")


class RaftNode:
    """The node of host `number`; its data directory and log are in `directory`. Not thread-safe."""

    def __init__(self, hosts: Hosts, number: int, directory: Path) -> None:
        self._hosts = hosts
        self._number = number
        self.directory = directory / f"mx{number}"
        self._log = directory / f"mx{number}.log"
        self._child: Child | None = None
        self.name = f"mx{number}"
        self.address = f"{hosts.address(number)}:{PORT}"

    def command(
        self, *arguments: str, stdin: str | None = None, timeout: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """`raftcluster -C DIRECTORY ...`; the exit status is the caller's to judge."""
        return self._hosts.run(self._number, *self.words(*arguments), stdin=stdin, timeout=timeout)

    def words(self, *arguments: str) -> list[str]:
        """The command line of `raftcluster -C DIRECTORY ...`."""
        return [COMMAND, "-C", str(self.directory), *arguments]

    def said(self, *arguments: str, stdin: str | None = None) -> str:
        """The standard output of a command that succeeds."""
        done = self.command(*arguments, stdin=stdin)
        assert done.returncode == 0, f"raftcluster {' '.join(arguments)}: {done.stderr}\n{self.tail()}"
        return done.stdout

    def asked(self, *arguments: str) -> Any:
        """The result of a command that succeeds, as JSON has it."""
        return json.loads(self.said(*arguments, "--json"))

    def init(self) -> None:
        place = ("--node", self.name, "--listen", self.address, "--advertise", self.address)
        self.said("init", "--name", "e2e", "--lab", *place)

    def join(self, member: RaftNode) -> None:
        """Join the cluster of `member` with a token that it gives."""
        token = member.said("invite", self.name, "--address", self._hosts.address(self._number))
        place = ("--node", self.name, "--listen", self.address, "--advertise", self.address)
        self.said("join", member.address, *place, stdin=token)

    def launch(self) -> None:
        """Start it; waits for nothing."""
        command = [COMMAND, "-C", str(self.directory), "serve"]
        self._child = self._hosts.start(self._number, f"raftcluster {self.name}", command, self._log)

    def serve(self) -> str:
        """Start it; returns when it has a leader, with the line that it prints for Postfix's main.cf."""
        self.launch()
        eventually(self._ready, READY_SECONDS, f"{self.name} has a leader")
        return eventually(self._postfix_line, READY_SECONDS, f"{self.name} prints the line for Postfix")

    def _ready(self) -> bool:
        assert self._child is not None and self._child.alive()
        return self.command("status").returncode == 0 and self.leader() != ""

    def _postfix_line(self) -> str:
        found = re.search(r"^check_policy_service .*$", self._log.read_text(), re.MULTILINE)
        return found[0] if found else ""

    def leader(self) -> str:
        """The name of the leader as this node sees it, "" when it sees none."""
        status = self.asked("status")
        return next((row["name"] for row in status["members"] if row["id"] == status["leader"]), "")

    def explain(self, client: str, sender: str, recipient: str) -> Any:
        return self.asked("greylist", "explain", client, sender, recipient)

    def tail(self) -> str:
        """The end of its log."""
        return self._child.tail() if self._child is not None else ""

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.process.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._child is not None
        self._child.kill()
        self._child = None

    def forget(self) -> None:
        """Its process has ended by itself."""
        assert self._child is not None and self._child.process.poll() is not None
        self._child.stop()
        self._child = None

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None
