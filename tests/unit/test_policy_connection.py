"""One client's connection to the policy server, on a transport that does what the test says."""

from __future__ import annotations

import asyncio

from raftcluster.policy.connection import Connection
from raftcluster.policy.protocol import Attributes


class Owner:
    """A server that has no opinion, at once."""

    def opened(self, connection: Connection) -> bool:
        return True

    def closed(self, connection: Connection) -> None: ...

    def decide(self, connection: Connection, attributes: Attributes) -> str | None:
        return "DUNNO"

    def trouble(self, kind: str, message: str) -> None:
        raise AssertionError(message)


class Full(asyncio.Transport):
    """It takes one answer, and then has to be emptied."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = Connection(Owner(), lambda: 0.0)
        self.reading = True
        self.answers = 0
        self.connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.answers += 1
        self.connection.pause_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False


def test_who_does_not_read_his_answers_is_not_read_either() -> None:
    full = Full()
    full.connection.data_received(b"a=b\n\n" * 3)
    assert (full.answers, full.reading) == (1, True)
    full.connection.data_received(b"a=b\n\n")
    assert (full.answers, full.reading) == (1, False), "what comes is kept in memory: no more of it"
    for answered in (2, 3, 4):
        full.connection.resume_writing()
        assert full.answers == answered
    full.connection.resume_writing()
    assert full.reading
