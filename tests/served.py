"""Clusters of real `raftcluster serve` processes on the loopback, as an init system would run them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

import raftcluster
from raftcluster import limits
from raftcluster.control.client import Client
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Rejected, Unavailable
from tests.checkout import ROOT
from tests.children import Child
from tests.clusters import joined
from tests.helpers import eventually, free_ports

T = TypeVar("T")

SECONDS = 60.0
NEAR_ENTRIES = 50
PRODUCT = "raftcluster/0.1"
PREPARED = (
    "import sys, raftcluster.cli.serve, raftcluster.service, raftcluster.cli.main as cli; "
    "print('ready', flush=True); sys.stdin.readline(); cli.main(prog_name='raftcluster')"
)
"""What a process runs whose start shall not be measured: the command, once it is told to go on."""


class Served:
    """One node; its directory and its log (`NAME.log`) are in `folder`. Not thread-safe, but for `client` and `policy`."""

    deadline: float = limits.CALL_SECONDS
    """Within which its policy server answers, in seconds."""

    def __init__(self, name: str, folder: Path, port: int, policy_port: int) -> None:
        self.name, self.directory = name, folder / name
        self.place = ("127.0.0.1", port)
        self.policy = f"inet:127.0.0.1:{policy_port}"
        self.code: Path = ROOT
        """Where the version lies that it runs from its next start on."""
        self.client = Client(self.directory / "control.sock", timeout=SECONDS)
        self._child: Child | None = None
        self._prepared: Child | None = None

    def init(self, **options: Any) -> None:
        raftcluster.init(self.directory, cluster="test", node=self.name, listen=self.place, product=PRODUCT, **options)

    def join(self, member: Served) -> None:
        """Have `member` let it in; it does not run yet."""
        token = retried(lambda: str(member.client.members.invite(self.name)["token"]), "an invitation")
        how = {"address": member.place, "token": token, "node": self.name, "listen": self.place, "product": PRODUCT}
        joined(self.directory, **how)

    def command(self) -> list[str]:
        """What is launched."""
        return [
            sys.executable,
            "-P",
            "-m",
            "raftcluster.cli",
            "-C",
            str(self.directory),
            "serve",
            "--policy",
            self.policy,
            "--deadline",
            f"{self.deadline:g}s",
        ]

    def prepare(self) -> None:
        """Start its program, which imports everything and then waits for `launch`; returns when it waits."""
        arguments = [sys.executable, "-P", "-c", PREPARED, *self.command()[4:]]
        log = self.directory.with_suffix(".log")
        self._prepared = Child(self.name, arguments, log, env={**os.environ, "PYTHONPATH": str(self.code)}, pipes=True)
        assert self._prepared.line(SECONDS) == "ready"

    def launch(self) -> None:
        if self._prepared is not None:
            self._child, self._prepared = self._prepared, None
            self._child.tell("go")
            return
        log = self.directory.with_suffix(".log")
        self._child = Child(self.name, self.command(), log, env={**os.environ, "PYTHONPATH": str(self.code)})

    def start(self) -> None:
        """Launch it; returns when it has its policy server, which waits for a leader, but not for long."""
        self.launch()
        eventually(self._serves, SECONDS, f"{self.name} serves")

    def _serves(self) -> bool:
        assert self._child is not None and self._child.alive()
        with suppress(RaftclusterError):
            return bool(self.client.status()["policy"])
        return False

    @property
    def child(self) -> Child:
        assert self._child is not None, f"{self.name} was never started"
        return self._child

    @property
    def pid(self) -> int:
        return self.child.process.pid

    def pause(self) -> None:
        """SIGSTOP; returns when the kernel says that it stands still."""
        self._signal(signal.SIGSTOP, True)

    def resume(self) -> None:
        self._signal(signal.SIGCONT, False)

    def _signal(self, number: signal.Signals, stopped: bool) -> None:
        process = psutil.Process(self.pid)
        process.send_signal(number)
        eventually(lambda: (process.status() == psutil.STATUS_STOPPED) is stopped, SECONDS, number.name)

    def kill(self) -> None:
        self.child.kill()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        return self.child.stop(SECONDS)

    def log(self) -> str:
        """All that it has logged."""
        return self.directory.with_suffix(".log").read_text()


class Patient(Served):
    """Of whom no check is answered without the cluster because the machine is slow: an election takes less than this everywhere."""

    deadline = 30.0


class Cluster:
    """`nodes` run unless they were ended. Use as a context manager; leaving kills what runs."""

    def __init__(self, folder: Path, size: int, kind: type[Served] = Served, **options: Any) -> None:
        """A cluster of one with room for `size`; see `grow`. `options` are those of `raftcluster.init`."""
        ports = free_ports(2 * size)
        self._rooms = [kind(f"mx{n + 1}", folder, ports[2 * n], ports[2 * n + 1]) for n in range(size)]
        self.nodes = [self._rooms[0]]
        self.nodes[0].init(**options)
        self.nodes[0].start()

    def coming(self) -> Served:
        """The one that `admit` takes next."""
        return self._rooms[len(self.nodes)]

    def admit(self) -> Served:
        """One more node joins and starts."""
        node = self.coming()
        node.join(self.nodes[0])
        self.nodes.append(node)
        node.start()
        return node

    def forget(self, node: Served) -> None:
        """It is no member any more: end it, and use neither it nor its directory again."""
        node.kill()
        self.nodes.remove(node)
        self._rooms.remove(node)

    def grow(self) -> Served:
        """One more node joins and starts; returns when it votes."""
        node = self.admit()
        eventually(lambda: len(self.voters()) == len(self.nodes), SECONDS, f"{node.name} votes")
        return node

    def voters(self) -> list[str]:
        """As the first node knows them."""
        return list(self.nodes[0].client.status()["voters"])

    def leader(self) -> Served:
        """The one that all nodes that answer take for the leader, once they agree and it is among them."""

        def agreed() -> list[Served]:
            states = {}
            for node in self.nodes:
                with suppress(RaftclusterError):
                    states[node.name] = node.client.status()
            leaders = {state["leader"] for state in states.values()}
            return [node for node in self.nodes if node.name in states and leaders == {states[node.name]["id"]}]

        return eventually(agreed, SECONDS, "a leader that all know")[0]

    def alike(self) -> bool:
        """All nodes have the same greylist settings."""
        with suppress(RaftclusterError):
            found = [node.client.greylist.settings() for node in self.nodes]
            return all(each == found[0] for each in found)
        return False

    def settled(self) -> bool:
        """One leader everywhere, everything applied everywhere, no certificates on their way."""
        try:
            states = [node.client.status() for node in self.nodes]
            pending = [node.client.certs.show()["pending"] for node in self.nodes]
        except RaftclusterError:
            return False
        agreed = {(state["leader"], state["last_index"], state["applied_index"]) for state in states}
        return len(agreed) == 1 and states[0]["leader"] is not None and pending == [None] * len(pending)

    def settled_but_for_load(self) -> bool:
        """One leader everywhere, and nobody is far behind."""
        try:
            states = [node.client.status() for node in self.nodes]
        except RaftclusterError:
            return False
        applied = [state["applied_index"] for state in states]
        leaders = {state["leader"] for state in states}
        return len(leaders) == 1 and states[0]["leader"] is not None and max(applied) - min(applied) <= NEAR_ENTRIES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            if node._child is not None:
                node.kill()


def retried(act: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """What an administrator does: when the cluster cannot do it now, ask again."""
    end = time.monotonic() + seconds
    while True:
        try:
            return act()
        except (Unavailable, OutcomeUnknown, Rejected) as error:
            last = f"{what}: {error}"
        assert time.monotonic() < end, last
