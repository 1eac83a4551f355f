"""The cluster machine alone, replicated twice, without a node: for the unit tests of the cluster room."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from raftcluster.cluster.generations import expected_manifest
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.manifests import MANIFEST, Manifest
from raftcluster.cluster.records import Generation
from raftcluster.cluster.view import View
from raftcluster.codec import check_nesting, pack, unpack
from raftcluster.errors import Rejected


def key(number: int, node: str) -> bytes:
    """What stands for the public key of a node's certificate of a generation."""
    return f"key of {node} in {number}".encode()


def pin(number: int, node: str) -> bytes:
    """Its fingerprint."""
    return sha256(key(number, node)).digest()


def genesis(facts: list[Any], founder: list[Any]) -> list[Any]:
    """The first command of a cluster."""
    node = founder[0]
    manifest = Manifest(MANIFEST, facts[0], 1, 1, "genesis", b"", {node: pin(1, node)}).pack()
    return ["genesis", facts, founder, [1, b"root-1", f"cert-1-{node}".encode(), pin(1, node), manifest, b"sig-1"]]


def minting(view: View, *nodes: str, number: int | None = None) -> list[Any]:
    """The command with which a leader that has this view proposes a hierarchy for these nodes, or for all that are to have one."""
    coming = view.pending
    assert coming is not None and view.facts is not None and view.head is not None
    whom = nodes or coming.holders()
    issued = {
        node: [coming.requests.get(node, b"?"), f"cert-{coming.number}-{node}".encode(), pin(coming.number, node)]
        for node in whom
    }
    pins = {node: pin(coming.number, node) for node in whom}
    manifest = expected_manifest(view.facts, view.head, view.live().values(), coming, pins).pack()
    return ["minted", number or coming.number, f"root-{coming.number}".encode(), manifest, b"sig", issued]


def vouch(view: View, node: str) -> list[Any]:
    """The command with which a node says that it trusts the generation under way; a voter endorses it."""
    assert view.pending is not None and view.head is not None and view.active is not None
    voters = view.head.content().voters if view.pending.phase == "trust" else {}
    given = [key(view.head.content().generation, node), b"signature"] if node in voters else []
    return ["trusted", view.pending.number, node, given]


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
        self._viewed = (-1, 0)
        self.times: list[int] = []
        """Of each command, in milliseconds."""

    def apply(self, *command: Any) -> Any:
        packed = pack(list(command))
        outcomes: list[Any] = []
        for machine, rows in self.replicas:
            before = dict(rows.rows)
            try:
                outcomes.append(machine.apply(unpack(packed), rows, self.time))
            except Rejected as error:
                rows.rows = before
                outcomes.append(error)
        self.commands.append(packed)
        self.times.append(self.time)
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

    def mint(self, *nodes: str) -> None:
        """The leader's hierarchy is accepted."""
        self.apply(*minting(self.view, *nodes))

    def trust(self, *nodes: str) -> None:
        """These nodes trust it, and endorse it when they are voters."""
        for node in nodes:
            self.apply(*vouch(self.view, node))

    def switch(self, *nodes: str) -> None:
        """These nodes present it."""
        for node in nodes:
            self.apply("switched", self.pending().number, node)

    def amend(self, candidate: str = "") -> None:
        """The chain's voters are brought up to date, endorsed by all that must."""
        number = self.apply("amend", "x", candidate)
        head = self.view.head
        assert head is not None
        for node in head.content().voters:
            if self.view.amendment is not None:
                self.apply("amended", number, node, [key(head.content().generation, node), b"signature"])

    @property
    def rows(self) -> Rows:
        return self.replicas[0][1]

    @property
    def view(self) -> View:
        if self._viewed != (len(self.commands), self.time):
            self._viewed, self._view = (len(self.commands), self.time), View.read(self.rows, self.time)
        return self._view

    def pending(self) -> Generation:
        found = self.view.pending
        assert found is not None
        return found

    def head(self) -> Manifest:
        """The chain's newest manifest."""
        found = self.view.head
        assert found is not None
        return found.content()
