"""The worker socket: the node's API for the worker processes of the product that embeds it.

Theory of operation. One thread runs an asyncio loop with the connections. A greylist check goes to the node from there, without
a thread of its own, and its verdict comes back from the tick thread through a mailbox: hundreds are on their way at once. Every
other call waits somewhere, so it runs on one of a few threads, under the request id that the worker chose (`once`): a worker that
lost its connection asks again under the same one, and what was done is not done twice. A stream has a thread as long as its
worker listens, and is not ahead of what the worker has taken by more than `limits.WORKER_WINDOW` items.

Who may connect: whoever may open the socket, a file of mode 0600, or 0660 when it is given a group; of these only `users`, when
some are named. The kernel tells who it is (SO_PEERCRED); changes without an author carry it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import inspect
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

from raftcluster import limits
from raftcluster.builtin import all_machines
from raftcluster.codec import Value, pack
from raftcluster.control.server import bound, made
from raftcluster.control.wire import describe, plain
from raftcluster.errors import (
    AddressInUse,
    FrameError,
    MissingPrivilege,
    RaftclusterError,
    Refusal,
    Rejected,
    Unavailable,
)
from raftcluster.greylist.verdict import Verdict
from raftcluster.host import Consistency
from raftcluster.lease import machine as lease
from raftcluster.loop import LoopThread, Mailbox, refuse_live, stop_listening
from raftcluster.quarantine.envelope import Envelope
from raftcluster.request_ids import once
from raftcluster.workers.connection import Connection
from raftcluster.workers.wire import CHECK, END, ERROR, ITEM, VALUE, VERSION, Request, is_check

log = logging.getLogger("raftcluster.workers")

CALLS: Final = frozenset(
    """
    greylist.explain greylist.stats greylist.settings greylist.configure
    greylist.lists.add greylist.lists.add_all greylist.lists.remove greylist.lists.show greylist.lists.test
    config.get config.effective config.entry config.set config.delete config.keys config.revision
    config.transact config.revision_at config.rollback config.verify config.schemas config.reports
    config.local.set config.local.get config.local.delete maillog.write
    notifications.list notifications.publish notifications.acknowledge notifications.last
    notifications.cursor notifications.advance notifications.seek notifications.forget
    quarantine.list quarantine.show quarantine.release quarantine.discard quarantine.usage quarantine.new_id
    """.split()
)
BUILT_IN: Final = frozenset(each.name for each in all_machines()) - {lease.NAME}
"""Machines that a worker reaches through their APIs only."""
OWN_SHARE: Final = 0.95  # of a check's deadline, for the node; the rest is for the way back
SWEEP_SECONDS: Final = 1.0


class WorkerServer:
    """Serves `node` at the unix socket `path`. `start` binds; `close` disconnects everybody. Both from any thread, once each."""

    def __init__(
        self,
        node: Any,
        path: str | os.PathLike[str],
        *,
        group: str | int | None = None,
        users: Collection[int] | None = None,
    ) -> None:
        """`group` (name or id) may connect besides the owner and root; with `users` only those user ids may."""
        self._node = node
        self.path = os.fspath(path)
        self._group, self._users = group, users
        self._connections: set[Connection] = set()
        self._counts: Counter[str] = Counter()
        self._calls: dict[str, Callable[..., Value]] = {
            "propose": self._propose,
            "quarantine.capture": self._capture,
            "lease.get": self._lease_get,
            "lease.scan": self._lease_scan,
        }
        self._streams: dict[str, Callable[..., Any]] = {
            "config.watch": lambda *, prefix="", since=None: self._node.config.watch(prefix, since=since),
            "config.log": lambda **asked: _Listed(self._node.config.log(**asked)),
            "config.history": lambda **asked: _Listed(self._node.config.history(**asked)),
            "config.at": lambda **asked: _Listed(self._node.config.at(**asked).values()),
            "config.diff": lambda **asked: _Listed(self._node.config.diff(**asked)),
            "notifications.follow": lambda *, since=None: self._node.notifications.subscribe(since=since),
        }
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="raftcluster-worker")
        self._threads = ThreadPoolExecutor(limits.WORKER_THREADS, thread_name_prefix="raftcluster-worker")
        self._streaming = 0
        self._last: tuple[Verdict | None, bytes] = (None, b"")
        """All first attempts of one moment have the same verdict: it is packed once."""
        self._about: dict[str, Value] = {}
        self._thread: LoopThread | None = None

    # ---- any thread

    def start(self) -> None:
        """Bind and serve. Raises `AddressInUse`, `MissingPrivilege` or `Refusal` naming the path."""
        thread = LoopThread("raftcluster-workers")
        self._mailbox = Mailbox(thread.loop, self._deliver)
        try:
            self._about = self._facts()
            thread.run(self._open(thread.loop))
        except (OSError, KeyError) as error:
            thread.close()
            raise _refusal(error, self.path) from error
        except BaseException:
            thread.close()
            raise
        self._thread = thread

    def stats(self) -> dict[str, int]:
        """Counters since the start: checks, calls, streams, malformed, ...; and `connections` now."""
        return {**self._counts, "connections": len(self._connections)}

    def close(self) -> None:
        """Stop listening, disconnect everybody, wait for the calls under way. Idempotent."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            thread.run(self._shut())
            thread.close()
            for pool in (self._threads, self._teller):
                pool.shutdown(cancel_futures=True)

    # ---- methods that are more than the node's own (a thread of the pool)

    def _propose(self, *, machine: str, command: Value, deadline: float) -> Value:
        if machine in BUILT_IN:
            raise Rejected(f"{machine} takes no commands of workers", subject=machine, remedy="use its methods")
        return self._node.propose(machine, command, deadline=deadline)

    def _capture(self, *, envelope: Value, **about: Any) -> Value:
        return self._node.quarantine.capture(Envelope.of(envelope), **about)

    def _lease_get(self, *, table: str, key: bytes, consistency: Consistency) -> Value:
        _check_table(table)
        return self._node.query(lease.NAME, lambda tables, now: [now, tables.get(table, key)], consistency=consistency)

    def _lease_scan(
        self, *, table: str, start: bytes, stop: bytes | None, limit: int, consistency: Consistency
    ) -> Value:
        _check_table(table)
        most = min(limit, limits.SCAN_ROWS)
        return self._node.query(
            lease.NAME, lambda tables, now: [now, tables.scan(table, start, stop, most)], consistency=consistency
        )

    def _facts(self) -> dict[str, Value]:
        """What a worker is told of the node: who it is, and what to answer when it is gone."""
        settings = self._node.greylist.settings()
        without = [settings.without_cluster(), settings.delay, settings.text]
        return {"version": VERSION, "id": self._node.id, "name": self._node.name, "without": without}

    # ---- a connection's owner (loop thread)

    def opened(self, connection: Connection) -> bool:
        """Whether it may stay."""
        if self._users is not None and connection.user not in self._users:
            self.trouble("refused", f"user {connection.user} may not ask this node")
            return False
        if len(self._connections) >= limits.WORKER_CONNECTIONS:
            self.trouble("refused", f"more than {limits.WORKER_CONNECTIONS} workers; the newest is refused")
            return False
        self._connections.add(connection)
        connection.say(0, ITEM, self._about)
        return True

    def closed(self, connection: Connection) -> None:
        """It has gone."""
        self._connections.discard(connection)

    def asked(self, connection: Connection, message: Request) -> None:
        """Answer it, now or later."""
        try:
            if message.method == CHECK:
                self._counts["checks"] += 1
                self._check(connection, message)
            elif message.method in self._streams:
                self._counts["streams"] += 1
                self._stream(connection, message)
            else:
                self._counts["calls"] += 1
                self._call(connection, message)
        except RaftclusterError as error:
            connection.say(message.number, ERROR, describe(error))

    def trouble(self, kind: str, message: str) -> None:
        """Count it; the first and every hundredth are worth a line."""
        self._counts[kind] += 1
        if self._counts[kind] % 100 == 1:
            log.warning("worker: %s", message)

    # ---- inside (loop thread)

    def _check(self, connection: Connection, message: Request) -> None:
        if not is_check(message.arguments) or not message.arguments[-1] > 0:
            raise FrameError("malformed check", subject="check")
        client, sender, recipient, name, instance, authenticated, spf_pass, helo, deadline = message.arguments
        self._node.greylist.submit(
            partial(self._mailbox.put, connection, message.number),
            client=client,
            sender=sender,
            recipient=recipient,
            client_name=name,
            instance=instance,
            authenticated=authenticated,
            spf_pass=spf_pass,
            helo=helo,
            source="worker",
            deadline=min(deadline, limits.WORKER_CHECK_SECONDS) * OWN_SHARE,
        )

    def _deliver(
        self, connection: Connection, number: int, result: Verdict | _Said | None, error: RaftclusterError | None
    ) -> None:
        """From the mailbox: a verdict or its error; or what a thread has to say."""
        if isinstance(result, _Said):
            connection.calls -= result.ends_call
            self._streaming -= result.ends_stream
            connection.say(number, result.kind, result.value)
        elif error is not None:
            connection.say(number, ERROR, describe(error))
        else:
            assert result is not None, "a verdict or an error"
            if result is not self._last[0]:
                self._last = result, pack(_fields(result))
            connection.result(number, self._last[1])

    def _call(self, connection: Connection, message: Request) -> None:
        if connection.calls >= limits.WORKER_CALLS:
            raise Unavailable(f"more than {limits.WORKER_CALLS} calls of one worker", subject=message.method)
        call = self._method(message.method, message.arguments, connection.user)
        connection.calls += 1
        with contextlib.suppress(RuntimeError):  # no thread more: it waits for those that are there, or that come
            self._threads.submit(self._carry_out, connection, message, call)

    def _method(self, name: str, arguments: Value, user: int) -> Callable[[], Value]:
        method = self._calls.get(name)
        if method is None and name in CALLS:
            method = attrgetter(name)(self._node)
        if method is None or not isinstance(arguments, dict) or not all(type(each) is str for each in arguments):
            raise Rejected(
                f"workers have no method {name:.80}", subject=name[:80], remedy="use a client of this version"
            )
        if not arguments.get("author") and "author" in inspect.signature(method).parameters:
            arguments = {**arguments, "author": f"uid {user}"}
        return bound(name, method, arguments)

    def _carry_out(self, connection: Connection, message: Request, call: Callable[[], Value]) -> None:
        """A thread of the pool."""
        try:
            with once(message.id) if message.id is not None else contextlib.nullcontext():
                said = _Said(VALUE, plain(made(message.method, call)), ends_call=True)
        except RaftclusterError as error:
            said = _Said(ERROR, describe(error), ends_call=True)
        self._mailbox.put(connection, message.number, said, None)

    def _stream(self, connection: Connection, message: Request) -> None:
        if self._streaming >= limits.WORKER_STREAMS:
            raise Unavailable(f"more than {limits.WORKER_STREAMS} streams of workers", subject=message.method)
        if not isinstance(message.arguments, dict):
            raise FrameError("malformed arguments", subject=message.method)
        stream = _Stream(
            bound(message.method, self._streams[message.method], message.arguments),
            lambda said: self._mailbox.put(connection, message.number, said, None),
        )
        thread = threading.Thread(
            target=stream.run, args=(message.method,), name="raftcluster-worker-stream", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise Unavailable(f"{message.method}: {error}", subject=self.path, remedy="ask again") from error
        connection.streams[message.number] = stream.taken  # what it says comes by the mailbox, after this
        self._streaming += 1

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        group = grp.getgrnam(self._group).gr_gid if isinstance(self._group, str) else self._group
        await refuse_live(self.path)
        make = partial(Connection, self, loop.time)
        backlog = limits.WORKER_CONNECTIONS
        self._server = await loop.create_unix_server(make, self.path, backlog=backlog, start_serving=False)
        try:  # before the first connection is accepted
            if group is not None:
                os.chown(self.path, -1, group)
            os.chmod(self.path, 0o600 if group is None else 0o660)
        except OSError:
            self._server.close()
            os.unlink(self.path)
            raise
        await self._server.start_serving()
        self._sweeper = loop.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Disconnect who is overdue; tell all when what they should know has changed."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for connection in list(self._connections):
                if why := connection.overdue(self._loop.time()):
                    self.trouble("overdue", f"process {connection.process} {why}; it is disconnected")
                    connection.close()
            try:
                about = await self._loop.run_in_executor(self._teller, self._facts)
            except (RaftclusterError, RuntimeError):  # the node does not answer now, or there is no thread to ask it
                continue
            if about != self._about:
                self._about = about
                for connection in self._connections:
                    connection.say(0, ITEM, about)

    async def _shut(self) -> None:
        self._sweeper.cancel()
        await stop_listening(self._server)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        for connection in list(self._connections):
            connection.finish()
        await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            await asyncio.sleep(0)


class _Said(NamedTuple):
    """What a thread has to say to a worker."""

    kind: int
    value: Value
    ends_call: bool = False
    ends_stream: bool = False


class _Listed:
    """An iterator over what is there already, that can be closed as a watch can."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)

    def __next__(self) -> Any:
        return next(self._items)

    def close(self) -> None:
        """Nothing waits in it; but who is not listened to does not go through the rest, which nobody would take."""
        self._items = iter(())


class _Stream:
    """One worker's watch: a thread that iterates, and is never ahead of the worker by more than `WORKER_WINDOW` items."""

    def __init__(self, open_stream: Callable[[], Any], say: Callable[[_Said], None]) -> None:
        self._open, self._say = open_stream, say
        self._window = threading.Semaphore(limits.WORKER_WINDOW)
        self._ahead = 0
        """Items that the worker has not taken."""
        self._gone = False
        self._items: Any = None
        self._lock = threading.Lock()

    def taken(self, count: int) -> None:
        """Loop thread: the worker has taken so many; 0: it does not listen any more."""
        with self._lock:
            count = min(count, self._ahead)
            self._ahead -= count
            if count == 0:
                self._gone = True
                if self._items is not None:
                    self._items.close()
        self._window.release(count or 1)

    def run(self, name: str) -> None:
        """Its own thread."""
        try:
            items = made(name, self._open)
            with self._lock:
                self._items = items
            while True:
                self._window.acquire()
                if self._gone:
                    items.close()
                item = made(name, lambda: next(items, None))
                if item is None:
                    break
                with self._lock:
                    self._ahead += 1
                self._say(_Said(ITEM, plain(item)))
            self._say(_Said(END, None, ends_stream=True))
        except RaftclusterError as error:
            self._say(_Said(ERROR, describe(error), ends_stream=True))


def _fields(verdict: Verdict) -> list[Value]:
    return [
        verdict.action,
        verdict.reason,
        verdict.seconds_left,
        verdict.delayed_seconds,
        verdict.header,
        verdict.degraded,
        verdict.text,
        verdict.training,
    ]


def _check_table(table: Value) -> None:
    if table not in lease.LeaseMachine.tables:
        raise Rejected(f"there is no such table of leases: {table!r:.40}", subject="table")


def _refusal(error: OSError | KeyError, path: str) -> Refusal:
    if isinstance(error, KeyError):
        return Refusal(f"cannot listen at {path}: {error.args[0]}", subject=path, remedy="name a group that exists")
    text = f"cannot listen at {path}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(text, subject=path, remedy="stop the node that runs there")
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingPrivilege(text, subject=path, remedy="choose a folder that this user may write to")
    return Refusal(text, subject=path)
