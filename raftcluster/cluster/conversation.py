"""What is said between a member and a host that has no certificate of the generation in force: to join, or to return.

The member speaks first: {"nonce"}. Then one of

    {"chain": hash of a root}      --> {"chain": links}, from the one with that root on; anybody may ask, all of it is public
    {"chain": number}              --> the same, from the link with that number on
    {"tombstone": cluster id}      --> {"answer": tombstone or None}: see `tombstone`; public as well
    {"member": node id}            --> {"member": whether it is one}, or it is refused as `removed`
    JOIN                           --> {"progress"} ..., {"bundle"}; the proof is a token's
    RETURN                         --> the same; the proof is by the key that the member is known by

or {"refused", "text", "remedy"}, and the end. A proof signs both nonces, the certificate that the member has shown and the
certificate request: it is worth nothing on another connection or for another key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from raftcluster import limits
from raftcluster.cluster.bundle import Bundle
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.records import rejected
from raftcluster.codec import Value, pack
from raftcluster.errors import FrameError, OtherCluster, RaftclusterError, Unavailable
from raftcluster.transport.certificates import certificate_hash, request_hash
from raftcluster.transport.connect import dial_untrusted
from raftcluster.transport.ports import Address
from raftcluster.transport.stream import Stream

NONCE_BYTES: Final = 16
PROGRESS_SECONDS: Final = 5.0
"""At least this often the member says how far it is; so the other side notices when it is gone."""
JOIN_CONTEXT: Final = "raftcluster-join-v1"
RETURN_CONTEXT: Final = "raftcluster-return-v1"
CHAIN_UNKNOWN: Final = "chain-unknown"
"""How a question for the chain is refused."""
KEYS: Final = 8
"""A member that returns proves at most so many keys: it holds those of a few generations."""

JOIN: Final = {
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
JOIN_OPTIONAL: Final = {"reason": str, "features": list}
"""What is said only when there is something to say: why they join, and what their program understands."""
RETURN: Final = {"returning": str, "nonce": bytes, "time": int, "request": bytes, "proofs": list}
"""`proofs`: [public key (DER), signature] for each key that the node holds, the newest last."""


def proof_message(
    context: str, about: list[Value], nonces: tuple[bytes, bytes], certificate: bytes, request: bytes
) -> bytes:
    """What is signed. `nonces`: the member's, the other's; `certificate`: the one that the member has shown."""
    return pack([context, *about, *nonces, certificate_hash(certificate), request_hash(request)])


def parse(message: Value, kinds: Mapping[str, type], optional: Mapping[str, type] = {}) -> dict[str, Any]:
    """The message with all its fields, each of its kind; `Rejected` otherwise. Those of `optional` may be missing."""
    if not isinstance(message, dict) or not set(kinds) <= set(message) <= {*kinds, *optional}:
        raise rejected("malformed", "that is no request that is answered here")
    for name, value in message.items():
        kind = kinds.get(name) or optional[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise rejected("malformed", f"field {name} of the request is malformed")
        if isinstance(value, str) and not 1 <= len(value.encode("utf-8", "surrogatepass")) <= limits.NAME_BYTES:
            raise rejected("malformed", f"field {name} of the request is too long, or empty")
    if len(message["nonce"]) != NONCE_BYTES:
        raise rejected("malformed", "that is no request that is answered here")
    return message


def ask_chain(
    address: Address, since: bytes | int, hello: Mapping[str, Any], *, cluster_id: str | None = None
) -> list[Link]:
    """The public chain as the host at `address` has it, not verified. `since`: hash of a root, or number of a link.

    Raises `Rejected` (`chain-unknown`) when it has no such root or link, `OtherCluster` when it says that it is not of
    `cluster_id`, `Unavailable` for whatever else it says, for it has proved nothing; `LinkRefused`, `FrameError`.
    """
    stream = dial_untrusted(address, hello)
    try:
        theirs = stream.greeting["cluster"]
        if cluster_id is not None and theirs != cluster_id:
            raise OtherCluster(
                f"{address[0]}:{address[1]} answers as cluster {theirs!r:.80}, this node is of {cluster_id}",
                subject=f"{address[0]}:{address[1]}",
                remedy="give each cluster of a host a port of its own, or tell the members the right address; if this node's "
                "cluster was destroyed: raftcluster destroy --tombstone FILE, with a file that its other hosts keep in "
                "DIR-destroyed",
            )
        stream.receive()
        stream.send({"chain": since})
        answer = stream.receive()
        if isinstance(answer, dict) and "refused" in answer:
            told = refusal(answer)
            if told.code == CHAIN_UNKNOWN:
                raise told
            raise Unavailable(f"{address[0]}:{address[1]} shows no chain of manifests: {told}", subject=stream.address)
        if not isinstance(answer, dict) or not isinstance(answer.get("chain"), list):
            raise FrameError("the answer is no chain of manifests", subject=stream.address)
        return [Link.check(values) for values in answer["chain"]]
    finally:
        stream.close()


def await_bundle(stream: Stream, progress: Callable[[str], None]) -> Bundle:
    """What the member sends at last. Raises what it refuses with, or `Unavailable` when it is gone."""
    said = ""
    while True:
        answer = stream.receive(timeout=4 * PROGRESS_SECONDS)
        if not isinstance(answer, dict):
            raise FrameError("the member's answer is no message", subject=stream.address)
        if "refused" in answer:
            raise refusal(answer)
        if "bundle" in answer:
            return Bundle.read(answer["bundle"])
        text = str(answer.get("progress", ""))[:200]
        if text != said:
            progress(text)
        said = text


def refusal(answer: Mapping[str, Any]) -> RaftclusterError:
    """The member's refusal as an error."""
    code, text, remedy = (str(answer.get(name, ""))[:500] for name in ("refused", "text", "remedy"))
    if code == Unavailable.code:
        return Unavailable(text, remedy=remedy)
    return rejected(code, text, remedy=remedy)
