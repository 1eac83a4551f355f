"""One call over a control socket: request, answer or items, end."""

from __future__ import annotations

import asyncio

from raftcluster.codec import Value, unpack
from raftcluster.control.wire import LENGTH_BYTES, frame, length, revive
from raftcluster.errors import FrameError, MissingPrivilege, NotRunning, OutcomeUnknown


class Exchange:
    """One call's connection, with an event loop of its own that nobody else sees.

    `asyncio.Runner` because it ends its work in an orderly way when the main thread is interrupted.
    """

    def __init__(self, path: str, timeout: float, method: str, arguments: dict[str, Value]) -> None:
        self._path, self._timeout = path, timeout
        self._method = method
        self._request = frame([method, arguments])
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def __enter__(self) -> Exchange:
        try:
            self._runner.run(self._open())
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            self._runner.close()
            raise NotRunning(
                f"no node answers at {self._path}",
                subject=self._path,
                remedy="start it with `raftcluster serve`, or name its directory with -C",
            ) from error
        except OSError as error:
            self._runner.close()
            raise MissingPrivilege(
                f"cannot open {self._path}: {error.strerror or error}", subject=self._path, remedy="run as root"
            ) from error
        except BaseException:
            self._runner.close()
            raise
        return self

    def receive(self, *, wait: bool = False) -> tuple[str, Value]:
        """("value" | "item" | "end", value), or the node's error raised here. With `wait` without a time-out."""
        try:
            packed = self._runner.run(self._read(None if wait else self._timeout))
        except (EOFError, OSError) as error:
            raise OutcomeUnknown(
                f"the node hung up during {self._method}",
                subject=self._path,
                remedy="look at `raftcluster status` before you repeat it",
            ) from error
        parts = unpack(packed)
        if not isinstance(parts, list) or len(parts) != 2 or parts[0] not in ("value", "item", "end", "error"):
            raise FrameError("the node's answer is malformed", subject=self._path)
        if parts[0] == "error":
            raise revive(parts[1])
        return parts[0], parts[1]

    def __exit__(self, *exception: object) -> None:
        self._runner.run(self._hang_up())
        self._runner.close()

    async def _open(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        self._writer.write(self._request)

    async def _read(self, seconds: float | None) -> bytes:
        async with asyncio.timeout(seconds):
            return await self._reader.readexactly(length(await self._reader.readexactly(LENGTH_BYTES)))

    async def _hang_up(self) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)  # in which the transport closes its socket
