"""Meshes on loopback that a test turns by hand, and a client that may say anything to them."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raftcluster import codec
from raftcluster.transport import handshake
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.ports import Address, Event, Identity
from tests.helpers import eventually

ABOUT: dict[str, Any] = {"product": "test/1", "schema": {"counter": 1}}
LOOPBACK: Address = ("127.0.0.1", 0)


PATIENCE_SECONDS = 60.0
"""Instead of `limits.LINK_IDLE_SECONDS`: who is turned by hand, or says only what a test has it say, is silent for long on a slow
machine."""


class Turned:
    """A started mesh; the test is its tick thread."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.seen: list[Event] = []
        mesh.start()

    def turn(self) -> None:
        """One poll."""
        self.seen += self.mesh.poll(0.002)


def until(condition: Callable[[], object], what: str, *turned: Turned, deadline_s: float = 60.0) -> None:
    """Turn these meshes until it is so."""

    def attempt() -> bool:
        for one in turned:
            one.turn()
        return bool(condition())

    eventually(attempt, deadline_s, what)


def context(
    directory: Path, identity: Identity | None, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """A client that believes everything and shows `identity`."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = newest
    if identity is not None:
        file = directory / "identity.pem"
        file.write_bytes(identity.certificate + identity.key)
        made.load_cert_chain(file)
    return made


class Client:
    """One TLS connection, whose user decides what is sent."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock

    def say(self, value: Any) -> None:
        """Send a well-formed frame, whatever is in it."""
        body = codec.pack(value)
        self.sock.sendall(struct.pack(">I", len(body)) + body)

    def hear(self) -> Any:
        """The next value. Raises `EOFError` or `OSError` at the end."""
        return codec.unpack(self._exactly(struct.unpack(">I", self._exactly(4))[0]))

    def refusal(self) -> str:
        """The reason that the other side gives; "alert" when TLS says it; else "end", or "reset", as the connection ends."""
        try:
            value = self.hear()
        except EOFError:
            return "end"
        except ssl.SSLError:
            return "alert"
        except OSError:
            return "reset"
        return str(value.get("refused", value))

    def hello(self, cluster_id: str = "mail", kind: str = handshake.RAFT, **other: Any) -> None:
        """Say hello, by default a proper one."""
        self.say({**handshake.hello(cluster_id, kind, ABOUT), **other})

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


@contextmanager
def client(address: Address, tls: ssl.SSLContext) -> Iterator[Client]:
    """A connection after its TLS handshake, as far as the client can tell."""
    with socket.create_connection(address, timeout=60) as raw, tls.wrap_socket(raw) as wrapped:
        yield Client(wrapped)


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))
