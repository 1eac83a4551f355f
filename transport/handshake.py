"""The first frames of a connection: who may talk to whom about what. Pure.

Both sides say a *hello* -- protocol, cluster, product, schema, kind of connection -- and each checks the other's. Who the
peer **is** comes from its certificate (:func:`admit`), never from the hello. A refusal travels as a frame of its own, so
that both sides can log the same reason: :class:`Refused`, whose `reason` is one of `REASONS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from raftcluster.codec import Value
from raftcluster.errors import LinkRefused, OtherCluster
from raftcluster.transport.ports import Peer
from raftcluster.transport.subject import SubjectId

PROTOCOL: Final = 1
"""What this version speaks."""
PROTOCOL_OLDEST: Final = 1
"""The oldest version that this one still understands: N and N-1 during a rolling upgrade."""

RAFT: Final = "raft"
SNAPSHOT: Final = "snapshot"
VERIFY: Final = "verify"
LOGS: Final = "logs"
JOIN: Final = "join"
MEMBERS: Final = (RAFT, SNAPSHOT, VERIFY, LOGS)
"""What only members may want."""
KINDS: Final = (*MEMBERS, JOIN)

REASONS: Final = {
    "not-tls": "the bytes that came are no TLS",
    "tls-version": "another TLS version than 1.3",
    "tls": "the TLS handshake failed otherwise",
    "untrusted": "the certificate's issuer is no active root of this cluster",
    "expired": "the certificate has expired",
    "not-yet-valid": "the certificate is not valid yet, by our clock",
    "certificate": "the certificate is no node's: other names, purpose or issuer",
    "certificate-required": "only joining is possible without a certificate",
    "cluster": "another cluster",
    "not-a-member": "removed, or not yet added",
    "pin": "the certificate's key is not the one that the member is known by",
    "other-node": "the address answers as another member",
    "direction": "the member with the greater id dials, the other one accepts",
    "protocol": "no common protocol version",
    "product": "another product",
    "schema": "other tables",
    "kind": "a connection of a kind that is not served here",
    "hello": "what came is no hello",
    "frame": "what came is no frame",
    "nonsense": "a member's message that the engine cannot make sense of",
    "timeout": "the handshake took too long, or gave way to others when all were taken",
    "busy": "too many connections of this kind",
    "rate": "too many connections without a certificate from this address",
}
"""Every reason there is, for docs and logs."""

_TEXT_CHARACTERS: Final = 500  # of a peer's explanation that reach a log


class Refused(LinkRefused):
    """A connection refused, by us or by the peer, for one of `REASONS`."""

    def __init__(
        self, reason: str, message: str, *, subject: str = "", remedy: str = "", by_peer: bool = False
    ) -> None:
        super().__init__(message, subject=subject, remedy=remedy)
        if reason == "cluster":
            self.code, self.exit_code = OtherCluster.code, OtherCluster.exit_code
        self.reason = reason
        self.by_peer = by_peer

    def frame(self) -> Value:
        """What to send to the peer."""
        return {"refused": self.reason, "text": self.message, "remedy": self.remedy}


def hello(cluster_id: str, kind: str, about: Mapping[str, Any]) -> dict[str, Value]:
    """Our hello. `about` has the embedder's `product` ("name/version"), `schema` (machine -> version) and what else the
    peers shall know of this node; it cannot override the transport's own fields."""
    return {
        "product": "raftcluster",
        "schema": {},
        **about,
        "protocol": PROTOCOL,
        "oldest": PROTOCOL_OLDEST,
        "cluster": cluster_id,
        "kind": kind,
    }


