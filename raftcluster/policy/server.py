"""The greylisting policy server that Postfix asks.

Theory of operation. One thread runs an asyncio loop with all connections. A request that needs a decision is handed to
`greylist.submit`; its callback comes on the node's tick thread, many at once when a log entry is applied, so results go
through a mailbox that wakes the loop once for all of them. The greylist answers within its deadline also when the
cluster does not; should the node itself be stuck, a timer here gives the administrator's `on_unavailable` as the answer,
whatever becomes of the check. Checks carry Postfix's `instance`, so a request that Postfix sends again is the same operation and gets the same verdict.

On trouble (SMTPD_POLICY_README): do not answer, log, disconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections import Counter
from functools import partial
from typing import Final

from raftcluster import limits
from raftcluster.errors import AddressInUse, MissingPrivilege, RaftclusterError, Refusal, Rejected
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.rules import PASS, Action
from raftcluster.greylist.verdict import Verdict
from raftcluster.loop import LoopThread, Mailbox, refuse_live, stop_listening
from raftcluster.policy.connection import Connection
from raftcluster.policy.decision import (
    NO_OPINION,
    Question,
    action,
    postfix_line,
    question,
    unavailable,
)
from raftcluster.policy.protocol import Attributes

log = logging.getLogger("raftcluster.policy")
DEADLINE_MAX: Final = 60.0  # Postfix's own time-out is 100 s
OWN_SHARE: Final = 0.95  # of the deadline for the greylist's degraded answer, which says more than ours
SOURCE: Final = "policy"  # who asks, in the log
LISTEN: Final = "inet:127.0.0.1:10023"


class PolicyServer:
    """Answers Postfix policy requests at `listen`: `inet:HOST:PORT` or `unix:/PATH`.

    `deadline` (seconds) is hard: after it, `on_unavailable` of the greylist's settings is the answer. `start` binds;
    `close` disconnects everybody. Both may be called from any thread, once each.
    """

    def __init__(
        self,
        greylist: Greylist,
        listen: str = LISTEN,
        *,
        deadline: float = limits.CALL_SECONDS,
        connections: int = limits.POLICY_CONNECTIONS,
        idle_seconds: float = limits.POLICY_IDLE_SECONDS,
        request_seconds: float = limits.FRAME_SECONDS,
    ) -> None:
        if not 0 < deadline <= DEADLINE_MAX:
            raise Rejected(
                f"no deadline: {deadline} s", subject="deadline", remedy=f"above 0, at most {DEADLINE_MAX} s"
            )
        self._deadline = deadline
        self._greylist = greylist
        self._listen = listen
        self._where = parse_listen(listen)
        self._limit = connections
        self._idle_seconds = idle_seconds
        self._request_seconds = request_seconds
        self._connections: set[Connection] = set()
        self._counts: Counter[str] = Counter()
        self._last_line: dict[str, tuple[float, int]] = {}
        self._server: asyncio.Server | None = None
        self._thread: LoopThread | None = None

    # --- any thread

    def start(self) -> None:
        """Bind and serve. Raises `AddressInUse` or `MissingPrivilege` naming the address, else `Refusal`."""
        thread = LoopThread("raftcluster-policy")
        self._mailbox = Mailbox(thread.loop, self._deliver)
        try:
            thread.run(self._open(thread.loop))
        except BaseException:
            thread.close()
            raise
        self._thread = thread
        log.info("policy server at %s", self.address)

    @property
    def address(self) -> str:
        """Where it listens, with the port that was bound, as Postfix writes it."""
        if self._where[1] is None or self._server is None:
            return self._listen
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"inet:[{host}]:{port}" if ":" in host else f"inet:{host}:{port}"

    def postfix_line(self) -> str:
        """The line for Postfix's main.cf that asks this server."""
        return postfix_line(self.address, self._deadline, self._greylist.known_settings.on_unavailable)

    def stats(self) -> dict[str, int]:
        """Counters since the start: requests, pass, defer, degraded, overdue, malformed, ...; and connections."""
        return {**self._counts, "connections": len(self._connections)}

    def close(self) -> None:
        """Stop listening, answer what is under way, disconnect everybody, end the thread. Idempotent."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            thread.run(self._shut())
            thread.close()

    # --- a connection's owner (loop thread)

    def opened(self, connection: Connection) -> bool:
        if len(self._connections) >= self._limit:
            self.trouble("refused", f"more than {self._limit} connections; the newest is refused")
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def decide(self, connection: Connection, attributes: Attributes) -> str | None:
        """The action, or None when it comes later."""
        self._counts["requests"] += 1
        asked = question(attributes)
        if asked is None:
            self._counts["no_opinion"] += 1
            return NO_OPINION
        ticket, connection.asked = connection.ticket, asked
        connection.timer = self._loop.call_later(self._deadline, self._deliver, connection, ticket, None, None)
        try:
            self._greylist.submit(
                partial(self._mailbox.put, connection, ticket),
                client=asked.client,
                client_name=asked.client_name,
                sender=asked.sender,
                recipient=asked.recipient,
                instance=asked.instance,
                source="",  # what is told is logged when it is told
                deadline=self._deadline * OWN_SHARE,
            )
        except RaftclusterError as error:
            connection.stop_timer()
            return self._undecided(asked, error)
        return None

    def trouble(self, kind: str, message: str) -> None:
        """Count it, and log it at most once a second per kind: a hostile client must not fill the log."""
        self._counts[kind] += 1
        now = self._loop.time()
        last, count = self._last_line.get(kind, (now - 1.0, 0))
        if now - last >= 1.0:
            more = self._counts[kind] - count - 1
            log.warning("policy client: %s%s", message, f" ({more} more like this)" if more and count else "")
            self._last_line[kind] = (now, self._counts[kind])

    # --- inside (loop thread)

    def _deliver(
        self, connection: Connection, ticket: int, verdict: Verdict | None, error: RaftclusterError | None
    ) -> None:
        """Verdict, error, or neither when the deadline is over; whatever comes second is too late."""
        if ticket != connection.ticket:
            return
        asked = connection.asked
        assert asked is not None, "a ticket is of a question"
        if verdict is None:
            connection.answer(self._undecided(asked, error))
            return
        self._greylist.decided(asked, verdict, SOURCE)
        self._counts[verdict.action] += 1
        if verdict.training:
            self._counts["training"] += 1
        if verdict.degraded:
            self.trouble("degraded", f"{verdict.reason}: answered without the cluster, {verdict.action}")
        connection.answer(action(verdict))

    def _undecided(self, asked: Question, error: RaftclusterError | None) -> str:
        never = isinstance(error, Rejected) and not isinstance(error, Refusal)  # the question is at fault, not the node
        chosen: Action = PASS if never else self._greylist.known_settings.without_cluster()
        reason = "overdue" if error is None else error.code
        self._greylist.decided(asked, Verdict(chosen, reason, 0, 0, None, True, ""), SOURCE)
        if never:  # deferring it would defer it for ever
            self.trouble("rejected", f"{error}; passed without greylisting")
            return NO_OPINION
        self.trouble("overdue", f"{error or 'the node is silent'}: answered without the cluster, {chosen}")
        return unavailable(chosen)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        host, port = self._where
        make = partial(Connection, self, loop.time)
        try:
            if port is None:
                await refuse_live(host)
                self._server = await loop.create_unix_server(make, host, backlog=self._limit)
                os.chmod(host, 0o666)  # whoever may enter the folder may ask; Postfix's own `private` is its alone
            else:
                self._server = await loop.create_server(make, host, port, backlog=self._limit)
        except OSError as error:
            raise _refusal(error, self._listen) from error
        self._sweep()

    def _sweep(self) -> None:
        """Close what has been idle, unended or unread for too long."""
        now = self._loop.time()
        for connection in list(self._connections):
            if reason := connection.overdue(now, self._idle_seconds, self._request_seconds):
                if reason == "is idle":
                    self._counts["idle"] += 1
                else:
                    self.trouble("unended", f"the client {reason}; it is disconnected")
                connection.close()
        self._sweeper = self._loop.call_later(min(1.0, self._request_seconds / 4), self._sweep)

    async def _shut(self) -> None:
        self._sweeper.cancel()
        assert self._server is not None
        await stop_listening(self._server)
        if self._where[1] is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._where[0])
        for connection in list(self._connections):
            connection.finish()
        end = self._loop.time() + self._deadline
        while self._connections and self._loop.time() < end:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            await asyncio.sleep(0)


def parse_listen(listen: str) -> tuple[str, int | None]:
    """(host, port) of `inet:HOST:PORT`, (path, None) of `unix:/PATH`. Raises `Rejected`."""
    kind, _, rest = listen.partition(":")
    if kind == "unix" and rest.startswith("/"):
        return rest, None
    host, _, port = rest.rpartition(":")
    if kind == "inet" and host and port.isascii() and port.isdigit() and int(port) < 65_536:
        return host.removeprefix("[").removesuffix("]"), int(port)
    raise Rejected(f"no address to listen at: {listen}", subject=listen, remedy="inet:HOST:PORT or unix:/PATH")


def _refusal(error: OSError, listen: str) -> Refusal:
    if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
        return AddressInUse(
            f"cannot listen at {listen}: {error.strerror}", subject=listen, remedy="choose another with --policy"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingPrivilege(f"may not listen at {listen}: {error.strerror}", subject=listen, remedy="run as root")
    return Refusal(f"cannot listen at {listen}: {error.strerror or error}", subject=listen)
