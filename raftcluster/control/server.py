"""The control socket: the node's API for whoever may open a file of mode 0600, which is its owner and root.

Theory of operation. One thread runs an asyncio loop with the connections; the calls themselves block and run on a few
worker threads, bounded like everything else, so a call that waits for a quorum does not hold up `status`. The methods are
the node's own, by dotted name and keyword, from the lists below: what is not listed cannot be called.

A stream (`status.watch`, `config.watch`, `backup`) has a worker thread of its own as long as its client listens, and ends when
the client has gone or the server closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from raftcluster.codec import Value
from raftcluster.control.wire import LENGTH_BYTES, describe, frame, length, plain, request
from raftcluster.errors import (
    AddressInUse,
    MissingPrivilege,
    RaftclusterError,
    Refusal,
    Rejected,
    Unavailable,
)
from raftcluster.loop import LoopThread, refuse_live, stop_listening

log = logging.getLogger("raftcluster.control")

WORKERS: Final = 8  # calls under way; administrators are few
STREAMS: Final = 16
CONNECTIONS: Final = 64
REQUEST_SECONDS: Final = 5.0  # a client that has connected has its request ready
ANSWER_SECONDS: Final = 30.0  # and reads its answer

CALLS: Final = frozenset(
    """
    audit transfer destroy bury teardown.plan teardown.progress
    greylist.explain greylist.stats greylist.settings greylist.configure greylist.settings_history
    greylist.lists.add greylist.lists.add_all greylist.lists.remove greylist.lists.show greylist.lists.test
    greylist.records.show greylist.records.page greylist.records.header greylist.records.forget greylist.records.put
    config.get config.effective config.entry config.set config.delete config.keys config.revision
    config.transact config.revision_at config.rollback config.verify config.schemas config.reports
    config.local.set config.local.get config.local.delete
    lease.list
    notifications.list notifications.publish notifications.acknowledge notifications.last
    quarantine.list quarantine.show quarantine.release quarantine.discard quarantine.usage
    notifications.cursor notifications.advance notifications.seek notifications.forget
    members.facts members.features members.list members.get members.remove members.move
    tokens.list tokens.revoke
    certs.show certs.rotate certs.abort certs.wait certs.progress certs.verify certs.export
    """.split()
)
Stream = Callable[..., Iterator[Value]]


class ControlServer:
    """Serves `node` at the unix socket `path`.

    `extra` adds facts of this process to `status` (the policy server's address and counters). `start` binds; `close` ends
    every call's connection and waits for the workers. Both from any thread, once each.
    """

    def __init__(
        self, node: Any, path: str | os.PathLike[str], extra: Callable[[], Mapping[str, Value]] = dict
    ) -> None:
        self._node = node
        self.path = os.fspath(path)
        self._extra = extra
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="raftcluster-control")
        self._streamers = ThreadPoolExecutor(STREAMS, thread_name_prefix="raftcluster-stream")
        self._calls: dict[str, Callable[..., Value]] = {
            "status": self._status,
            "members.invite": self._invite,
            "members.replace": self._replace,
        }
        self._streams: dict[str, Stream] = {
            "status.watch": self._watch_status,
            "config.watch": self._watch_config,
            "config.log": self._log,
            "config.history": self._history,
            "config.at": self._at,
            "config.diff": self._diff,
            "notifications.follow": self._follow,
            "backup": self._backup,
            "verify": self._verify,
            "logs": self._logs,
        }
        self._listening: dict[asyncio.Task[None], None] = {}
        self._streaming = 0
        self._thread: LoopThread | None = None

    def start(self) -> None:
        """Bind and serve. Raises `AddressInUse`, `MissingPrivilege` or `Refusal` naming the path."""
        thread = LoopThread("raftcluster-control")
        try:
            self._server = thread.run(self._open())
        except OSError as error:
            thread.close()
            raise _refusal(error, self.path) from error
        self._thread = thread

    def close(self) -> None:
        """Stop listening, end every connection and stream, wait for the calls under way. Idempotent."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        thread.run(self._shut())
        thread.close()
        self._workers.shutdown(cancel_futures=True)
        self._streamers.shutdown(cancel_futures=True)

    # --- methods that are more than the node's own (worker threads)

    def _status(self) -> Value:
        return {**self._node.status(), **self._extra()}

    def _invite(self, *, name: str, ttl_s: float, **asked: Any) -> Value:
        return self._invitation(name, self._node.members.invite(name, ttl_s, **asked))

    def _replace(self, *, old: str, new: str, ttl_s: float, **asked: Any) -> Value:
        return self._invitation(new, self._node.members.replace(old, new, ttl_s, **asked))

    def _invitation(self, name: str, token: object) -> Value:
        here = self._node.members.get(self._node.id)
        return {"name": name, "token": str(token), "host": here.host, "port": here.port}

    def _watch_status(self, gone: threading.Event, *, every: float = 1.0) -> Iterator[Value]:
        while not gone.is_set():
            yield self._status()
            gone.wait(max(0.1, every))

    def _verify(self, gone: threading.Event, *, deadline: float) -> Iterator[Value]:
        for step in self._node.verification(deadline=deadline):
            yield {"progress": step} if isinstance(step, str) else {"report": step.values()}

    def _watch_config(self, gone: threading.Event, *, prefix: str = "", since: int | None = None) -> Iterator[Value]:
        changes = self._node.config.watch(prefix, since=since)
        threading.Thread(target=_close_when, args=(gone, changes), name="raftcluster-watch", daemon=True).start()
        yield from changes

    # each version by itself: together they may be longer than a frame

    def _log(
        self, gone: threading.Event, *, prefix: str = "", limit: int = 100, before: int | None = None
    ) -> Iterator[Value]:
        yield from self._node.config.log(prefix, limit=limit, before=before)

    def _history(self, gone: threading.Event, *, key: str) -> Iterator[Value]:
        yield from self._node.config.history(key)

    def _at(self, gone: threading.Event, *, revision: int, prefix: str = "") -> Iterator[Value]:
        yield from self._node.config.at(revision, prefix).values()

    def _diff(
        self, gone: threading.Event, *, first: int, second: int | None = None, prefix: str = ""
    ) -> Iterator[Value]:
        yield from self._node.config.diff(first, second, prefix)

    def _follow(self, gone: threading.Event, *, since: int | None = None) -> Iterator[Value]:
        subscription = self._node.notifications.subscribe(since=since)
        threading.Thread(target=_close_when, args=(gone, subscription), name="raftcluster-watch", daemon=True).start()
        yield from subscription

    def _logs(self, gone: threading.Event, *, since: float | None = None, follow: bool = False) -> Iterator[Value]:
        gathering = self._node.logs(since, follow=follow)
        threading.Thread(target=_close_when, args=(gone, gathering), name="raftcluster-watch", daemon=True).start()
        for entries, notices in gathering:
            yield {
                "entries": [[node, entry.record()] for node, entry in entries],
                "notices": [[node, reason] for node, reason in notices],
            }

    def _backup(self, gone: threading.Event, *, local: bool = False) -> Iterator[Value]:
        with closing(self._node.backup_content(consistency="local" if local else "linearizable")) as content:
            for piece in content:
                if gone.is_set():
                    return
                yield piece

    def _method(self, name: str, arguments: Mapping[str, Value]) -> Callable[[], Value]:
        """The call, ready to be made on a worker. Raises `Rejected` when there is none like it."""
        method = self._calls.get(name)
        if method is None and name in CALLS:
            method = attrgetter(name)(self._node)
        if method is None:
            raise Rejected(f"the node has no method {name}", subject=name, remedy="use a client of the same version")
        return bound(name, method, arguments)

    # --- connections (loop thread)

    async def _open(self) -> asyncio.Server:
        await refuse_live(self.path)
        server = await asyncio.start_unix_server(self._serve, self.path, start_serving=False)
        os.chmod(self.path, 0o600)  # before the first connection is accepted
        await server.start_serving()
        return server

    async def _shut(self) -> None:
        await stop_listening(self._server)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        for task in list(self._listening):
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._listening[task] = None
        writer.transport.set_write_buffer_limits(0)  # what was sent is on its way
        try:
            await self._exchange(reader, writer)
        except (OSError, EOFError):
            log.debug("a control client has gone")
        finally:
            del self._listening[task]
            writer.transport.abort()  # closed, it would wait for a client that does not read

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._listening) > CONNECTIONS:
                raise Unavailable(f"more than {CONNECTIONS} control connections", subject=self.path)
            async with asyncio.timeout(REQUEST_SECONDS):
                name, arguments = request(await _read(reader))
            if name in self._streams:
                await self._stream(name, arguments, reader, writer)
            else:
                call = self._method(name, arguments)
                loop = asyncio.get_running_loop()
                value = await loop.run_in_executor(self._workers, lambda: plain(made(name, call)))
                await _send(writer, ["value", value])
        except RaftclusterError as error:
            await _send(writer, ["error", describe(error)])

    async def _stream(
        self, name: str, arguments: dict[str, Value], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._streaming >= STREAMS:
            raise Unavailable(f"more than {STREAMS} streams", subject=name)
        loop, gone = asyncio.get_running_loop(), threading.Event()
        items: Iterator[Value] = bound(name, partial(self._streams[name], gone), arguments)()
        self._streaming += 1
        hangup = loop.create_task(reader.read(1))
        hangup.add_done_callback(lambda _: gone.set())
        try:
            while item := await loop.run_in_executor(self._streamers, partial(_next, name, items)):
                await _send(writer, ["item", item[0]])
            await _send(writer, ["end", None])
        finally:
            self._streaming -= 1
            gone.set()
            hangup.cancel()


def bound(name: str, method: Callable[..., Any], arguments: Mapping[str, Value]) -> Callable[[], Any]:
    """`method` with `arguments`, to be called. Raises `Rejected` when they do not fit."""
    try:
        inspect.signature(method).bind(**arguments)
    except TypeError as error:
        raise Rejected(f"{name}: {error}", subject=name, remedy="use a client of the same version") from error
    return partial(method, **arguments)


def made(name: str, call: Callable[[], Value]) -> Value:
    """The call's result. What it raises without meaning to becomes an error that travels; the log has the rest."""
    try:
        return call()
    except RaftclusterError:
        raise
    except Exception as error:
        log.exception("control call %s failed", name)
        raise RaftclusterError(f"{name} failed: {error!r}", remedy="the node's log has more") from error


def _next(name: str, items: Iterator[Value]) -> list[Value]:
    """The next item in a list, an empty list at the end (`StopIteration` cannot cross an executor)."""
    return [plain(item) for item in made(name, lambda: list(islice(items, 1)))]


def _close_when(gone: threading.Event, changes: Any) -> None:
    gone.wait()
    changes.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(length(await reader.readexactly(LENGTH_BYTES)))


async def _send(writer: asyncio.StreamWriter, value: Value) -> None:
    """Raises `OSError` when the client has gone or does not read."""
    writer.write(frame(value))
    async with asyncio.timeout(ANSWER_SECONDS):  # a TimeoutError is an OSError
        await writer.drain()


def _refusal(error: OSError, path: str) -> Refusal:
    text = f"cannot listen at {path}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(text, subject=path, remedy="stop the node that runs there")
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingPrivilege(text, subject=path, remedy="run as the owner of the data directory")
    return Refusal(text, subject=path)
