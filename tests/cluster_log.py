"""The cluster machine alone, replicated twice, without a node: for the unit tests of the cluster room."""

from __future__ import annotations

from typing import Any

import pytest

from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.records import Generation
from raftcluster.cluster.view import View
from raftcluster.codec import check_nesting, pack, unpack
from raftcluster.errors import Rejected


class Rows:
    """Tables in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, bytes], bytes] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.rows.get((table, key))

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        found = sorted((key, value) for (name, key), value in self.rows.items() if name == table and key >= start)
        return [row for row in found if stop is None or row[0] < stop][:limit]

    def put(self, table: str, key: bytes, value: bytes) -> None:
        assert table in ClusterMachine.tables and len(key) <= 511
        self.rows[table, key] = value

    def delete(self, table: str, key: bytes) -> None:
        self.rows.pop((table, key), None)


class Log:
    """Two replicas of the machine, fed with the same commands as they travel; a refusal undoes its writes."""

    def __init__(self) -> None:
        self.replicas = [(ClusterMachine(), Rows()), (ClusterMachine(), Rows())]
        self.time = 1_000_000
        self.commands: list[bytes] = []

    def apply(self, *command: Any) -> Any:
        packed = pack(list(command))
        self.commands.append(packed)
        outcomes: list[Any] = []
        for machine, rows in self.replicas:
            before = dict(rows.rows)
            try:
                outcomes.append(machine.apply(unpack(packed), rows, self.time))
            except Rejected as error:
                rows.rows = before
                outcomes.append(error)
        first, second = outcomes
        assert self.replicas[0][1].rows == self.replicas[1][1].rows, "equal commands, equal tables"
        if isinstance(first, Rejected):
            assert isinstance(second, Rejected) and (first.code, str(first)) == (second.code, str(second))
            raise first
        check_nesting(first)
        assert first == second
        return first

    def refused(self, *command: Any) -> str:
        before = dict(self.replicas[0][1].rows)
        with pytest.raises(Rejected) as caught:
            self.apply(*command)
        assert self.replicas[0][1].rows == before
        assert len(caught.value.message) > 10, "says why"
        return caught.value.code

    @property
    def rows(self) -> Rows:
        return self.replicas[0][1]

    @property
    def view(self) -> View:
        return View.read(self.rows, self.time)

    def pending(self) -> Generation:
        found = self.view.pending
        assert found is not None
        return found
