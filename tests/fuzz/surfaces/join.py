"""Joining and returning: a token as somebody may type it, a stranger's request to a member, a hostile member's answers, the
chain of manifests, certificates, and what a host says of itself."""

from __future__ import annotations

import atexit
import base64
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from raftcluster.cluster import chain, join
from raftcluster.cluster.admission import Admission
from raftcluster.cluster.conversation import JOIN, JOIN_CONTEXT, RETURN, RETURN_CONTEXT, await_bundle, proof_message
from raftcluster.cluster.keystore import UNNUMBERED, Keystore
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.statement import Statement
from raftcluster.codec import pack, unpack
from raftcluster.errors import RaftclusterError, Rejected, Unavailable
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport import certificates
from raftcluster.transport.certificates import Token
from raftcluster.transport.stream import Stream
from tests.fuzz.material import (
    CERTIFICATE,
    CERTIFICATE_2,
    ENDORSEMENT,
    FOUNDER,
    KEY,
    KEY_2,
    LINK_1,
    LINK_2,
    NODE,
    PIN,
    REQUEST_2,
    ROOT,
    ROOT_2,
    SAID,
    TOKEN,
)
from tests.fuzz.source import Source
from tests.local_host import LocalHost

FACTS = ["c1", "mail", True, "mta/1", 1, "standalone", FOUNDER]
NONCE = bytes(16)
NOW_MS = 1_750_000_000_000
_FOLDER = tempfile.TemporaryDirectory(prefix="raftcluster-fuzz-")
atexit.register(_FOLDER.cleanup)
_EMPTY, _USED = Path(_FOLDER.name) / "empty", Path(_FOLDER.name) / "used"
with DataDirectory.create(_EMPTY) as _made:
    for _name, _data in (("node.key", KEY_2), ("request.pem", REQUEST_2)):
        Keystore(_made, "c1", NODE)._write(UNNUMBERED, _name, _data)
READERS: list[Callable[[bytes], Any]] = [
    certificates.request_hash,
    certificates.request_fingerprint,
    certificates.fingerprint,
    certificates.key_fingerprint,
    certificates.certificate_hash,
    certificates.subject_of,
    certificates.root_subject,
    certificates.validity,
    certificates.verify_root,
    certificates.pem_of,
    lambda pem: certificates.verify_key(pem, b"", ENDORSEMENT[1]),
    lambda pem: certificates.verify_leaf(pem, ROOT_2),
    lambda pem: certificates.verify_leaf(CERTIFICATE_2, pem),
]


def seeds() -> Iterable[bytes]:
    yield b"\x00" + str(TOKEN).encode()
    yield b"\x00rc1.0.0.0"
    for kind in range(1, 6):
        for salt in range(5):
            yield bytes([kind]) + bytes((salt * 59 + n * (salt + 2)) % 256 for n in range(60))
        yield bytes([kind]) + bytes(60)


def run(data: bytes) -> None:
    """Each ends with an answer or a typed error."""
    source = Source(data)
    (_token, _request, _bundle, _certificate, _chain, _statement)[source.below(6)](source)


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
    original = source.choice((REQUEST_2, CERTIFICATE_2, ROOT_2, ROOT))
    lines = original.decode().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    for _ in range(source.below(4)):
        place = source.below(len(der))
        der = der[:place] + source.take(1 + source.below(3)) + der[place + 1 :]
    pem = f"{lines[0]}\n{base64.b64encode(der).decode()}\n{lines[-1]}\n".encode()
    read = source.choice(READERS)
    for data in (pem, original, der, b""):
        try:
            read(data)
        except Rejected:
            continue


def _chain(source: Source) -> None:
    """Whatever the chain is, it is followed or refused; and it leads nowhere without the first root's word."""
    try:
        links = [Link.check(_wired(values)) for values in _spoilt_links(source)]
        head = chain.verify(chain.first_of(links, TOKEN.root_hash), cluster_id="c1")
    except Rejected:
        return
    assert head.pack() in (LINK_1.manifest, LINK_2.manifest), "nobody could have signed another one"
    try:
        chain.after(links, source.choice((LINK_1, LINK_2)))
        chain.check_root(source.choice(links))
    except Rejected:
        return


def _statement(source: Source) -> None:
    data = source.spoilt(source.damaged(SAID) if source.flag(4) else SAID, 4)
    found = Statement.checked(_wired(data), source.choice(("c1", "c2")), source.choice((FOUNDER, NODE)), {PIN})
    assert found is None or found.cluster_id == "c2"


def _spoilt_links(source: Source) -> list[Any]:
    links: list[Any] = [
        [*LINK_1.values()[:3], dict(LINK_1.endorsements)],
        [*LINK_2.values()[:3], {FOUNDER: list(ENDORSEMENT)}],
    ]
    for _ in range(source.below(3)):
        link = source.choice(links)
        place = source.below(6)
        if place < 2 and isinstance(link[place], bytes):
            link[place] = source.spoilt(source.damaged(link[place]), 4)
        elif place == 2:
            content = (
                unpack(link[0]) if isinstance(link[0], bytes) and link[0] in (LINK_1.manifest, LINK_2.manifest) else [0]
            )
            content[source.below(len(content))] = source.value()
            link[0] = pack(_wired(content))
        elif place == 3 and isinstance(link[3], dict):
            link[3][source.choice((FOUNDER, NODE))] = source.spoilt([source.damaged(each) for each in ENDORSEMENT], 4)
        else:
            link[source.below(4)] = source.value()
    return source.choice((links, links[:1], links[::-1], links * 2, [source.spoilt(each, 4) for each in links]))


