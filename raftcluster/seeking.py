"""A node that was away when its cluster was destroyed looks for the tombstone: at the addresses where its peers were.

While there is no leader it asks whoever answers there, believing nothing: the tombstone proves itself. Another cluster's node
on such a host answers as well, also another product's: see `archive.find` for what it has.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final

from raftcluster.errors import RaftclusterError
from raftcluster.transport.connect import dial_stranger
from raftcluster.transport.ports import Address, Peer

log = logging.getLogger("raftcluster.cluster")

INTERVAL_SECONDS: Final = 5.0
"""Between two rounds; a cluster that lives has elected a leader by then."""


def ask(address: Address, cluster_id: str) -> bytes | None:
    """The tombstone of the cluster as the host at `address` has it, not verified; None when it has none.

    Raises `Unavailable`, `LinkRefused`, `FrameError`.
    """
    stream = dial_stranger(address)
    try:
        stream.receive()
        stream.send({"tombstone": cluster_id})
        answer = stream.receive()
    finally:
        stream.close()
    found = answer.get("answer") if isinstance(answer, dict) else None
    return found if isinstance(found, bytes) else None


class Seeker:
    """Of one node, on a thread of its own. Thread: any."""

    def __init__(
        self,
        cluster_id: str,
        peers: Callable[[], Iterable[Peer]],
        leaderless: Callable[[], bool],
        found: Callable[[bytes, str], object],
        own: Callable[[], bytes | None],
        *,
        interval_s: float = INTERVAL_SECONDS,
    ) -> None:
        """`leaderless` may raise `RaftclusterError` when the node has stopped; `found(tombstone, source)` acts on one that
        proves something, and raises `RaftclusterError` for any other: then the next one is asked. `own` is the tombstone on
        this host: kept before a crash, when the others may be gone since."""
        self._own = own
        self._cluster_id, self._peers = cluster_id, peers
        self._leaderless, self._found, self._interval_s = leaderless, found, interval_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raftcluster-seek", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; a dial that is under way ends by itself. Idempotent."""
        self._closed.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._interval_s)

    def look(self) -> None:
        """One round, until one is found that proves something. Raises `StorageFailed` when this node cannot read who its peers are."""
        if (data := self._own()) is not None and self._is_proof(data, "this host's archive"):
            return
        for peer in self._peers():
            if self._closed.is_set():
                return
            try:
                data = ask(peer.address, self._cluster_id)
            except RaftclusterError as error:
                log.debug("no tombstone from %s: %s", peer.node_id, error)
                continue
            if data is not None and self._is_proof(data, "{}:{}".format(*peer.address)):
                return

    def _is_proof(self, data: bytes, source: str) -> bool:
        try:
            self._found(data, source)
        except RaftclusterError as error:
            log.warning("no tombstone of this cluster from %s: %s", source, error)
            return False
        return True

    def _run(self) -> None:
        missed = False
        while not self._closed.wait(self._interval_s):
            try:
                before, missed = missed, self._leaderless()
                if before and missed:
                    self.look()
            except RaftclusterError as error:
                log.debug("nobody is looked for: %s", error)
