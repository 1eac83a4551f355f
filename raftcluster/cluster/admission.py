"""The member's end of joining and returning, and the public chain for anybody who asks. What is said: `conversation`."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any, Final

from raftcluster import limits
from raftcluster.cluster.auditing import attributed
from raftcluster.cluster.bundle import Bundle
from raftcluster.cluster.conversation import (
    CHAIN_UNKNOWN,
    JOIN,
    JOIN_CONTEXT,
    JOIN_OPTIONAL,
    KEYS,
    NONCE_BYTES,
    PROGRESS_SECONDS,
    RETURN,
    RETURN_CONTEXT,
    parse,
    proof_message,
)
from raftcluster.cluster.features import lacking
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.progress import progress
from raftcluster.cluster.records import Generation, Member, rejected
from raftcluster.cluster.view import View, generation, invitation, links
from raftcluster.codec import Value
from raftcluster.errors import FrameError, OutcomeUnknown, Rejected, Removed, Unavailable
from raftcluster.host import Host
from raftcluster.machine import ReadTables
from raftcluster.transport.certificates import (
    certificate_hash,
    fingerprint,
    key_fingerprint,
    request_fingerprint,
    request_hash,
    verify_key,
    verify_token_signature,
)
from raftcluster.transport.stream import Stream

log = logging.getLogger("raftcluster.cluster")

Told = Callable[[str], None]
SLEPT: Final = "it has slept through a generation"


class Admission:
    """`join` is what `transport.Services.join` calls. Thread: any number of stream threads."""

    def __init__(
        self,
        host: Host,
        *,
        clock: Callable[[], float] = time.time,
        on_refused: Callable[[str, str, str], None] = lambda code, address, reason: None,
        answer: Callable[[Stream, dict[Any, Value]], Value] | None = None,
    ) -> None:
        """`on_refused(code, address, reason)` is told of everybody who is refused; `answer(stream, question)` answers
        questions about a cluster's end."""
        self._host = host
        self._clock = clock
        self._on_refused = on_refused
        self._answer = answer
        self._changed = threading.Condition()
        self._index = 0
        host.on_apply("cluster", self._applied)

    def join(self, stream: Stream) -> None:
        """One conversation, until the other side has what it asked for or is refused. The transport closes the stream."""
        try:
            nonce = secrets.token_bytes(NONCE_BYTES)
            stream.send({"nonce": nonce})
            message = stream.receive()
            if isinstance(message, dict) and set(message) == {"chain"}:
                self._chain(message["chain"], stream)
            elif isinstance(message, dict) and set(message) == {"member"}:
                stream.send({"member": self._member(message["member"])})
            elif isinstance(message, dict) and len(message) == 1 and self._answer is not None:
                stream.send({"answer": self._answer(stream, message)})
            elif isinstance(message, dict) and "returning" in message:
                self._return(parse(message, RETURN), nonce, stream)
            else:
                self._join(parse(message, JOIN, JOIN_OPTIONAL), nonce, stream)
        except FrameError as error:
            self._refuse(stream, rejected("malformed", error.message))
        except Rejected as error:
            self._refuse(stream, error)
        except Unavailable as error:  # the connection, or the cluster for longer than the conversation may take
            log.info("the conversation with %s ended: %s", stream.address, error)
            stream.part({"refused": error.code, "text": error.message, "remedy": "try again"})

    def bundle(
        self, node_id: str, number: int, pins: Collection[bytes], told: Told, *, seconds: float = limits.JOIN_SECONDS
    ) -> Bundle:
        """What the node needs, once it has a certificate for one of these keys. `number`: the generation it is let in by.

        Raises `Rejected` when it was removed meanwhile or the generation was given up, `Unavailable` after `seconds`.
        """
        said, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            seen = self._index
            view, record, chain = self._host.query("cluster", lambda tables, now: _read(tables, now, number))
            if view.facts is None or node_id not in view.live():
                if record is not None and record.phase == "aborted":
                    raise rejected(
                        "aborted",
                        f"generation {number} was given up: {record.reason}",
                        remedy="start or remove who is missing, then ask again with the same token and directory",
                    )
                raise rejected(Removed.code, "this node was removed again before it had its certificate")
            held = [each for each in (view.active, view.pending) if each is not None and each.root]
            for each in reversed(held):
                if node_id in each.certificates and fingerprint(each.certificates[node_id]) in pins:
                    log.debug("bundle of generation %d for %s", each.number, node_id)
                    return Bundle.make(view, chain, held, each, node_id)
            if record is not None and record.phase == "aborted":
                raise Unavailable(f"generation {number} was given up: {record.reason}", remedy="try again")
            text = progress(view, view.pending.number if view.pending else number)
            if text != said or not self._wait(seen):
                told(text)
                said = text
        raise Unavailable(f"generation {number} is not minted after {seconds:g} s", remedy="try again")

    def begin(self, command: Value, told: Told) -> int:
        """Propose what begins a generation (or lets into one); the result is its number. Waits while another is under way."""
        while True:
            seen = self._index
            try:
                return int(self._host.propose("cluster", command))
            except Rejected as error:
                if error.code != "generation-under-way":
                    raise
                text, pause = f"waiting: {error.message}", PROGRESS_SECONDS
            except (Unavailable, OutcomeUnknown) as error:  # these commands may be repeated
                text, pause = f"waiting: {error.message}", limits.RESEND_SECONDS
            told(text)
            self._wait(seen, pause)

    # --- the public chain

    def _chain(self, since: Value, stream: Stream) -> None:
        found = self._host.query("cluster", lambda tables, now: links(tables))
        for position, link in enumerate(found):
            if link.content().sequence == since if isinstance(since, int) else _is_root(link, since):
                stream.send({"chain": [each.values() for each in found[position:]]})
                return
        raise rejected(CHAIN_UNKNOWN, "the chain of manifests here does not hold that root or number")

    def _member(self, node_id: Value) -> bool:
        member = self._host.query("cluster", View.read).members.get(node_id) if isinstance(node_id, str) else None
        if member is not None:
            _check_not_removed(member)
        return member is not None

    # --- joining

    def _join(self, asked: dict[str, Any], nonce: bytes, stream: Stream) -> None:
        self._check(asked, nonce, stream)
        fields = ("node", "name", "host", "port", "product", "schema", "realm", "token")
        joiner = [*(asked[name] for name in fields), request_hash(asked["request"]), asked["request"]]
        command = attributed(
            ["begin", str(uuid.uuid4()), joiner], asked["name"], _origin(stream), asked.get("reason", "")
        )
        number = self.begin(command, _teller(stream))
        self._hand_over(stream, asked["node"], number, [request_fingerprint(asked["request"])])
        log.info("%s (%s) has joined from %s, generation %d", asked["name"], asked["node"], stream.address, number)

    def _check(self, asked: dict[str, Any], nonce: bytes, stream: Stream) -> None:
        """The proof first: who has none learns nothing more."""
        view = self._host.query("cluster", View.read)
        if not asked["token"].isalnum():
            raise rejected("malformed", "that is no request to join")
        token = self._host.query("cluster", lambda tables, now: invitation(tables, asked["token"]))
        assert stream.certificate is not None, "the transport sets it on served streams"
        if view.facts is None or token is None:
            raise rejected("token-unknown", "this cluster has no such token", remedy="ask for a new invitation")
        about: list[Value] = [view.facts.cluster_id, token.token_id, asked["name"]]
        nonces = (nonce, asked["nonce"])
        message = proof_message(JOIN_CONTEXT, about, nonces, stream.certificate, asked["request"])
        try:
            verify_token_signature(token.public_key, message, asked["proof"])
        except Rejected as error:
            raise rejected("token-proof", "the proof is not the token's", remedy=error.remedy) from error
        self._check_clock(asked["time"])
        if missing := lacking(view.enabled, asked.get("features", [])):
            name = asked["name"]
            raise rejected(
                "incompatible",
                f"{name} cannot join: {missing}",
                subject=name,
                remedy="install the version that the members run",
            )
        pin = request_fingerprint(asked["request"])
        if any(pin in each.pins for each in view.members.values() if each.node_id != asked["node"]):
            raise rejected("key-known", "a member has that key already", remedy="start with an empty data directory")

    def _check_clock(self, theirs_ms: int) -> None:
        skew_s = theirs_ms / 1000 - self._clock()
        if abs(skew_s) > limits.CLOCK_ALARM_SECONDS:
            raise rejected(
                "clock",
                f"the joiner's clock is {skew_s:+.1f} s off this member's; {limits.CLOCK_ALARM_SECONDS:.0f} s are allowed",
                remedy="synchronise both clocks (chrony, systemd-timesyncd)",
            )

    # --- returning

    def _return(self, asked: dict[str, Any], nonce: bytes, stream: Stream) -> None:
        """A member has slept: what it holds proves who it is, and nothing else is accepted by that key."""
        node_id, request = asked["returning"], asked["request"]
        view = self._host.query("cluster", View.read)
        member = view.members.get(node_id)
        if view.facts is None or member is None:
            raise rejected("no-member", f"{node_id} is no member", subject=node_id, remedy="join again")
        _check_not_removed(member)
        assert stream.certificate is not None, "the transport sets it on served streams"
        about: list[Value] = [view.facts.cluster_id, node_id]
        message = proof_message(RETURN_CONTEXT, about, (nonce, asked["nonce"]), stream.certificate, request)
        proven = _proven(asked["proofs"], message)
        known = [pin for pin in proven if pin in member.pins]
        if not known:
            raise rejected("pin", f"{member.name} is not known by such a key", subject=member.name, remedy="join again")
        self._check_clock(asked["time"])
        held = [each for each in (view.active, view.pending) if each is not None and node_id in each.certificates]
        if any(fingerprint(each.certificates[node_id]) in proven for each in held):
            number = held[-1].number
        else:
            command = ["return", str(uuid.uuid4()), node_id, known[-1], request]
            number = self.begin(attributed(command, member.name, _origin(stream), SLEPT), _teller(stream))
        self._hand_over(stream, node_id, number, {*proven, request_fingerprint(request)})
        log.info("%s (%s) has returned from %s, generation %d", member.name, node_id, stream.address, number)

    # --- both

    def _hand_over(self, stream: Stream, node_id: str, number: int, pins: Collection[bytes]) -> None:
        stream.send({"bundle": self.bundle(node_id, number, pins, _teller(stream)).message()})
        stream.receive()

    def _wait(self, seen: int, seconds: float = PROGRESS_SECONDS) -> bool:
        """Until an entry has changed the tables since `seen`; False when none came within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._index != seen, seconds)

    def _applied(self, index: int) -> None:
        with self._changed:
            self._index += 1
            self._changed.notify_all()

    def _refuse(self, stream: Stream, error: Rejected) -> None:
        log.warning("refused %s: %s: %s", stream.address, error.code, error.message)
        self._on_refused(error.code, _origin(stream), error.message)
        stream.part({"refused": error.code, "text": error.message, "remedy": error.remedy})


def _read(tables: ReadTables, now: int, number: int) -> tuple[View, Generation | None, list[Link]]:
    return View.read(tables, now), generation(tables, number), links(tables)


def _check_not_removed(member: Member) -> None:
    if member.role == "removed":
        raise rejected(
            Removed.code,
            f"{member.name} was removed from the cluster",
            subject=member.name,
            remedy="to come back it needs an invitation and an empty data directory",
        )


def _origin(stream: Stream) -> str:
    """From where somebody asks: the address, without the port."""
    return stream.address.rpartition(":")[0].strip("[]")


def _teller(stream: Stream) -> Told:
    return lambda text: stream.send({"progress": text})


def _is_root(link: Link, root_hash: Value) -> bool:
    return bool(link.root) and certificate_hash(link.root) == root_hash


def _proven(proofs: list[Value], message: bytes) -> list[bytes]:
    """The fingerprints of the keys that have signed."""
    found = []
    for proof in proofs[-KEYS:]:
        if isinstance(proof, list) and len(proof) == 2 and all(isinstance(part, bytes) for part in proof):
            try:
                verify_key(proof[0], message, proof[1])
            except Rejected:
                continue
            found.append(key_fingerprint(proof[0]))
    return found
