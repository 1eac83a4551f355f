"""Event loops on threads of their own."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path

import pytest

from raftcluster.loop import LoopThread, stop_listening

TIMES = 50


class Protocol(asyncio.Protocol):
    """Keeps its transport where `connections` are found."""

    def __init__(self, connections: set[Protocol]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)


@pytest.mark.filterwarnings("error")
def test_who_is_just_being_accepted_when_a_server_closes_is_closed_too(tmp_path: Path) -> None:
    """Each left an unclosed socket: asyncio forgets a connection whose server closes while it is accepted."""
    for number in range(TIMES):
        path = str(tmp_path / f"{number}.sock")
        connections: set[Protocol] = set()
        thread = LoopThread("loop")

        async def serve(path: str = path, connections: set[Protocol] = connections) -> asyncio.Server:
            return await asyncio.get_running_loop().create_unix_server(lambda: Protocol(connections), path)

        async def shut(server: asyncio.Server, connections: set[Protocol] = connections) -> None:
            await stop_listening(server)
            for each in list(connections):
                each.transport.abort()  # type: ignore[attr-defined]
            while connections:
                await asyncio.sleep(0)

        server = thread.run(serve())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        thread.run(shut(server))
        thread.close()
        assert connections == set()
    gc.collect()  # what was not closed warns, and pytest makes an error of it
