"""Real clusters inside the test's process: real threads, TLS, LMDB; nodes that can be stopped, killed softly, restarted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import raftcluster
from raftcluster import Node
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Unavailable
from raftcluster.machine import StateMachine
from tests.helpers import eventually, free_ports

SECONDS = 60.0


def joined(path: Path, **how: Any) -> None:
    """Have a node join, with the same token and directory as often as the cluster does not answer in time."""

    def attempt() -> bool:
        try:
            raftcluster.join(path, **how)
        except (Unavailable, OutcomeUnknown):
            return False
        return True

    eventually(attempt, SECONDS, f"{path.name} is let in")


class Cluster:
    """`nodes` are open unless they were stopped. Use as a context manager."""

    def __init__(self, directory: Path, size: int, machines: Callable[[], Sequence[StateMachine]] = list) -> None:
        self._directory, self._machines = directory, machines
        self.ports = free_ports(size)
        self.nodes: dict[int, Node] = {}
        where = ("127.0.0.1", self.ports[0])
        raftcluster.init(self.path(0), cluster="test", node="mx0", listen=where, lab=True)
        self.start(0)
        for number in range(1, size):
            token = eventually(self._invite(number), SECONDS, "an invitation")
            joined(
                self.path(number),
                address=where,
                token=token,
                node=f"mx{number}",
                listen=("127.0.0.1", self.ports[number]),
                machines=machines(),
            )
            self.start(number)
            eventually(lambda n=number: len(self.nodes[0].status()["voters"]) == n + 1, SECONDS, f"mx{number} votes")  # type: ignore[misc]
        eventually(self.settled, SECONDS, "one generation everywhere")

    def _invite(self, number: int) -> Callable[[], str]:
        def invite() -> str:
            try:
                return str(self.nodes[0].members.invite(f"mx{number}"))
            except RaftclusterError:
                return ""

        return invite

    def settled(self) -> bool:
        """All have applied all, know their leader and have no certificate work left."""
        try:
            states = [node.status() for node in self.nodes.values()]
            return (
                len({state["leader"] for state in states}) == 1
                and states[0]["leader"] is not None
                and len({state["applied_index"] for state in states}) == 1
                and all(node.certs.show().pending is None for node in self.nodes.values())
            )
        except RaftclusterError:
            return False

    def path(self, number: int) -> Path:
        return self._directory / f"node{number}"

    def start(self, number: int, **settings: Any) -> Node:
        node = Node.open(self.path(number), machines=self._machines(), **{"ready_seconds": SECONDS, **settings})
        self.nodes[number] = node
        return node

    def stop(self, number: int) -> None:
        self.nodes.pop(number).close()

    def leader(self) -> int:
        """The number of the node that leads, once all open ones agree."""

        def agreed() -> list[int]:
            leaders = {node.status()["leader"] for node in self.nodes.values()}
            return [number for number, node in self.nodes.items() if leaders == {node.id}]

        return eventually(agreed, SECONDS, "a leader that all know")[0]

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.close()
