"""What somebody on the wire can read of an invitation, a join and a rotation: no secret. Every connection passes a recorder."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import raftcluster
from raftcluster import Node
from raftcluster.cluster import keystore
from raftcluster.errors import RaftclusterError
from raftcluster.transport import certificates
from raftcluster.transport.certificates import Token
from tests.clusters import SECONDS
from tests.helpers import eventually, free_ports
from tests.tap import Tap

MARKER = b"this passes in clear text"


def generic() -> dict[str, bytes]:
    """What any private key of the kind that is used begins with, whosever it is: also the root's, which no test can see."""
    whole = ec.generate_private_key(ec.SECP256R1())
    found = {"PEM": b"PRIVATE KEY-----"}
    forms = {"PKCS 8": serialization.PrivateFormat.PKCS8, "SEC 1": serialization.PrivateFormat.TraditionalOpenSSL}
    for name, form in forms.items():
        der = whole.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
        head = der[: der.index(whole.private_numbers().private_value.to_bytes(32, "big"))]
        found[f"{name} DER"] = head
        found[f"{name} base64"] = base64.b64encode(head[: len(head) // 3 * 3])
    return found


def spelled(key_pem: bytes) -> dict[str, bytes]:
    """One private key in every form in which it might leave its host."""
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"PEM": key_pem, "DER": der, "number": number, "hex": number.hex().encode()}


def spelled_token(token: str) -> dict[str, bytes]:
    secret = Token.parse(token).secret
    return {"token": token.encode(), "part": token.split(".")[2].encode(), "raw": secret, "hex": secret.hex().encode()}


def seen(secrets: dict[str, bytes], flows: list[bytes]) -> list[str]:
    """Names of those that are in what has passed."""
    return sorted(name for name, secret in secrets.items() if any(secret in flow for flow in flows))


def retried(act: Callable[[], object]) -> Callable[[], object]:
    def attempt() -> object:
        try:
            return act()
        except RaftclusterError:
            return None

    return attempt


def test_no_secret_passes_in_clear_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []

    def noted() -> bytes:
        made.append(certificates.new_key())
        return made[-1]

    monkeypatch.setattr(keystore, "new_key", noted)
    ports = [("127.0.0.1", port) for port in free_ports(2)]
    with ExitStack() as stack:
        taps = [stack.enter_context(Tap(where)) for where in ports]
        paths = [tmp_path / "mx1", tmp_path / "mx2"]
        raftcluster.init(paths[0], cluster="mail", node="mx1", listen=ports[0], advertise=taps[0].address)
        first = stack.enter_context(Node.open(paths[0], ready_seconds=SECONDS))
        token = str(first.members.invite("mx2"))
        raftcluster.join(
            paths[1], address=taps[0].address, token=token, node="mx2", listen=ports[1], advertise=taps[1].address
        )
        second = stack.enter_context(Node.open(paths[1], ready_seconds=SECONDS))
        eventually(lambda: len(first.status()["voters"]) == 2, SECONDS, "both vote")
        eventually(lambda: all(node.certs.show().pending is None for node in (first, second)), SECONDS)
        number = eventually(retried(first.certs.rotate), SECONDS, "a rotation begins")
        assert number == 3
        first.certs.wait(3)
        eventually(lambda: len(made) >= 5, what="a key for each node and generation")
        peers = {link.address for node in (first, second) for link in node.mesh.links().values()}
        assert peers & {"{}:{}".format(*tap.address) for tap in taps}, "their link passes here"

        secrets = {f"token: {form}": value for form, value in spelled_token(token).items()}
        for count, key in enumerate(made):
            secrets |= {f"key {count}: {form}": value for form, value in spelled(key).items()}
        secrets |= {f"any key: {form}": value for form, value in generic().items()}
        flows = [flow for tap in taps for flow in tap.flows()]
        assert sum(map(len, flows)) > 10_000 and taps[0].flows(), "the join and the links have passed"
        assert seen(secrets, flows) == []

        # The same search finds each of them when it does pass in clear text: sent the same way, to the same listener.
        for each in [MARKER, *secrets.values()]:
            with socket.create_connection(taps[0].address) as open_line:
                open_line.sendall(each)
        everything = {**secrets, "marker": MARKER}
        eventually(
            lambda: seen(everything, taps[0].flows()) == sorted(everything), SECONDS, "the search finds what is there"
        )
