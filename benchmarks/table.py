"""`./run bench --table`: what clean-up and statistics cost a check's caller when the table holds a million triplets.

One durable node in this process, a closed loop of checks. Phases take turns, so that each meets the same machine: nothing
else; statistics and explanations asked for ten times a second; tens of thousands of triplets that expire at once. Figures are of all answers within a phase's turns; a turn's first second does not count.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import raftcluster
from benchmarks.filling import DAY_MS, bring, cluster_now
from raftcluster import Node, Verdict
from raftcluster.errors import RaftclusterError
from tests.helpers import eventually, free_ports

IN_FLIGHT: Final = 64
ROUNDS: Final = 3
SETTLE_SECONDS: Final = 1.0
ALLOWED: Final = 1.5
AHEAD_SECONDS: Final = 60.0  # for bringing in what is to expire
ASK_SECONDS: Final = 0.1
MINUTE_MS: Final = 60_000


class Load:
    """Checks of new triplets, `IN_FLIGHT` at a time."""

    def __init__(self, node: Node) -> None:
        self._node, self._number = node, count()
        self._took: list[float] = []
        self._from = float("inf")
        self._going = True
        self._out: SimpleQueue[None] = SimpleQueue()
        self.errors = 0
        for _ in range(IN_FLIGHT):
            self._ask()

    def measure(self, seconds: float) -> list[float]:
        """What the answers of so many seconds took, in seconds."""
        self._took, self._from = [], time.monotonic() + SETTLE_SECONDS
        threading.Event().wait(SETTLE_SECONDS + seconds)
        took, self._took, self._from = self._took, [], float("inf")
        return took

    def stop(self) -> None:
        """Wait for what is under way."""
        self._going = False
        for _ in range(IN_FLIGHT):
            self._out.get(timeout=30)

    def _ask(self) -> None:
        number, began = next(self._number), time.monotonic()

        def told(verdict: Verdict | None, error: RaftclusterError | None) -> None:
            now = time.monotonic()
            if verdict is None or verdict.reason != "new":
                self.errors += 1
            if began >= self._from:
                self._took.append(now - began)
            if self._going:
                self._ask()
            else:
                self._out.put(None)

        client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.7"
        self._node.greylist.submit(told, client=client, sender=f"s{number}x@example.net", recipient="r@example.org")


def run(directory: Path, triplets: int, seconds: float) -> int:
    """Measure and print; 1 when a phase moves the 99th percentile by more than `ALLOWED`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    listen = ("127.0.0.1", free_ports(1)[0])
    raftcluster.init(directory / "node", cluster="table", node="mx1", listen=listen, lab=True)
    with Node.open(directory / "node") as node:
        took = _phases(node, triplets, seconds)
    shutil.rmtree(directory)
    base = _percentile(took["nothing else"], 0.99)
    print(f"{'phase':34} {'answers':>8} {'per s':>7} {'median':>9} {'p99':>9} {'p99 / nothing else':>19}")
    for phase, each in took.items():
        p99 = _percentile(each, 0.99)
        print(
            f"{phase:34} {len(each):8} {len(each) / seconds / ROUNDS:7.0f} {_percentile(each, 0.5) * 1000:6.2f} ms "
            f"{p99 * 1000:6.2f} ms {p99 / base:19.2f}"
        )
    return int(any(_percentile(each, 0.99) > ALLOWED * base for each in took.values()))


def _phases(node: Node, triplets: int, seconds: float) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {"nothing else": [], "statistics, explanations": [], "triplets expire": []}
    burst = triplets // 4 // ROUNDS
    began = time.monotonic()
    bring(node, 0, triplets - burst * ROUNDS, cluster_now(node) + DAY_MS)
    held = node.greylist.stats()["records"]
    print(f"{held} triplets were brought in within {time.monotonic() - began:.0f} s, {burst} more come in each turn")
    load = Load(node)
    for turn in range(ROUNDS):
        due = (cluster_now(node) + round(AHEAD_SECONDS + 2 * (seconds + SETTLE_SECONDS)) * 1000) // MINUTE_MS + 1
        bring(node, triplets * (turn + 1), burst, due * MINUTE_MS - 1)
        before = _cleaned(node)
        took["nothing else"] += load.measure(seconds)
        with _asking(node):
            took["statistics, explanations"] += load.measure(seconds)
        if (early := due * MINUTE_MS - cluster_now(node)) < 0:
            raise RuntimeError(f"this machine is too slow: the triplets expired {-early / 1000:.0f} s too early")
        eventually(lambda: cluster_now(node) >= due * MINUTE_MS, 120, "triplets expire")  # noqa: B023
        began_at = _cleaned(node)
        took["triplets expire"] += load.measure(seconds)
        meanwhile = _cleaned(node) - began_at
        eventually(lambda: _cleaned(node) - before >= burst, 300, "all is cleaned up")  # noqa: B023
        print(f"turn {turn + 1}: {meanwhile} of {burst} triplets were cleaned up while checks were measured")
    load.stop()
    if load.errors:
        raise RuntimeError(f"{load.errors} checks were not told that they are new")
    return took


def _cleaned(node: Node) -> int:
    """Grows by what is cleaned up: checks that were deferred, each of which made a record, less the records that there are."""
    stats = node.greylist.stats()
    return int(sum(each["deferred"] for each in stats["nodes"].values()) - stats["records"])


@contextmanager
def _asking(node: Node) -> Iterator[None]:
    """What monitoring and administrators ask, every tenth of a second."""
    ending = threading.Event()
    mail: dict[str, Any] = {"client": "192.0.2.7", "sender": "s1@example.net", "recipient": "r@example.org"}

    def ask() -> None:
        while not ending.wait(ASK_SECONDS):
            node.greylist.stats()
            node.greylist.explain(**mail)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
