"""`./run bench --counted`: what 1,000 checks cost in counted work, by number of nodes and of checks in flight.

Counts hardly move with the machine's speed, and do not care what else runs: entries, fsyncs, messages, bytes. All nodes are in
this process, as in the test that holds the same counts against recorded bounds.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from tempfile import TemporaryDirectory
from typing import Final

from raftcluster.errors import RaftclusterError
from raftcluster.greylist.verdict import Verdict
from raftcluster.transport.link import Link
from tests.clusters import Cluster
from tests.helpers import eventually

ATTEMPTS: Final = 5
"""A slow machine may cost the leader its reign; what an election costs is not what is counted here."""
SIZES: Final = (1, 3, 5, 7)
IN_FLIGHT: Final = {1: 200, 8: 800, 64: 3_000, 256: 6_000, 1024: 20_000}
"""In flight -> checks that are counted."""


class Sent:
    """What the links of this process have sent."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Links count while it is open."""
        send = Link.send

        def counted(link: Link, frame: bytes) -> bool:
            self.counts["messages"] += 1
            self.counts["bytes"] += len(frame)
            return send(link, frame)

        Link.send = counted  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Link.send = send  # type: ignore[method-assign]


def count(cluster: Cluster, sent: Sent, checks: int, in_flight: int) -> dict[str, float]:
    """Per 1,000 checks, after some to warm up. AssertionError when the leader changes in each of `ATTEMPTS` runs."""
    nodes = list(cluster.nodes.values())
    for attempt in ascii_lowercase[:ATTEMPTS]:
        warm = run(cluster, checks // 10, in_flight, f"warm{attempt}")
        before, sent_before, term = standing(cluster), sent.counts.copy(), nodes[0].status()["term"]
        decided = run(cluster, checks, in_flight, f"counted{attempt}")
        after = standing(cluster)
        if warm and decided and nodes[0].status()["term"] == term:
            break
    else:
        raise AssertionError(f"the leader changed in each of {ATTEMPTS} runs")
    kept = [entry for entry, index, _ in nodes[0]._runtime.replica.journal.entries if index > before["entries"]]
    entries, thousands = after["entries"] - before["entries"], checks / 1000
    return {
        "log entries": entries / thousands,
        "log commits of a node": (after["log"] - before["log"]) / len(nodes) / thousands,
        "table commits of a node": (after["tables"] - before["tables"]) / len(nodes) / thousands,
        "messages": (sent.counts["messages"] - sent_before["messages"]) / thousands,
        "kilobytes on the links": (sent.counts["bytes"] - sent_before["bytes"]) / 1000 / thousands,
        "kilobytes in the log": sum(map(len, kept)) * entries / max(1, len(kept)) / 1000 / thousands,
    }


def run(cluster: Cluster, checks: int, in_flight: int, name: str) -> bool:
    """A closed loop over all nodes; whether all were decided by the cluster."""
    answered: queue.SimpleQueue[tuple[int, Verdict | None, RaftclusterError | None]] = queue.SimpleQueue()
    nodes = list(cluster.nodes.values())
    step = max(in_flight // len(nodes) * len(nodes), in_flight)

    def ask(number: int) -> None:
        callback = partial(tell, number)
        nodes[number % len(nodes)].greylist.submit(
            callback,
            client="192.0.2.7",
            sender=f"{name}{number}x@example.com",
            recipient="r@example.net",
            deadline=10.0,
        )

    def tell(number: int, verdict: Verdict | None, error: RaftclusterError | None) -> None:
        answered.put((number, verdict, error))
        if (following := number + step) < checks:
            ask(following)

    for number in range(min(step, checks)):
        ask(number)
    told = [answered.get(timeout=60) for _ in range(checks)]
    return all(verdict is not None and verdict.reason == "new" for _, verdict, _ in told)


def standing(cluster: Cluster) -> dict[str, int]:
    """Entries, and durable transactions of all nodes so far, when all have applied the same."""

    def settled() -> bool:
        return len({node.status()["applied_index"] for node in cluster.nodes.values()}) == 1

    eventually(settled, what="all have applied the same")
    found = {"entries": cluster.nodes[0].status()["last_index"], "log": 0, "tables": 0}
    for node in cluster.nodes.values():
        found["log"] += node._log._place.sequence
        found["tables"] += node._store._env._env.info()["last_txnid"]
    return found


def show(directory: Path) -> None:
    """Count and print all."""
    print(
        f"{'per 1,000 checks':>16}{'in flight':>10}{'entries':>9}{'fsyncs a node':>15}{'messages':>10}{'kB sent':>9}{'kB in log':>10}"
    )
    sent = Sent()
    with sent.counting():
        for size in SIZES:
            with TemporaryDirectory(dir=directory) as folder, Cluster(Path(folder), size, list) as cluster:
                for in_flight, checks in IN_FLIGHT.items():
                    found = count(cluster, sent, checks, in_flight)
                    fsyncs = found["log commits of a node"] + found["table commits of a node"]
                    print(
                        f"{f'{size} nodes':>16}{in_flight:>10}{found['log entries']:>9.1f}{fsyncs:>15.1f}"
                        f"{found['messages']:>10.0f}{found['kilobytes on the links']:>9.0f}{found['kilobytes in the log']:>10.0f}",
                        flush=True,
                    )
