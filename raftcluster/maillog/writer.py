"""Decisions on their way to the files: a bounded queue and one thread.

Whoever decides only appends to the queue, whatever the disk does: no lock, no write, no encoding. The thread gathers what
comes within `GATHER_SECONDS` and writes it in small pieces, so that it holds the interpreter for a fraction of a millisecond at
a time. What finds the queue full, or a disk that takes nothing more, is dropped and counted; the log says so itself, and the
numbers of what is missing are left out. Once a second what was written is on the disk: `durable` tells how far, and only that
much is exported, so no number that has left the node is ever given to another entry.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from raftcluster import limits
from raftcluster.maillog.entry import DROPPED, LOG, Entry
from raftcluster.maillog.files import Appender, Line
from raftcluster.maillog.settings import Settings

log = logging.getLogger("raftcluster.maillog")

GATHER_SECONDS: Final = 0.1
SYNC_SECONDS: Final = 1.0
RETAIN_SECONDS: Final = 3_600.0
COMPLAIN_SECONDS: Final = 30.0
SOURCE: Final = "maillog"


class Writer:
    """Thread: `put` from any, never waits; the others from any but the tick thread."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        entry: Callable[..., Line],
        *,
        written: Callable[[], None] = lambda: None,
        space: Callable[[Path], int] | None = None,
    ) -> None:
        """`entry(*what)` makes the entry of what was put; `written` is called when more is durable; `space` are the bytes that
        are free below a folder. Raises `OSError` when the files cannot be read."""
        self._appender = Appender(folder, settings)
        self._entry, self._written, self._space = entry, written, space or _free
        self.durable = self._appender.last
        """The number up to which all is on the disk."""
        self._queue: deque[tuple[Any, ...]] = deque()
        self._lock = threading.Lock()  # of what is dropped
        self._dropped = 0
        self._told = 0  # of those, how many the log has said; the thread's
        self._trouble = self._stopped = ""
        self._failure = ""
        """How the disk has failed last when it was to have what was written."""
        self._complained = 0.0
        self._settings = settings
        self._woken = False
        self._wake = threading.Event()
        self._idle = threading.Condition()
        self._ending = threading.Event()
        self._next_sync = self._next_look = self._next_retain = 0.0
        self._roomy = True
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """How many entries were dropped since the start."""
        return self._dropped

    @property
    def last(self) -> int:
        """The number of the newest entry."""
        return self._appender.last

    @property
    def unsure(self) -> int:
        """How many entries since the start may be lost, because the disk failed when it was to have them."""
        return self._appender.unsure

    @property
    def trouble(self) -> str:
        """Why nothing is written just now; else, from then on, that the disk has failed; empty when all is well."""
        trouble = self._stopped or self._trouble
        if trouble or not self.unsure:
            return trouble
        return f"{self.unsure} entries may be lost: the disk has failed, {self._failure}"

    def put(self, *what: Any) -> None:
        """Log this, soon."""
        if len(self._queue) >= limits.MAILLOG_QUEUE or self._stopped or self._ending.is_set():
            self._drop(1)
            return
        self._queue.append(what)
        if not self._woken:
            self._woken = True
            self._rouse()

    def use(self, settings: Settings) -> None:
        """From now on these."""
        self._settings = settings
        self._next_look = 0.0
        self._rouse()

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until all that was put is on the disk, or dropped; whether it is."""
        with self._idle:
            self._next_sync = 0.0
            self._rouse()
            return self._idle.wait_for(self._settled, seconds)

    def close(self) -> None:
        """Write what waits, and end. Idempotent."""
        with self._lock:
            self._ending.set()
            thread = self._thread
        if thread is not None:
            self._wake.set()
            thread.join()

    def _rouse(self) -> None:
        if self._thread is None:
            self._start()
        self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._ending.is_set():
                thread = threading.Thread(target=self._run, name="raftcluster-maillog", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads: the next one who logs something tries again
                    self._woken = False
                    self._complain(str(error))
                else:
                    self._thread = thread

    def _settled(self) -> bool:
        return not self._queue and self._told == self._dropped and self.durable == self._appender.last

    def _drop(self, count: int) -> None:
        with self._lock:
            self._dropped += count

    # --- the thread

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            log.exception("the mail log's thread has stopped")
            self._stopped = f"the mail log's thread has stopped: {error!r}"
            self._drop(len(self._queue))
            self._queue.clear()

    def _work(self) -> None:
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            ending = self._ending.is_set()
            if not ending:
                self._ending.wait(GATHER_SECONDS)
            self._woken = False  # before the first is taken: whoever appends from now on wakes us again
            self._look()
            self._drain()
            if ending or time.monotonic() >= self._next_sync:
                self._sync()
            if ending and not self._queue:
                self._appender.close()
                return

    def _pause(self) -> float:
        if self.durable != self._appender.last or self._told != self._dropped:
            return max(0.0, self._next_sync - time.monotonic())
        return RETAIN_SECONDS

    def _look(self) -> None:
        """Now and then: is there space, is something too old, are there other settings."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + SYNC_SECONDS
        try:
            if self._appender.settings != self._settings:
                self._appender.settings = self._settings
                self._appender.retain()
            if now >= self._next_retain:
                self._next_retain = now + RETAIN_SECONDS
                self._appender.retain()
            self._roomy = self._space(self._appender.folder) >= limits.MAILLOG_RESERVE_BYTES
        except OSError as error:
            self._complain(str(error))

    def _drain(self) -> None:
        """What is written leaves the queue afterwards: an empty one means that all is. By position, for others append meanwhile: an
        iterator over a queue that grows raises."""
        queue = self._queue
        while count := min(len(queue), limits.MAILLOG_GROUP):
            self._write([self._entry(*queue[at]) for at in range(count)])
            for _ in range(count):
                queue.popleft()

    def _write(self, entries: list[Line]) -> None:
        if not self._roomy:
            self._complain(f"less than {limits.MAILLOG_RESERVE_BYTES >> 20} MiB are free on the disk")
            self._drop(len(entries))
            return
        missing = self._dropped - self._told
        told: list[Entry] = []
        if missing:
            reason = self._trouble or "the queue was full"
            told = [Entry(time.time(), DROPPED, category=LOG, source=SOURCE, reason=reason, lost=missing)]
        unsure = self.unsure
        try:
            self._appender.append([*told, *entries], missing)
        except OSError as error:
            self._failure = str(error) if self.unsure > unsure else self._failure
            self._complain(str(error))
            self._drop(len(entries))
        else:
            self._told += missing
            self._trouble = ""

    def _sync(self) -> None:
        self._next_sync = time.monotonic() + SYNC_SECONDS
        if self._dropped != self._told:
            self._write([])
        unsure = self.unsure
        try:
            self._appender.sync()
        except OSError as error:
            self._failure = str(error) if self.unsure > unsure else self._failure
            self._complain(str(error))
            return
        if self._trouble == self._failure:
            self._trouble = ""
        with self._idle:
            more, self.durable = self.durable != self._appender.last, self._appender.last
            self._idle.notify_all()
        if more:
            self._written()

    def _complain(self, trouble: str) -> None:
        self._trouble = trouble
        if time.monotonic() >= self._complained + COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            log.error("the mail log is not written, %d entries are dropped so far: %s", self._dropped, trouble)


def _free(folder: Path) -> int:
    """Bytes that this user may still write there."""
    found = os.statvfs(folder if folder.exists() else folder.parent)
    return found.f_bavail * found.f_frsize
