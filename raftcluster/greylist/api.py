"""The greylist as a program sees it: `node.greylist`.

`check` answers always: with a decision that a majority of the cluster holds durably, or -- when there is none within the
deadline -- with what the setting `on_unavailable` says, marked as degraded; or, with `replicate = off`, with what this node decides
by itself: see `decider`. It raises only `Rejected`, for arguments that can never be checked, before anything is sent.

Which network, sender and recipient a triplet consists of depends on settings, so a check says under which revision of
them it was made. One that was overtaken by a change of settings is answered with the new ones and made again; so no
check is ever decided under two sets of settings, and none needs to read them first.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import RaftclusterError
from raftcluster.greylist.alone import Alone
from raftcluster.greylist.clients import Client, read_client_counts
from raftcluster.greylist.decider import Decider
from raftcluster.greylist.earned import Rows
from raftcluster.greylist.explanation import explain
from raftcluster.greylist.hints import Hints
from raftcluster.greylist.kept import Kept
from raftcluster.greylist.lists.api import Lists
from raftcluster.greylist.lists.book import LISTED, SILENT, Ruling
from raftcluster.greylist.machine import (
    NAME,
    read_record_count,
    read_settings_history,
    read_totals,
)
from raftcluster.greylist.record import node_label, node_text
from raftcluster.greylist.records import Records
from raftcluster.greylist.request import Asked, Mail, Request
from raftcluster.greylist.rules import PASS
from raftcluster.greylist.settings import Settings, check_names
from raftcluster.greylist.verdict import Verdict
from raftcluster.host import Consistency, GlanceHost
from raftcluster.machine import ReadTables
from raftcluster.twins import twin

log = logging.getLogger("raftcluster.greylist")

API: Final = "api"  # who asks, in the log
Decided = Callable[[Asked, Verdict, str], None]


class Greylist:
    """See the head of the file.

    Thread: every method may be called from any thread; `submit` also from a node's callback, all others wait.
    Times in seconds.
    """

    def __init__(self, host: GlanceHost, local: Rows | None = None, decided: Decided = lambda *_: None) -> None:
        """`local` is the node's own store: see `alone`. Without one `on_unavailable = local` defers. `decided` keeps the log."""
        self._host = host
        self.decided = decided
        """Told of each verdict, what it was about, and who asked; never waits."""
        self._node = node_label(host.id)
        self._alone = None if local is None else Alone(host, local, self._node)
        self.lists = Lists(host)
        """Who is never greylisted, who always, and for whom."""
        self.records = Records(host)
        """What is kept of each triplet: to be read, forgotten, exported, imported."""
        self._hints = Hints(host, NAME)
        self._exempted: Counter[str] = Counter()
        """This node's answers since its start for which no triplet was looked up, by reason."""
        self._lock = threading.Lock()
        self._decider = Decider(host, self._alone, self._hints)

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
        helo: str = "",
        deadline: float = limits.CALL_SECONDS,
    ) -> Verdict:
        """Decide about one recipient of one message, and wait for the decision.

        `client` is the IP address of the SMTP client, `sender` and `recipient` are the envelope's as the client gave
        them (the null sender is empty). `instance` names the SMTP transaction: asking again about the same recipient
        in the same one gives the same verdict and counts once. `client_name` is the client's verified host name, if the
        caller has one: entries of `lists` may be about it. Whether the client has `authenticated` and whether SPF has
        passed for the sender is for the caller to know. `helo` is for the log only.
        """
        mail = Mail(client, client_name, sender, recipient, instance, authenticated, spf_pass, helo)
        request = self._begin(mail)
        verdict = request if isinstance(request, Verdict) else self._decider.wait(request, deadline)
        self.decided(mail, verdict, API)
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
        helo: str = "",
        deadline: float = limits.CALL_SECONDS,
    ) -> Verdict:
        """`check` from asyncio."""
        mail = Mail(client, client_name, sender, recipient, instance, authenticated, spf_pass, helo)
        request = await asyncio.to_thread(self._begin, mail) if self._may_wait(mail) else self._begin(mail)
        verdict = request if isinstance(request, Verdict) else await self._decider.await_(request, deadline)
        self.decided(mail, verdict, API)
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
        helo: str = "",
        source: str = API,
        deadline: float = limits.CALL_SECONDS,
    ) -> None:
        """`check` without waiting: `callback(verdict, None)`, or `callback(None, error)` where `check` would raise.

        It is called once, on the node's tick thread, on another one when the node decides by itself, or at once when nothing has
        to be decided, and must not block.

        Only the first check after the start, after some seconds, or after a change of the lists may wait, until the tick
        thread has a moment. `source` says in the log who asks; with an empty one the caller tells `decided` itself what came of it.
        Raises `Rejected` like `check`; then `callback` is not called.
        """
        mail = Mail(client, client_name, sender, recipient, instance, authenticated, spf_pass, helo)
        request = self._begin(mail)
        callback = partial(self._tell, callback, mail, source)
        if isinstance(request, Verdict):
            callback(request, None)
        else:
            self._decider.ask(request, callback, time.monotonic() + deadline)

    def _tell(
        self,
        callback: Callable[[Verdict | None, RaftclusterError | None], None],
        mail: Mail,
        source: str,
        verdict: Verdict | None,
        error: RaftclusterError | None,
    ) -> None:
        if verdict is not None and source:
            self.decided(mail, verdict, source)
        try:
            callback(verdict, error)
        except Exception:  # it may do anything but harm the node: its threads call
            log.exception("a caller's callback failed")

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

        explanation = self._explained(client, sender, recipient, ruling, consistency)
        key = bytes.fromhex(explanation["key"])
        kept = None if self._alone is None else self._alone.find(key)
        if self._alone is not None and not self.settings().replicate:
            earned = self._alone.earned(explanation["network"].encode())
            explanation = self._explained(client, sender, recipient, ruling, consistency, kept, earned)
        explanation["degraded_here"] = self._decider.degraded_here(key)
        explanation["alone_first_seen_ms"] = None if kept is None else kept.record.first
        return explanation

    aexplain = twin(explain)

    def stats(self, *, consistency: Consistency = "local") -> dict[str, Value]:
        """Counts since the cluster was made: records, clients whose passes are counted and those of them that are allowed, and
        per node checks deferred, passed, passed for the first time, passed because their client is allowed.

        `alone` are records that this node decided about by itself and that are not merged yet. Of its answers since its start `early`
        are those of `ack = early`; `degraded` counts those that the cluster did not decide, `unshared` those that it was not
        asked for, with `replicate = off`, `exempt` those for which there was nothing to decide, by reason; these three are in no
        other count.
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
            exempt = dict(self._exempted)
        return {
            "records": records,
            "clients": clients[0],
            "allowed_clients": clients[1],
            "nodes": nodes,
            "early": self._decider.early,
            "degraded": dict(self._decider.degraded),
            "unshared": dict(self._decider.unshared),
            "alone": 0 if self._alone is None else self._alone.kept,
            "exempt": exempt,
        }

    astats = twin(stats)

    def settings(self, *, consistency: Consistency = "local") -> Settings:
        """The settings of the cluster."""
        return self._decider.read(consistency).settings

    asettings = twin(settings)

    def settings_revision(self, *, consistency: Consistency = "local") -> int:
        """How often they were changed."""
        return self._decider.read(consistency).revision

    asettings_revision = twin(settings_revision)

    @property
    def known_settings(self) -> Settings:
        """The settings that this node last used. Never waits; the defaults before the first use."""
        return self._decider.known.settings if self._decider.known else Settings()

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

    aconfigure = twin(configure)

    def settings_history(self, limit: int = limits.SCAN_ROWS) -> list[dict[str, Value]]:
        """The newest changes of settings, newest first: revision, changes, author, reason, time_ms, node."""
        rows = self._host.query(NAME, lambda tables, _: read_settings_history(tables, limit))
        return [
            dict(zip(("revision", "changes", "author", "reason", "time_ms", "node"), row, strict=True)) for row in rows
        ]

    asettings_history = twin(settings_history)

    def close(self) -> None:
        """End what decides alone. Idempotent."""
        if self._alone is not None:
            self._alone.close()

    def _may_wait(self, mail: Mail) -> bool:
        """Whether `_begin` may have to read something."""
        known = self._decider.known
        return known is None or known.opted_in_only or mail.spf_pass or self.lists.speak or self._hints.late

    def _explained(
        self,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        ruling: Ruling,
        consistency: Consistency,
        kept: Kept | None = None,
        earned: Client | None = None,
    ) -> dict[str, Value]:
        def read(tables: ReadTables, now: int) -> dict[str, Value]:
            return explain(tables, now, client, sender, recipient, ruling, kept, earned)

        return self._host.query(NAME, read, consistency=consistency)

    def _begin(self, mail: Mail) -> Request | Verdict:
        """What the machine has to be asked; or the verdict, when there is nothing to look up. Raises `Rejected`."""
        known = self._decider.known
        if known is None or known.opted_in_only or mail.spf_pass:
            known = self._decider.settled()
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
