"""A sniffer on the wire, from the first invitation to a rotation: no token, no private key, and nothing of the configuration."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.children import Child
from tests.e2e.capture import Capture
from tests.e2e.hosts import Hosts
from tests.e2e.node import COMMAND
from tests.helpers import eventually
from tests.integration.test_clear_text import generic, seen, spelled, spelled_token

PORTS = {"mx1": 9771, "mx2": 9772, "mx3": 9773}
OPEN_PORT = 9799
SECONDS = 60.0
SEND = """
import socket, sys
for line in sys.stdin:
    with socket.create_connection(("127.0.0.1", {port})) as far:
        far.sendall(bytes.fromhex(line))
"""
TAKE = """
import socket
listener = socket.create_server(("127.0.0.1", {port}))
while True:
    near, _ = listener.accept()
    while near.recv(65536):
        pass
    near.close()
"""


class Node:
    """One of three on one host, which reach each other over its loopback and nothing else."""

    def __init__(self, host: Hosts, name: str, folder: Path) -> None:
        self.host, self.name, self.directory = host, name, folder / name
        self.address = f"127.0.0.1:{PORTS[name]}"
        self.child: Child | None = None

    def said(self, *arguments: str, given: str = "") -> str:
        done = self.host.run(1, COMMAND, "-C", str(self.directory), *arguments, stdin=given, timeout=SECONDS)
        assert done.returncode == 0, f"{self.name}: {arguments}: {done.stderr}"
        return done.stdout

    def asked(self, *arguments: str) -> Any:
        """The result as JSON has it; empty while the node does not answer."""
        words = [COMMAND, "-C", str(self.directory), *arguments, "--json"]
        done = self.host.run(1, *words, timeout=SECONDS)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def serve(self) -> None:
        words = [COMMAND, "-C", str(self.directory), "serve", "--policy", f"inet:127.0.0.1:{PORTS[self.name] + 10}"]
        self.child = self.host.start(1, self.name, words, self.directory.with_suffix(".log"))
        eventually(lambda: self.asked("status").get("leader"), SECONDS, f"{self.name} has a leader")

    def settled(self, count: int) -> bool:
        """So many vote, and no generation is under way."""
        voters = self.asked("status").get("voters", ())
        return len(voters) == count and self.asked("certs").get("pending", 0) is None

    def private(self) -> set[bytes]:
        """The private keys that are on its disk now."""
        return {file.read_bytes() for file in (self.directory / "certificates").rglob("node.key")}


@pytest.fixture
def host() -> Iterator[Hosts]:
    with Hosts(1) as one:
        yield one


def test_a_sniffer_sees_no_secret_and_no_configuration(host: Hosts, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    marker = "".join(random.Random(seed).choices(string.ascii_letters, k=40))
    nodes = [Node(host, name, tmp_path) for name in PORTS]
    first, *others = nodes
    keys: set[bytes] = set()
    tokens: list[str] = []
    with Capture(host.namespace(1)) as capture:
        first.said("init", "--name", "mail", "--node", first.name, "--listen", first.address)
        first.serve()
        keys |= first.private()
        for count, node in enumerate(others, 2):
            tokens.append(first.said("invite", node.name).strip())
            node.said("join", first.address, "--node", node.name, "--listen", node.address, given=tokens[-1])
            node.serve()
            eventually(lambda: first.settled(count), SECONDS, "its certificates are in force")  # noqa: B023
            keys |= {key for each in nodes for key in each.private()}
        others[0].said("config", "set", f"key/{marker.lower()}", f"value-{marker}", "--reason", f"reason-{marker}")
        others[1].said("certs", "rotate", "--reason", f"rotation-{marker}")
        eventually(lambda: first.settled(3), SECONDS, "and these")
        keys |= {key for each in nodes for key in each.private()}
        assert f"value-{marker}" in others[1].said("config", "get", f"key/{marker.lower()}")
        assert len(keys) == 1 + 2 + 3 + 3, "a key for each node and generation"

        secrets = {f"configuration: {part}": f"{part}-{marker}".encode() for part in ("value", "reason", "rotation")}
        secrets["configuration: key"] = marker.lower().encode()
        for count, token in enumerate(tokens):
            secrets |= {f"token {count}: {form}": value for form, value in spelled_token(token).items()}
        for count, key in enumerate(sorted(keys)):
            secrets |= {f"key {count}: {form}": value for form, value in spelled(key).items()}
        secrets |= {f"any key: {form}": value for form, value in generic().items()}
        flows = capture.flows()
        dialled = [flow[3] for flow, data in flows.items() if flow[3] in PORTS.values() and data[:2] == b"\x16\x03"]
        assert len(dialled) >= 5, "TLS was seen from its beginning: of two joins and three links"
        assert len(set(dialled)) >= 2, "the node with the greatest id dials the others, and may be dialled by none"
        assert sum(map(len, flows.values())) > 50_000
        assert seen(secrets, list(flows.values())) == []

        # The same capture finds each of them where it is sent in clear, from a process of the same host.
        listener = host.start(1, "listener", ["python3", "-c", TAKE.format(port=OPEN_PORT)], tmp_path / "listener.log")
        eventually(lambda: host.listens(1, OPEN_PORT, at="127.0.0.1"), SECONDS, "somebody listens")
        given = "".join(f"{secret.hex()}\n" for secret in secrets.values())
        assert host.run(1, "python3", "-c", SEND.format(port=OPEN_PORT), stdin=given, timeout=SECONDS).returncode == 0
        eventually(
            lambda: seen(secrets, list(capture.flows().values())) == sorted(secrets), SECONDS, "all are found there"
        )
        for each in (listener, *(node.child for node in nodes)):
            assert each is not None
            each.stop()
    assert capture.lost == 0, "every frame was looked at"
