"""The native load client: compiled once a run, from `benchmarks/client`, against Debian's packaged libraries."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import trustme

from benchmarks.load import Meter, Sample, Window, quantiles
from tests.children import Child

SLACK_SECONDS = 30.0
SOURCE = Path(__file__).parent.parent / "client"
BINARY = Path(__file__).parent.parent.parent / "build" / "bench-client"
GO_BUILD = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOPROXY": "off", "GOFLAGS": ""}


@cache
def build() -> Path:
    """Compile it; CalledProcessError with the compiler's words when it does not compile."""
    cached = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["go", "build", "-o", str(BINARY), "."],
        cwd=SOURCE,
        env={**os.environ, **GO_BUILD, "GOCACHE": cached},
        check=True,
        timeout=300,
    )
    return BINARY


def compiler() -> str:
    """Of what version."""
    return subprocess.run(["go", "version"], capture_output=True, text=True, timeout=10).stdout.strip()


@dataclass(frozen=True)
class Certificates:
    """One authority, one certificate for whoever speaks; files (PEM)."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """ECDSA P-256, for localhost, made new."""
        made = cls(directory / "ca.pem", directory / "node.pem", directory / "node.key")
        ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        issued = ca.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
        ca.cert_pem.write_to_path(made.ca)
        issued.private_key_pem.write_to_path(made.key)
        made.key.chmod(0o600)
        for number, pem in enumerate(issued.cert_chain_pems):
            pem.write_to_path(made.certificate, append=number > 0)
        return made


def measure(
    window: Window,
    peer: str,
    mode: str,
    endpoints: Sequence[str],
    servers: Mapping[str, psutil.Process],
    log: Path,
    *,
    certificates: Certificates | None = None,
    connections: int = 1,
    batch: int = 1,
) -> Sample:
    """One cell. `in_flight` checks are in flight: in `batch` checks a request, at least one request."""
    requests = max(1, window.in_flight // batch)
    arguments = [
        *(str(build()), "-peer", peer, "-mode", mode, "-endpoints", ",".join(endpoints), "-batch", str(batch)),
        *("-inflight", str(requests), "-connections", str(min(connections, requests))),
        *("-seconds", str(window.seconds), "-warmup", str(window.warm_up), "-prefix", window.name),
    ]
    if certificates is not None:
        arguments += ["-ca", str(certificates.ca), "-cert", str(certificates.certificate)]
        arguments += ["-key", str(certificates.key)]
    client = Child("load client", arguments, log, pipes=True)
    try:
        assert client.line(SLACK_SECONDS + window.warm_up) == "begin"
        meter = Meter(_with_children(servers))
        assert client.line(SLACK_SECONDS + window.seconds) == "end"
        cpu_seconds, written_bytes = meter.read()
        result = json.loads(client.line(SLACK_SECONDS))
    finally:
        client.stop()
    return Sample(
        checks=result["checks"],
        seconds=result["seconds"],
        **quantiles(dict(result["microseconds"])),
        errors=result["errors"],
        cpu_seconds={**cpu_seconds, "load client": result["cpu_seconds"]},
        written_bytes=written_bytes,
        detail={"conflicts": result["conflicts"], "last_error": result.get("last_error", "")},
    )


def _with_children(servers: Mapping[str, psutil.Process]) -> dict[str, psutil.Process]:
    """And the processes that serve one connection each, which last as long as the client's run."""
    return {
        f"{name} {each.pid}": each for name, one in servers.items() for each in (one, *one.children(recursive=True))
    }
