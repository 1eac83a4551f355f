"""Joining: the new node's end. The other one is `admission`.

    joiner                                              member (leader or not)
    connect, believe nothing      <-- greeting: root    compare with the token's fingerprint
      differs: ask for the chain  --> chain             follow it from the token's root to this one; impossible: stop
    connect, this root required   <-- challenge: nonce
    request: who, nonce, certificate request, proof --> proof, clock, versions; begin(token, request) is committed
                                  <-- progress ...      until the generation is minted
    store everything              <-- bundle: certificate, roots, members, chain
    stored                        -->

The proof is the token's signature of cluster, token, name, both nonces, the certificate that the member has shown and the
request: it is worth nothing on another connection, for another name or for another key. The token's secret and the node's
key stay on the joiner. Key and node id are on its disk before anything is asked for; so the joiner may crash, lose its
connection or run out of time and simply ask again: the same request is answered as before.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from raftcluster import limits
from raftcluster.cluster import chain
from raftcluster.cluster.bundle import Bundle, field
from raftcluster.cluster.conversation import JOIN, JOIN_CONTEXT, NONCE_BYTES, ask_chain, await_bundle, proof_message
from raftcluster.cluster.features import checked
from raftcluster.cluster.keystore import UNNUMBERED, Keystore
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.records import SCHEMA, rejected
from raftcluster.errors import FrameError, Rejected
from raftcluster.storage.directory import DataDirectory, read_object
from raftcluster.transport.certificates import Token, certificate_hash, verify_root
from raftcluster.transport.connect import dial_rooted, dial_untrusted
from raftcluster.transport.ports import Address


@dataclass(frozen=True, slots=True)
class Joined:
    """What a node has become part of."""

    node_id: str
    cluster_id: str
    cluster: str
    generation: int
    members: list[str]
    """Names."""


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
    features: Sequence[str] = (),
    reason: str = "",
    progress: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.time,
) -> Joined:
    """Make `path` the data directory of a new member of the cluster that answers at `address`. Blocks until it is done.

    `name` must be the invited one; `advertise` is where the members reach this node; `schema` holds the versions of its
    state machines, `features` what its program understands; `firewall` is what `firewall.preflight` has found, None: it goes without; `reason`, up to 253 bytes, is
    kept by the cluster. Start the node afterwards: it
    becomes a learner, then a voter.

    Raises `Rejected` with a stable code (the token's and the versions' are those of `machine`; `fingerprint`: the answering
    host is not of the token's cluster; `chain-*`: see `chain`; `aborted`: a member was missing; `clock`: the clocks differ),
    `Unavailable` when asking again may help, `LinkRefused`, `StorageRefusal` when the directory is in use for something
    else. Asking again, with the same directory, is always safe.
    """
    if len(reason.encode("utf-8", "surrogatepass")) > limits.NAME_BYTES:
        raise rejected("malformed", f"the reason is longer than {limits.NAME_BYTES} bytes", subject="reason")
    hello = {"product": product, "schema": dict(schema)}
    with directory_for(path) as directory:
        node_id = staged(directory, token.id)
        root = _root(address, token, hello, progress)
        stream = dial_rooted(address, root, hello)
        try:
            cluster_id = verify_root(root)[0]
            keystore = Keystore(directory, cluster_id, node_id)
            request = keystore.request(UNNUMBERED)
            challenge = field(stream.receive(), "nonce", bytes)
            own = secrets.token_bytes(NONCE_BYTES)
            assert stream.peer_certificate is not None, "dial_rooted has verified one"
            proven = [cluster_id, token.id, name]
            message = proof_message(JOIN_CONTEXT, proven, (challenge, own), stream.peer_certificate, request)
            about = [token.id, name, node_id, *advertise, product, SCHEMA, realm, own, int(clock() * 1000), request]
            asked = dict(zip(JOIN, [*about, token.sign(message)], strict=True))
            optional = {"reason": reason, "features": checked(features)}
            stream.send({**asked, **{name: value for name, value in optional.items() if value}})
            bundle = await_bundle(stream, progress)
            node = about_node(name, listen, product, firewall)
            joined = settle(bundle, directory, keystore, node_id, node, partial(_from_token, token))
            stream.send({"stored": True})
        finally:
            stream.close()
    return joined


def about_node(name: str, listen: Address, product: str, firewall: Mapping[str, Any] | None) -> dict[str, Any]:
    """What this node knows of itself, for node.json."""
    own = {"name": name, "listen": list(listen), "product": product}
    return {**own, "firewall": firewall is not None, "before": dict(firewall or {})}


def directory_for(path: str | os.PathLike[str]) -> DataDirectory:
    """A new directory, or one that an earlier attempt to join has begun."""
    return DataDirectory.begin(path, lambda root: (root / "join.json").exists())


def staged(directory: DataDirectory, attempt: str) -> str:
    """The node id of this attempt to join: another token is another attempt, with another key."""
    known = read_object(directory.path / "join.json")
    if known is not None:
        if known.get("token") == attempt and isinstance(known.get("node_id"), str):
            return str(known["node_id"])
        Keystore(directory, "", "").forget([UNNUMBERED])
    node_id = str(uuid.uuid4())
    directory.write("join.json", json.dumps({"token": attempt, "node_id": node_id}).encode())
    return node_id


def settle(
    bundle: Bundle,
    directory: DataDirectory,
    keystore: Keystore,
    node_id: str,
    node: dict[str, Any],
    start: Callable[[Any], list[Link]],
) -> Joined:
    """Check and write what makes the directory a node's; node.json last, for what has it is complete."""
    facts = bundle.facts
    advertised = next((each for each in bundle.members if each.node_id == node_id), None)
    if advertised is None:
        raise FrameError("the bundle knows nothing of who has joined", subject="bundle")
    bundle.take(keystore, node_id, start)
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
    names = sorted(each.name for each in bundle.members)
    return Joined(node_id, facts.cluster_id, facts.name, bundle.generation, names)


def _root(address: Address, token: Token, hello: Mapping[str, Any], progress: Callable[[str], None]) -> bytes:
    """The root that the host at `address` claims, once it is the one that the token names, or has succeeded it."""
    stream = dial_untrusted(address)
    root = bytes(stream.greeting["root"])
    stream.close()
    found = certificate_hash(root)
    if found == token.root_hash:
        progress("the root matches the token")
        return root
    try:
        links = _from_token(token, ask_chain(address, token.root_hash, hello))
    except Rejected as error:
        if error.code != "chain-unknown":
            raise
        raise rejected(
            "fingerprint",
            f"the host at {address[0]}:{address[1]} is not of the token's cluster: "
            f"the token names root {token.root_hash.hex()}, the host shows {found.hex()}",
            subject=f"{address[0]}:{address[1]}",
            remedy="check the address; if the token is years old, ask for a new one",
        ) from error
    newest = chain.verify(links)
    if found not in [certificate_hash(link.root) for link in links if link.root][-2:]:  # the last may be on its way in
        raise rejected(
            "fingerprint",
            f"the host at {address[0]}:{address[1]} shows root {found.hex()}, which the chain of manifests does not end in",
            subject=f"{address[0]}:{address[1]}",
            remedy="ask another member",
        )
    progress(f"the token's root was succeeded: {len(links) - 1} manifests followed to generation {newest.generation}")
    return root


def _from_token(token: Token, links: list[Link]) -> list[Link]:
    return chain.first_of(links, token.root_hash)
