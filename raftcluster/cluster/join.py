"""Joining, both ends: `join` on the new node, `Admission` on whichever member it has dialled.

    joiner                                              member (leader or not)
    connect, believe nothing      <-- greeting: root    compare with the token's fingerprint; differs: stop
    connect, this root required   <-- challenge: nonce
    request: who, nonce, certificate request, proof --> proof, clock, versions; begin(token, request) is committed
                                  <-- progress ...      until the generation is minted
    store everything              <-- bundle: certificate, roots, members
    stored                        -->

The proof is the token's signature of cluster, token, name, both nonces, the certificate that the member has shown and the
request: it is worth nothing on another connection, for another name or for another key. The token's secret and the node's
key stay on the joiner. Key and node id are on its disk before anything is asked for; so the joiner may crash, lose its
connection or run out of time and simply ask again: the same request is answered as before.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from raftcluster import limits
from raftcluster.cluster.keystore import UNNUMBERED, Keystore, Trust
from raftcluster.cluster.records import SCHEMA, Facts, Member, rejected
from raftcluster.cluster.rows import check_address, expect
from raftcluster.cluster.view import View, invitation
from raftcluster.codec import Value, pack
from raftcluster.errors import FrameError, OutcomeUnknown, RaftclusterError, Rejected, StorageRefusal, Unavailable
from raftcluster.host import Host
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.certificates import (
    Token,
    certificate_hash,
    request_fingerprint,
    request_hash,
    verify_root,
    verify_token_signature,
)
from raftcluster.transport.connect import dial_rooted, dial_untrusted
from raftcluster.transport.ports import Address, Peer
from raftcluster.transport.stream import Stream

log = logging.getLogger("raftcluster.cluster")

CONTEXT: Final = "raftcluster-join-v1"
NONCE_BYTES: Final = 16
PROGRESS_SECONDS: Final = 5.0
"""At least this often the member says how far it is; so the joiner notices when it is gone."""
_REQUEST: Final = {
    "token": str,
    "name": str,
    "node": str,
    "host": str,
    "port": int,
    "product": str,
    "schema": int,
    "realm": str,
    "nonce": bytes,
    "time": int,
    "request": bytes,
    "proof": bytes,
}
_FACTS: Final = (str, str, bool, str, int, str, str)
_MEMBER: Final = (str, str, str, int, str, list, int, str, int)


@dataclass(frozen=True, slots=True)
class Joined:
    """What a node has become part of."""

    node_id: str
    cluster_id: str
    cluster: str
    generation: int
    members: list[str]
    """Names."""


def proof_message(
    cluster_id: str, token_id: str, name: str, nonces: tuple[bytes, bytes], certificate: bytes, request: bytes
) -> bytes:
    """What the token signs. `nonces`: the member's, the joiner's; `certificate`: the one that the member has shown."""
    hashes = [certificate_hash(certificate), request_hash(request)]
    return pack([CONTEXT, cluster_id, token_id, name, *nonces, *hashes])


def join(
    path: str | os.PathLike[str],
    address: Address,
    token: Token,
    *,
    name: str,
    listen: Address,
    advertise: Address,
    product: str,
    schema: Mapping[str, int],
    realm: str = "standalone",
    firewall: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.time,
) -> Joined:
    """Make `path` the data directory of a new member of the cluster that answers at `address`. Blocks until it is done.

    `name` must be the invited one; `advertise` is where the members reach this node; `schema` holds the versions of its
    state machines; `firewall` is what `firewall.preflight` has found, None: it goes without. Start the node afterwards: it becomes a learner, then a voter.

    Raises `Rejected` with a stable code (the token's and the versions' are those of `machine`; `fingerprint`: the answering
    host is not of the token's cluster; `clock`: the clocks differ), `Unavailable` when asking again may help, `LinkRefused`,
    `StorageRefusal` when the directory is in use for something else. Asking again, with the same directory, is always safe.
    """
    with _directory(path) as directory:
        node_id = _staged(directory, token)
        root = _root(address, token)
        progress("the root matches the token")
        stream = dial_rooted(address, root, {"product": product, "schema": dict(schema)})
        try:
            cluster_id = verify_root(root)[0]
            keystore = Keystore(directory, cluster_id, node_id)
            request = keystore.request(UNNUMBERED)
            challenge = _field(stream.receive(), "nonce", bytes)
            own = secrets.token_bytes(NONCE_BYTES)
            assert stream.peer_certificate is not None, "dial_rooted has verified one"
            message = proof_message(cluster_id, token.id, name, (challenge, own), stream.peer_certificate, request)
            about = [token.id, name, node_id, *advertise, product, SCHEMA, realm, own, int(clock() * 1000), request]
            stream.send(dict(zip(_REQUEST, [*about, token.sign(message)], strict=True)))
            joined = _receive(stream, directory, keystore, _about(name, listen, product, firewall), progress)
            stream.send({"stored": True})
        finally:
            stream.close()
    return joined


def _about(name: str, listen: Address, product: str, firewall: Mapping[str, Any] | None) -> dict[str, Any]:
    """What this node knows of itself, for node.json."""
    own = {"name": name, "listen": list(listen), "product": product}
    return {**own, "firewall": firewall is not None, "before": dict(firewall or {})}


def _directory(path: str | os.PathLike[str]) -> DataDirectory:
    """A new directory, or one that an earlier attempt to join has begun."""
    if not os.path.exists(os.path.join(path, "VERSION")):
        return DataDirectory.create(path)
    directory = DataDirectory.open(path)
    if not (directory.path / "join.json").exists():
        directory.close()
        raise StorageRefusal(f"{path} belongs to a node already", subject=str(path), remedy="name another directory")
    return directory


def _staged(directory: DataDirectory, token: Token) -> str:
    """The node id of this attempt to join: another token is another attempt, with another key."""
    file = directory.path / "join.json"
    if file.exists():
        staged = json.loads(file.read_bytes())
        if staged["token"] == token.id:
            return str(staged["node_id"])
        Keystore(directory, "", "").forget([UNNUMBERED])
    node_id = str(uuid.uuid4())
    directory.write("join.json", json.dumps({"token": token.id, "node_id": node_id}).encode())
    return node_id


def _root(address: Address, token: Token) -> bytes:
    """The root that the host at `address` claims, once it is the one that the token names."""
    stream = dial_untrusted(address)
    root = bytes(stream.greeting["root"])
    stream.close()
    found = certificate_hash(root)
    if found != token.root_hash:
        raise rejected(
            "fingerprint",
            f"the host at {address[0]}:{address[1]} is not of the token's cluster and generation: "
            f"the token names root {token.root_hash.hex()}, the host shows {found.hex()}",
            subject=f"{address[0]}:{address[1]}",
            remedy="check the address; if the cluster has renewed its certificates since, ask for a new token",
        )
    return root


def _receive(
    stream: Stream, directory: DataDirectory, keystore: Keystore, node: dict[str, Any], progress: Callable[[str], None]
) -> Joined:
    while True:
        answer = stream.receive(timeout=4 * PROGRESS_SECONDS)
        if not isinstance(answer, dict):
            raise FrameError("the member's answer is no message", subject=stream.address)
        if "refused" in answer:
            raise _refusal(answer)
        if "bundle" in answer:
            return _store(answer["bundle"], directory, keystore, node)
        progress(str(answer.get("progress", ""))[:200])


def _store(bundle: Value, directory: DataDirectory, keystore: Keystore, node: dict[str, Any]) -> Joined:
    """Write what makes the directory a node's; node.json last, for what has it is complete."""
    facts = Facts.of(expect(_field(bundle, "facts", list), _FACTS))
    members = {each.node_id: each for each in map(_member, _field(bundle, "members", list))}
    number, revision = _field(bundle, "generation", int), _field(bundle, "revision", int)
    roots = _field(bundle, "roots", dict)
    for generation, root in roots.items():
        if type(generation) is not int or verify_root(root) != (facts.cluster_id, generation):
            raise FrameError(f"the bundle's root of generation {generation!r:.40} is another one's", subject="bundle")
    if keystore.node_id not in members:
        raise FrameError("the bundle knows nothing of who has joined", subject="bundle")
    keystore.store(number, _field(roots, number, bytes), _field(bundle, "certificate", bytes), key_of=UNNUMBERED)
    for generation in sorted(set(roots) - {number}):
        keystore.add_root(generation, roots[generation])
    node_id = keystore.node_id
    advertised = members.pop(node_id)
    peers = {each: Peer(each, (one.host, one.port), frozenset(one.pins)) for each, one in members.items()}
    keystore.keep(Trust(revision, number, tuple(sorted(roots)), peers))
    directory.write_node(
        {
            **node,
            "node_id": node_id,
            "cluster_id": facts.cluster_id,
            "cluster": facts.name,
            "founder": facts.founder,
            "advertise": [advertised.host, advertised.port],
            "realm": facts.realm,
            "lab": facts.lab,
        }
    )
    keystore.forget([UNNUMBERED])
    (directory.path / "join.json").unlink(missing_ok=True)
    names = sorted([advertised.name, *(each.name for each in members.values())])
    return Joined(node_id, facts.cluster_id, facts.name, number, names)


def _member(values: Value) -> Member:
    """A member as a bundle tells of it. Raises `Rejected`: what is kept must be read again at every start."""
    member = Member.of(expect(values, _MEMBER))
    check_address(member.host, member.port)
    if not all(isinstance(pin, bytes) for pin in member.pins):
        raise FrameError(f"the keys of {member.name[:80]!r} are none", subject="bundle")
    return member


def _refusal(answer: Mapping[str, Any]) -> RaftclusterError:
    code, text, remedy = (str(answer.get(field, ""))[:500] for field in ("refused", "text", "remedy"))
    if code == Unavailable.code:
        return Unavailable(text, remedy=remedy)
    return rejected(code, text, remedy=remedy)


def _field(message: Value, field: Any, kind: type) -> Any:
    value = message.get(field) if isinstance(message, dict) else None
    if not isinstance(value, kind):
        raise FrameError(f"a message without {field!r}", subject="join")
    return value


class Admission:
    """The member's end. `join` is what `transport.Services.join` calls. Thread: any number of stream threads."""

    def __init__(
        self,
        host: Host,
        *,
        clock: Callable[[], float] = time.time,
        on_refused: Callable[[str, str, str], None] = lambda code, address, reason: None,
    ) -> None:
        """`on_refused(code, address, reason)` is told of everybody who is not let in."""
        self._host = host
        self._clock = clock
        self._on_refused = on_refused
        self._changed = threading.Condition()
        self._index = 0
        host.on_apply("cluster", self._applied)

    def join(self, stream: Stream) -> None:
        """One conversation, until the joiner has its bundle or is refused. Returns; the transport closes the stream."""
        try:
            nonce = secrets.token_bytes(NONCE_BYTES)
            stream.send({"nonce": nonce})
            asked = _parse(stream.receive())
            self._check(asked, nonce, stream)
            number = self._begin(asked, stream)
            stream.send({"bundle": self._bundle(asked["node"], number, stream)})
            stream.receive()
            log.info("%s (%s) has joined from %s, generation %d", asked["name"], asked["node"], stream.address, number)
        except FrameError as error:
            self._refuse(stream, rejected("malformed", error.message))
        except Rejected as error:
            self._refuse(stream, error)
        except Unavailable as error:  # the connection, or the cluster for longer than the conversation may take
            log.info("joining from %s ended: %s", stream.address, error)
            stream.part({"refused": error.code, "text": error.message, "remedy": "try again"})

    def _check(self, asked: dict[str, Any], nonce: bytes, stream: Stream) -> None:
        """The proof first: who has none learns nothing more."""
        view = self._host.query("cluster", View.read)
        token = self._host.query("cluster", lambda tables, time: invitation(tables, asked["token"]))
        assert stream.certificate is not None, "the transport sets it on served streams"
        if view.facts is None or token is None:
            raise rejected("token-unknown", "this cluster has no such token", remedy="ask for a new invitation")
        message = proof_message(
            view.facts.cluster_id,
            token.token_id,
            asked["name"],
            (nonce, asked["nonce"]),
            stream.certificate,
            asked["request"],
        )
        try:
            verify_token_signature(token.public_key, message, asked["proof"])
        except Rejected as error:
            raise rejected("token-proof", "the proof is not the token's", remedy=error.remedy) from error
        skew_s = asked["time"] / 1000 - self._clock()
        if abs(skew_s) > limits.CLOCK_ALARM_SECONDS:
            raise rejected(
                "clock",
                f"the joiner's clock is {skew_s:+.1f} s off this member's; {limits.CLOCK_ALARM_SECONDS:.0f} s are allowed",
                remedy="synchronise both clocks (chrony, systemd-timesyncd)",
            )
        pin = request_fingerprint(asked["request"])
        if any(pin in each.pins for each in view.members.values() if each.node_id != asked["node"]):
            raise rejected("key-known", "a member has that key already", remedy="start with an empty data directory")

    def _begin(self, asked: dict[str, Any], stream: Stream) -> int:
        """Consume the token; the result is the generation. Waits while another one is under way."""
        fields = ("node", "name", "host", "port", "product", "schema", "realm", "token")
        joiner = [*(asked[field] for field in fields), request_hash(asked["request"]), asked["request"]]
        while True:
            seen = self._index
            try:
                return int(self._host.propose("cluster", ["begin", str(uuid.uuid4()), joiner]))
            except Rejected as error:
                if error.code != "generation-under-way":
                    raise
                text, pause = f"waiting: {error.message}", PROGRESS_SECONDS
            except (Unavailable, OutcomeUnknown) as error:  # `begin` may be repeated
                text, pause = f"waiting: {error.message}", limits.RESEND_SECONDS
            stream.send({"progress": text})
            self._wait(seen, pause)

    def _bundle(self, node_id: str, number: int, stream: Stream) -> dict[str, Value]:
        """What the joiner needs, once its generation is minted."""
        told = ""
        while True:
            seen = self._index
            view = self._host.query("cluster", View.read)
            if view.facts is None or node_id not in view.live():
                raise rejected("removed", "this node was removed again before it had its certificate")
            held = [each for each in (view.active, view.pending) if each is not None and each.root]
            current = next((each for each in held if node_id in each.certificates), None)
            if current is not None:
                log.debug("bundle of generation %d for %s", current.number, node_id)
                return {
                    "facts": view.facts.values(),
                    "generation": current.number,
                    "certificate": current.certificates[node_id],
                    "roots": {each.number: each.root for each in held},
                    "members": [each.values() for each in view.live().values()],
                    "revision": view.revision,
                }
            requests = len(view.pending.requests) if view.pending else 0
            text = f"generation {number}: requests {requests}/{len(view.live())}"
            if text != told or not self._wait(seen):
                stream.send({"progress": text})
                told = text

    def _wait(self, seen: int, seconds: float = PROGRESS_SECONDS) -> bool:
        """Until an entry has changed the tables since `seen`; False when none came within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._index != seen, seconds)

    def _applied(self, index: int) -> None:
        with self._changed:
            self._index += 1
            self._changed.notify_all()

    def _refuse(self, stream: Stream, error: Rejected) -> None:
        log.warning("refused to let %s join: %s: %s", stream.address, error.code, error.message)
        self._on_refused(error.code, stream.address.rpartition(":")[0], error.message)
        stream.part({"refused": error.code, "text": error.message, "remedy": error.remedy})


def _parse(message: Value) -> dict[str, Any]:
    """The request with all its fields, each of its kind; `Rejected` otherwise."""
    if not isinstance(message, dict) or set(message) != set(_REQUEST):
        raise rejected("malformed", "that is no request to join")
    for field, kind in _REQUEST.items():
        value = message[field]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise rejected("malformed", f"field {field} of the request to join is malformed")
        if isinstance(value, str) and not 1 <= len(value.encode("utf-8", "surrogatepass")) <= limits.NAME_BYTES:
            raise rejected("malformed", f"field {field} of the request to join is too long, or empty")
    if len(message["nonce"]) != NONCE_BYTES or not message["token"].isalnum():
        raise rejected("malformed", "that is no request to join")
    return message
