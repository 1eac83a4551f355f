"""The greylist as a program sees it: `node.greylist`.

`check` answers always: with a decision that a majority of the cluster holds durably, or -- when there is none within the
deadline -- with what the setting `on_unavailable` says, marked as degraded: see `alone` for one of its values. It raises only `Rejected`, for arguments
that can never be checked, before anything is sent.

Which network, sender and recipient a triplet consists of depends on settings, so a check says under which revision of
them it was made. One that was overtaken by a change of settings is answered with the new ones and made again; so no
check is ever decided under two sets of settings, and none needs to read them first.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import OutcomeUnknown, RaftclusterError, StorageRefusal, Unavailable
from raftcluster.greylist import check
from raftcluster.greylist.alone import Alone, Rows
from raftcluster.greylist.check import Told
from raftcluster.greylist.clients import read_client_counts
from raftcluster.greylist.explanation import explain
from raftcluster.greylist.foresight import foresee
from raftcluster.greylist.headers import Headers
from raftcluster.greylist.hints import Hints
from raftcluster.greylist.lists.api import Lists
from raftcluster.greylist.lists.book import LISTED, SILENT
from raftcluster.greylist.machine import (
    NAME,
    read_record_count,
    read_settings_history,
    read_settings_row,
    read_totals,
)
from raftcluster.greylist.record import node_label, node_text
from raftcluster.greylist.records import Records
from raftcluster.greylist.request import Current, Mail, Request
from raftcluster.greylist.rules import DEFER, PASS, Action
from raftcluster.greylist.settings import Settings, check_names
from raftcluster.greylist.verdict import Verdict
from raftcluster.host import Consistency, GlanceHost
from raftcluster.machine import ReadTables

DEGRADED_KEPT: Final = 10_000  # triplets answered without the cluster that `explain` can name
CANNOT_DECIDE: Final = (Unavailable, OutcomeUnknown, StorageRefusal)  # the cluster, not the question, is at fault
GRACE_SECONDS: Final = 1.0  # behind a deadline, for a node that tells its callers late
FRESH_SECONDS: Final = 1.0  # settings that spare mail the wait are not older than this

_LEAST: Final = 0.001  # seconds that a call gets in any case: time that has run out is for the node to find


class Greylist:
    """See the head of the file.

    Thread: every method may be called from any thread; `submit` also from a node's callback, all others wait.
    Times in seconds.
    """

    def __init__(self, host: GlanceHost, local: Rows | None = None) -> None:
        """`local` is the node's own store: see `alone`. Without one `on_unavailable = local` defers."""
        self._host = host
        self._node = node_label(host.id)
        self._alone = None if local is None else Alone(host, local, self._node)
        self.lists = Lists(host)
        """Who is never greylisted, who always, and for whom."""
        self.records = Records(host)
        """What is kept of each triplet: to be read, forgotten, exported, imported."""
        self._hints = Hints(host, NAME)
        self._exempted: Counter[str] = Counter()
        """This node's answers since its start for which no triplet was looked up, by reason."""
        self._known: Current | None = None
        self._read_at = 0.0
        self._lock = threading.Lock()
        self._headers = Headers(host.name)
        self._degraded: OrderedDict[bytes, int] = OrderedDict()
        self._deferred: tuple[bytes, Current | None, Verdict] = (b"", None, _KNOWN)
        """The last result that deferred, under which settings, and what it means: all first attempts of one moment have
        the same."""
        self._early_answers = 0
        self._degraded_answers: dict[Action, int] = {PASS: 0, DEFER: 0}

    def check(
        self,
        *,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        client_name: str | None = None,
        instance: str | None = None,
        authenticated: bool = False,
        spf_pass: bool = False,
        deadline: float = limits.CALL_SECONDS,
    ) -> Verdict:
        """Decide about one recipient of one message, and wait for the decision.

        `client` is the IP address of the SMTP client, `sender` and `recipient` are the envelope's as the client gave
        them (the null sender is empty). `instance` names the SMTP transaction: asking again about the same recipient
        in the same one gives the same verdict and counts once. `client_name` is the client's verified host name, if the
        caller has one: entries of `lists` may be about it. Whether the client has `authenticated` and whether SPF has
        passed for the sender is for the caller to know.
        """
        request = self._begin(Mail(client, client_name, sender, recipient, instance, authenticated, spf_pass))
        if isinstance(request, Verdict):
            return request
        if request.current.early:
            return self._await_early(request, deadline)
        end = time.monotonic() + deadline
        while True:
            try:
                left = max(_LEAST, end - time.monotonic())
                result = self._host.propose(NAME, request.command, id=request.id, deadline=left)
            except CANNOT_DECIDE as error:
                return self._await_without_cluster(request, error)
            verdict = self._verdict(request, result)
            if verdict is not None:
                if self._hints.due:
                    self._hints.refresh()
                return verdict

    async def acheck(
        self,
        *,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        client_name: str | None = None,
        instance: str | None = None,
        authenticated: bool = False,
        spf_pass: bool = False,
        deadline: float = limits.CALL_SECONDS,
    ) -> Verdict:
        """`check` from asyncio."""
        mail = Mail(client, client_name, sender, recipient, instance, authenticated, spf_pass)
        request = await asyncio.to_thread(self._begin, mail) if self._may_wait(mail) else self._begin(mail)
        if isinstance(request, Verdict):
            return request
        if request.current.early:
            return await asyncio.to_thread(self._await_early, request, deadline)
        end = time.monotonic() + deadline
        while True:
            try:
                left = max(_LEAST, end - time.monotonic())
                result = await self._host.apropose(NAME, request.command, id=request.id, deadline=left)
            except CANNOT_DECIDE as error:
                return await asyncio.to_thread(self._await_without_cluster, request, error)
            verdict = self._verdict(request, result)
            if verdict is not None:
                if self._hints.due:
                    await asyncio.to_thread(self._hints.refresh)
                return verdict

    def submit(
        self,
        callback: Callable[[Verdict | None, RaftclusterError | None], None],
        *,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        client_name: str | None = None,
        instance: str | None = None,
        authenticated: bool = False,
        spf_pass: bool = False,
        deadline: float = limits.CALL_SECONDS,
    ) -> None:
        """`check` without waiting: `callback(verdict, None)`, or `callback(None, error)` where `check` would raise.

        It is called once, on the node's tick thread -- or at once, when nothing has to be decided -- and must not block.

        Only the first check after the start, after some seconds, or after a change of the lists may wait, until the tick
        thread has a moment.
        Raises `Rejected` like `check`; then `callback` is not called.
        """
        request = self._begin(Mail(client, client_name, sender, recipient, instance, authenticated, spf_pass))
        if isinstance(request, Verdict):
            callback(request, None)
            return
        if request.current.early:
            self._early(request, callback, deadline)
        else:
            self._send(request, callback, deadline)

    def _send(
        self, request: Request, callback: Callable[[Verdict | None, RaftclusterError | None], None], deadline: float
    ) -> None:
        done = partial(self._submitted, request, callback, time.monotonic() + deadline)
        self._host.submit(NAME, request.command, done, id=request.id, deadline=deadline)

    def _early(
        self, request: Request, callback: Callable[[Verdict | None, RaftclusterError | None], None], deadline: float
    ) -> None:
        """Tell the client to wait as soon as this node sees that it will have to, and have that recorded; else ask."""

        def seen(told: Told | None) -> None:
            if told is None:
                self._send(request, callback, deadline)
                return
            with self._lock:
                self._early_answers += 1
            self._host.submit(
                NAME, check.answered(request.command), lambda *_: None, id=request.id, deadline=limits.CALL_SECONDS
            )
            callback(self._meaning(request, told), None)

        self._host.glance(NAME, partial(foresee, request), seen)

    def _await_early(self, request: Request, deadline: float) -> Verdict:
        told: SimpleQueue[tuple[Verdict | None, RaftclusterError | None]] = SimpleQueue()
        self._early(request, lambda *both: told.put(both), deadline)
        try:
            verdict, error = told.get(timeout=deadline + GRACE_SECONDS)
        except Empty:
            return self._await_without_cluster(request, Unavailable("the node is silent", subject=self._host.name))
        if verdict is None:
            raise error if error is not None else Unavailable("no answer", subject=self._host.name)
        return verdict

    def _submitted(
        self,
        request: Request,
        callback: Callable[[Verdict | None, RaftclusterError | None], None],
        end: float,
        result: Value | None,
        error: RaftclusterError | None,
    ) -> None:
        """What came of it."""
        if error is None:
            verdict = self._verdict(request, result)
            if verdict is not None:
                callback(verdict, None)
                if self._hints.due:
                    self._hints.refresh()  # at once: this is the tick thread
                return
            done = partial(self._submitted, request, callback, end)
            left = max(_LEAST, end - time.monotonic())
            self._host.submit(NAME, request.command, done, id=request.id, deadline=left)
        elif isinstance(error, CANNOT_DECIDE):
            self._without_cluster(request, error, lambda verdict: callback(verdict, None))
        else:
            callback(None, error)

    def explain(
        self,
        *,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        client_name: str | None = None,
        consistency: Consistency = "local",
    ) -> dict[str, Value]:
        """What a check would be told now, by which rule -- the lists', its client's, its record's -- and which node saw what;
        changes nothing. That a client has authenticated or that SPF has passed is not asked.

        `degraded_here` counts this node's answers about the triplet that the cluster did not decide, `alone_first_seen_ms` is
        what this node keeps of it by itself, not merged yet. Keys: see
        `raftcluster.greylist.explanation.explain`. Raises `Rejected`, and `Unavailable` as `consistency` demands.
        """
        ruling = self.lists.ruling(
            client, client_name, sender, recipient, self.settings().recipients == "opted-in", consistency
        )

        def read(tables: ReadTables, now: int) -> dict[str, Value]:
            return explain(tables, now, client, sender, recipient, ruling)

        explanation = self._host.query(NAME, read, consistency=consistency)
        with self._lock:
            explanation["degraded_here"] = self._degraded.get(bytes.fromhex(explanation["key"]), 0)
        kept = None if self._alone is None else self._alone.find(bytes.fromhex(explanation["key"]))
        explanation["alone_first_seen_ms"] = None if kept is None else kept.first
        return explanation

    def stats(self, *, consistency: Consistency = "local") -> dict[str, Value]:
        """Counts since the cluster was made: records, clients whose passes are counted and those of them that are allowed, and
        per node checks deferred, passed, passed for the first time, passed because their client is allowed.

        `alone` are records that this node decided about by itself and that are not merged yet. Of its answers since its start `early` are those of `ack = early`, `degraded` counts those that the cluster did not decide, `exempt` those for
        which there was nothing to decide, by reason; they are in no other count.
        """
        records, clients, totals = self._host.query(
            NAME,
            lambda tables, _: (read_record_count(tables), read_client_counts(tables), read_totals(tables)),
            consistency=consistency,
        )
        nodes = {
            node_text(node): dict(zip(("deferred", "passed", "first_passes", "client_passes"), total, strict=True))
            for node, total in totals.items()
        }
        with self._lock:
            degraded, exempt, early = dict(self._degraded_answers), dict(self._exempted), self._early_answers
        return {
            "records": records,
            "clients": clients[0],
            "allowed_clients": clients[1],
            "nodes": nodes,
            "early": early,
            "degraded": degraded,
            "alone": 0 if self._alone is None else self._alone.kept,
            "exempt": exempt,
        }

    def settings(self, *, consistency: Consistency = "local") -> Settings:
        """The settings of the cluster."""
        return self._read(consistency).settings

    def settings_revision(self, *, consistency: Consistency = "local") -> int:
        """How often they were changed."""
        return self._read(consistency).revision

    @property
    def known_settings(self) -> Settings:
        """The settings that this node last used. Never waits; the defaults before the first use."""
        return self._known.settings if self._known else Settings()

    def configure(
        self,
        changes: Mapping[str, Value],
        *,
        reason: str = "",
        author: str = "",
        expect_revision: int | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Change settings on all nodes, together or not at all; the new revision. None puts a default back.

        Raises `Rejected` when they do not fit together with the others, or (code `revision-mismatch`) when the revision
        is not the expected one; `Unavailable` or `OutcomeUnknown`.
        """
        check_names(changes)
        command = ["settings", dict(changes), author, reason, expect_revision, self._host.name]
        revision: int = self._host.propose(NAME, command, deadline=deadline)
        return revision

    def settings_history(self, limit: int = limits.SCAN_ROWS) -> list[dict[str, Value]]:
        """The newest changes of settings, newest first: revision, changes, author, reason, time_ms, node."""
        rows = self._host.query(NAME, lambda tables, _: read_settings_history(tables, limit))
        return [
            dict(zip(("revision", "changes", "author", "reason", "time_ms", "node"), row, strict=True)) for row in rows
        ]

    def close(self) -> None:
        """End what decides alone. Idempotent."""
        if self._alone is not None:
            self._alone.close()

    def _settled(self) -> Current:
        """The settings for a check that they may spare: if it becomes no command, nobody tells it of a change."""
        if self._known is None or time.monotonic() > self._read_at + FRESH_SECONDS:
            return self._read_settings()
        return self._known

    def _may_wait(self, mail: Mail) -> bool:
        """Whether `_begin` may have to read something."""
        known = self._known
        return known is None or known.opted_in_only or mail.spf_pass or self.lists.speak or self._hints.late

    def _begin(self, mail: Mail) -> Request | Verdict:
        """What the machine has to be asked; or the verdict, when there is nothing to look up. Raises `Rejected`."""
        known = self._known
        if known is None or known.opted_in_only or mail.spf_pass:
            known = self._settled()
        if known.clients and self._hints.late:
            self._hints.refresh()
        request = Request(self._host.id, self._node, known, mail, self._hints.allow)
        if not (self.lists.speak or mail.authenticated or mail.spf_pass or known.opted_in_only):
            return request
        reason = self._exemption(request, mail)
        if reason == LISTED:
            request.insist()
        if reason in (SILENT, LISTED):
            return request
        with self._lock:
            self._exempted[reason] += 1
        return Verdict(PASS, reason, 0, 0, None, False, "")

    def _exemption(self, request: Request, mail: Mail) -> str:
        """Why a mail need not be looked up: it is authenticated, the lists say so, or SPF. Empty, or LISTED: it must."""
        if mail.authenticated:
            return "authenticated"
        current = request.current
        ruling = self.lists.rule(
            request.client, mail.client_name, request.sender, request.recipient, current.opted_in_only
        )
        reason = SILENT if ruling is None else ruling.rule
        return "spf" if reason == SILENT and mail.spf_pass and current.settings.skip_spf else reason

    def _read(self, consistency: Consistency) -> Current:
        return self._host.query(NAME, lambda tables, _: _current(*read_settings_row(tables)), consistency=consistency)

    def _read_settings(self) -> Current:
        """This node's own copy; the last one that was known, or the defaults, when the node cannot even read that."""
        self._read_at = time.monotonic()
        try:
            return self._learnt(self._read("local"))
        except CANNOT_DECIDE:
            return self._known or Current(0, Settings())

    def _learnt(self, current: Current) -> Current:
        with self._lock:
            if self._known is None or self._known.revision < current.revision:
                self._known = current
            return self._known

    def _verdict(self, request: Request, result: Value) -> Verdict | None:
        """What the machine's result means; None when the request was renewed and must be sent again."""
        if type(result) is not bytes:
            _, revision, values = result
            current = _current(revision, values)
            self._learnt(current)
            request.renew(current)
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
            header = self._headers.header(request, delayed // 1000)
            return Verdict(PASS, "waited", 0, delayed // 1000, header, False, "")
        current, seconds = request.current, -(-left // 1000)
        reason = "new" if left == current.delay else "early"
        if current.settings.training:
            return Verdict(PASS, reason, seconds, 0, None, False, "", True)
        return Verdict(DEFER, reason, seconds, 0, None, False, current.settings.text % seconds)

    def _await_without_cluster(self, request: Request, error: RaftclusterError) -> Verdict:
        told: SimpleQueue[Verdict] = SimpleQueue()
        self._without_cluster(request, error, told.put)
        return told.get()

    def _without_cluster(self, request: Request, error: RaftclusterError, tell: Callable[[Verdict], None]) -> None:
        """What is told as the administrator has chosen."""
        current = self._read_settings()
        settings = current.settings
        if settings.on_unavailable != "local":
            tell(self._degraded_verdict(request, self._chosen(settings, settings.without_cluster(), error)))
        elif self._alone is None:
            tell(self._alone_verdict(request, error, None))
        else:
            if current.revision != request.current.revision:
                request.renew(current)
            self._alone.decide(request, lambda told: tell(self._alone_verdict(request, error, told)))

    def _alone_verdict(self, request: Request, error: RaftclusterError, told: Told | None) -> Verdict:
        settings = request.current.settings
        if told is None:
            return self._degraded_verdict(request, self._chosen(settings, PASS if settings.training else DEFER, error))
        return self._degraded_verdict(request, replace(self._meaning(request, told), degraded=True))

    def _chosen(self, settings: Settings, action: Action, error: RaftclusterError) -> Verdict:
        if action == PASS:
            return Verdict(PASS, error.code, 0, 0, None, True, "")
        seconds = math.ceil(settings.delay)
        return Verdict(DEFER, error.code, seconds, 0, None, True, settings.text % seconds)

    def _degraded_verdict(self, request: Request, verdict: Verdict) -> Verdict:
        """The same, counted apart."""
        with self._lock:
            self._degraded_answers[verdict.action] += 1
            self._degraded[request.key] = self._degraded.pop(request.key, 0) + 1
            if len(self._degraded) > DEGRADED_KEPT:
                self._degraded.popitem(last=False)
        return verdict


_KNOWN: Final = Verdict(PASS, "known", 0, 0, None, False, "")
_CLIENT: Final = Verdict(PASS, "client", 0, 0, None, False, "")


def _current(revision: int, values: Mapping[str, Value]) -> Current:
    return Current(revision, Settings.of(values))
