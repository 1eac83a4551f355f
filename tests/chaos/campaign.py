"""One run: faults, then quiet, then the final checks, then the verdict."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.chaos.analysis import Final, History, Verdict, judge, told
from tests.chaos.cluster import RULES, SETTLE_SECONDS, Cluster
from tests.chaos.faults import KINDS, Kind
from tests.checkers.gaps import Loss
from tests.checkers.tables import Digest
from tests.helpers import eventually

PAUSE_SECONDS = (0.1, 0.5)
LONG_FAULTS = 200
"""A long run goes on until so many have taken place."""
LONG_EVERY = 6
QUIET_SECONDS = 5.0
"""The load goes on for so long after the last fault: what it left behind shows under load."""
GAP_SECONDS = 60.0
"""A cluster that cannot be written to for longer after it lost its leader has not recovered by itself: a fault of a long
run may last for half of it."""


class Plan(NamedTuple):
    """What a run is to be."""

    seed: int
    size: int
    seconds: float
    long: bool = False
    only: Sequence[str] = ()
    """Kinds of faults; empty: all."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in KINDS if not self.only or kind.name in self.only)

    @property
    def least(self) -> int:
        """How many faults there are at least."""
        return LONG_FAULTS if self.long else 1

    def lasts_long(self, rounds: int, place: int) -> bool:
        """Whether the fault in this place of this round is a long one: every kind is now and then."""
        return self.long and (rounds + place) % LONG_EVERY == 0


def schedule(kinds: tuple[Kind, ...], seed: int) -> list[Kind]:
    """Every kind once, in an order of its own; a member is removed some time after it was added."""
    order = list(kinds)
    Random(f"schedule {seed}").shuffle(order)
    places = [i for i, kind in enumerate(order) if kind.name in ("add member", "remove member")]
    for place, name in zip(places, ("add member", "remove member"), strict=False):
        order[place] = next(kind for kind in kinds if kind.name == name)
    return order


def run(cluster: Cluster, plan: Plan, faults: Counter[str]) -> None:
    """Faults for about as long as planned, and until every kind was there once; then some quiet."""
    faults.update(dict.fromkeys((kind.name for kind in plan.kinds), 0))
    clock = threading.Event()
    end, rounds = time.monotonic() + plan.seconds, 0

    def over() -> bool:
        return rounds > 0 and time.monotonic() >= end and faults.total() >= plan.least

    while not over():
        for place, kind in enumerate(schedule(plan.kinds, plan.seed + rounds)):
            if over() and cluster.spare is not None:
                break
            began = time.monotonic()
            fault = kind.fault(cluster)
            next(fault)
            felt = time.monotonic() - began
            faults[kind.name] += 1
            clock.wait(cluster.random.uniform(*(kind.long if plan.lasts_long(rounds, place) else kind.hold)))
            for _ in fault:
                raise AssertionError(f"{kind.name} yields twice")
            after = cluster.recover()
            print(f"  {kind.name}: felt after {felt:.1f} s, well {after:.1f} s after its end", flush=True)
            clock.wait(cluster.random.uniform(*PAUSE_SECONDS))
        rounds += 1
    clock.wait(QUIET_SECONDS)


def finish(cluster: Cluster) -> Final:
    """Heal, stop the load, wait until all agree, and read everything."""
    cluster.network.rules({})
    for node in cluster.nodes:
        node.ask("quiet", timeout=SETTLE_SECONDS)
    eventually(cluster.settled, SETTLE_SECONDS, "all nodes agree")
    ledgers = {node.name: node.ask("ledger") for node in cluster.nodes}
    counted = cluster.nodes[0].ask("counted")
    notices = dict(cluster.nodes[0].ask("notices"))
    held = cluster.nodes[0].ask("held")
    listed = {node.name: node.ask("listed") for node in cluster.nodes}
    found: list[Digest] = []

    def equal_indices() -> bool:
        found.clear()
        for node in cluster.nodes:
            index, hashes = node.ask("tables")
            found.append(Digest(node.name, index, repr(sorted(hashes.items()))))
        return len({digest.entry for digest in found}) == 1

    eventually(equal_indices, SETTLE_SECONDS, "all checkpoints are at the same entry")
    ledger = ledgers[cluster.nodes[0].name]
    differing = [name for name, rows in ledgers.items() if rows != ledger]
    assert not differing, f"the ledgers of {differing} differ from that of {cluster.nodes[0].name}"
    return Final([(name, count, place) for name, count, place in ledger], counted, found, notices, listed, held)


def shortcomings(verdict: Verdict, faults: Mapping[str, int]) -> list[str]:
    """Why a run without violations still proves too little."""
    found = [f"no fault of the kind {name!r} took place" for name, count in faults.items() if not count]
    found += [f"nothing was checked: {name}" for name, count in verdict.checks.items() if not count]
    if verdict.leader_changes < 1:
        found.append("the leader never changed")
    if verdict.gap is None:
        found.append("no leader was lost to a fault")
    elif verdict.gap.seconds > GAP_SECONDS:
        found.append(f"nobody could write for {verdict.gap.seconds:.1f} s after {verdict.gap.loss.what}")
    return found


def campaign(directory: Path, plan: Plan) -> bool:
    """One run; True when all is well."""
    faults: Counter[str] = Counter()
    losses: list[Loss] = []
    final: Final | None = None
    began = time.monotonic()
    problems: list[str] = []
    try:
        with Cluster(plan.size, directory, plan.seed) as cluster:
            losses = cluster.losses
            print(f"chaos: {plan.size} nodes run after {time.monotonic() - began:.1f} s", flush=True)
            run(cluster, plan, faults)
            final = finish(cluster)
            print(f"chaos: {cluster.writes_lost} writes that were not synced went with the power", flush=True)
    except (AssertionError, OSError) as error:
        traceback.print_exc()
        problems.append(f"the run did not end well: {error}")
    # Also without a good end: what was recorded until then may show why.
    verdict = judge(History(directory.glob("*.history")), final or Final([], 0, []), RULES, losses)
    if final is None:
        keep = (
            *("linearizable", "configuration", "monotonic", "one leader"),
            *("equal tables after", "greylist:", "places", "leases"),
        )
        verdict.violations = [text for text in verdict.violations if text.startswith(keep)]
    elif not plan.only:
        problems += shortcomings(verdict, faults)
    for line in (*told(verdict, faults), *(f"PROBLEM: {text}" for text in problems)):
        print(line)
    for text in verdict.violations[:50]:
        print(f"VIOLATION: {text[:1000]}")
    print(
        f"chaos: seed {plan.seed}: {len(verdict.violations)} violations, {len(problems)} problems, {time.monotonic() - began:.0f} s"
    )
    return not problems and not verdict.violations
