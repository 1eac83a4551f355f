"""`python -m benchmarks.caller DIRECTORY POLICY`: a node with its embedded callers, driven by JSON lines on standard input, and
with a policy server at the address POLICY and a worker socket in its directory. With `--no-checkpoints` behind it, a node that
makes one a quarter of a minute after its start, and the next one as long after it: nothing leaves its memory but for the log.

`python -m benchmarks.caller SOCKET`: a worker process at that worker socket, which takes the same `run`.

    ["status"]                                          -> the node's status
    ["invite", name]                                    -> a token
    ["run", in flight, seconds, warm-up, name, mix]     -> "begin", "end", then the result
    ["fill", number]                                    -> so many triplets, when they are there

The mix says what is asked about: "new" triplets, "returning" ones four times of five, or a few "hot" ones.

A run is a closed loop: whenever a check is answered, on the node's own tick thread, the next one is submitted.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from random import Random
from typing import Any

from benchmarks.filling import DAY_MS, bring, cluster_now
from raftcluster import Node, Service, Worker
from raftcluster.engine import ports, replica
from raftcluster.errors import RaftclusterError, Unavailable
from raftcluster.greylist.verdict import Verdict
from tests.helpers import eventually

RECIPIENT = "recipient@example.test"
CLIENT = "192.0.2.7"
WORKERS = "workers.sock"
RETRY_SECONDS = 0.05
RETURNING = 0.8
HOT = 100
DRAIN_SECONDS = 20.0
NO_CHECKPOINTS = "--no-checkpoints"
WITHOUT_SECONDS = 15.0
WITHOUT_KEYS = 10**9
DEADLINE_SECONDS = 10.0  # as the client of the rivals


class _Slot:
    """One of those in flight. It is the callback itself: what a closure costs is not the node's."""

    __slots__ = ("_loop", "begun")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.begun = 0.0

    def __call__(self, verdict: Verdict | None, error: RaftclusterError | None) -> None:
        self._loop.answered(self, verdict, error)


class Loop:
    """One run. `answered` is called on the tick thread, everything else on the main thread."""

    def __init__(self, node: Node | Worker, in_flight: int, name: str, mix: str = "new") -> None:
        self._node = node
        self._in_flight = in_flight
        # Letters and digits only: a number that stands alone in a sender is taken for a variable part, and not kept.
        self._sender = f"s{blake2b(name.encode(), digest_size=6).hexdigest()}n%d@sender.example"
        self._next = 0
        self._chosen: Callable[[], int] = {"new": self._new, "returning": self._returning, "hot": self._hot}[mix]
        self._reasons = ("new",) if mix == "new" else ("new", "early", "waited", "known")
        self._random = Random(name)
        self._measuring = False
        self._stopping = False
        self._ended: queue.SimpleQueue[_Slot] = queue.SimpleQueue()  # while it runs: those that failed
        self._latencies: list[float] = []
        self._errors: Counter[str] = Counter()

    def _new(self) -> int:
        self._next += 1
        return self._next

    def _returning(self) -> int:
        """As much mail comes from known senders; of those, any that was seen."""
        return self._random.randint(1, self._next) if self._next and self._random.random() < RETURNING else self._new()

    def _hot(self) -> int:
        return self._random.randint(1, HOT)

    def submit(self, slot: _Slot) -> None:
        """The next check of one slot."""
        sender = self._sender % self._chosen()
        slot.begun = time.perf_counter()
        self._node.greylist.submit(slot, client=CLIENT, sender=sender, recipient=RECIPIENT, deadline=DEADLINE_SECONDS)

    def answered(self, slot: _Slot, verdict: Verdict | None, error: RaftclusterError | None) -> None:
        """Tick thread."""
        if verdict is None or verdict.degraded or verdict.reason not in self._reasons:
            self._errors[verdict.reason if verdict else str(error)] += 1
            self._ended.put(slot)
            return
        if self._measuring:
            self._latencies.append(time.perf_counter() - slot.begun)
        if self._stopping:
            self._ended.put(slot)
        else:
            self.submit(slot)

    def _wait(self, seconds: float) -> None:
        """Let it run; what failed is tried again after a moment, from here, so that no failure repeats itself at once."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            try:
                slot = self._ended.get(timeout=left)
            except queue.Empty:
                return
            time.sleep(RETRY_SECONDS)
            self.submit(slot)

    def run(self, seconds: float, warm_up: float) -> dict[str, Any]:
        for _ in range(self._in_flight):
            self.submit(_Slot(self))
        self._wait(warm_up)
        say("begin")
        begun = time.perf_counter()
        self._measuring = True
        self._wait(seconds)
        self._measuring = False
        elapsed = time.perf_counter() - begun
        say("end")
        self._stopping = True
        for _ in range(self._in_flight):
            self._ended.get(timeout=DRAIN_SECONDS)
        microseconds = Counter(float(f"{latency * 1e6:.3g}") for latency in self._latencies)
        return {
            "checks": len(self._latencies),
            "seconds": elapsed,
            "microseconds": sorted(microseconds.items()),
            "errors": dict(self._errors),
        }


def say(value: object) -> None:
    print(json.dumps(value, default=str), flush=True)


def invite(node: Node, name: str) -> str:
    """A token; "" while the genesis of a new cluster is not applied yet."""
    try:
        return str(node.members.invite(name))
    except Unavailable:
        return ""


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if len(sys.argv) == 2:
        with Worker(sys.argv[1]) as worker:
            worker.about()
            serve(worker)
        return
    if NO_CHECKPOINTS in sys.argv:
        without_checkpoints()
    with Service(sys.argv[1], policy=sys.argv[2], workers=f"{sys.argv[1]}/{WORKERS}") as service:
        service.node.config.local.set("local/maillog/enabled", False)  # the rivals write no line about each check
        serve(service.node)


def without_checkpoints() -> None:
    """Of all nodes of this process, from now on."""
    vars(replica).update(
        Timing=partial(ports.Timing, checkpoint=WITHOUT_SECONDS),
        Bounds=partial(ports.Bounds, checkpoint_keys=WITHOUT_KEYS, overlay_keys=WITHOUT_KEYS),
    )


def serve(node: Node | Worker) -> None:
    """Do what standard input says, until it ends."""
    say("open")
    for line in sys.stdin:
        match json.loads(line):
            case ["status"] if isinstance(node, Node):
                say(node.status())
            case ["invite", name] if isinstance(node, Node):
                say(eventually(partial(invite, node, name), what="the first node is a member"))
            case ["fill", number] if isinstance(node, Node):
                bring(node, 0, number, cluster_now(node) + DAY_MS)
                say(number)
            case ["run", in_flight, seconds, warm_up, name, mix]:
                say(Loop(node, in_flight, name, mix).run(seconds, warm_up))
            case other:
                raise SystemExit(f"what is {other!r}?")


if __name__ == "__main__":
    main()
