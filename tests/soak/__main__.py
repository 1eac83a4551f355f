"""Three real nodes under moderate load for hours: is what they hold flat? Needs no root.

    ./run soak [--hours 2] [--checks 50] [--json FILE]
    ./run soak --virtual 24 [--seed N]        the same question to the simulation, in minutes; see `virtual`

The greylist's lives are short, so that records expire as fast as they come. Every so often a node stands still until only
a snapshot can help it -- each in its turn, the leader too -- and the certificates are replaced. Sampled: private memory,
descriptors, threads, LMDB's maps and files, the log's length, the number of records. The last quarter is compared with
the second, within the bounds of `growth.BOUNDS`. Exit code 1 when something has grown, when a stranger passed, or when
snapshots and rotations did not take place.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from raftcluster import limits
from raftcluster.errors import RaftclusterError
from tests.helpers import eventually
from tests.served import Cluster, Served, retried
from tests.soak import growth
from tests.soak.load import SETTINGS, Load, Warming
from tests.soak.virtual import virtual

NODES = 3
ROTATIONS = 12
"""In the whole run: every 10 minutes of two hours."""
PAUSES = 24
CONNECTIONS = 3
"""To each node, under load."""
WARMERS = 2
"""The same while the ring is filled. Few, so that they do not share log entries: such take less memory."""
STEADY = 0.1
"""By how much the load of the last quarter may differ from the second one's; else the run proves nothing."""
SAMPLES = 720
REPORT_SAMPLES = 30
PAUSE_SECONDS = 120.0
"""Within which the others have cut their logs behind a node that stands still."""
UNDER_WAY = 50
"""Entries that a node may still have got between its last word and its stop."""
SETTLE_SECONDS = 120.0
SNAPSHOT_SENT = " rows as of entry "


class Soak:
    """One run."""

    def __init__(self, cluster: Cluster, seconds: float, per_second: float) -> None:
        self._cluster, self._seconds = cluster, seconds
        each = per_second / (NODES * CONNECTIONS)
        self.loads = [Load(node, number, each) for node in cluster.nodes for number in range(CONNECTIONS)]
        self.samples: defaultdict[str, list[growth.Sample]] = defaultdict(list)
        self.events: Counter[str] = Counter()
        self._clock = threading.Event()
        self._began = 0.0

    def run(self) -> None:
        """Load, samples and events, in the one thread but for the loads."""
        for load in self.loads:
            load.start()
        self._began = time.monotonic()
        every = self._seconds / SAMPLES
        rotations, pauses = self._seconds / ROTATIONS, self._seconds / PAUSES
        for number in range(1, SAMPLES + 1):
            self._clock.wait(max(0.0, self._began + number * every - time.monotonic()))
            self._sample()
            if number % REPORT_SAMPLES == 0:
                self._report()
            if number * every // pauses > (number - 1) * every // pauses:
                self._stand_still(self._cluster.nodes[self.events["pauses"] % NODES])
            elif (number - 1) * every // rotations > (number - 2) * every // rotations:  # one sample later
                self._rotate()
        for load in self.loads:
            load.end()
        for load in self.loads:
            load.join()
        eventually(self._cluster.settled, SETTLE_SECONDS, "all nodes agree in the end")

    def _sample(self) -> None:
        asked = sum(load.asked for load in self.loads)
        for node in self._cluster.nodes:
            assert node.child.alive()
            row = {**growth.measured(node.pid, node.directory), "asked": asked}
            try:
                status, stats = node.client.status(), node.client.greylist.stats()
                row |= {"log entries": status["log_entries"], "records": stats["records"]}
            except RaftclusterError as error:
                self.events[f"no status: {error.code}"] += 1
            self.samples[node.name].append({"at": time.monotonic() - self._began, **row})

    def _report(self) -> None:
        asked: Counter[str] = sum((load.counts for load in self.loads), Counter())
        for name, rows in self.samples.items():
            row = rows[-1]
            text = ", ".join(f"{q} {row[q] / (1024 if row[q] > 1e6 else 1):,.0f}" for q in growth.BOUNDS if q in row)
            print(f"{row['at']:6.0f} s {name}: {text} (above a million: KiB)")
        print(f"       {dict(asked)} {dict(self.events)}", flush=True)

    def _stand_still(self, node: Served) -> None:
        """Until the others no longer have the entries that it lacks; then it goes on, by a snapshot."""
        others = [other for other in self._cluster.nodes if other is not node]
        applied = self._applied(node)

        def forgotten() -> bool:
            try:
                states = [other.client.status() for other in others]
            except RaftclusterError:
                return False
            return all(state["last_index"] - state["log_entries"] > applied + UNDER_WAY for state in states)

        node.pause()
        try:
            eventually(forgotten, PAUSE_SECONDS, f"the logs are cut behind {node.name}")
        finally:
            node.resume()
        reached = self._applied(others[0])
        eventually(lambda: self._applied(node) >= reached, SETTLE_SECONDS, f"{node.name} has caught up")
        self.events["pauses"] += 1
        self.events["snapshots"] = self.snapshots()

    def snapshots(self) -> int:
        """How many the nodes say that they have sent."""
        return sum(node.log().count(SNAPSHOT_SENT) for node in self._cluster.nodes)

    def _applied(self, node: Served) -> int:
        try:
            return int(node.client.status()["applied_index"])
        except RaftclusterError:
            return 0

    def _rotate(self) -> None:
        node = self._cluster.nodes[self.events["rotations"] % NODES]
        number = retried(node.client.certs.rotate, "a rotation")

        def active() -> bool:
            try:
                shown = [each.client.certs.show() for each in self._cluster.nodes]
            except RaftclusterError:
                return False
            return all(each["generation"] == number and each["pending"] is None for each in shown)

        eventually(active, SETTLE_SECONDS, f"generation {number} is in force")
        self.events["rotations"] += 1


