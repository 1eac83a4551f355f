"""The auditor: turns what this node sees into events, on a thread of its own, and never twice on purpose.

It is woken by entries that change the cluster's tables, by changes of leadership, and by `post`; it looks at the tables, reads
on in the orders of changes that somebody has made (`following`), and compares with its last look (`cluster.changes`), records what has happened and keeps the look: in this order, so that a
crash in between tells something twice rather than never.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

from raftcluster.cluster.changes import Look, changes
from raftcluster.cluster.view import View, invitations
from raftcluster.errors import RaftclusterError, Unavailable
from raftcluster.events.recorder import Recorder
from raftcluster.following import MACHINES, Following
from raftcluster.host import Host
from raftcluster.limits import REFUSAL_LOG_SECONDS
from raftcluster.storage.directory import DataDirectory

log = logging.getLogger("raftcluster.events")

FILE: Final = "audit.json"
"""The last look, in the data directory."""
INTERVAL_SECONDS: Final = 0.5
GATHER_SECONDS: Final = 0.1
"""After an entry that changes the cluster's tables, others come: a generation is a dozen. They are looked at together."""
SETTINGS_SECONDS: Final = 5.0
"""The greylist's settings are looked at this often: its tables change with every check, so that says nothing."""
LEADERLESS_SECONDS: Final = 2.0
"""An election takes less; without a leader for longer is worth an event."""
REFUSED: Final = 256
"""Strangers whose refusals are remembered, so that one of them cannot fill the file."""

Leadership = Callable[[], tuple[str | None, int]]
"""(leader's id or None, term); raises `RaftclusterError` when the node has stopped."""


class Auditor:
    """One per node. Thread: every method from any thread."""

    def __init__(self, host: Host, directory: DataDirectory, recorder: Recorder, leadership: Leadership) -> None:
        self._host, self._directory, self._recorder, self._leadership = host, directory, recorder, leadership
        self._posted: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._refused: dict[tuple[str, str], float] = {}
        self._refusing = threading.Lock()  # of that: each stranger has a thread
        self._leader: tuple[str | None, int] | None = None
        self._leaderless_since = float("inf")
        self._failed = False
        self._last = self._kept()
        self._thread = threading.Thread(target=self._run, name=f"raftcluster-audit-{host.name}", daemon=True)
        self._changed = threading.Event()
        self._changed.set()
        self._following = Following(host, directory, recorder)
        self._last_word: str | None = None
        self._news = {name: threading.Event() for name in ("cluster", "config", "quarantine")}
        """Machine -> whether there may be something new in its order of changes."""
        self._look_again = 0.0
        host.on_apply("cluster", self._applied)
        host.on_apply("config", lambda index: self._news["config"].set())
        host.on_apply("quarantine", lambda index: self._news["quarantine"].set())

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Record what is left, and end. Idempotent."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def wake(self) -> None:
        """Look soon: leadership has changed."""
        self._wake.set()

    def post(self, name: str, **fields: Any) -> None:
        """Record an event soon; does not wait, so the tick thread may call it."""
        self._posted.put((name, fields))
        self._wake.set()

    def end_with(self, name: str) -> None:
        """Record an event after all others, when this is closed: nothing is told of a node that has stopped."""
        self._last_word = name

    def refused(self, code: str, address: str, reason: str) -> None:
        """Somebody was not let in. Told once per address and code in `REFUSAL_LOG_SECONDS`: strangers cause it."""
        key, now = (code, address), time.monotonic()
        with self._refusing:
            if now - self._refused.get(key, -REFUSAL_LOG_SECONDS) < REFUSAL_LOG_SECONDS:
                return
            self._refused.pop(key, None)
            self._refused[key] = now
            if len(self._refused) > REFUSED:
                del self._refused[next(iter(self._refused))]
        self.post("join-refused", code=code, address=address, reason=reason[:200])

    def _applied(self, index: int) -> None:
        self._changed.set()
        self._news["cluster"].set()
        self._wake.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(INTERVAL_SECONDS)
            self._wake.clear()
            self._take()
            try:
                if self._changed.is_set():
                    self._closed.wait(GATHER_SECONDS)
                    self._compare()
                self._follow()
                self._follow_leader()
            except Unavailable as error:  # closing, or the tick thread is late
                self._changed.set()
                self._look_again = 0.0
                log.debug("nothing to audit now: %s", error)
            except RaftclusterError as error:
                self._changed.set()
                if not self._failed:
                    self._failed = True
                    self._recorder.note("node-failed", reason=str(error))
        self._take()
        if self._last_word is not None:
            self._recorder.note(self._last_word)

    def _follow(self) -> None:
        machines = {name for name, news in self._news.items() if news.is_set()}
        if time.monotonic() >= self._look_again:
            self._look_again = time.monotonic() + SETTINGS_SECONDS
            machines |= MACHINES
        for name in machines & self._news.keys():
            self._news[name].clear()
        if machines:
            self._following.tell(machines)

    def _take(self) -> None:
        try:
            while True:
                name, fields = self._posted.get_nowait()
                self._recorder.note(name, **fields)
        except Empty:
            return

    def _compare(self) -> None:
        self._changed.clear()
        view, tokens = self._host.query("cluster", lambda rows, now: (View.read(rows, now), invitations(rows)))
        if view.active is None or (self._last is not None and view.revision <= self._last.revision):
            return
        seen = Look.at(view, tokens)
        if self._last is not None:
            for name, fields in changes(self._last, seen):
                self._recorder.note(name, **fields)
        self._last = seen
        try:
            self._directory.write(FILE, json.dumps(seen.kept()).encode())
        except RaftclusterError as error:  # the disk; after a restart what was told is told again
            log.warning("%s", error)

    def _kept(self) -> Look | None:
        try:
            return Look(**json.loads((self._directory.path / FILE).read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            log.warning("%s is no look at the cluster, it begins anew: %s", FILE, error)
            return None

    def _follow_leader(self) -> None:
        leader, term = self._leadership()
        now = time.monotonic()
        if leader is None:
            self._leaderless_since = min(self._leaderless_since, now)
            if now - self._leaderless_since >= LEADERLESS_SECONDS and self._leader is not None:
                self._leader = None
                self._recorder.note("leader-lost", term=term)
            return
        self._leaderless_since = float("inf")
        if self._leader != (leader, term):
            self._leader = (leader, term)
            name = self._last.members[leader][0] if self._last and leader in self._last.members else leader
            self._recorder.note("leader-changed", leader=name, leader_id=leader, term=term)
