"""Following the stream, with a cursor that the cluster keeps.

A subscription takes one notification after the other; asking for the next says that the one before is handled. After every
`batch` of them, and whenever there is nothing more to take, the cursor is moved in the cluster, and nothing is handed out
before that is committed. So after a crash at most the last `batch` are handed out again, and without one none is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from raftcluster.errors import OutcomeUnknown, Unavailable
from raftcluster.iteration import AsyncIteration, Idle, Iteration
from raftcluster.notifications.machine import Notification, Page
from raftcluster.notifications.rules import FellBehind

PAGE: Final = 100  # read at once
RETRY_SECONDS: Final = 0.2

ReadPage = Callable[[int, int], Page | None]
"""(after position, limit) -> what comes after; None when some of it was dropped."""
Advance = Callable[[int], None]
"""Moves the consumer's cursor; may be repeated."""
Begin = Callable[[], int]
"""The position after which to begin. Waits."""
Confirm = Callable[[int], None]
"""Raises `Rejected` when the stream has not reached a position, `Unavailable` when nobody can say. Waits."""


class Stream:
    """A `raftcluster.iteration.Cursor`: a consumer's place in the stream."""

    def __init__(self, read: ReadPage, advance: Advance | None, begin: Begin, confirm: Confirm, batch: int) -> None:
        self._read, self._advance, self._begin, self._batch = read, advance, begin, batch
        self._confirm, self._confirmed = confirm, False
        self._reached = self._handled = self._kept = 0
        """Read up to here; handed out and handled; known to the cluster."""
        self._since = 0
        self._given: int | None = None
        self._buffer: deque[Notification] = deque()
        self._lock = threading.Lock()  # a cancelled asyncio reader leaves its step running beside the next one

    def begin(self) -> None:
        """See `Cursor`."""
        self._reached = self._handled = self._kept = self._begin()

    def passed(self) -> None:
        """See `Cursor`: the one before is handled."""
        if self._given is not None:
            self._handled, self._given, self._since = self._given, None, self._since + 1

    def take(self) -> Notification | None:
        """See `Cursor`. Nothing, while the cluster must hear first what was handled."""
        if self._since >= self._batch or not self._buffer:
            return None
        item = self._buffer.popleft()
        self._given = item.position
        return item

    def fetch(self) -> Idle | None:
        """See `Cursor`. Raises `FellBehind`, and `Rejected` when it was to begin after what has not been published."""
        with self._lock:
            if self._since >= self._batch:
                return self._keep()
            if self._buffer:
                return None
            if not self._confirmed:
                try:
                    self._confirm(self._reached)
                except Unavailable:
                    return Idle(RETRY_SECONDS)
                self._confirmed = True
            page = self._read(self._reached, PAGE)
            if page is None:
                raise FellBehind(
                    f"notifications after position {self._reached} were dropped, there were too many",
                    subject="notifications",
                    remedy="seek to where to go on",
                )
            before, self._reached = self._reached, page.reached
            self._buffer.extend(page.items)
            if page.reached > before:
                return None
            return self._keep() if self._handled > self._kept else Idle()

    def _keep(self) -> Idle | None:
        """Once, or again and again without a quorum: to hand out more before would break the bound."""
        handled = self._handled
        if self._advance is not None:
            try:
                self._advance(handled)
            except (Unavailable, OutcomeUnknown):
                return Idle(RETRY_SECONDS)
        self._kept, self._since = handled, 0
        return None


class Subscription(Iteration[Notification]):
    """An iterator that waits for the next notification: see `Iteration`. What was handed out last when it is closed is not
    taken for handled."""


class AsyncSubscription(AsyncIteration[Notification]):
    """The same from asyncio: see `AsyncIteration`."""
