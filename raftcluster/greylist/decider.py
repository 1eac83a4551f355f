"""Who decides a check, and what its caller is told.

The cluster does; with `ack = early` this node tells a client to wait as soon as it sees that it will have to (`foresight`); with
`replicate = off` this node decides on a table of its own, and with `on_unavailable = local` when the cluster does not (`alone`).

Each way decides under one revision of the settings. Whoever decides finds out that a check was made under an older one -- the
machine when the check's place in the log comes, this node between two entries that it applies -- and hands back the settings in
force; the check is made again under them, and perhaps goes another way. So whether triplets are shared changes at one place in
the log: what the cluster decides is before it, what a node decides alone comes after the node has applied it and all before it.

What this node has kept of a triplet alone goes to the cluster before the next check of it does.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Removed, StorageRefusal, Unavailable
from raftcluster.greylist import check
from raftcluster.greylist.alone import Alone
from raftcluster.greylist.check import Told
from raftcluster.greylist.foresight import foresee
from raftcluster.greylist.headers import Headers
from raftcluster.greylist.hints import Hints
from raftcluster.greylist.kept import Overtaken
from raftcluster.greylist.machine import NAME, read_settings_row
from raftcluster.greylist.request import Current, Request
from raftcluster.greylist.rules import DEFER, PASS, Action
from raftcluster.greylist.settings import Settings
from raftcluster.greylist.verdict import Verdict
from raftcluster.host import Consistency, GlanceHost

DEGRADED_KEPT: Final = 10_000  # triplets answered without the cluster that `explain` can name
CANNOT_DECIDE: Final = (Unavailable, OutcomeUnknown, StorageRefusal, Removed)  # the node, not the question, is at fault
GRACE_SECONDS: Final = 1.0  # behind a deadline, for a node that tells its callers late
FRESH_SECONDS: Final = 1.0  # settings that spare mail the wait are not older than this

_LEAST: Final = 0.001  # seconds that a call gets in any case: time that has run out is for the node to find

Callback = Callable[[Verdict | None, RaftclusterError | None], None]


class Decider:
    """See the head of the file. Thread: any; `ask` never waits. An `end` is a moment of `time.monotonic()`."""

    def __init__(self, host: GlanceHost, alone: Alone | None, hints: Hints) -> None:
        self._host, self._alone, self._hints = host, alone, hints
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._deferred: tuple[bytes, Current | None, Verdict] = (b"", None, _KNOWN)
        """The last result that deferred, under which settings, and what it means: all first attempts of one moment have
        the same."""
        self._degraded: OrderedDict[bytes, int] = OrderedDict()
        self.headers = Headers(host.name)
        self.known: Current | None = None
        """The settings that this node last heard of."""
        self.early = 0
        """Answers since the start that were early."""
        self.degraded: dict[Action, int] = {PASS: 0, DEFER: 0}
        """Answers since the start that are marked so."""
        self.unshared: dict[Action, int] = {PASS: 0, DEFER: 0}
        """Answers since the start that this node decided on its own table, because it was told to."""

    def wait(self, request: Request, deadline: float) -> Verdict:
        """Have it decided within so many seconds. Raises `Rejected`."""
        end = time.monotonic() + deadline
        while self._is_the_clusters(request):
            try:
                left = max(_LEAST, end - time.monotonic())
                result = self._host.propose(NAME, request.command, id=request.operation, deadline=left)
            except CANNOT_DECIDE as error:
                return self._wait_without_cluster(request, error)
            verdict = self._verdict(request, result)
            if verdict is not None:
                if self._hints.due:
                    self._hints.refresh()
                return verdict
        told: SimpleQueue[tuple[Verdict | None, RaftclusterError | None]] = SimpleQueue()
        self.ask(request, lambda *both: told.put(both), end)
        try:
            return self._settled(*told.get(timeout=max(0.0, end - time.monotonic()) + GRACE_SECONDS))
        except Empty:
            return self._wait_without_cluster(request, self._silent())

    async def await_(self, request: Request, deadline: float) -> Verdict:
        """`wait` from asyncio."""
        end = time.monotonic() + deadline
        while self._is_the_clusters(request):
            try:
                left = max(_LEAST, end - time.monotonic())
                result = await self._host.apropose(NAME, request.command, id=request.operation, deadline=left)
            except CANNOT_DECIDE as error:
                return await asyncio.to_thread(self._wait_without_cluster, request, error)
            verdict = self._verdict(request, result)
            if verdict is not None:
                if self._hints.due:
                    await asyncio.to_thread(self._hints.refresh)
                return verdict
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Verdict | None, RaftclusterError | None]] = loop.create_future()

        def resolve(*both: Verdict | RaftclusterError | None) -> None:
            if not future.done():
                future.set_result(both)  # type: ignore[arg-type]

        def told(*both: Verdict | RaftclusterError | None) -> None:
            try:
                loop.call_soon_threadsafe(resolve, *both)
            except RuntimeError:  # it is closed: nobody waits any more
                if not loop.is_closed():
                    raise

        self.ask(request, told, end)
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic()) + GRACE_SECONDS):
                return self._settled(*await future)
        except TimeoutError:
            return await asyncio.to_thread(self._wait_without_cluster, request, self._silent())

    def ask(self, request: Request, callback: Callback, end: float) -> None:
        """Have it decided; `callback` is told once, on the tick thread, a thread of `alone`'s or at once, and must not block."""
        current = request.current
        if not current.replicated:
            self._keep(request, callback, end)
        elif self._alone is not None and self._alone.keeps(request.key):
            self._alone.bring(request.key, end, partial(self._brought, request, callback, end))
        elif current.early:
            self._foresee(request, callback, end)
        else:
            self._send(request, callback, end)

    # --- settings

    def settled(self) -> Current:
        """The settings for a check that they may spare: if it becomes no command, nobody tells it of a change."""
        if self.known is None or time.monotonic() > self._read_at + FRESH_SECONDS:
            return self._read_settings()
        return self.known

    def read(self, consistency: Consistency) -> Current:
        """The settings as they are in the tables. Raises `Unavailable`, `OutcomeUnknown`, `StorageRefusal`."""
        return self._host.query(NAME, lambda tables, _: _current(*read_settings_row(tables)), consistency=consistency)

    def _read_settings(self) -> Current:
        """This node's own copy; the last one that was known, or the defaults, when the node cannot even read that."""
        self._read_at = time.monotonic()
        try:
            return self._learnt(self.read("local"))
        except CANNOT_DECIDE:
            return self.known or Current(0, Settings())

    def _learnt(self, current: Current) -> Current:
        with self._lock:
            if self.known is None or self.known.revision < current.revision:
                self.known = current
            return self.known

    def _renew(self, request: Request, revision: int, values: Mapping[str, Value]) -> None:
        """It was made under other settings than these, which are in force."""
        current = _current(revision, values)
        self._learnt(current)
        request.renew(current)

    # --- by the cluster

    def _is_the_clusters(self, request: Request) -> bool:
        """Whether it is to be asked about this and nobody else."""
        return request.current.direct and not (self._alone is not None and self._alone.keeps(request.key))

    def _send(self, request: Request, callback: Callback, end: float) -> None:
        done = partial(self._submitted, request, callback, end)
        left = max(_LEAST, end - time.monotonic())
        try:
            self._host.submit(NAME, request.command, done, id=request.operation, deadline=left)
        except CANNOT_DECIDE as error:  # the node has stopped for good
            done(None, error)

    def _submitted(
        self, request: Request, callback: Callback, end: float, result: Value | None, error: RaftclusterError | None
    ) -> None:
        """What came of it."""
        if error is None:
            verdict = self._verdict(request, result)
            if verdict is None:
                self.ask(request, callback, end)
                return
            callback(verdict, None)
            if self._hints.due:
                self._hints.refresh()  # at once: this is the tick thread
        elif isinstance(error, CANNOT_DECIDE):
            self._without_cluster(request, error, lambda verdict: callback(verdict, None))
        else:
            callback(None, error)

    def _foresee(self, request: Request, callback: Callback, end: float) -> None:
        """Tell the client to wait as soon as this node sees that it will have to, and have that recorded; else ask."""

        def seen(told: Told | None) -> None:
            if told is None:
                self._send(request, callback, end)
                return
            with self._lock:
                self.early += 1
            verdict = self._meaning(request, told)
            self._record(request)
            callback(verdict, None)

        def refused(error: RaftclusterError) -> None:
            self._submitted(request, callback, end, None, error)

        try:
            self._host.glance(NAME, partial(foresee, request), seen, refused)
        except CANNOT_DECIDE as error:  # as in `_send`
            refused(error)

    def _record(self, request: Request) -> None:
        """Have a check recorded that was answered early; on its way the settings may change, more than once."""

        def kept(told: Told | Overtaken | None) -> None:
            if isinstance(told, Overtaken):
                self._renew(request, *told)
                self._record(request)

        if not request.current.replicated:
            if self._alone is not None:
                self._alone.decide(request, kept, answered=True)
            return

        def done(result: Value | None, error: RaftclusterError | None) -> None:
            if error is None and self._verdict(request, result) is None:
                self._record(request)

        command, seconds = check.answered(request.command), limits.CALL_SECONDS
        with suppress(*CANNOT_DECIDE):  # its client was told what is true of every stranger
            self._host.submit(NAME, command, done, id=request.operation, deadline=seconds)

    # --- by this node

    def _keep(self, request: Request, callback: Callback, end: float) -> None:
        """Decide on this node's own table: triplets are not shared."""

        def told(told: Told | Overtaken | None) -> None:
            if isinstance(told, Overtaken):
                self._renew(request, *told)
                self.ask(request, callback, end)
            elif told is None:
                callback(
                    self._refused(request, Unavailable("its own table takes no more", subject=self._host.name)), None
                )
            else:
                callback(self._own(request, told), None)

        if self._alone is None:
            told(None)
        else:
            self._alone.decide(request, told)

    def _brought(self, request: Request, callback: Callback, end: float, error: RaftclusterError | None) -> None:
        """The cluster has what this node kept of the triplet; or it does not answer."""
        if error is not None:
            self._without_cluster(request, error, lambda verdict: callback(verdict, None))
        elif request.current.early:
            self._foresee(request, callback, end)
        else:
            self._send(request, callback, end)

    def _wait_without_cluster(self, request: Request, error: RaftclusterError) -> Verdict:
        told: SimpleQueue[Verdict] = SimpleQueue()
        self._without_cluster(request, error, told.put)
        return told.get()

    def _without_cluster(self, request: Request, error: RaftclusterError, tell: Callable[[Verdict], None]) -> None:
        """What is told as the administrator has chosen."""
        current = self._read_settings()
        settings = current.settings
        if settings.replicate and settings.on_unavailable != "local":
            tell(self._degraded_verdict(request, self._chosen(settings, settings.without_cluster(), error)))
            return
        if current.revision != request.current.revision:
            request.renew(current)

        def told(told: Told | Overtaken | None) -> None:
            if isinstance(told, Overtaken):
                self._renew(request, *told)
                self._without_cluster(request, error, tell)
            elif told is None:
                tell(self._refused(request, error))
            elif settings.replicate:
                tell(self._degraded_verdict(request, replace(self._meaning(request, told), degraded=True)))
            else:
                tell(self._own(request, told))

        if self._alone is None:
            told(None)
        else:
            self._alone.decide(request, told)

    def _silent(self) -> Unavailable:
        return Unavailable("the node is silent", subject=self._host.name)

    # --- what is told

    def degraded_here(self, key: bytes) -> int:
        """How many answers about this triplet since the start were marked so; of the last `DEGRADED_KEPT` triplets."""
        with self._lock:
            return self._degraded.get(key, 0)

    def _settled(self, verdict: Verdict | None, error: RaftclusterError | None) -> Verdict:
        if verdict is None:
            raise error if error is not None else self._silent()
        return verdict

    def _verdict(self, request: Request, result: Value) -> Verdict | None:
        """What the machine's result means; None when the request was renewed and must be sent again."""
        if type(result) is not bytes:
            _, revision, values = result
            self._renew(request, revision, values)
            request.answered()
            return None
        known, under, verdict = self._deferred
        if known == result and under is request.current:
            return verdict
        told = check.told(result)
        if request.hinted and told.passes != check.SERVED:
            self._hints.drop(request.network)
        verdict = self._meaning(request, told)
        if not told.passes:
            self._deferred = (result, request.current, verdict)
        return verdict

    def _meaning(self, request: Request, told: Told) -> Verdict:
        """What a caller is told."""
        passes, before, _, left, delayed = told
        if passes:
            if passes == check.SERVED:
                return _CLIENT
            if before:
                return _KNOWN
            header = self.headers.header(request, delayed // 1000)
            return Verdict(PASS, "waited", 0, delayed // 1000, header, False, "")
        current, seconds = request.current, -(-left // 1000)
        reason = "new" if left == current.delay else "early"
        if current.settings.training:
            return Verdict(PASS, reason, seconds, 0, None, False, "", True)
        return Verdict(DEFER, reason, seconds, 0, None, False, current.settings.text % seconds)

    def _own(self, request: Request, told: Told) -> Verdict:
        """What this node has decided, as it was told to."""
        verdict = self._meaning(request, told)
        with self._lock:
            self.unshared[verdict.action] += 1
        return verdict

    def _refused(self, request: Request, error: RaftclusterError) -> Verdict:
        """This node cannot decide by itself, either: its disk or its table is full."""
        settings = request.current.settings
        return self._degraded_verdict(request, self._chosen(settings, PASS if settings.training else DEFER, error))

    def _chosen(self, settings: Settings, action: Action, error: RaftclusterError) -> Verdict:
        if action == PASS:
            return Verdict(PASS, error.code, 0, 0, None, True, "")
        seconds = math.ceil(settings.delay)
        return Verdict(DEFER, error.code, seconds, 0, None, True, settings.text % seconds)

    def _degraded_verdict(self, request: Request, verdict: Verdict) -> Verdict:
        """The same, counted apart."""
        with self._lock:
            self.degraded[verdict.action] += 1
            self._degraded[request.key] = self._degraded.pop(request.key, 0) + 1
            if len(self._degraded) > DEGRADED_KEPT:
                self._degraded.popitem(last=False)
        return verdict


_KNOWN: Final = Verdict(PASS, "known", 0, 0, None, False, "")
_CLIENT: Final = Verdict(PASS, "client", 0, 0, None, False, "")


def _current(revision: int, values: Mapping[str, Value]) -> Current:
    return Current(revision, Settings.of(values))
