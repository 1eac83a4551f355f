"""postgrey 1.37, what our users run today: one host, no replication, a Berkeley DB whose transactions are not synced."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Row, Sample, Window
from benchmarks.peers import client
from tests.children import Child
from tests.helpers import eventually, free_ports

LEVELS = (1, 8, 64)
START_SECONDS = 30.0
USER = "postgrey"


class Postgrey:
    """A `Peer` (benchmarks/load.py). Not thread-safe."""

    name = "postgrey"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []
        self._port = 0

    def start(self) -> None:
        self._directory.mkdir(parents=True)
        client.build()
        (self._port,) = free_ports(1)
        if os.getuid() == 0:
            shutil.chown(self._directory, USER, USER)
        command = ["postgrey", *self._settings(), f"--inet=127.0.0.1:{self._port}", f"--dbdir={self._directory}"]
        if os.getuid() == 0:
            command += [f"--user={USER}", f"--group={USER}"]
        self._children.append(Child("postgrey", command, Path(f"{self._directory}.log")))
        eventually(self._listens, START_SECONDS, "postgrey listens")

    @staticmethod
    def _settings() -> list[str]:
        return ["--delay=300", "--max-age=35", "--auto-whitelist-clients=5"]

    def _listens(self) -> bool:
        self._children[0].alive()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        for child in self._children:
            child.stop()
        self._children = []

    def rows(self) -> Sequence[Row]:
        return [Row("policy: postgrey, NOT durable, one host", "postgrey, a connection each", LEVELS, self._measure)]

    def _measure(self, window: Window) -> Sample:
        servers = {child.name: child.counters for child in self._children if child.alive()}
        log = Path(f"{self._directory}-client.log")
        return client.measure(window, "policy", "inet", [f"127.0.0.1:{self._port}"], servers, log)

    def describe(self) -> dict[str, Any]:
        version = subprocess.run(["postgrey", "--version"], capture_output=True, text=True, timeout=10)
        return {
            "version": version.stdout.strip().splitlines()[0] if version.stdout else "unknown",
            "nodes": "one",
            "durability": "none: its transactions are not synced",
            "settings": self._settings(),
            "client": f"native, Postfix's policy protocol, a connection each in flight; {client.compiler()}",
        }
