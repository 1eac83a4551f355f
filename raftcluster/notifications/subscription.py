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
from raftcluster.notifications.machine import Notification, Page
from raftcluster.notifications.rules import FellBehind

PAGE: Final = 100  # read at once
RETRY_SECONDS: Final = 0.2

ReadPage = Callable[[int, int], Page | None]
"""(after position, limit) -> what comes after; None when some of it was dropped."""
Advance = Callable[[int], None]
"""Moves the consumer's cursor; may be repeated."""


class Subscription:
    """An iterator that waits for the next notification. Close it, or leave its `with`, to end the iteration; what was handed
    out last is then not taken for handled.

    Thread: one thread iterates; `close` and `signal` may come from any.
    """

    def __init__(self, read: ReadPage, advance: Advance | None, after: int, batch: int) -> None:
        self._read, self._advance, self._batch = read, advance, batch
        self._reached = self._handled = self._kept = after
        """Read up to here; handed out and handled; known to the cluster."""
        self._since = 0
        self._given: int | None = None
        self._buffer: deque[Notification] = deque()
        self._wake = threading.Event()
        self._open = True

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Notification:
        if self._given is not None:
            self._handled, self._given, self._since = self._given, None, self._since + 1
        while True:
            self._wake.clear()
            if not self._open:
                raise StopIteration
            if self._since >= self._batch:
                self._keep()
            elif self._buffer:
                item = self._buffer.popleft()
                self._given = item.position
                return item
            elif not self._fetch():
                if self._handled > self._kept:
                    self._keep()
                else:
                    self._wake.wait()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def signal(self) -> None:
        """There may be something new. Never waits."""
        self._wake.set()

    def close(self) -> None:
        """End the iteration, also one that waits in another thread. Idempotent."""
        self._open = False
        self._wake.set()

    def _fetch(self) -> bool:
        page = self._read(self._reached, PAGE)
        if page is None:
            raise FellBehind(
                f"notifications after position {self._reached} were dropped, there were too many",
                subject="notifications",
                remedy="seek to where to go on",
            )
        before, self._reached = self._reached, page.reached
        self._buffer.extend(page.items)
        return page.reached > before

    def _keep(self) -> None:
        """Once, or again and again without a quorum: to hand out more before would break the bound."""
        if self._advance is not None:
            try:
                self._advance(self._handled)
            except (Unavailable, OutcomeUnknown):
                self._wake.wait(RETRY_SECONDS)
                return
        self._kept, self._since = self._handled, 0
