"""PostgreSQL 15: a primary and two standbys on loopback, mutual TLS, `synchronous_commit on` with `ANY 1` of the two.

A check is one upsert: an answer means that it is on the primary's disk and on one standby's. Servers refuse to run as root:
as root they run as the user `postgres` that Debian's package has made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Row, Sample, Window
from benchmarks.peers import client
from tests.children import Child
from tests.helpers import eventually, free_ports

NODES = 3
LEVELS = (1, 8, 64, 256)  # a process each
START_SECONDS = 60.0
BINARIES = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
TABLE = "CREATE TABLE greylist (key text PRIMARY KEY, first timestamptz, last timestamptz, passed boolean)"
SETTINGS = {
    "max_connections": "300",
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "synchronous_commit": "on",
    "ssl": "on",
    "wal_level": "replica",
    "max_wal_senders": "8",
    "hot_standby": "on",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}


class Postgres:
    """A `Peer` (benchmarks/load.py). Not thread-safe."""

    name = "postgres"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []
        self._ports: list[int] = []

    def start(self) -> None:
        self._directory.mkdir(parents=True)
        client.build()
        self._certificates = client.Certificates.make(self._directory)
        if os.getuid() == 0:
            for path in (self._directory, *vars(self._certificates).values()):
                shutil.chown(path, USER, USER)
        self._ports = free_ports(NODES)
        primary = self._directory / "postgres0"
        self._run("initdb", "-D", str(primary), "-U", USER, "-A", "trust", "--no-sync")
        (primary / "pg_hba.conf").write_text(
            "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n"
            "hostssl replication all 127.0.0.1/32 trust clientcert=verify-ca\n"
        )
        self._launch(0)
        eventually(lambda: self._ready(0), START_SECONDS, "the primary answers")
        for number in range(1, NODES):
            home = str(self._directory / f"postgres{number}")
            name = f"standby{number}"
            self._run("pg_basebackup", "-D", home, "-X", "stream", "-R", "-d", self._address(0, name))
            self._launch(number)
        self._ask("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby1, standby2)'")
        self._ask("SELECT pg_reload_conf()")
        count = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'"
        eventually(lambda: self._ask(count) == str(NODES - 1), START_SECONDS, "both standbys follow")
        self._ask(TABLE)

    def _address(self, number: int, name: str) -> str:
        ca, certificate, key = vars(self._certificates).values()
        return (
            f"host=127.0.0.1 port={self._ports[number]} user={USER} dbname=postgres application_name={name} "
            f"sslmode=verify-ca sslrootcert={ca} sslcert={certificate} sslkey={key}"
        )

    def _launch(self, number: int) -> None:
        ca, certificate, key = map(str, vars(self._certificates).values())
        settings = {**SETTINGS, "port": str(self._ports[number]), "ssl_ca_file": ca}
        settings |= {"ssl_cert_file": certificate, "ssl_key_file": key}
        home = str(self._directory / f"postgres{number}")
        arguments = [str(BINARIES / "postgres"), "-D", home]
        for setting, value in settings.items():
            arguments += ["-c", f"{setting}={value}"]
        name = f"postgres{number}"
        self._children.append(Child(name, [*_as_user(), *arguments], self._directory / f"{name}.log"))

    def _run(self, program: str, *arguments: str) -> str:
        command = [*_as_user(), str(BINARIES / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, cwd=self._directory)
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout

    def _ask(self, statement: str) -> str:
        return self._run("psql", "-AXqt", "-d", self._address(0, "control"), "-c", statement).strip()

    def _ready(self, number: int) -> bool:
        self._children[number].alive()
        command = [str(BINARIES / "pg_isready"), "-h", "127.0.0.1", "-p", str(self._ports[number])]
        return subprocess.run(command, capture_output=True, timeout=START_SECONDS).returncode == 0

    def stop(self) -> None:
        for child in self._children:
            child.stop()
        self._children = []

    def rows(self) -> Sequence[Row]:
        return [Row("PostgreSQL upsert", "PostgreSQL upsert, a connection each", LEVELS, self._measure)]

    def _measure(self, window: Window) -> Sample:
        for child in self._children:
            child.alive()
        return client.measure(
            window,
            "postgres",
            "rmw",
            [f"127.0.0.1:{self._ports[0]}"],
            {child.name: child.counters for child in self._children},
            self._directory / "client.log",
            certificates=self._certificates,
        )

    def describe(self) -> dict[str, Any]:
        version = subprocess.run([str(BINARIES / "postgres"), "--version"], capture_output=True, text=True, timeout=10)
        return {
            "version": version.stdout.strip(),
            "nodes": "a primary and two standbys",
            "tls": "mutual, TLS 1.3, replication and clients, ECDSA P-256",
            "durability": "synchronous_commit on, synchronous_standby_names ANY 1 of the two",
            "settings": [f"{name}={value}" for name, value in SETTINGS.items()],
            "client": f"native, closed loop, a connection each in flight; {client.compiler()}, lib/pq",
            "rmw": "INSERT ... ON CONFLICT DO UPDATE ... RETURNING, prepared",
        }


def _as_user() -> list[str]:
    return ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "--"] if os.getuid() == 0 else []
