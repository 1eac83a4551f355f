"""Following what happens to a part of the configuration.

A watch holds a revision, not a queue: it reads what came after it, page by page, and is woken when there is more. So
it cannot lose or repeat a change whatever its reader's pace; it only can come too late for the history that is kept.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from raftcluster.config.reading import Entry, Page
from raftcluster.errors import Rejected, Unavailable
from raftcluster.iteration import AsyncIteration, Idle, Iteration

Change = Entry
PAGE: Final = 100  # changes read at once

ReadPage = Callable[[int, int], Page | None]
"""(after revision, limit) -> the changes since, None when some are forgotten. Waits; any thread."""
Begin = Callable[[], int]
"""The revision after which the first change is wanted. Waits; any thread."""
Confirm = Callable[[int], None]
"""Raises `Rejected` when the cluster has not reached a revision, `Unavailable` when nobody can say. Waits; any thread."""
RETRY_SECONDS: Final = 0.2


class FellBehind(Rejected):
    """Changes that a watch has not seen are no longer kept: read the values, then watch from their revision."""

    code = "fell-behind"


class Changes:
    """A `raftcluster.iteration.Cursor`: a place in the order of changes."""

    def __init__(self, read: ReadPage, begin: Begin, confirm: Confirm = lambda revision: None) -> None:
        self._read, self._begin, self._confirm = read, begin, confirm
        self._reached = 0
        self._confirmed = False
        self._buffer: deque[Change] = deque()
        self._lock = threading.Lock()  # a cancelled asyncio reader leaves its read running beside the next one

    def begin(self) -> None:
        """See `Cursor`."""
        self._reached = self._begin()

    def passed(self) -> None:
        """Nothing is kept of it."""

    def take(self) -> Change | None:
        """See `Cursor`."""
        return self._buffer.popleft() if self._buffer else None

    def fetch(self) -> Idle | None:
        """See `Cursor`. Raises `FellBehind`, and `Rejected` when it was to begin after what has not happened."""
        with self._lock:
            before = self._reached
            if not self._confirmed:
                try:
                    self._confirm(before)
                except Unavailable:
                    return Idle(RETRY_SECONDS)
                self._confirmed = True
            page = self._read(before, PAGE)
            if page is None:
                raise FellBehind(
                    f"changes since revision {before} are no longer kept",
                    subject="watch",
                    remedy="read the values and watch from their revision",
                )
            self._buffer.extend(page.changes)
            self._reached = page.reached
            return None if page.reached > before or self._buffer else Idle()


class Watch(Iteration[Change]):
    """An iterator over changes that waits for the next one: see `Iteration`."""


class AsyncWatch(AsyncIteration[Change]):
    """The same from asyncio: see `AsyncIteration`."""
