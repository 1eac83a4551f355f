"""A node that was started at another address tells the cluster; who it is does not change with where it is.

It may be that nobody can link with it any more: of two members the one with the greater id dials, and those look for it where
it was. So it asks by itself, over a connection that it dials and at which both prove who they are; whoever answers proposes the
new address for it.

    node.json, "announce": true     until the cluster knows the address in "advertise"
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final

from raftcluster.cluster.auditing import attributed
from raftcluster.cluster.rows import check_address
from raftcluster.cluster.view import View
from raftcluster.codec import Value
from raftcluster.errors import FrameError, RaftclusterError, Rejected
from raftcluster.host import Host
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.ports import Address
from raftcluster.transport.stream import Stream

log = logging.getLogger("raftcluster.cluster")

AGAIN_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 5.0
PROPOSE_SECONDS: Final = 2.0
ELSEWHERE: Final = "it was started at another address"


def readdress(path: str | os.PathLike[str], listen: Address | None = None, advertise: Address | None = None) -> None:
    """Have the stopped node in `path` listen, or be reached, elsewhere from its next start on; it tells the others then.

    Without `advertise` an advertised address that was the one to listen at goes along. Raises `Rejected` for a bad address,
    `StorageRefusal` when a node uses the directory or nothing is in it.
    """
    with DataDirectory.open(path) as directory:
        node = directory.read_node()
        before = (_address(node["listen"]), _address(node["advertise"]))
        now = listen or before[0]
        reached = advertise or (now if before[0] == before[1] else before[1])
        check_address(*now)
        check_address(*reached)
        if (now, reached) != before:
            told = node.get("announce", False) or reached != before[1]
            directory.write_node({**node, "listen": list(now), "advertise": list(reached), "announce": told})


def _address(stored: list[Any]) -> Address:
    host, port = stored
    return host, port


class Move:
    """Tells the cluster, on a thread of its own, until it is known there. Does nothing unless node.json says so."""

    def __init__(
        self, host: Host, directory: DataDirectory, node: dict[str, Any], open_stream: Callable[[str, str], Stream]
    ) -> None:
        self._host, self._directory, self._node, self._open = host, directory, node, open_stream
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"raftcluster-move-{host.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        if self._node.get("announce"):
            self._thread.start()

    def close(self) -> None:
        """Stop, and wait for a question that is under way. Idempotent."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        address = [*self._node["advertise"]]
        while not self._closed.is_set():
            try:
                view = self._host.query("cluster", View.read)
                me = view.members.get(self._host.id)
                if me is not None and [me.host, me.port] == address:
                    self._directory.write_node({**self._directory.read_node(), "announce": False})
                    log.info("the cluster knows that this node is at %s:%s now", *address)
                    return
                self._tell(sorted(set(view.live()) - {self._host.id}), address)
            except RaftclusterError as error:
                log.debug("the new address is not known yet: %s", error)
            self._closed.wait(AGAIN_SECONDS)

    def _tell(self, others: list[str], address: list[Any]) -> None:
        try:
            command = attributed(["address", self._host.id, *address], self._host.name, self._host.name, ELSEWHERE)
            self._host.propose("cluster", command, deadline=PROPOSE_SECONDS)
            return
        except Rejected as error:
            log.error("the new address is refused: %s", error)
        except RaftclusterError as error:
            log.debug("nobody who leads is linked: %s", error)
        for peer in others:
            if self._closed.is_set():
                return
            try:
                stream = self._open(peer, "join")
            except RaftclusterError as error:
                log.debug("%s cannot be told: %s", peer, error)
                continue
            try:
                stream.send({"address": address})
                if stream.receive(ANSWER_SECONDS) == {"done": True}:
                    return
            except RaftclusterError as error:
                log.debug("%s was not told: %s", peer, error)
            finally:
                stream.close()


def told(host: Host, stream: Stream, asked: Value, moved: Callable[[str, Address], None]) -> None:
    """The other end: a member, who has proved to be one, says where it is: `asked`. `moved` is told at once, then the cluster: without
    the member there may be no quorum. Called on a stream thread."""
    try:
        address = asked.get("address") if isinstance(asked, dict) else None
        if not isinstance(address, list) or [type(each) for each in address] != [str, int]:
            raise FrameError("that is no address", subject=stream.address)
        check_address(*address)
        moved(stream.peer, (address[0], address[1]))
        member = host.query("cluster", View.read).members.get(stream.peer)
        who, origin = member.name if member else stream.peer, stream.address.rpartition(":")[0].strip("[]")
        command = attributed(["address", stream.peer, *address], who, origin, ELSEWHERE)
        host.propose("cluster", command, deadline=PROPOSE_SECONDS)
        stream.send({"done": True})
    except RaftclusterError as error:
        log.info("%s could not be moved: %s", stream.peer, error)
        stream.part({"refused": error.code, "text": error.message, "remedy": error.remedy})
