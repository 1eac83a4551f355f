"""The accepting side of one connection, on a thread of its own: who is it, what does it want, who serves it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol
from weakref import WeakSet

from raftcluster import limits
from raftcluster.errors import FrameError, Unavailable
from raftcluster.transport import handshake
from raftcluster.transport.handshake import JOIN, KINDS, LOGS, MEMBERS, RAFT, SNAPSHOT, VERIFY, Refused
from raftcluster.transport.refusals import LOGGER, RefusalLog
from raftcluster.transport.sockets import Socket
from raftcluster.transport.stream import Stream
from raftcluster.transport.tls import Credentials, Shown
from raftcluster.transport.trust import Connection, Trust

_ADDRESSES: Final = 1_024  # strangers whose rate is remembered
_STRANGERS: Final = "strangers'"
"""The places of those who join without a certificate: they keep no member from its own."""


class Services(Protocol):
    """Who serves the connections that are not links.

    Thread: a stream thread each, at most `STREAMS`, `VERIFY_STREAMS`, `MAILLOG_STREAMS` and `JOIN_STREAMS` of them; a method may block, with deadlines. When it
    returns or raises, the stream is closed.
    """

    def snapshot(self, peer: str, stream: Stream) -> None:
        """The member `peer` wants the tables."""

    def examine(self, peer: str, stream: Stream) -> None:
        """The member `peer` wants to know whether the tables are equal, and sound."""

    def recall(self, peer: str, stream: Stream) -> None:
        """The member `peer` reads this node's mail log."""

    def join(self, stream: Stream) -> None:
        """Somebody wants the public chain, or to join. `stream.peer` is "" unless it has shown a member's certificate: then
        nothing that it says is to be believed, each of its frames is at most `HELLO_BYTES` long, and the conversation
        ends after `JOIN_SECONDS`."""