class _Talk:
    """A stream whose far end says what it is given, and then is gone."""

    address = "192.0.2.9:1"
    certificate = CERTIFICATE

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
            return _wired(value)
        raise Unavailable("gone")

    def part(self, value: Any = None) -> None:
        self.send(value)


def _request(source: Source) -> None:
    """To a member: whatever it is asked, it answers with a nonce, and then with a refusal or what was asked for."""
    host = LocalHost([ClusterMachine()])
    founder = [FOUNDER, "mx1.example.org", "192.0.2.1", 9777, "mta/1"]
    minted = [1, ROOT, CERTIFICATE, PIN, LINK_1.manifest, LINK_1.signature]
    host.propose("cluster", ["genesis", FACTS, founder, minted])
    host.propose("cluster", ["invite", TOKEN.id, TOKEN.public_key(), "mx2.example.org", 3600, []])
    if source.flag():
        host.propose("cluster", ["rotate", "tx", [], True])
    talk = _Talk([])
    talk.answers = iter(_asked(source, talk))
    Admission(host, clock=lambda: NOW_MS / 1000).join(cast("Stream", talk))
    assert "nonce" in talk.heard[0] and len(talk.heard) <= 3
    assert all(set(answer) & {"nonce", "refused", "progress", "bundle", "chain"} for answer in talk.heard)


def _asked(source: Source, talk: _Talk) -> Iterable[Any]:
    nonces, kind = (talk.heard[0]["nonce"], NONCE), source.below(4)
    made: dict[Any, Any]
    if kind == 0:
        made = {"chain": source.choice((1, 2, TOKEN.root_hash, source.value()))}
    elif kind == 1:
        message = proof_message(RETURN_CONTEXT, ["c1", FOUNDER], nonces, talk.certificate, REQUEST_2)
        proofs = [[certificates.public_key(KEY), certificates.sign(KEY, message)]]
        proofs[0][source.below(2)] = source.spoilt(source.damaged(proofs[0][0]), 2) if source.flag(4) else proofs[0][0]
        made = dict(zip(RETURN, [FOUNDER, NONCE, NOW_MS, REQUEST_2, source.spoilt(proofs, 8)], strict=True))
    else:
        name = source.choice(("mx2.example.org", "mx3.example.org", "MX2", "x" * 250))
        message = proof_message(JOIN_CONTEXT, ["c1", TOKEN.id, name], nonces, talk.certificate, REQUEST_2)
        values = [TOKEN.id, name, NODE, "192.0.2.2", 9777, "mta/1", 1, "standalone", NONCE, NOW_MS]
        made = dict(zip(JOIN, [*values, REQUEST_2, TOKEN.sign(message)], strict=True))
    for _ in range(source.below(3)):
        made[source.choice(sorted(made))] = source.value()
    yield source.spoilt(made)
    yield source.value()


def _bundle(source: Source) -> None:
    """To a joiner: it is a node with all it needs, or it is none and may ask again."""
    member = [FOUNDER, "mx1.example.org", "192.0.2.1", 9777, "voter", [PIN], 1, "mta/1", 0, 0]
    own = [NODE, "mx2.example.org", "192.0.2.2", 9777, "learner", [], 2, "mta/1", 0, 0]
    bundle: dict[Any, Any] = {
        "facts": list(FACTS),
        "generation": 2,
        "certificate": CERTIFICATE_2,
        "roots": {1: ROOT, 2: ROOT_2},
        "members": [member, own],
        "revision": 7,
        "chain": _spoilt_links(source) if source.flag() else [LINK_1.values(), LINK_2.values()],
    }
    for _ in range(source.below(3)):
        place = source.choice(sorted(bundle))
        inner = bundle[place]
        if isinstance(inner, list) and inner and source.flag():
            inner = source.choice(inner) if place == "members" and source.flag() else inner
            if isinstance(inner, list):
                inner[source.below(len(inner))] = source.value()
        elif isinstance(inner, dict) and source.flag():
            inner[source.choice((1, 2, 3, "x", None))] = source.spoilt(ROOT, 2)
        else:
            bundle[place] = source.value()
    answers = [source.spoilt({"bundle": source.spoilt(bundle)})]
    if source.flag():
        answers.insert(0, source.choice(({"progress": source.value()}, {"refused": source.value(), "text": "x"}, 7)))
    shutil.rmtree(_USED, ignore_errors=True)
    shutil.copytree(_EMPTY, _USED)
    with DataDirectory.open(_USED) as directory:
        keystore = Keystore(directory, "c1", NODE)
        node = join.about_node("mx2.example.org", ("192.0.2.2", 9777), "mta/1", None)
        try:
            taken = await_bundle(cast("Stream", _Talk(answers)), lambda text: None)
            joined = join.settle(
                taken, directory, keystore, NODE, node, lambda links: chain.first_of(links, TOKEN.root_hash)
            )
        except RaftclusterError:
            assert not (_USED / "node.json").exists()
            return
        assert (joined.node_id, joined.cluster_id) == (NODE, "c1")
        keystore.trust()
        assert directory.read_node()["node_id"] == NODE


def _wired(value: Any) -> Any:
    """As it arrives: what msgpack cannot say is on no wire."""
    try:
        return unpack(pack(value))
    except (OverflowError, ValueError):
        return None
