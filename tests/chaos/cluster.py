"""The cluster under test: hosts, volumes, nodes; who leads, and whether all is well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar

from tests.chaos.network import Network
from tests.chaos.nodes import PORT, NodeProcess, Refused, Silent
from tests.chaos.volumes import FaultyVolume, Volume
from tests.checkers.gaps import Loss
from tests.checkers.greylisting import Rules
from tests.helpers import eventually

T = TypeVar("T")

SMALL_MIB = 192
START_SECONDS = 180.0
SETTLE_SECONDS = 180.0
"""Far more than it takes: a busy machine decides no run."""
STATUS_SECONDS = 5.0
SNAPSHOT_SENT = " rows as of entry "
"""What a node logs when it has sent one."""
RULES = Rules(delay=4)
SETTINGS = {"delay": RULES.delay, "window": 6 * 3600, "life": 7 * 24 * 3600}


class Cluster:
    """`size` members and a spare host. Use as a context manager; entering starts all, leaving ends all. Root only.

    Not thread-safe.
    """

    def __init__(
        self,
        size: int,
        directory: Path,
        seed: int,
        *,
        faulty_disks: bool = True,
        load: bool = True,
        settings: Mapping[str, Any] = SETTINGS,
    ) -> None:
        """`load`: whether the recorded clients work on all nodes. `settings` are the greylist's."""
        self.seed = seed
        self._load, self._settings = load, settings
        self.random = Random(f"faults {seed}")
        self.losses: list[Loss] = []
        """Leaders that a fault has taken away."""
        self.writes_lost = 0
        """Writes that were not synced and went with the power."""
        self._directory = directory
        self._never = threading.Event()
        self._running = ExitStack()
        self.network = Network(size + 1, directory, seed)
        self.nodes: list[NodeProcess] = []
        """The members."""
        self.spare: NodeProcess | None = None
        self._volumes: Callable[[int], Volume] = lambda number: self._volume(number, size if faulty_disks else 0)

    def _volume(self, number: int, faulty: int) -> Volume:
        root = self._directory / f"mx{number}"
        if number > faulty:
            return Volume(root)
        return FaultyVolume(root, self.seed + number, SMALL_MIB if number == 2 else None)

    def __enter__(self) -> Cluster:
        with ExitStack() as starting:
            starting.enter_context(self.network)
            for number in self.network.numbers:
                node = NodeProcess(self.network, number, self._volumes(number), self._directory)
                starting.callback(node.close)
                self.nodes.append(node)
            self.spare = self.nodes.pop()
            self._start()
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def _start(self) -> None:
        first, *others = self.nodes
        first.launch()
        first.ask("init", first.address, PORT)
        first.open()
        self.retried(lambda: first.ask("configure", self._settings), "the settings")
        for node in others:
            self.admit(node)
        eventually(self.settled, START_SECONDS, "the cluster is complete")
        if self._load:
            for node in self.nodes:
                node.ask("load", self.seed)

    def admit(self, node: NodeProcess) -> None:
        """Have it join and open; returns when it votes."""
        token = self.retried(lambda: self.leader().ask("invite", node.name), "an invitation")
        node.launch()
        self.retried(lambda: node.ask("join", self.leader().address, token, node.address, PORT), f"{node.name} joins")
        node.open()
        eventually(lambda: node.id in self.voters(), START_SECONDS, f"{node.name} votes")

    def retried(self, act: Callable[[], T], what: str, seconds: float = START_SECONDS) -> T:
        """What an administrator does: when the cluster cannot do it now, ask again."""
        end = time.monotonic() + seconds
        while True:
            try:
                return act()
            except Refused as refused:
                if time.monotonic() > end:
                    raise AssertionError(f"{what}: not within {seconds} s, {refused}") from refused
                self.wait(0.05)

    def wait(self, seconds: float) -> None:
        """Let some time pass."""
        self._never.wait(seconds)

    # ---- what the nodes say

    def able(self) -> list[NodeProcess]:
        """The members that run and are not stopped."""
        return [node for node in self.nodes if node.running and not node.paused]

    def states(self) -> dict[int, dict[str, Any]]:
        """The status of all who answer, by number."""
        found = {}
        for node in self.able():
            try:
                found[node.number] = node.ask("status", timeout=STATUS_SECONDS)
            except (Refused, Silent):
                continue
        return found

    def leader(self) -> NodeProcess:
        """The leader of the newest term, once there is one."""

        def found() -> NodeProcess | None:
            states = self.states()
            leading = [(state["term"], number) for number, state in states.items() if state["role"] == "leader"]
            return next(node for node in self.nodes if node.number == max(leading)[1]) if leading else None

        node = eventually(found, SETTLE_SECONDS, "a leader")
        assert node is not None
        return node

    def voters(self) -> set[str]:
        """The ids of the voters, as the leader has them; empty when there is none now."""
        return {voter for state in self.states().values() if state["role"] == "leader" for voter in state["voters"]}

    def settled(self) -> bool:
        """All members run and agree: one leader, everything applied, no certificates on their way."""
        if len(self.able()) < len(self.nodes):
            return False
        try:
            states = [node.ask("settled", timeout=STATUS_SECONDS) for node in self.nodes]
        except (Refused, Silent):
            return False
        leader, last, applied, stable = states[0]
        return leader is not None and last == applied and stable and all(state == states[0] for state in states)

    def recover(self) -> float:
        """Wait until every member that runs can answer for the cluster; how long that took."""
        began = time.monotonic()
        for node in self.able():
            self.retried(partial(node.ask, "ready"), f"{node.name} answers again", SETTLE_SECONDS)
        return time.monotonic() - began

    def snapshots_sent(self) -> int:
        """How many snapshots the nodes say that they have sent, since the beginning."""
        return sum(path.read_text().count(SNAPSHOT_SENT) for path in self._directory.glob("mx*.log"))

    # ---- what faults need

    def target(self) -> NodeProcess:
        """The leader or any member."""
        return self.leader() if self.random.random() < 0.6 else self.random.choice(self.nodes)

    def disk(self, small: bool = False) -> tuple[NodeProcess, FaultyVolume]:
        """A member whose disk can have faults, made the leader half of the time."""
        found = [(node, node.volume) for node in self.nodes if isinstance(node.volume, FaultyVolume)]
        node, volume = self.random.choice([(node, volume) for node, volume in found if volume.small or not small])
        if self.random.random() < 0.5:
            self.lead(node)
        return node, volume

    def lead(self, node: NodeProcess) -> None:
        """Make it the leader."""
        if self.leader() is not node:
            self.retried(lambda: self.leader().ask("transfer", node.id), f"{node.name} leads")

    def losing(self, node: NodeProcess, what: str) -> None:
        """Note that a fault is about to take this node away from the others."""
        if self.leader() is node:
            self.losses.append(Loss(time.monotonic(), f"{what} of {node.name}"))
