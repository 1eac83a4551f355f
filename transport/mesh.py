"""The full mesh: one ordered, mutually authenticated link per peer. `DESIGN.md` has the theory and the wire format.

Who owns what. Established links belong to the tick thread alone: it polls, reads, writes and closes them, and never waits
for a peer. Everything that may wait -- resolving names, connecting, handshakes, joins, snapshots -- happens on other
threads (`door.py`, `dialler.py`), which hand over authenticated connections through `_arrivals` and wake the tick thread.
What any thread may replace (members, credentials) is in `trust.py`; the tick thread judges its links again after a change.

Duties of the embedder: `configure` before or after `start`; call `poll` at least every `LINK_IDLE_SECONDS` / 2 from one
thread, the same that sends; `close` once nobody polls any more.
"""

from __future__ import annotations

import os
import select
import threading
import time
import zlib
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

from raftcluster.codec import Value
from raftcluster.errors import RaftclusterError, Unavailable
from raftcluster.transport import connect, frames, handshake, sockets
from raftcluster.transport.dialler import Dialler
from raftcluster.transport.door import Door
from raftcluster.transport.handshake import Refused
from raftcluster.transport.link import READ_BYTES, Link
from raftcluster.transport.ports import Address, Down, Event, Identity, LinkInfo, Peer, Up
from raftcluster.transport.reception import Reception, Services
from raftcluster.transport.refusals import LOGGER, RefusalLog
from raftcluster.transport.stream import Stream
from raftcluster.transport.trust import Connection, Trust

_SWEEP_SECONDS: Final = 0.25
_CLOSE_SECONDS: Final = 5.0  # for the threads, of which only a name being resolved cannot be interrupted


