"""Asks members that are not linked what has become of them, as a stranger would: over a connection that proves nothing.

For a member that cannot link any more and never will there is no other way to be heard. What it answers is believed only
as far as it proves itself: a statement signed with the key by which the member is known here (see `statement`).

Thread: its own, which may wait for hosts that do not answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from raftcluster.cluster.records import Member
from raftcluster.cluster.statement import STATEMENT, Statement
from raftcluster.cluster.view import View
from raftcluster.errors import RaftclusterError
from raftcluster.host import Host
from raftcluster.transport.connect import dial_untrusted
from raftcluster.transport.ports import Links

log = logging.getLogger("raftcluster.cluster")

LOOK_SECONDS: Final = 2.0
"""A member that has been without a link for two looks is asked."""
AGAIN_SECONDS: Final = 60.0
"""And again after this, as long as it stays so."""


class Inquiry:
    """One per node."""

    def __init__(self, host: Host, links: Links, *, look_s: float = LOOK_SECONDS) -> None:
        self._host, self._links, self._look_s = host, links, look_s
        self._closed = threading.Event()
        self._unlinked: set[str] = set()
        self._asked: dict[str, float] = {}
        self._left: dict[str, Statement] = {}
        """Members that have left for another cluster, and what they have signed."""
        self._names: dict[str, str] = {}
        self._abort: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name=f"raftcluster-inquiry-{host.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and end the question that is under way."""
        self._closed.set()
        self._abort()
        self._thread.join()

    def troubles(self) -> dict[str, str]:
        """Stable code -> text: who will not come back. Thread: any."""
        if not self._left:
            return {}
        told = [
            f"{self._names[node_id]} has left this cluster: after a lost quorum it was recovered as cluster "
            f"{each.cluster!r} ({each.cluster_id})"
            for node_id, each in sorted(self._left.items())
        ]
        return {
            "recovered": f"{'; '.join(told)}. This node does not follow: to join that cluster, have it invited there and "
            "join with an empty data directory; to go on without it, remove it here"
        }

    def _run(self) -> None:
        while not self._closed.wait(self._look_s):
            try:
                view = self._host.query("cluster", View.read)
            except RaftclusterError:  # the node is closing, or has failed
                continue
            if view.facts is not None:
                self._look(view, view.facts.cluster_id)

    def _look(self, view: View, cluster_id: str) -> None:
        linked = self._links.links()
        missing = {
            node_id: each for node_id, each in view.live().items() if node_id not in linked and node_id != self._host.id
        }
        self._left = {node_id: each for node_id, each in self._left.items() if node_id in missing}
        self._asked = {node_id: at for node_id, at in self._asked.items() if node_id in missing}
        now = time.monotonic()
        for node_id, member in sorted(missing.items()):
            due = now - self._asked.get(node_id, -AGAIN_SECONDS) >= AGAIN_SECONDS
            if node_id in self._unlinked and due and not self._closed.is_set():
                self._asked[node_id] = now
                self._ask(member, cluster_id)
        self._unlinked = set(missing)

    def _ask(self, member: Member, cluster_id: str) -> None:
        try:
            stream = dial_untrusted((member.host, member.port), opened=self._opened)
        except RaftclusterError as error:
            log.debug("%s does not tell what has become of it: %s", member.name, error)
            return
        greeting = stream.greeting
        stream.close()
        said = Statement.checked(greeting.get(STATEMENT), cluster_id, member.node_id, member.pins)
        if said is not None and member.node_id not in self._left:
            self._names[member.node_id] = member.name
            self._left = {**self._left, member.node_id: said}
            log.warning("%s", self.troubles()["recovered"])

    def _opened(self, abort: Callable[[], None]) -> None:
        self._abort = abort
        if self._closed.is_set():
            abort()
