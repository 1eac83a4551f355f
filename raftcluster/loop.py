"""An asyncio loop on a thread of its own: how the policy server and the sockets are good guests in a process."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """One daemon thread that runs one event loop from construction until `close`.

    Thread: every method may be called from any thread but the loop's own.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop, wait for it, and return its result or raise its error."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def is_current(self) -> bool:
        """Whether this is called on it, where nothing may wait for it."""
        return threading.get_ident() == self._thread.ident

    def close(self) -> None:
        """Cancel what still runs, stop the loop, join the thread. Idempotent."""
        if self._thread.is_alive():
            self.run(_cancel_others())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class Mailbox:
    """Carries items from any thread to a loop, with one wake-up for as many as have gathered."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[..., None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._items: deque[tuple[Any, ...]] = deque()
        self._woken = False

    def put(self, *item: Any) -> None:
        """Any thread; never blocks. After the loop has closed the item is dropped: nobody waits for it."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                if not self._loop.is_closed():
                    raise

    def _drain(self) -> None:
        self._woken = False  # before the first item is taken: whoever appends from now on wakes us again
        while self._items:
            self._deliver(*self._items.popleft())


async def refuse_live(path: str) -> None:
    """Raise `EADDRINUSE` when somebody answers at the unix socket `path`; what a dead process has left may be replaced."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    writer.close()
    await writer.wait_closed()
    raise OSError(errno.EADDRINUSE, "another process answers there")


async def stop_listening(server: asyncio.Server) -> None:
    """Close `server`, without its connections. Whoever is just being accepted is connected before: asyncio would lose the socket
    of a connection whose server has closed (CPython, `_accept_connection2`)."""
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener)
    for _ in range(3):  # its transport is made, tells its protocol, and what that begins has begun
        await asyncio.sleep(0)
    server.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
