"""Iterators that wait for what comes next, from threads and from asyncio: the part that watches and subscriptions share.

What is iterated over is a *cursor*: it holds a place, not a queue, and reads what comes after it when it is asked. So its
reader may be as slow as it likes. The iterator adds waiting: whoever learns that there may be something new signals, and
whoever closes ends the iteration, both without waiting and from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Generic, NamedTuple, Protocol, Self, TypeVar
from weakref import WeakSet

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Idle(NamedTuple):
    """There is nothing to take: wait for a signal."""

    seconds: float | None = None
    """For so long at most."""


class Cursor(Protocol[T_co]):
    """A place in what is iterated over. `take` by one thread at a time; `fetch` may run beside it."""

    def begin(self) -> None:
        """Find the place where it begins. May wait; once, or again after it has failed."""

    def passed(self) -> None:
        """The item that was taken last is done with: its reader asks for the next."""

    def take(self) -> T_co | None:
        """The next item that is here. Does not wait."""

    def fetch(self) -> Idle | None:
        """Get more; None when it is worth while to `take` again. May wait."""


class Iteration(Generic[T]):
    """An iterator that waits for the next item. Close it, or leave its `with`, to end it.

    Thread: one thread iterates; `close` and `signal` may come from any.
    """

    def __init__(self, cursor: Cursor[T]) -> None:
        cursor.begin()
        self._cursor = cursor
        self._wake = threading.Event()
        self._open = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        self._cursor.passed()
        while True:
            self._wake.clear()  # before looking: what comes after it wakes us
            if not self._open:
                raise StopIteration
            item = self._cursor.take()
            if item is not None:
                return item
            idle = self._cursor.fetch()
            if idle is not None:
                self._wake.wait(idle.seconds)

    def __enter__(self) -> Self:
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


class AsyncIteration(Generic[T]):
    """The same from asyncio, bound to the loop that it was made in; what waits runs in the loop's default executor.

    A step that is cancelled loses nothing: the next one goes on where it was. Thread: it is iterated in its loop; `close` and
    `signal` may come from any thread.
    """

    def __init__(self, cursor: Cursor[T]) -> None:
        self._cursor = cursor
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._open = True
        self._begun = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        await self._begin()
        self._cursor.passed()
        while True:
            self._wake.clear()
            if not self._open:
                raise StopAsyncIteration
            item = self._cursor.take()
            if item is not None:
                return item
            idle = await asyncio.to_thread(self._cursor.fetch)
            if idle is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(idle.seconds):
                        await self._wake.wait()

    async def __aenter__(self) -> Self:
        await self._begin()
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

    async def _begin(self) -> None:
        if not self._begun:
            await asyncio.to_thread(self._cursor.begin)
            self._begun = True


class Signalled(Protocol):
    """What is told that something has changed, and that it is over."""

    def signal(self) -> None: ...

    def close(self) -> None: ...


K = TypeVar("K", bound=Signalled)


class Followers:
    """All that an API has handed out and that still lives: who drops one need not close it. Thread: any."""

    def __init__(self) -> None:
        self._known: WeakSet[Signalled] = WeakSet()
        self._lock = threading.Lock()

    def add(self, one: K) -> K:
        """Signal and close it too, from now on."""
        with self._lock:
            self._known.add(one)
        return one

    def signal(self, index: int = 0) -> None:
        """Tell them all. Never waits: it may be a callback of `Host.on_apply`."""
        with self._lock:
            for each in self._known:
                each.signal()

    def close(self) -> None:
        """End them all."""
        with self._lock:
            known = list(self._known)
        for each in known:
            each.close()
