"""The way back of a member that has slept: it trusts only old roots, so no handshake succeeds, whoever of both dials.

It asks each member, believing nothing, for the public chain; verifies it offline from the last link that it knows; and then
asks, over a connection to that chain's root, for a certificate: with a proof by the key that it is known by, which is good
for this and nothing else. Where the generation in force has a certificate for a key that it holds, it gets that one at once,
without anything being decided; otherwise a generation begins that includes it.

That it was removed it believes on a proof of two parts: a majority has endorsed a manifest that does not name it, and a node
with a certificate of that chain's root says so. What anybody says before is no more than a claim.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from raftcluster.cluster import chain
from raftcluster.cluster.bundle import field
from raftcluster.cluster.conversation import (
    KEYS,
    NONCE_BYTES,
    RETURN_CONTEXT,
    ask_chain,
    await_bundle,
    proof_message,
    refusal,
)
from raftcluster.cluster.keystore import UNNUMBERED, Keystore, Trust
from raftcluster.cluster.manifests import Link, Manifest
from raftcluster.cluster.records import rejected
from raftcluster.errors import LinkRefused, RaftclusterError, Rejected, Removed, Unavailable
from raftcluster.transport.certificates import public_key, sign
from raftcluster.transport.connect import dial_rooted
from raftcluster.transport.ports import Address, Peer

log = logging.getLogger("raftcluster.cluster")


class Return:
    """Of one node. Thread: the reconciler's; it may block for as long as a generation takes."""

    def __init__(
        self,
        keystore: Keystore,
        cluster_id: str,
        node_id: str,
        hello: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.time,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._keystore = keystore
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._hello = hello
        self._clock = clock
        self._stopping = stopping

    def attempt(self, peers: Iterable[Peer], presented: int) -> Trust | None:
        """Ask one peer after the other. What to start with from now on, stored already; None when the cluster has not moved on.

        Raises `Removed` when it is proven that this node was, the last peer's refusal when one refuses, `OtherCluster` when a
        peer's address is another cluster's; `Unavailable` when none can be reached.
        """
        known = self._keystore.chain()
        if not known:
            raise rejected("chain-unknown", "this node knows no manifest to begin with", remedy="join again")
        errors: list[RaftclusterError] = []
        current = False
        for peer in peers:
            if self._stopping():
                break
            try:
                if (trust := self._ask(peer, known[-1], presented)) is not None:
                    return trust
                current = True  # as far as that one knows: it may have slept, too
            except Removed:
                raise
            except RaftclusterError as error:
                log.debug("no way back through %s: %s", peer.node_id, error)
                errors.append(error)
        refusals = [error for error in errors if not isinstance(error, Unavailable)]
        if current and not refusals:
            return None
        raise [*errors, *refusals][-1] if errors else Unavailable("there is nobody to ask")

    def _ask(self, peer: Peer, known: Link, presented: int) -> Trust | None:
        since = known.content().sequence
        links = ask_chain(peer.address, since, self._hello, cluster_id=self._cluster_id)
        links = chain.after(links, known)
        newest = chain.verify(links, cluster_id=self._cluster_id)
        with self._judged(newest):
            # Less: the one that lets this node in is on its way, and not shown there yet.
            if newest.generation <= presented:
                self._ask_standing(peer.address, self._keystore.roots([newest.generation])[0])
                return None
            return self._renew(peer, known, links, presented)

    def _renew(self, peer: Peer, known: Link, links: list[Link], presented: int) -> Trust:
        roots = [link.root for link in links if link.root and link.content().generation > presented]
        start = partial(_joined, self._keystore.chain(), known)
        try:
            return self._return(peer.address, roots[-1], start)
        except LinkRefused:
            if len(roots) < 2:
                raise
            return self._return(peer.address, roots[-2], start)  # the newest is on its way in, and not shown there yet

    @contextmanager
    def _judged(self, newest: Manifest) -> Iterator[None]:
        """Inside, a refusal comes from who has a certificate of the chain's root: that this node was removed becomes `Removed`
        when the chain bears it out."""
        try:
            yield
        except Rejected as error:
            if error.code != Removed.code:
                raise
            if self._node_id in newest.voters:
                raise Unavailable(f"{error.message}, which the chain of manifests does not bear out yet") from error
            raise Removed(error.message, subject=error.subject, remedy=error.remedy) from error

    def _ask_standing(self, address: Address, root: bytes) -> None:
        """Nothing but: is this node still a member? Raises what the other one refuses with."""
        stream = dial_rooted(address, root, self._hello)
        try:
            stream.receive()
            stream.send({"member": self._node_id})
            answer = stream.receive()
        finally:
            stream.close()
        if isinstance(answer, dict) and "refused" in answer:
            raise refusal(answer)

    def _return(self, address: Address, root: bytes, start: Callable[[Any], list[Link]]) -> Trust:
        stream = dial_rooted(address, root, self._hello)
        try:
            challenge = field(stream.receive(), "nonce", bytes)
            own = secrets.token_bytes(NONCE_BYTES)
            assert stream.peer_certificate is not None, "dial_rooted has verified one"
            request = self._keystore.request(UNNUMBERED)
            about = [self._cluster_id, self._node_id]
            message = proof_message(RETURN_CONTEXT, about, (challenge, own), stream.peer_certificate, request)
            keys = list(self._keystore.keys().values())[-KEYS:]
            proofs = [[public_key(key), sign(key, message)] for key in keys]
            when = int(self._clock() * 1000)
            stream.send({"returning": self._node_id, "nonce": own, "time": when, "request": request, "proofs": proofs})
            bundle = await_bundle(stream, lambda text: log.info("returning: %s", text))
            trust = bundle.take(self._keystore, self._node_id, start)
            self._keystore.forget([UNNUMBERED])
            stream.send({"stored": True})
            log.info("back in the cluster with generation %d", bundle.generation)
            return trust
        finally:
            stream.close()


def _joined(before: list[Link], known: Link, links: list[Link]) -> list[Link]:
    """The chain that was known, and what follows: so that the node still holds where it came from."""
    return [*before[:-1], *chain.after(links, known)]
