"""Redis 7: a primary and two replicas on loopback, mutual TLS everywhere, `appendfsync always` on all three.

A check is a Lua script on the primary, then `WAIT 1`: at least one replica has received it. (That replica writes it to its own
file with the same setting, but Redis 7.0 does not wait for that: the promise is a little less than the others'.) A row
labelled *everysec* is how greylisting daemons usually run it: one second of answers is lost with the primary's power, and
all that no replica has with the primary. It is no rival for durable checks; it is there because people compare.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import IN_FLIGHT, Row, Sample, Window
from benchmarks.peers import client
from tests.children import Child
from tests.helpers import eventually, free_ports

NODES = 3
BATCH = 64
START_SECONDS = 30.0
FILL_SECONDS = 5.0


class Redis:
    """A `Peer` (benchmarks/load.py). Not thread-safe."""

    name = "redis"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []
        self._commands: list[tuple[str, list[str], Path]] = []
        self._ports: list[int] = []

    def start(self) -> None:
        self._directory.mkdir(parents=True)
        client.build()
        self._certificates = client.Certificates.make(self._directory)
        self._ports = free_ports(NODES)
        for number, port in enumerate(self._ports):
            home = self._directory / f"redis{number}"
            home.mkdir()
            arguments = ["redis-server", *self._settings(port, home)]
            if number > 0:
                arguments += ["--replicaof", "127.0.0.1", str(self._ports[0])]
            self._commands.append((f"redis{number}", arguments, self._directory / f"redis{number}.log"))
            self._children.append(Child(*self._commands[number]))
        eventually(self._complete, START_SECONDS, "both replicas follow the primary")

    def _settings(self, port: int, home: Path) -> list[str]:
        ca, certificate, key = map(str, vars(self._certificates).values())
        return [
            *("--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""),
            *("--tls-ca-cert-file", ca, "--tls-cert-file", certificate, "--tls-key-file", key),
            *("--tls-auth-clients", "yes", "--tls-replication", "yes"),
            *("--appendonly", "yes", "--appendfsync", "always", "--maxclients", "5000"),
        ]

    def _command(self, port: int, *words: str) -> str:
        ca, certificate, key = map(str, vars(self._certificates).values())
        secure = ["--tls", "--cacert", ca, "--cert", certificate, "--key", key]
        command = ["redis-cli", "-h", "127.0.0.1", "-p", str(port), *secure, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS).stdout

    def _complete(self) -> bool:
        for child in self._children:
            child.alive()
        return self._command(self._ports[0], "INFO", "replication").count("state=online") == NODES - 1

    def stop(self) -> None:
        for child in self._children:
            child.stop()
        self._children = []

    # ---- what `scale` asks for

    def servers(self) -> dict[str, psutil.Process]:
        return {child.name: child.counters for child in self._children}

    def fill(self, triplets: int) -> None:
        """In pipelines: its fastest way."""
        done = 0
        while done < triplets:
            done += self._measure(Window(1024, FILL_SECONDS, 0.1, f"fill{done}"), "rmw", BATCH, "always").checks

    def restart(self) -> float:
        """Kill the primary; the seconds from its new process's start to its first answer, when it has read its file."""
        self._children[0].kill()
        begun = time.monotonic()
        self._children[0] = Child(*self._commands[0])
        eventually(lambda: self._command(self._ports[0], "GET", "nothing") == "\n", FILL_SECONDS * 20, "it answers")
        taken = time.monotonic() - begun
        eventually(self._complete, START_SECONDS, "both replicas follow the primary")
        return taken

    # ---- the suite

    def rows(self) -> Sequence[Row]:
        def measured(mode: str, batch: int, fsync: str) -> Any:
            return lambda window: self._measure(window, mode, batch, fsync)

        levels = [level for level in IN_FLIGHT if level >= BATCH]
        return [
            Row("Redis rmw", "Redis rmw, a connection each", IN_FLIGHT, measured("rmw", 1, "always")),
            Row(
                f"Redis rmw, {BATCH} in a pipeline",
                f"Redis rmw, {BATCH} each",
                levels,
                measured("rmw", BATCH, "always"),
            ),
            Row("Redis everysec, NOT durable", "Redis everysec, no WAIT", IN_FLIGHT, measured("alone", 1, "everysec")),
        ]

    def _measure(self, window: Window, mode: str, batch: int, fsync: str) -> Sample:
        for child, port in zip(self._children, self._ports, strict=True):
            child.alive()
            assert self._command(port, "CONFIG", "SET", "appendfsync", fsync).strip() == "OK"
        return client.measure(
            window,
            "redis",
            mode,
            [f"127.0.0.1:{self._ports[0]}"],
            {child.name: child.counters for child in self._children},
            self._directory / "client.log",
            certificates=self._certificates,
            batch=batch,
        )

    def describe(self) -> dict[str, Any]:
        version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, timeout=10)
        return {
            "version": version.stdout.strip(),
            "nodes": "a primary and two replicas",
            "tls": "mutual, TLS 1.3, replication and clients, ECDSA P-256",
            "durability": "appendfsync always on all three, WAIT 1 after each request",
            "settings": [each.replace(str(self._directory), "DIR") for each in self._settings(0, self._directory)],
            "client": f"native, closed loop, a connection each in flight; {client.compiler()}",
            "rmw": "a Lua script that reads, decides and writes one hash",
        }
