"""The dialling side: to a member, with a certificate; or, to join, without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from raftcluster import limits
from raftcluster.errors import FrameError, LinkRefused, Rejected, Unavailable
from raftcluster.transport import certificates, handshake, sockets, tls
from raftcluster.transport.handshake import Refused
from raftcluster.transport.ports import Address, Peer
from raftcluster.transport.sockets import Socket
from raftcluster.transport.stream import Stream
from raftcluster.transport.tls import Channel
from raftcluster.transport.trust import Connection, Trust


def to_member(trust: Trust, node_id: str, kind: str, opened: Callable[[Socket], None]) -> Connection:
    """A connection of `kind` to a member, within `HANDSHAKE_SECONDS`.

    Raises `Refused`, by us or by the member; `OSError` or `Unavailable` when it cannot be reached.
    """
    peer = trust.peers.get(node_id)
    if peer is None:
        raise Refused("not-a-member", f"{node_id} is not a member", subject=node_id)
    try:
        return _to_member(trust, peer, kind, opened)
    except Refused as refused:
        if refused.reason == "untrusted" and not refused.by_peer:
            _check_cluster(trust, peer.address)
        raise


def _check_cluster(trust: Trust, address: Address) -> None:
    """Why a root is not ours: it may be another cluster's. What a stranger says of itself is good enough for that."""
    try:
        stream = _dial(address, tls.untrusted(), lambda abort: None)
    except (Unavailable, Rejected):
        return
    theirs = stream.greeting.get("cluster")
    stream.close()
    if isinstance(theirs, str) and theirs != trust.cluster_id:
        raise Refused(
            "cluster",
            f"{sockets.text(address)} answers as cluster {handshake.printable(theirs)}, this node is of {trust.cluster_id}",
            subject=sockets.text(address),
            remedy="give each cluster of a host a port of its own, or tell the members the right address",
        )


def _to_member(trust: Trust, peer: Peer, kind: str, opened: Callable[[Socket], None]) -> Connection:
    deadline, node_id = time.monotonic() + limits.HANDSHAKE_SECONDS, peer.node_id
    credentials = trust.credentials
    stream = Stream(sockets.dial(peer.address, deadline, opened), credentials.dial())
    try:
        stream.handshake(deadline)
        shown = credentials.judge(stream.channel)
        if shown is None:
            raise Refused("certificate-required", f"{node_id} shows no certificate", subject=node_id)
        if shown.subject.node_id != node_id:
            raise Refused(
                "other-node", f"{sockets.text(peer.address)} answers as {shown.subject.node_id}", subject=node_id
            )
        trust.admit(shown)
        ours = trust.hello(kind)
        stream.send(ours, deadline - time.monotonic())
        theirs = handshake.check_hello(ours, stream.receive(deadline - time.monotonic()), (kind,))
    except BaseException:
        stream.close()
        raise
    stream.peer = node_id
    stream.shown = shown
    stream.peer_certificate = shown.pem
    stream.certificate = credentials.identity.certificate
    stream.decoder.authorised()
    return Connection(stream, shown, theirs, credentials.identity.generation, dialled=True)


def dial_untrusted(
    address: Address,
    hello: Mapping[str, Any] | None = None,
    *,
    opened: Callable[[Callable[[], None]], None] = lambda abort: None,
) -> Stream:
    """Step 1 of joining: believe nothing. `stream.greeting["root"]` is the root (PEM) that the listener *claims*.

    Nothing is sent but TLS, unless `hello` (see `dial_rooted`) is given: then public questions may be asked. What comes
    back proves itself (endorsed manifests), or is compared with a token. `opened` is given, as soon as there is a socket, what
    another thread may call to end the attempt.
    Raises `Unavailable` when nobody answers, `LinkRefused`, `FrameError`, or `Rejected` for a certificate that is none.
    """
    stream = _dial(address, tls.untrusted(), opened)
    try:
        if not isinstance(stream.greeting["root"], bytes):
            raise Refused("hello", f"{sockets.text(address)} shows no root", subject=sockets.text(address))
        if hello is not None:
            _introduce(stream, stream.greeting["cluster"], hello)
    except BaseException:
        stream.close()
        raise
    return stream


def dial_stranger(address: Address) -> Stream:
    """The same for a public question to whoever answers there, of whatever cluster and product: it is asked as one of its own,
    which nobody believes and nobody has to. Raises as `dial_untrusted` does."""
    stream = _dial(address, tls.untrusted(), lambda abort: None)
    try:
        about = {name: stream.greeting.get(name) for name in ("product", "schema")}
        _introduce(stream, stream.greeting.get("cluster"), about)
    except BaseException:
        stream.close()
        raise
    return stream


def dial_rooted(address: Address, root: bytes, hello: Mapping[str, Any]) -> Stream:
    """Step 2 of joining: only who has a certificate of this root (PEM) is talked to. `hello` has the joiner's product and
    schema; a listener of another one refuses.

    `stream.peer` and `stream.peer_certificate` tell which node answers. Raises as `dial_untrusted` does.
    """
    stream = _dial(address, tls.rooted(root), lambda abort: None)
    try:
        der = stream.channel.peer_certificate()
        pem = certificates.pem_of(der or b"")
        subject = certificates.verify_leaf(pem, root)
        _introduce(stream, subject.cluster_id, hello)
    except Rejected as error:
        stream.close()
        if isinstance(error, (LinkRefused, FrameError)):
            raise
        raise Refused("certificate", error.message, subject=error.subject, remedy=error.remedy) from error
    except BaseException:
        stream.close()
        raise
    stream.peer = subject.node_id
    stream.peer_certificate = pem
    return stream


def _dial(address: Address, channel: Channel, opened: Callable[[Callable[[], None]], None]) -> Stream:
    """Connect without a certificate and receive the listener's greeting."""
    deadline = time.monotonic() + limits.HANDSHAKE_SECONDS
    where = sockets.text(address)
    try:
        stream = Stream(sockets.dial(address, deadline, lambda sock: opened(partial(sockets.abort, sock))), channel)
    except OSError as error:
        raise Unavailable(
            f"cannot reach {where}: {error}", subject=where, remedy="is raftcluster running there?"
        ) from error
    try:
        stream.handshake(deadline)
        stream.decoder.authorised()  # we have asked for what comes: a chain may be longer than a stranger's hello
        greeting = stream.receive(deadline - time.monotonic())
        if isinstance(greeting, dict) and "refused" in greeting:
            raise handshake.refusal(greeting)
        if not isinstance(greeting, dict) or not {"root", "cluster"} <= greeting.keys():
            raise Refused("hello", f"{where} is no raftcluster node", subject=where)
        stream.greeting = greeting
        der = channel.peer_certificate()
        stream.peer_certificate = certificates.pem_of(der) if der else None
    except OSError as error:
        stream.close()
        raise Unavailable(f"{where} does not answer: {error}", subject=where) from error
    except BaseException:
        stream.close()
        raise
    return stream


def _introduce(stream: Stream, cluster_id: str, about: Mapping[str, Any]) -> None:
    """Say our hello; the listener checks it, and we its greeting."""
    ours = handshake.hello(cluster_id, handshake.JOIN, about)
    handshake.check_hello(ours, stream.greeting, (handshake.JOIN,))
    stream.send(ours)
    theirs = stream.receive(limits.HANDSHAKE_SECONDS)
    handshake.check_hello(ours, theirs, (handshake.JOIN,))
