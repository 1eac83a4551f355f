"""The life that is measured: quiet, a member joins, quiet, it is removed, quiet, a rotation, quiet; all of it under load.

Whatever asks besides -- for the state of the cluster, until something is over -- is answered by the node that is measured: it asks
ten times a second. And whatever else runs on this machine looks like latency: the joining host's program is therefore started
before the join and waits, for on an MX of its own nobody else would notice that. With `cold` one more member joins whose program
starts meanwhile, so that both can be told apart.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.helpers import eventually
from tests.rollover.load import Load, percentile
from tests.served import SECONDS, Cluster, Served, retried

LOOK_SECONDS = 0.1


@dataclass(slots=True)
class Stretch:
    """One kind of part, all that there were of it together."""

    name: str
    times: int
    seconds: float
    """The median."""
    checks: int
    per_second: float
    p50_ms: float
    p99_ms: float
    slowest_ms: float
    cpu_ms: float
    """Of processor time that a member took, in all."""
    rollover_s: list[float] = field(default_factory=list)
    """Of each generation that came into force in it: from its first entry to its last."""


@dataclass(slots=True)
class Life:
    """What came out."""

    nodes: int
    stretches: list[Stretch]
    errors: list[str]
    degraded: list[str]
    wrong: dict[str, int]
    generation: int


def live(
    folder: Path,
    *,
    size: int = 3,
    per_second: float = 600.0,
    quiet_s: float = 10.0,
    rounds: int = 1,
    cold: bool = False,
    kind: type[Served] = Served,
) -> Life:
    """A cluster of `size` under load is joined by one more node, which is removed again; then all certificates are replaced.

    Before and after each of these are `quiet_s` seconds in which nothing else happens: the baseline.
    """
    with Cluster(folder, size + rounds * (1 + cold), kind) as cluster:
        for _ in range(size - 1):
            cluster.grow()
        members = list(cluster.nodes)
        spans: list[_Span] = []

        def do(name: str, act: Callable[[], None]) -> None:
            spans.append(_lived(name, members, act))
            spans.append(_lived("quiet", members, lambda: _pass(quiet_s)))

        eventually(cluster.settled, SECONDS, "quiet")
        with Load(members, per_second, folder) as load:
            do("quiet", lambda: _pass(quiet_s))
            for _ in range(rounds):
                for name in ["join", *["join, its program starts here"] * cold]:
                    if name == "join":
                        cluster.coming().prepare()
                    do(name, lambda: _join(cluster))
                    do("remove", lambda: _remove(cluster, members))
                do("rotate", lambda: _rotate(members[0]))
            load.end()
        eventually(lambda: not any(load.wrong(members).values()), SECONDS, f"all counted once: {load.wrong(members)}")
        number = _shown(members[0])["generation"]
        names = list(dict.fromkeys(span.name for span in spans))
        stretches = [_measured(load, [span for span in spans if span.name == name]) for name in names]
        return Life(size, stretches, load.errors, load.degraded(), load.wrong(members), number)


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of it that is over: from when to when (monotonic), its rollovers' seconds, and what a member's processor time was."""

    name: str
    begun: float
    ended: float
    rollover_s: list[float]
    cpu_s: float


def _lived(name: str, members: Sequence[Served], act: Callable[[], None]) -> _Span:
    before = _shown(members[0])["generation"]
    begun, cpu_s = time.monotonic(), _cpu_seconds(members)
    act()
    ended, cpu_s = time.monotonic(), _cpu_seconds(members) - cpu_s
    rows = _shown(members[0])["generations"]
    took = [each["took_s"] for each in rows if each["generation"] > before and each["took_s"]]
    return _Span(name, begun, ended, took, cpu_s / len(members))


def _cpu_seconds(members: Sequence[Served]) -> float:
    """Of these processes, without their children."""
    times = [psutil.Process(each.pid).cpu_times() for each in members]
    return sum(each.user + each.system for each in times)


def _measured(load: Load, spans: Sequence[_Span]) -> Stretch:
    answers = [answer for span in spans for answer in load.between(span.begun, span.ended)]
    seconds = [span.ended - span.begun for span in spans]
    return Stretch(
        spans[0].name,
        len(spans),
        round(statistics.median(seconds), 2),
        len(answers),
        round(len(answers) / sum(seconds), 1),
        round(percentile(answers, 0.50) * 1000, 1),
        round(percentile(answers, 0.99) * 1000, 1),
        round(percentile(answers, 1.0) * 1000, 1),
        round(sum(span.cpu_s for span in spans) * 1000),
        [took for span in spans for took in span.rollover_s],
    )


def _pass(seconds: float) -> None:
    threading.Event().wait(seconds)


def _join(cluster: Cluster) -> None:
    node = cluster.admit()
    _until(lambda: len(cluster.voters()) == len(cluster.nodes), f"{node.name} votes")
    _quiet(cluster.nodes[0])


def _remove(cluster: Cluster, members: list[Served]) -> None:
    gone = cluster.nodes[-1]
    retried(lambda: members[0].client.members.remove(gone.name), "the removal")
    _until(lambda: len(cluster.voters()) == len(members), f"{gone.name} votes no more")
    _quiet(members[0])
    cluster.forget(gone)


def _rotate(node: Served) -> None:
    number = retried(node.client.certs.rotate, "a rotation")
    node.client.certs.wait(number)
    _quiet(node)


def _quiet(node: Served) -> None:
    """No certificates on their way, and none due: a removal's generation begins after it."""

    def is_quiet() -> bool:
        shown = _shown(node)
        return shown["pending"] is None and not shown["due"]

    _until(is_quiet, "certificates are in force")


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {SECONDS} s"
        _pass(LOOK_SECONDS)


def _shown(node: Served) -> Any:
    return node.client.certs.show()
