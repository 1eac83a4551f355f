"""The life that is measured: quiet, a member joins, it is removed, a rotation; all of it under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers import eventually
from tests.rollover.load import Load, percentile
from tests.served import SECONDS, Cluster, Served, retried


@dataclass(slots=True)
class Stretch:
    """One part of it."""

    name: str
    seconds: float
    checks: int
    per_second: float
    p50_ms: float
    p99_ms: float
    slowest_ms: float
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
    folder: Path, *, size: int = 3, per_second: float = 600.0, quiet_s: float = 10.0, kind: type[Served] = Served
) -> Life:
    """A cluster of `size` under load is joined by one more node, which is removed again; then all certificates are replaced.

    The first stretch is the baseline: `quiet_s` seconds in which nothing else happens.
    """
    with Cluster(folder, size + 1, kind) as cluster:
        for _ in range(size - 1):
            cluster.grow()
        members = list(cluster.nodes)
        first = members[0]
        eventually(cluster.settled, SECONDS, "quiet")
        with Load(members, per_second, folder) as load:
            spans = [
                _lived("quiet", first, lambda: _pass(quiet_s)),
                _lived("join", first, lambda: _join(cluster)),
                _lived("remove", first, lambda: _remove(cluster, members)),
                _lived("rotate", first, lambda: _rotate(first)),
            ]
            load.end()
        eventually(lambda: not any(load.wrong(members).values()), SECONDS, f"all counted once: {load.wrong(members)}")
        number = _shown(first)["generation"]
        stretches = [_measured(load, span) for span in spans]
        return Life(size, stretches, load.errors, load.degraded(), load.wrong(members), number)


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of it that is over: from when to when (monotonic), and its rollovers' seconds."""

    name: str
    begun: float
    ended: float
    rollover_s: list[float]


def _lived(name: str, node: Served, act: Callable[[], None]) -> _Span:
    before = _shown(node)["generation"]
    begun = time.monotonic()
    act()
    ended = time.monotonic()
    took = [each["took_s"] for each in _shown(node)["generations"] if each["generation"] > before and each["took_s"]]
    return _Span(name, begun, ended, took)


def _measured(load: Load, span: _Span) -> Stretch:
    answers = load.between(span.begun, span.ended)
    seconds = span.ended - span.begun
    return Stretch(
        span.name,
        round(seconds, 2),
        len(answers),
        round(len(answers) / seconds, 1),
        round(percentile(answers, 0.50) * 1000, 1),
        round(percentile(answers, 0.99) * 1000, 1),
        round(percentile(answers, 1.0) * 1000, 1),
        span.rollover_s,
    )


def _pass(seconds: float) -> None:
    threading.Event().wait(seconds)


def _join(cluster: Cluster) -> None:
    cluster.grow()
    _quiet(cluster.nodes[0])


def _remove(cluster: Cluster, members: list[Served]) -> None:
    gone = cluster.nodes[-1]
    retried(lambda: members[0].client.members.remove(gone.name), "the removal")
    eventually(lambda: len(cluster.voters()) == len(members), SECONDS, f"{gone.name} votes no more")
    _quiet(members[0])
    gone.kill()


def _rotate(node: Served) -> None:
    number = retried(node.client.certs.rotate, "a rotation")
    node.client.certs.wait(number)
    _quiet(node)


def _quiet(node: Served) -> None:
    """No certificates on their way, and none due: a removal's generation begins after it."""

    def is_quiet() -> bool:
        shown = _shown(node)
        return shown["pending"] is None and not shown["due"]

    eventually(is_quiet, SECONDS, "certificates are in force")


def _shown(node: Served) -> Any:
    return node.client.certs.show()
