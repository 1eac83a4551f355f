"""A node that faults happen to."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from raftcluster.control.client import Client
from tests.e2e.hosts import Hosts
from tests.e2e.node import COMMAND, RaftNode

CALL_SECONDS = 10.0


class Victim(RaftNode):
    """An administrator's node, with ways to stop it short. Faults: main thread only; `client`: any thread."""

    def __init__(self, hosts: Hosts, number: int, directory: Path) -> None:
        super().__init__(hosts, number, directory)
        self.number = number
        self.client = Client(self._directory / "control.sock", timeout=CALL_SECONDS)

    def status(self) -> Any:
        return self.client.status()

    def restart(self) -> None:
        """Start it again after `kill`, without waiting for anything."""
        command = [COMMAND, "-C", str(self._directory), "serve"]
        self._child = self._hosts.start(self.number, f"raftcluster {self.name}", command, self._log)

    def freeze(self) -> None:
        """Stop the process where it is; its sockets stay open."""
        assert self._child is not None
        self._child.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._child is not None
        self._child.process.send_signal(signal.SIGCONT)
