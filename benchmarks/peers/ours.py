"""This library: three node processes on loopback, mutual TLS between them, every process with embedded callers."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import raftcluster
from benchmarks.caller import NO_CHECKPOINTS
from benchmarks.caller import WORKERS as SOCKET
from benchmarks.load import IN_FLIGHT, Meter, Row, Sample, Window, quantile, quantiles
from benchmarks.peers import client
from raftcluster import limits
from tests.children import Child
from tests.helpers import eventually, free_ports
from tests.policy_client import PolicyClient

NODES = 3
POLICY_LEVELS = (1, 8, 64)
WORKER_LEVELS = (64, 256)
WORKERS = {1: 4, NODES: 6}
"""Worker processes, by how many nodes they ask."""
START_SECONDS = 30.0
SLACK_SECONDS = 30.0
FILL_SECONDS = 300.0
"""A million triplets."""
_asked = count()


class Place(NamedTuple):
    """A node's policy server."""

    name: str
    policy: str


class Ours:
    """A `Peer` (benchmarks/load.py). Not thread-safe."""

    name = "ours"

    def __init__(self, directory: Path, nodes: int = NODES) -> None:
        self.directory = directory
        self._nodes = nodes
        self._children: list[Child] = []
        self._patience = START_SECONDS

    def start(self) -> None:
        self.directory.mkdir(parents=True)
        client.build()
        self._policy = [f"127.0.0.1:{port}" for port in free_ports(self._nodes)]
        names = [f"node{number}" for number in range(self._nodes)]
        addresses = [("127.0.0.1", port) for port in free_ports(self._nodes)]
        self._first = addresses[0]
        for name, address in zip(names, addresses, strict=True):
            if name == names[0]:
                raftcluster.init(self.directory / name, cluster="benchmark", node=name, listen=address)
            else:
                token = self._ask(self._children[0], "invite", name)
                raftcluster.join(self.directory / name, address=self._first, token=token, node=name, listen=address)
            self._open(name)
        eventually(self._complete, START_SECONDS, "all nodes vote and know the leader")

    def _open(self, name: str) -> None:
        self._children.append(self._launch(name, self._policy[len(self._children)]))

    def _launch(self, name: str, policy: str, *, checkpoints: bool = True) -> Child:
        command = [sys.executable, "-m", "benchmarks.caller", str(self.directory / name), f"inet:{policy}"]
        command += [] if checkpoints else [NO_CHECKPOINTS]
        child = Child(name, command, self.directory / f"{name}.log", pipes=True)
        assert json.loads(child.line(self._patience)) == "open"
        return child

    def _ask(self, child: Child, *request: object) -> Any:
        child.alive()
        child.tell(json.dumps(request))
        return json.loads(child.line(SLACK_SECONDS))

    def _complete(self) -> bool:
        states = [self._ask(child, "status") for child in self._children]
        return all(len(state["voters"]) == self._nodes and state["leader"] for state in states)

    def stop(self) -> None:
        for child in self._children:
            child.stop()
        self._children = []

    # ---- what `scale` asks for

    def measure(self, window: Window) -> Sample:
        """Embedded callers on all nodes."""
        return self._measure(window)

    def servers(self) -> dict[str, psutil.Process]:
        return {child.name: child.counters for child in self._children}

    def fill(self, triplets: int) -> None:
        self._children[0].tell(json.dumps(["fill", triplets]))
        many = max(1.0, triplets / 1e6)
        assert json.loads(self._children[0].line(FILL_SECONDS * many)) == triplets
        self._patience = START_SECONDS * many

    def restart(self) -> float:
        """Kill a follower; the seconds from its new process's start to its first answer that is the cluster's."""
        leader = self._leader()
        return self._revive(next(number for number in range(self._nodes) if number != leader))

    def gap(self) -> float:
        """Kill the leader; the seconds to the first answer at another node that was asked afterwards. All is well again then."""
        leader = self._leader()
        other = self._policy[(leader + 1) % self._nodes]
        with PolicyClient(f"inet:{other}") as client:
            begun = time.monotonic()
            self._children[leader].kill()
            _decided(client)
            taken = time.monotonic() - begun
        self._revive(leader, killed=True)
        eventually(self._complete, START_SECONDS, "all nodes vote and know the leader")
        return taken

    def grow(self) -> float:
        """One more node; the seconds from its process's start until it votes, and so has all."""
        number = self._nodes
        name, address = f"node{number}", ("127.0.0.1", free_ports(1)[0])
        token = self._ask(self._children[0], "invite", name)
        raftcluster.join(self.directory / name, address=self._first, token=token, node=name, listen=address)
        self._policy.append(f"127.0.0.1:{free_ports(1)[0]}")
        begun = time.monotonic()
        self._open(name)
        self._nodes += 1
        eventually(self._complete, self._patience, f"{name} votes")
        return time.monotonic() - begun

    def reopen(self, *, checkpoints: bool) -> None:
        """All nodes anew, with what they hold; without checkpoints, what they are told stays in memory and in the log."""
        for child in self._children:
            child.stop()
        opened = zip(self._children, self._policy, strict=True)
        self._children = [self._launch(child.name, policy, checkpoints=checkpoints) for child, policy in opened]
        eventually(self._complete, self._patience, "all nodes vote and know the leader")

    def places(self) -> list[Place]:
        """The policy servers."""
        return [Place(child.name, f"inet:{policy}") for child, policy in zip(self._children, self._policy, strict=True)]

    def _leader(self) -> int:
        states = [self._ask(child, "status") for child in self._children]
        return next(number for number, state in enumerate(states) if state["leader"] == state["id"])

    def _revive(self, number: int, killed: bool = False) -> float:
        if not killed:
            self._children[number].kill()
        begun = time.monotonic()
        self._children[number] = self._launch(self._children[number].name, self._policy[number])
        with PolicyClient(f"inet:{self._policy[number]}") as client:
            _decided(client)
        return time.monotonic() - begun

    # ---- the suite

    def rows(self) -> Sequence[Row]:
        def policy(nodes: int) -> Callable[[Window], Sample]:
            return lambda window: self._over_policy(window, self._policy[:nodes])

        def workers(nodes: int) -> Callable[[Window], Sample]:
            return lambda window: self._over_sockets(window, nodes)

        return [
            Row("ours", "ours, embedded callers on all nodes", IN_FLIGHT, self._measure),
            Row("workers: 4 processes at one node", "ours, worker socket of one node", WORKER_LEVELS, workers(1)),
            Row("workers: 2 processes at each node", "ours, worker sockets of all", WORKER_LEVELS, workers(NODES)),
            Row("policy: ours, one of 3 nodes asked", "ours, policy server of one node", POLICY_LEVELS, policy(1)),
            Row("policy: ours, all 3 nodes asked", "ours, policy servers of all", POLICY_LEVELS, policy(NODES)),
        ]

    def _over_sockets(self, window: Window, nodes: int) -> Sample:
        """Worker processes that live as long as the cell: they disturb no other one."""
        workers: list[Child] = []
        try:
            for number in range(WORKERS[nodes]):
                name, node = f"worker{number}", f"node{number % nodes}"
                command = [sys.executable, "-m", "benchmarks.caller", str(self.directory / node / SOCKET)]
                workers.append(Child(name, command, self.directory / f"{name}.log", pipes=True))
            for worker in workers:
                assert json.loads(worker.line(START_SECONDS)) == "open"
            whole, rest = divmod(window.in_flight, len(workers))
            return self._run(window, [[whole + (number < rest) for number in range(len(workers))]], workers)
        finally:
            for worker in workers:
                worker.stop()

    def _over_policy(self, window: Window, addresses: Sequence[str]) -> Sample:
        servers = {child.name: child.counters for child in self._children if child.alive()}
        return client.measure(window, "policy", "inet", addresses, servers, self.directory / "client.log")

    def _measure(self, window: Window) -> Sample:
        """One in flight is tried at each node for a third of the time: it is another distance from each."""
        nodes = self._nodes
        if window.in_flight >= nodes:
            whole, rest = divmod(window.in_flight, nodes)
            return self._run(window, [[whole + (number < rest) for number in range(nodes)]])
        return self._run(window, [[int(number == turn) for number in range(nodes)] for turn in range(nodes)])

    def _run(self, window: Window, turns: Sequence[Sequence[int]], workers: Sequence[Child] = ()) -> Sample:
        """What the nodes' own callers come to, or these workers; `turns` say how many checks each has in flight."""
        checks, seconds, errors, written = 0, 0.0, 0, 0
        latencies: Counter[float] = Counter()
        cpu: Counter[str] = Counter()
        detail: dict[str, Any] = {}
        for turn in turns:
            callers = [(child, share) for child, share in zip(workers or self._children, turn, strict=True) if share]
            for child, share in callers:
                child.alive()
                plan = [
                    "run",
                    share,
                    window.seconds / len(turns),
                    window.warm_up,
                    f"{window.name}-{child.name}",
                    window.mix,
                ]
                child.tell(json.dumps(plan))
            self._expect(callers, "begin", window.warm_up)
            meter = Meter({child.name: child.counters for child in [*self._children, *workers]})
            self._expect(callers, "end", window.seconds)
            spent, bytes_written = meter.read()
            cpu.update(spent)
            written += bytes_written or 0
            results = {child.name: json.loads(child.line(SLACK_SECONDS)) for child, _ in callers}
            seconds += max(result["seconds"] for result in results.values())
            for name, result in results.items():
                checks += result["checks"]
                errors += sum(result["errors"].values())
                mine = Counter(dict(result["microseconds"]))
                latencies.update(mine)
                detail[name] = {"checks": result["checks"], "p50_ms": quantile(mine, 0.5), "errors": result["errors"]}
        return Sample(
            checks=checks,
            seconds=seconds,
            **quantiles(latencies),
            errors=errors,
            cpu_seconds=dict(cpu),
            written_bytes=written or None,
            detail=detail,
        )

    def _expect(self, callers: Sequence[tuple[Child, int]], word: str, seconds: float) -> None:
        for child, _ in callers:
            said = json.loads(child.line(SLACK_SECONDS + seconds))
            assert said == word, f"{child.name} said {said!r} instead of {word!r}"

    def describe(self) -> dict[str, Any]:
        return {
            "nodes": self._nodes,
            "tls": "mutual, TLS 1.3 between nodes; callers are embedded and need none",
            "durability": "default: fsync on a majority before any answer",
            "callers": "embedded, closed loop, node.greylist.submit, in all three node processes in equal shares "
            "(one in flight: at each node for a third of the time)",
            "limits": {
                name: getattr(limits, name)
                for name in (
                    "ENTRY_BYTES",
                    "ENTRY_OPERATIONS",
                    "ENTRIES_IN_FLIGHT",
                    "CHECKPOINT_SECONDS",
                    "CHECKPOINT_KEYS",
                )
            },
        }


def _decided(client: PolicyClient) -> None:
    """Ask until the cluster decides: what is answered without it does not count."""

    def is_decided() -> bool:
        number = next(_asked)
        asked = {"sender": f"asked{number}x@sender.example", "instance": f"asked{number}"}
        return "Greylisted" in client.ask(client_address="192.0.2.7", recipient="r@example.org", **asked)

    eventually(is_decided, START_SECONDS, "a check is decided")