class Reception:
    """Authenticates what `Door` lets in, and hands links to `deliver` and streams to the services."""

    def __init__(
        self, trust: Trust, services: Services | None, log: RefusalLog, deliver: Callable[[Connection], None]
    ) -> None:
        self._trust = trust
        self._services = services
        self._log = log
        self._deliver = deliver
        self._kinds = (RAFT,) if services is None else KINDS
        self._places = {
            SNAPSHOT: limits.STREAMS,
            VERIFY: limits.VERIFY_STREAMS,
            LOGS: limits.MAILLOG_STREAMS,
            JOIN: limits.JOIN_STREAMS,
            _STRANGERS: limits.JOIN_STREAMS,
        }
        self._streams: WeakSet[Stream] = WeakSet()
        self._fetching: dict[str, Stream] = {}  # member -> its newest stream of a snapshot
        self._rate = Buckets(limits.JOIN_BURST, limits.JOIN_PER_SECOND)
        self._lock = threading.Lock()
        self._closed = False

    def receive(self, sock: Socket, host: str, settled: Callable[[], None]) -> None:
        """A new connection from `host`. `settled` is called when the handshake is over and a service takes its time.

        Whatever the peer does ends here: it is logged, and its socket closed.
        """
        deadline = time.monotonic() + limits.HANDSHAKE_SECONDS
        credentials = self._trust.credentials
        stream = Stream(sock, credentials.accept())
        try:
            stream.handshake(deadline)
            shown = credentials.judge(stream.channel)
            if shown is None:
                self._stranger(stream, credentials, host, deadline, settled)
            else:
                self._member(stream, credentials, shown, deadline, settled)
        except Refused as refused:
            self._refuse(stream, refused)
        except FrameError as error:
            self._refuse(stream, Refused("frame", error.message))
        except (OSError, Unavailable) as error:
            if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
                self._note(stream, Refused("timeout", str(error)))
            else:  # a port scan, a health check, a peer that has changed its mind
                LOGGER.debug("connection from %s ended: %s", stream.address, error)
            stream.close()
        except BaseException:
            stream.close()
            raise

    def adopt(self, stream: Stream) -> None:
        """A stream that this node has dialled ends with its peer's membership, and with the mesh, too."""
        with self._lock:
            self._streams.add(stream)
        self.judge()

    def judge(self) -> None:
        """End the streams of those that are members no more, or are known by another key now."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            try:
                if self._closed:
                    raise Refused("busy", "the node is stopping")
                if stream.shown is not None:
                    self._trust.admit(stream.shown)
            except Refused as refused:
                LOGGER.info("stream with %s (%s) ends: %s", stream.peer, stream.address, refused)
                stream.abort()

    def close(self) -> None:
        """End all streams, and those that come yet."""
        self._closed = True
        self.judge()

    def _member(
        self, stream: Stream, credentials: Credentials, shown: Shown, deadline: float, settled: Callable[[], None]
    ) -> None:
        node_id = self._trust.admit(shown).node_id
        stream.peer = node_id
        stream.shown = shown
        stream.peer_certificate = shown.pem
        theirs = handshake.check_hello(
            self._trust.hello(RAFT), stream.receive(deadline - time.monotonic()), self._kinds
        )
        kind = theirs["kind"]
        if kind == RAFT:
            handshake.check_direction(node_id, self._trust.node_id)
        stream.decoder.authorised()
        if kind == RAFT:
            stream.send(self._trust.hello(RAFT), deadline - time.monotonic())
            self._deliver(Connection(stream, shown, theirs, credentials.identity.generation, dialled=False))
        else:
            self._serve(stream, kind, credentials, deadline, settled)

    def _stranger(
        self, stream: Stream, credentials: Credentials, host: str, deadline: float, settled: Callable[[], None]
    ) -> None:
        if not self._rate.take(host):
            raise Refused("rate", "too many connections without a certificate", remedy="wait some seconds")
        ours = self._trust.hello(JOIN)
        stream.send({**ours, "root": credentials.root}, deadline - time.monotonic())
        stream.ends = time.monotonic() + limits.JOIN_SECONDS
        kinds = tuple(kind for kind in self._kinds if kind == JOIN)
        theirs = stream.receive(deadline - time.monotonic())
        if isinstance(theirs, dict) and theirs.get("kind") in MEMBERS:
            raise Refused("certificate-required", f"no certificate was shown for a {theirs['kind']!r} connection")
        handshake.check_hello(ours, theirs, kinds)
        self._serve(stream, JOIN, credentials, deadline, settled)

    def _serve(
        self, stream: Stream, kind: str, credentials: Credentials, deadline: float, settled: Callable[[], None]
    ) -> None:
        assert self._services is not None, "without services their kinds are refused"
        stream.certificate = credentials.identity.certificate
        with self._place(stream, kind if stream.peer else _STRANGERS):
            stream.send(self._trust.hello(kind), deadline - time.monotonic())
            settled()
            if kind == SNAPSHOT:
                self._services.snapshot(stream.peer, stream)
            elif kind == VERIFY:
                self._services.examine(stream.peer, stream)
            elif kind == LOGS:
                self._services.recall(stream.peer, stream)
            else:
                self._services.join(stream)
        stream.close()

    @contextmanager
    def _place(self, stream: Stream, kind: str) -> Iterator[None]:
        with self._lock:
            if self._places[kind] == 0:
                raise Refused("busy", f"too many {kind} connections at once", remedy="try again later")
            self._places[kind] -= 1
            self._streams.add(stream)
            older = self._fetching.get(stream.peer) if kind == SNAPSHOT else None
            if kind == SNAPSHOT:
                self._fetching[stream.peer] = stream
        if older is not None:  # like a link: and nobody takes all the places
            older.abort()
        try:
            self.judge()  # what changed since it was admitted has not ended it
            yield
        finally:
            with self._lock:
                self._places[kind] += 1
                self._streams.discard(stream)
                if self._fetching.get(stream.peer) is stream:
                    del self._fetching[stream.peer]

    def _refuse(self, stream: Stream, refused: Refused) -> None:
        self._note(stream, refused)
        stream.part(None if refused.by_peer else refused.frame())

    def _note(self, stream: Stream, refused: Refused) -> None:
        who = stream.peer or refused.subject
        host = stream.address.rpartition(":")[0] or "?"  # the port differs each time: one peer would look like many
        self._log.note(refused.reason, f"{who} from {host}" if who else host, refused.message, refused.remedy)


class Buckets:
    """Token buckets, one per key, the least recently used forgotten. Any thread."""

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._burst = burst
        self._per_second = per_second
        self._level: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> bool:
        """Whether one more is allowed now."""
        now = self._clock()
        with self._lock:
            level, since = self._level.pop(key, (self._burst, now))
            level = min(self._burst, level + (now - since) * self._per_second)
            allowed = level >= 1
            if len(self._level) >= _ADDRESSES:
                del self._level[next(iter(self._level))]
            self._level[key] = (level - 1 if allowed else level, now)
        return allowed