def problems(soak: Soak, found: list[growth.Change]) -> list[str]:
    """Why the run is not good, or proves too little."""
    asked: Counter[str] = sum((load.counts for load in soak.loads), Counter())
    texts = [f"{change.quantity} of {change.node} grew" for change in found if not change.good]
    second, last = growth.rates(next(iter(soak.samples.values())), "asked")
    if abs(last - second) > STEADY * second:
        texts.append(
            f"the load was not steady: {second:.1f} checks a second in the second quarter, {last:.1f} in the last"
        )
    texts += [text for load in soak.loads for text in load.wrong[:20]]
    texts += [
        f"no {name}" for name in ("strangers deferred", "retries passed", "configuration changes") if not asked[name]
    ]
    if soak.events["rotations"] < ROTATIONS - 1:
        texts.append(f"only {soak.events['rotations']} rotations")
    if soak.snapshots() < PAUSES // 2:
        texts.append(f"only {soak.snapshots()} snapshots")
    return texts


def warm(cluster: Cluster) -> None:
    """Fill what is bounded and large before the time begins: the ring of recent results."""
    began, each = time.monotonic(), limits.RING_RESULTS // (NODES * WARMERS) + 1
    warming = [Warming(node, each) for node in cluster.nodes for _ in range(WARMERS)]
    for thread in warming:
        thread.start()
    for thread in warming:
        thread.join()
    print(f"soak: {each * len(warming)} checks in {time.monotonic() - began:.0f} s to begin with", flush=True)


def soak(directory: Path, seconds: float, per_second: float, file: Path | None) -> bool:
    """One run, told; True when all is well."""
    with Cluster(directory, NODES, lab=True) as cluster:
        while len(cluster.nodes) < NODES:
            cluster.grow()
        retried(lambda: cluster.nodes[0].client.greylist.configure(SETTINGS), "the settings")
        eventually(cluster.settled, SETTLE_SECONDS, "the cluster is complete")
        print(f"soak: {NODES} nodes run, pids {[node.pid for node in cluster.nodes]}, in {directory}", flush=True)
        warm(cluster)
        running = Soak(cluster, seconds, per_second)
        running.run()
        found = growth.changes(running.samples)
        wrong = problems(running, found)
    asked: Counter[str] = sum((load.counts for load in running.loads), Counter())
    print("\n".join(growth.table(found)))
    print(f"asked: {dict(asked)}\nevents: {dict(running.events)}")
    for text in wrong:
        print(f"PROBLEM: {text}")
    print(f"soak: {seconds:g} s, {len(wrong)} problems", flush=True)
    if file is not None:
        kept: dict[str, Any] = {
            "seconds": seconds,
            "checks_per_second": per_second,
            "bounds": {name: bound._asdict() for name, bound in growth.BOUNDS.items()},
            "changes": [change._asdict() for change in found],
            "samples": running.samples,
            "asked": asked,
            "events": running.events,
            "problems": wrong,
        }
        file.write_text(json.dumps(kept, indent=1))
    return not wrong


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="./run soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=2.0, help="how long (2)")
    parser.add_argument("--checks", type=float, default=50.0, help="a second, in all (50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples and the verdict to it")
    parser.add_argument("--virtual", type=float, metavar="HOURS", help="of virtual time, in the simulation")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of the simulation (any)")
    wanted = parser.parse_args()
    if wanted.virtual is not None:
        return 0 if virtual(wanted.virtual, wanted.seed) else 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave every `with` on the way
    directory = Path(tempfile.mkdtemp(prefix="raftcluster-soak-"))
    good = False
    try:
        good = soak(directory, wanted.hours * 3600, wanted.checks, wanted.json)
    finally:
        if good:
            shutil.rmtree(directory)
        else:
            print(f"soak: logs and data are kept in {directory}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
