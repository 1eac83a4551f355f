"""What a node does with the configuration, and telling the others how far it has come (R4).

An embedder registers what is to be done with the values below a prefix. It is a reconciler: it gets all values that apply
on this node, at the start and after each change, and makes the world like them; it may be called with the same ones again.
What it raises is told to the whole cluster as the reason why this node trails, and it is called again, at growing intervals.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from raftcluster.codec import Value
from raftcluster.config.machine import NAME
from raftcluster.config.reading import read_effective, read_entry, read_revision
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Unavailable
from raftcluster.host import Host
from raftcluster.machine import ReadTables

log = logging.getLogger("raftcluster.config")

Apply = Callable[[Mapping[str, Value], int], None]
"""(values by key, revision): make it so, or raise."""
RETRY_SECONDS: Final = 0.5
RETRY_MOST_SECONDS: Final = 60.0


class _Applier:
    """One of them, and how far it is."""

    def __init__(self, prefix: str, apply: Apply) -> None:
        self.prefix, self._apply = prefix, apply
        self.revision = 0
        self.problem = ""
        self._done: Mapping[str, tuple[str, int]] | None = None
        """Which versions were applied last."""

    def step(self, host: Host) -> None:
        def read(tables: ReadTables, now: int) -> tuple[dict[str, tuple[str, int]], dict[str, Value], int]:
            versions = read_effective(tables, self.prefix, host.name)
            values = {} if versions == self._done else {key: _value(tables, at) for key, (at, _) in versions.items()}
            return versions, values, read_revision(tables)

        versions, values, revision = host.query(NAME, read)
        try:
            if versions != self._done:
                self._done = None
                self._apply(values, revision)
        except Exception as error:  # noqa: BLE001 - the embedder's: it is reported to the cluster
            text = f"{self.prefix}: {type(error).__name__}: {error}"
            self.problem = text.encode("utf-8", "backslashreplace").decode()[:500]  # a file's name may be no text
            log.warning("revision %d of the configuration is not applied: %s", revision, self.problem)
        else:
            self._done, self.revision, self.problem = versions, revision, ""


def _value(tables: ReadTables, key: str) -> Value:
    entry = read_entry(tables, key)
    assert entry is not None, "it was just seen"
    return entry.value


class Applying:
    """All of a node's. One thread, which begins with the first of them; `close` ends it. Thread: any."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._appliers: list[_Applier] = []
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._reported: tuple[int, str] | None = None

    def add(self, prefix: str, apply: Apply) -> None:
        """See `Config.apply`."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                name = f"raftcluster-config-{self._host.name}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()
                self._thread = thread
            self._appliers.append(_Applier(prefix, apply))
        self._wake.set()

    def wake(self) -> None:
        """Something was changed. Never waits."""
        self._wake.set()

    def close(self) -> None:
        """Idempotent. Waits for what is under way, unless that is what closes."""
        with self._lock:
            self._closed.set()
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            self._wake.wait(min(RETRY_MOST_SECONDS, RETRY_SECONDS * 2 ** min(failures, 16)) if failures else None)
            self._wake.clear()
            if self._closed.is_set():
                return
            failures = 0 if self._done() else failures + 1

    def _done(self) -> bool:
        """Everything is applied and reported."""
        with self._lock:
            appliers = list(self._appliers)
        try:
            for each in appliers:
                each.step(self._host)
            problem = next((each.problem for each in appliers if each.problem), "")
            state = min(each.revision for each in appliers), problem
            if state != self._reported:
                self._host.propose(NAME, ["report", self._host.id, self._host.name, *state])
                self._reported = state
        except (Unavailable, OutcomeUnknown) as error:
            log.debug("the configuration is looked at again: %s", error)
            return False
        except RaftclusterError as error:  # the node has stopped
            log.info("how far the configuration is applied cannot be told: %s", error)
            return False
        return not problem
