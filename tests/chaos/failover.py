"""How long nobody is answered after a kill -9 of the leader, at the default time-outs: `./run chaos --failover 20`.

The same nodes, network, clients and checkers as in a run of faults, but with disks that have none. A gap lasts from just
before the kill to the first answer of the cluster -- a degraded one is none -- to a call that was made after the process
had ended. A node that, by the record, led no more when it was killed counts for nothing, and another one is killed.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from raftcluster import limits
from tests.chaos.analysis import History, Operation, judge, told
from tests.chaos.campaign import finish
from tests.chaos.cluster import RULES, Cluster
from tests.checkers.gaps import Loss

TARGET_SECONDS = 0.8
PAUSE_SECONDS = (1.0, 2.0)
"""Of load between two kills, once all is well."""
AFTER_SECONDS = 5.0
"""Calls that were under way at a loss, or made within this time after it, are those that it may have delayed."""
SPARE_ROUNDS = 10
"""So many more kills there may be, when leaders change by themselves."""


class Kill(NamedTuple):
    """One kill -9. Times in seconds of CLOCK_MONOTONIC."""

    name: str
    began: float
    ended: float
    """The process is gone, and reaped."""


class Gap(NamedTuple):
    """What a kill of the leader did, in seconds from it."""

    elected: float
    answered: float
    disk: float
    """The slowest write that the new leader's disk had of late: an election waits up to three times that."""


class Figures(NamedTuple):
    """What a run has measured."""

    gaps: list[Gap]
    slowest: float
    """Seconds that the slowest call around a kill took, whatever its answer."""
    patient: int
    """Checks around a kill with the default deadline, at nodes that lived."""
    degraded: int
    """How many of those the cluster did not decide."""

    @property
    def median(self) -> float:
        return statistics.median(gap.answered for gap in self.gaps)


def led(history: History, kill: Kill) -> bool:
    """Whether the node that was killed was the last one to begin to lead."""
    begun = [event for event in history.events if event["e"] == "leads" and event["t"] < kill.began]
    return bool(begun) and max(begun, key=lambda event: int(event["term"]))["node"] == kill.name


def figures(history: History, kills: Sequence[Kill]) -> Figures:
    """From what was recorded. `kills` are those of leaders."""
    # What has a request id may be answered by any node from what it remembers, without a leader.
    anew = [o for o in history.of("check") if o.decided and not o.asked["request"]]
    answers = [*history.of("set", "cas", outcome="ok"), *anew]
    begun = [(event["t"], event["disk"]) for event in history.events if event["e"] == "leads"]

    def gap(kill: Kill) -> Gap:
        elected, disk = min(((at, disk) for at, disk in begun if at > kill.began), default=(math.inf, math.inf))
        answered = min((o.ret for o in answers if o.call > kill.ended), default=math.inf)
        return Gap(elected - kill.began, answered - kill.began, disk)

    def around(operation: Operation) -> bool:
        return operation.answered < math.inf and any(
            kill.began < operation.answered and operation.call < kill.began + AFTER_SECONDS for kill in kills
        )

    near = [operation for operation in history.of("set", "cas", "add", "check", "read") if around(operation)]
    patient = [o for o in near if o.asked["op"] == "check" and o.asked["deadline"] == limits.CALL_SECONDS]
    slowest = max((o.answered - o.call for o in near), default=0.0)
    return Figures([gap(kill) for kill in kills], slowest, len(patient), sum(not o.decided for o in patient))


def kill_leaders(cluster: Cluster, directory: Path, wanted: int) -> list[Kill]:
    """Until so many nodes were killed while they led."""
    kills: list[Kill] = []
    clock = threading.Event()
    for _ in range(wanted + SPARE_ROUNDS):
        cluster.recover()
        clock.wait(cluster.random.uniform(*PAUSE_SECONDS))
        node = cluster.leader()
        began = time.monotonic()
        node.kill()
        kill = Kill(node.name, began, time.monotonic())
        cluster.recover()
        node.start(cluster.seed)
        if led(History(directory.glob("*.history")), kill):
            kills.append(kill)
        if len(kills) == wanted:
            return kills
    raise AssertionError(f"only {len(kills)} of {wanted + SPARE_ROUNDS} nodes led when they were killed")


def failover(directory: Path, seed: int, size: int, wanted: int) -> bool:
    """Kill the leader so often; True when nobody was answered wrongly and the median gap is within the target."""
    try:
        with Cluster(size, directory, seed, faulty_disks=False) as cluster:
            kills = kill_leaders(cluster, directory, wanted)
            final = finish(cluster)
    except (AssertionError, OSError):
        traceback.print_exc()
        return False
    history = History(directory.glob("*.history"))
    verdict = judge(history, final, RULES, [Loss(kill.began, f"SIGKILL of {kill.name}") for kill in kills])
    found = figures(history, kills)
    for line in told(verdict, {"kill -9 of the leader": len(kills)}):
        print(line)
    print("elected after (s):  " + " ".join(f"{gap.elected:.3f}" for gap in found.gaps))
    print("answered after (s): " + " ".join(f"{gap.answered:.3f}" for gap in found.gaps))
    print("slowest write (s):  " + " ".join(f"{gap.disk:.3f}" for gap in found.gaps))
    elected = statistics.median(gap.elected for gap in found.gaps)
    print(
        f"of {wanted}: answers resume after {found.median:.3f} s (median; elected after {elected:.3f} s), "
        f"at most {max(gap.answered for gap in found.gaps):.3f} s; target {TARGET_SECONDS} s (median)"
    )
    print(
        f"slowest call around a kill {found.slowest:.2f} s; "
        f"{found.degraded} of {found.patient} checks with the default deadline were not decided by the cluster"
    )
    for text in verdict.violations[:50]:
        print(f"VIOLATION: {text[:1000]}")
    good = found.median <= TARGET_SECONDS and not verdict.violations
    print(f"chaos: seed {seed}: {len(verdict.violations)} violations; {'well' if good else 'NOT WELL'}")
    return good
