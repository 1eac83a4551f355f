"""Joining: a token as somebody may type it, a stranger's request to a member, a hostile member's answers to a joiner."""

from __future__ import annotations

import atexit
import base64
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from raftcluster.cluster import join
from raftcluster.cluster.keystore import UNNUMBERED, Keystore
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.codec import pack, unpack
from raftcluster.errors import RaftclusterError, Rejected, Unavailable
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport import certificates
from raftcluster.transport.certificates import Token
from raftcluster.transport.stream import Stream
from tests.fuzz.source import Source
from tests.hierarchy import Hierarchy
from tests.local_host import LocalHost

OLD = Hierarchy(["id-1"], cluster_id="c1")
NODE = "id-2"
FACTS = ["c1", "mail", True, "mta/1", 1, "standalone", "id-1"]
_FOLDER = tempfile.TemporaryDirectory(prefix="raftcluster-fuzz-")
atexit.register(_FOLDER.cleanup)
_FIRST = Path(_FOLDER.name) / "first"
_DIRECTORY = Path(_FOLDER.name) / "directory"
with DataDirectory.create(_FIRST) as _made:
    REQUEST = Keystore(_made, "c1", NODE).request(UNNUMBERED)
    MINTED = certificates.issue("c1", 2, {"id-1": certificates.make_request(OLD.keys["id-1"], "id-1"), NODE: REQUEST})
CERTIFICATE = MINTED.certificates[NODE]
TOKEN = Token("0" * 16, bytes(16), certificates.certificate_hash(OLD.root))
NONCE = bytes(16)
READERS: list[Callable[[bytes], Any]] = [
    certificates.request_hash,
    certificates.request_fingerprint,
    certificates.fingerprint,
    certificates.certificate_hash,
    certificates.subject_of,
    certificates.root_subject,
    certificates.verify_root,
    lambda pem: certificates.verify_leaf(pem, MINTED.root_pem),
    lambda pem: certificates.verify_leaf(CERTIFICATE, pem),
]


def seeds() -> Iterable[bytes]:
    yield b"\x00" + str(TOKEN).encode()
    yield b"\x00rc1.0.0.0"
    for kind in (1, 2, 3):
        for salt in range(6):
            yield bytes([kind]) + bytes((salt * 59 + n * (salt + 2)) % 256 for n in range(60))
        yield bytes([kind]) + bytes(60)


def run(data: bytes) -> None:
    """Each ends with an answer or a typed error."""
    source = Source(data)
    (_token, _request, _bundle, _certificate)[source.below(4)](source)


def _token(source: Source) -> None:
    text = source.rest().decode("utf-8", "surrogateescape")
    try:
        token = Token.parse(text)
    except Rejected as error:
        told = str(error)
    else:
        assert str(token) == text.strip()
        told = repr(token)
    secret = text.strip().split(".")[2:3]
    assert not secret or len(secret[0]) < 12 or secret[0] not in told, "a secret reaches a log"


def _certificate(source: Source) -> None:
    original = source.choice((REQUEST, CERTIFICATE, MINTED.root_pem, OLD.root))
    lines = original.decode().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    for _ in range(source.below(4)):
        place = source.below(len(der))
        der = der[:place] + source.take(1 + source.below(3)) + der[place + 1 :]
    pem = source.choice((original, f"{lines[0]}\n{base64.b64encode(der).decode()}\n{lines[-1]}\n".encode(), der, b""))
    for read in (source.choice(READERS), lambda pem: certificates.pem_of(der)):
        try:
            read(pem)
        except Rejected:
            continue


class _Talk:
    """A stream whose far end says what it is given, and then is gone."""

    address = "192.0.2.9:1"
    certificate = OLD.minted.certificates["id-1"]

    def __init__(self, answers: Iterable[Any]) -> None:
        self.answers = iter(answers)
        self.heard: list[Any] = []

    def send(self, value: Any, timeout: float = 0.0) -> None:
        """One `progress` is listened to, then nobody is there any more."""
        self.heard.append(unpack(pack(value)))
        if "progress" in value:
            raise Unavailable("gone")

    def receive(self, timeout: float = 0.0) -> Any:
        for value in self.answers:
            try:
                return unpack(pack(value))
            except (OverflowError, ValueError):
                break
        raise Unavailable("gone")

    def part(self, value: Any = None) -> None:
        self.send(value)


