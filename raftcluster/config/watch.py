"""Following what happens to a part of the configuration.

A watch holds a revision, not a queue: it reads what came after it, page by page, and is woken when there is more. So
it cannot lose or repeat a change whatever its reader's pace; it only can come too late for the history that is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from raftcluster.config.reading import Entry, Page
from raftcluster.errors import Rejected

Change = Entry
PAGE: Final = 100  # changes read at once: at most 6 MB with values of the greatest size

ReadPage = Callable[[int, int], Page | None]
"""(after revision, limit) -> the changes since, None when some are forgotten. Waits; any thread."""


class FellBehind(Rejected):
    """Changes that a watch has not seen are no longer kept: read the values, then watch from their revision."""

    code = "fell-behind"


class _Cursor:
    """What both kinds of watch are made of: a place in the order of changes."""

    def __init__(self, read: ReadPage, revision: int) -> None:
        self._read = read
        self._reached = revision
        self._buffer: deque[Change] = deque()
        self._lock = threading.Lock()  # a cancelled asyncio reader leaves its read running beside the next one

    def fetch(self) -> bool:
        """Read the next page; False when there is nothing to take and nothing more to read."""
        with self._lock:
            before = self._reached
            page = self._read(before, PAGE)
            if page is None:
                raise FellBehind(
                    f"changes since revision {before} are no longer kept",
                    subject="watch",
                    remedy="read the values and watch from their revision",
                )
            self._buffer.extend(page.changes)
            self._reached = page.reached
            return page.reached > before or bool(self._buffer)

    def take(self) -> Change | None:
        """The next change that was fetched."""
        return self._buffer.popleft() if self._buffer else None


class Watch:
    """An iterator over changes that waits for the next one. Close it, or leave its `with`, to end the iteration.

    Thread: one thread iterates; `close` and `signal` may come from any.
    """

    def __init__(self, read: ReadPage, since: int) -> None:
        self._cursor = _Cursor(read, since)
        self._wake = threading.Event()
        self._open = True

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Change:
        while True:
            self._wake.clear()  # before looking: what comes after it wakes us
            if not self._open:
                raise StopIteration
            change = self._cursor.take()
            if change is not None:
                return change
            if not self._cursor.fetch():
                self._wake.wait()

    def __enter__(self) -> Watch:
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


class AsyncWatch:
    """The same from asyncio, bound to the loop that it was made in; reads run in the loop's default executor.

    Thread: it is iterated in its loop; `close` and `signal` may come from any thread.
    """

    def __init__(self, read: ReadPage, newest: Callable[[], int], since: int | None) -> None:
        self._read = read
        self._newest = newest
        self._cursor = None if since is None else _Cursor(read, since)
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._open = True

    def __aiter__(self) -> AsyncWatch:
        return self

    async def __anext__(self) -> Change:
        cursor = await self._started()
        while True:
            self._wake.clear()
            if not self._open:
                raise StopAsyncIteration
            change = cursor.take()
            if change is not None:
                return change
            if not await asyncio.to_thread(cursor.fetch):
                await self._wake.wait()

    async def __aenter__(self) -> AsyncWatch:
        await self._started()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def signal(self) -> None:
        """There may be something new. Never waits."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody iterates any more
            self._loop.call_soon_threadsafe(self._wake.set)

    def close(self) -> None:
        """End the iteration. Idempotent."""
        self._open = False
        self.signal()

    async def _started(self) -> _Cursor:
        if self._cursor is None:
            self._cursor = _Cursor(self._read, await asyncio.to_thread(self._newest))
        return self._cursor