class Mesh:
    """See `ports.Links` for what each method promises, and to which thread it belongs."""

    def __init__(
        self,
        identity: Identity,
        roots: Sequence[bytes],
        listen: Address,
        hello: Mapping[str, Any],
        services: Services | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        """`hello` says what peers must have in common ("product", "schema") and may know. `seed` fixes the jitter of dials.

        Raises `Rejected` when identity and roots do not belong together. Nothing is bound or started yet.
        """
        self._trust = Trust(identity, roots, hello)
        self._listen = listen
        self._address: Address | None = None
        self._seed = seed if seed is not None else int.from_bytes(os.urandom(4), "big")
        self._log = RefusalLog()
        self._reception = Reception(self._trust, services, self._log, self._deliver)
        self._lock = threading.Lock()  # of _diallers, _door, _closed
        self._door: Door | None = None
        self._diallers: dict[str, Dialler] = {}
        self._ended: list[Dialler] = []
        self._closed = False
        self._arrivals: deque[Connection] = deque()
        self._renewing: deque[str] = deque()
        """Peers whose links are to be replaced."""
        # --- the tick thread's
        self._links: dict[str, Link] = {}  # replaced, never changed: other threads look at it
        self._by_descriptor: dict[int, Link] = {}
        self._events: list[Event] = []
        self._scratch = memoryview(bytearray(READ_BYTES))
        self._next_sweep = 0.0
        self._epoll = select.epoll()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._waker, select.EPOLLIN)

    # --- any thread

    @property
    def address(self) -> Address:
        """The address that is listened at. Raises `Unavailable` before `start`."""
        if self._address is None:
            raise Unavailable("not started", subject=sockets.text(self._listen))
        return self._address

    @property
    def refusals(self) -> dict[str, int]:
        """How many connections were refused for which reason (`handshake.REASONS`)."""
        return dict(self._log.counts)

    def start(self) -> None:
        """Listen and begin to dial. Raises `AddressInUse` or `MissingPrivilege`; then nothing has been started."""
        listener = sockets.listen(self._listen)
        self._address = sockets.bound(listener)
        with self._lock:
            self._door = Door(listener, self._reception.receive)
            self._door.start()
        self._set_diallers()

    def configure(self, peers: Mapping[str, Peer]) -> None:
        """Set who may link and is dialled; peers that are not linked are dialled at once."""
        self._trust.configure(peers)
        self._reception.judge()
        self._set_diallers()
        self.wake()

    def use(self, identity: Identity, roots: Sequence[bytes]) -> None:
        """Show and trust these from now on. Raises `Rejected`, then nothing has changed."""
        self._trust.use(identity, roots)
        self._reception.judge()
        self.wake()

    def relink(self, peers: Collection[str]) -> None:
        """Replace the links to these by such that show the identity in use."""
        self._renewing.extend(peers)
        self.wake()

    def links(self) -> dict[str, LinkInfo]:
        """The links that are up."""
        now = time.monotonic()
        return {peer: link.info(now) for peer, link in self._links.items()}

    def open_stream(self, peer: str, kind: str) -> Stream:
        """Any thread but the tick thread: a second connection to a member, for `handshake.SNAPSHOT`, `VERIFY`, `LOGS` or `JOIN`.

        Raises `LinkRefused` when one of both ends does not want it, `Unavailable` when the peer cannot be reached.
        """
        try:
            stream = connect.to_member(self._trust, peer, kind, lambda _: None).stream
        except OSError as error:
            raise Unavailable(f"cannot reach {peer}: {error}", subject=peer, remedy="try again") from error
        self._reception.adopt(stream)
        return stream

    def wake(self) -> None:
        """End a `poll` that waits, now or soon."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        """Close everything and wait for the threads. Idempotent. Not while another thread is in `poll`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            diallers = [*self._diallers.values(), *self._ended]
        for dialler in diallers:
            dialler.stop()
        self._reception.close()
        if self._door is not None:
            self._door.close(_CLOSE_SECONDS)
        for dialler in diallers:
            dialler.join(_CLOSE_SECONDS)
        for link in self._links.values():
            link.close()
        self._links = {}
        self._by_descriptor.clear()
        while self._arrivals:
            self._arrivals.popleft().stream.close()
        self._epoll.close()
        os.close(self._waker)

    # --- the tick thread

    def poll(self, timeout: float) -> list[Event]:
        """Write what is queued, wait up to `timeout` seconds for something to happen, and return it in order."""
        self._settle()
        self.flush()
        woken = False
        pending = [link for link in self._links.values() if link.pending]
        for descriptor, mask in self._epoll.poll(0 if self._events or pending else timeout):
            link = self._by_descriptor.get(descriptor)
            if link is not None:
                self._serve(link, mask & ~select.EPOLLIN if link.pending else mask)
            elif descriptor == self._waker:
                os.eventfd_read(self._waker)
                woken = True
        for link in pending:
            if self._links.get(link.peer) is link:
                self._receive(link)
        if woken:
            self._settle()
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_SECONDS
            for link in self._links.values():
                self._attempt(link, partial(link.sweep, now))
        self.flush()
        events, self._events = self._events, []
        return events

    def send(self, peer: str, message: dict[str, Value]) -> bool:
        """Queue a message; False when there is no link or its queue is full."""
        link = self._links.get(peer)
        return link is not None and link.send(frames.encode(message))

    def flush(self) -> None:
        """Give the kernel what is queued, without waiting."""
        for link in self._links.values():
            if link.queued and not link.blocked:
                self._flush(link)

    def drop(self, peer: str, reason: str) -> None:
        """Close the link to `peer`, because it sends nonsense."""
        if (link := self._links.get(peer)) is not None:
            self._log.note("nonsense", peer, reason)
            self._end(link, reason)

    def _serve(self, link: Link, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._flush(link)
        if mask & ~select.EPOLLOUT and self._links.get(link.peer) is link:
            self._receive(link)

    def _receive(self, link: Link) -> None:
        self._attempt(link, partial(link.receive, self._scratch, self._events, time.monotonic()))
        if link.relink_asked:
            link.relink_asked = False
            with self._lock:
                if (dialler := self._diallers.get(link.peer)) is not None:
                    dialler.asked(link.connection, time.monotonic() - link.since)

    def _flush(self, link: Link) -> None:
        blocked = link.blocked
        self._attempt(link, link.flush)
        if link.blocked != blocked and self._links.get(link.peer) is link:
            self._epoll.modify(link.descriptor, select.EPOLLIN | (select.EPOLLOUT if link.blocked else 0))

    def _attempt(self, link: Link, step: Any) -> None:
        """Whatever ends a link ends this link only."""
        try:
            step()
        except Refused as refused:  # its certificate was turned down after all
            self._log.note(refused.reason, link.peer, refused.message, refused.remedy)
            self._end(link, refused.message)
        except (OSError, RaftclusterError) as error:
            self._end(link, str(error) or type(error).__name__)

    def _settle(self) -> None:
        """Take over what other threads have left."""
        while self._arrivals:
            self._adopt(self._arrivals.popleft())
        if self._trust.changed:
            self._trust.changed = False
            for link in self._links.values():
                try:
                    self._trust.admit(link.connection.shown)
                except Refused as refused:
                    self._log.note(refused.reason, link.peer, refused.message, refused.remedy)
                    self._end(link, refused.message)
        while self._renewing:
            renewed = self._links.get(self._renewing.popleft())
            if renewed is not None and renewed.connection.dialled:
                self._want(renewed.peer)
            elif renewed is not None:
                self._attempt(renewed, renewed.ask_relink)

    def _adopt(self, connection: Connection) -> None:
        peer = connection.shown.subject.node_id
        try:
            self._trust.admit(connection.shown)  # the members may have changed since its handshake
        except Refused as refused:
            self._log.note(refused.reason, peer, refused.message, refused.remedy)
            connection.stream.close()
            self._lost(connection, 0.0)
            return
        if (old := self._links.get(peer)) is not None:
            self._end(old, "replaced by a newer link", dial=False)
        link = Link(connection)
        self._links = {**self._links, peer: link}
        self._by_descriptor[link.descriptor] = link
        self._epoll.register(link.descriptor, select.EPOLLIN)
        self._events.append(Up(peer))
        LOGGER.info("link to %s (%s) is up", peer, connection.stream.address)
        self._receive(link)  # what has come with the hello is in memory already: no descriptor will tell

    def _end(self, link: Link, reason: str, *, dial: bool = True) -> None:
        if self._links.get(link.peer) is not link:
            return
        self._links = {peer: other for peer, other in self._links.items() if other is not link}
        del self._by_descriptor[link.descriptor]
        self._epoll.unregister(link.descriptor)
        link.close()
        self._events.append(Down(link.peer, reason))
        LOGGER.info("link to %s is down: %s", link.peer, reason)
        if dial:
            self._lost(link.connection, time.monotonic() - link.since)

    # --- dialling

    def _deliver(self, connection: Connection) -> None:
        """Any thread: a connection is authenticated."""
        self._arrivals.append(connection)
        if self._closed:  # `close` may have emptied the arrivals already
            connection.stream.abort()
        self.wake()

    def _set_diallers(self) -> None:
        with self._lock:
            if self._door is None or self._closed:
                return
            wanted = {peer for peer in self._trust.peers if peer < self._trust.node_id}
            for peer in [peer for peer in self._diallers if peer not in wanted]:
                self._diallers[peer].stop()
                self._ended.append(self._diallers.pop(peer))
            self._ended = [dialler for dialler in self._ended if not dialler.ended]
            for peer in wanted:
                if peer not in self._diallers:
                    dial = partial(connect.to_member, self._trust, peer, handshake.RAFT)
                    seed = self._seed ^ zlib.crc32(peer.encode())
                    dialler = Dialler(peer, dial, self._deliver, self._log, seed)
                    dialler.start()
                    self._diallers[peer] = dialler
                elif peer not in self._links:
                    self._diallers[peer].hurry()

    def _want(self, peer: str) -> None:
        with self._lock:
            if (dialler := self._diallers.get(peer)) is not None:
                dialler.want()

    def _lost(self, connection: Connection, lived: float) -> None:
        with self._lock:
            if connection.dialled and (dialler := self._diallers.get(connection.shown.subject.node_id)) is not None:
                dialler.lost(connection, lived)