def _request(source: Source) -> None:
    """To a member: whatever it is asked, it answers with a nonce, and then with a refusal or a bundle."""
    host = LocalHost([ClusterMachine()])
    founder = ["id-1", "mx1.example.org", "192.0.2.1", 9777, "mta/1"]
    minted = [1, OLD.root, OLD.minted.certificates["id-1"], OLD.pin("id-1")]
    host.propose("cluster", ["genesis", FACTS, founder, minted])
    host.propose("cluster", ["invite", TOKEN.id, TOKEN.public_key(), "mx2.example.org", 3600, []])
    if source.flag():
        host.propose("cluster", ["begin", "tx", None])
    talk = _Talk([])

    def asked() -> Iterable[Any]:
        nonce = talk.heard[0]["nonce"]
        name = source.choice(("mx2.example.org", "mx3.example.org", "MX2", "x" * 250))
        message = join.proof_message("c1", TOKEN.id, name, (nonce, NONCE), talk.certificate, REQUEST)
        values = [TOKEN.id, name, NODE, "192.0.2.2", 9777, "mta/1", 1, "standalone", NONCE, int(time.time() * 1000)]
        made = dict(zip(join._REQUEST, [*values, REQUEST, TOKEN.sign(message)], strict=True))
        for _ in range(source.below(3)):
            made[source.choice(sorted(made))] = source.value()
        yield source.spoilt(made)
        yield source.value()

    talk.answers = iter(asked())
    admission = join.Admission(host)
    admission.join(cast("Stream", talk))
    assert "nonce" in talk.heard[0] and len(talk.heard) <= 3
    assert all(set(answer) & {"nonce", "refused", "progress", "bundle"} for answer in talk.heard)


def _bundle(source: Source) -> None:
    """To a joiner: it is a node with all it needs, or it is none and may ask again."""
    member = ["id-1", "mx1.example.org", "192.0.2.1", 9777, "voter", [OLD.pin("id-1")], 1, "mta/1", 0]
    own = [NODE, "mx2.example.org", "192.0.2.2", 9777, "learner", [], 2, "mta/1", 0]
    bundle: dict[Any, Any] = {
        "facts": list(FACTS),
        "generation": 2,
        "certificate": CERTIFICATE,
        "roots": {1: OLD.root, 2: MINTED.root_pem},
        "members": [member, own],
        "revision": 7,
    }
    for _ in range(source.below(3)):
        place = source.choice(sorted(bundle))
        inner = bundle[place]
        if isinstance(inner, list) and inner and source.flag():
            inner = source.choice(inner) if place == "members" and source.flag() else inner
            if isinstance(inner, list):
                inner[source.below(len(inner))] = source.value()
        elif isinstance(inner, dict) and source.flag():
            inner[source.choice((1, 2, 3, "x", None))] = source.spoilt(OLD.root, 2)
        else:
            bundle[place] = source.value()
    answers = [source.spoilt({"bundle": source.spoilt(bundle)})]
    if source.flag():
        answers.insert(0, source.choice(({"progress": source.value()}, {"refused": source.value(), "text": "x"}, 7)))
    shutil.rmtree(_DIRECTORY, ignore_errors=True)
    shutil.copytree(_FIRST, _DIRECTORY)
    with DataDirectory.open(_DIRECTORY) as directory:
        keystore = Keystore(directory, "c1", NODE)
        node = {"name": "mx2.example.org", "listen": ["192.0.2.2", 9777], "product": "mta/1"}
        try:
            joined = join._receive(cast("Stream", _Talk(answers)), directory, keystore, node, lambda text: None)
        except RaftclusterError:
            assert not (_DIRECTORY / "node.json").exists()
            return
        assert (joined.node_id, joined.cluster_id) == (NODE, "c1")
        keystore.trust()
        assert directory.read_node()["node_id"] == NODE