def check_hello(ours: Mapping[str, Any], theirs: Value, kinds: Collection[str]) -> dict[str, Value]:
    """Return the peer's hello when we can talk. Raises `Refused`: each difference its own reason, with what is allowed."""
    if isinstance(theirs, dict) and "refused" in theirs:
        raise refusal(theirs)
    if not (
        isinstance(theirs, dict)
        and _is_int(theirs.get("protocol"))
        and _is_int(theirs.get("oldest"))
        and all(isinstance(theirs.get(field), str) for field in ("cluster", "product", "kind"))
        and isinstance(theirs.get("schema"), dict)
    ):
        raise Refused("hello", "the peer's first frame is no hello", remedy="is this a raftcluster port?")
    if theirs["protocol"] < ours["oldest"] or ours["protocol"] < theirs["oldest"]:
        raise Refused(
            "protocol",
            f"the peer speaks protocols {theirs['oldest']} to {theirs['protocol']}, "
            f"this node {ours['oldest']} to {ours['protocol']}",
            remedy="upgrade the older one; neighbouring versions understand each other",
        )
    if theirs["cluster"] != ours["cluster"]:
        raise Refused(
            "cluster", f"the peer is of cluster {printable(theirs['cluster'])}, this node of {ours['cluster']}"
        )
    if _name(theirs["product"]) != _name(ours["product"]):
        raise Refused(
            "product",
            f"the peer runs {printable(theirs['product'])}, this node {ours['product']}",
            remedy="only the same product forms a cluster; its version (after the slash) may differ",
        )
    if theirs["schema"] != ours["schema"]:
        raise Refused(
            "schema",
            f"other tables: {_difference(theirs['schema'], ours['schema'])}",
            remedy="run the same state machines in the same schema versions on all nodes",
        )
    if theirs["kind"] not in kinds:
        raise Refused(
            "kind",
            f"a {printable(theirs['kind'])!r} connection is not served here",
            remedy=f"allowed: {', '.join(kinds) or 'none'}",
        )
    return theirs


def refusal(frame: Mapping[str, Any]) -> Refused:
    """The peer's refusal frame as an error. Its text is data of a stranger: cut, and made printable."""
    reason = frame.get("refused")
    return Refused(
        reason if isinstance(reason, str) and reason in REASONS else "hello",
        f"the peer refuses: {printable(frame.get('text'))}",
        remedy=printable(frame.get("remedy")),
        by_peer=True,
    )


def admit(subject: SubjectId, pin: bytes, cluster_id: str, peers: Mapping[str, Peer]) -> Peer:
    """The member that a *verified* certificate with this subject and key belongs to. Raises `Refused`."""
    if subject.cluster_id != cluster_id:
        raise Refused(
            "cluster", f"certificate of cluster {subject.cluster_id}, this is {cluster_id}", subject=subject.node_id
        )
    peer = peers.get(subject.node_id)
    if peer is None:
        raise Refused(
            "not-a-member",
            f"{subject.node_id} is not a member: removed, or not yet added",
            subject=subject.node_id,
            remedy="invite it and let it join",
        )
    if pin not in peer.pins:
        raise Refused(
            "pin",
            f"{subject.node_id} shows key {pin.hex()[:16]}, known are {', '.join(sorted(p.hex()[:16] for p in peer.pins))}",
            subject=subject.node_id,
            remedy="a key is replaced by a new generation, or by joining again",
        )
    return peer


def check_direction(dialler: str, acceptor: str) -> None:
    """One ordered link per pair of nodes: the greater id dials. Raises `Refused`."""
    if dialler <= acceptor:
        raise Refused("direction", f"{acceptor} dials {dialler}, not the other way round", subject=dialler)


def _is_int(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _name(product: str) -> str:
    return product.partition("/")[0]


def _difference(theirs: Mapping[Any, Any], ours: Mapping[Any, Any]) -> str:
    names = sorted({name for name in (*theirs, *ours) if theirs.get(name) != ours.get(name)}, key=str)
    shown = [
        f"{printable(name)} {theirs.get(name, 'absent')!r:.20} there, {ours.get(name, 'absent')!r} here"
        for name in names
    ]
    return "; ".join(shown[:10])


def printable(value: object) -> str:
    """What somebody says, for a log or a screen: one line, and not too long."""
    return "".join(c if c.isprintable() else "?" for c in value[:_TEXT_CHARACTERS]) if isinstance(value, str) else ""
