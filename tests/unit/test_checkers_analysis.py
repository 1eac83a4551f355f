"""What is recorded reaches the checkers: a history as drivers write it, good first, then with one thing planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.analysis import Final, History, Verdict, judge, told
from tests.checkers.gaps import Loss
from tests.checkers.greylisting import Rules
from tests.checkers.tables import Digest

Event = dict[str, Any]
TICK = 0.01


class Recording:
    """Events of one node, one call after the other."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now = 100.0

    def event(self, kind: str, **fields: Any) -> None:
        self.now += TICK
        self.events.append({"t": self.now, "e": kind, **fields})

    def did(self, op: str, outcome: str = "ok", result: Any = None, code: str = "", **asked: Any) -> None:
        name = f"mx1.1:{len(self.events)}"
        self.event("call", id=name, session="mx1.1.client", op=op, **asked)
        if outcome == "ok":
            self.event("ok", id=name, result=result)
        elif outcome != "lost":
            self.event(outcome, id=name, code=code)

    def waited(self, seconds: float) -> None:
        self.now += seconds

    def status(self, term: int, leader: str, applied: int = 1) -> None:
        role = "leader" if leader == "a" else "voter"
        fields = {"term": term, "leader": leader, "role": role, "applied_index": applied, "cluster_time_ms": applied}
        self.event("status", node="a", **fields)

    def check(self, action: str, reason: str, delayed: int = 0, request: str = "", degraded: bool = False) -> None:
        self.did("check", result=[action, reason, delayed, degraded], triplet=7, request=request)


def good() -> Recording:
    r = Recording()
    r.did("read", key="k", result=None)
    r.did("set", key="k", value=1, result=1)
    r.did("cas", key="k", value=2, expected=1, result=2)
    r.did("cas", "never", key="k", value=3, expected=1, code="revision-mismatch")
    r.did("set", "never", key="k", value=4, code="unavailable")
    r.did("set", "unknown", key="k", value=5)
    r.did("set", "lost", key="k", value=6)
    r.did("read", key="k", result=[2, 2])
    r.did("local", key="k", result=[2, 2])
    r.did("revision", result=2)
    r.did("add", name="one", result=1)
    r.did("add", "unknown", name="two")
    r.did("add", name="two", result=2)
    r.did("add", "never", name="three")
    r.status(1, "b", 1)
    r.status(2, "a", 2)
    r.event("tables", index=50, hash="x")
    r.check("defer", "new", request="i1")
    r.check("defer", "new", request="i1")
    r.did("look", triplet=7, result=1000)
    r.check("pass", "unavailable", degraded=True)
    r.waited(4)
    r.check("pass", "waited", 4)
    r.did("look", triplet=7, result=1000)
    r.did("acquire", name="nightly", result=1)
    r.event("believes", session="mx1.1.client", name="nightly", token=1, since=r.now)
    r.did("acquire", name="nightly", result=0)
    r.did("publish", text="a", result=1)
    r.did("publish", "unknown", text="b")
    r.did("acknowledge", position=1, result=True)
    r.did("acknowledge", position=1, result=False)
    r.event("handed", consumer="mx1", subscription="1", position=1, text="a")
    r.did("list", name="e1", result=1)
    r.did("list", name="e2", result=2)
    r.did("unlist", name="e1", result=3)
    r.event("call", id="held", session="mx1.1.releaser", op="release", message="m")
    r.event("delivered", session="mx1.1.releaser", message="m")
    r.event("ok", id="held", result=1)
    r.did("release", "never", message="m", code="quarantine-delivered")
    return r


FINAL = Final(
    [("one", 1, 1), ("two", 1, 2)],
    2,
    [Digest("mx1", 60, "y"), Digest("mx2", 60, "y")],
    {1: "a"},
    {"mx1": ["e2"]},
    {"m": ["delivered", 1]},
)
"""Of the checks in `good` the cluster has counted two: one was asked twice, one degraded."""


def judged(directory: Path, recording: Recording, final: Final = FINAL) -> Verdict:
    path = directory / "mx1-001.history"
    path.write_text("".join(json.dumps(event) + "\n" for event in recording.events) + '{"t": 5, "e": "ok", "i')
    return judge(History([path]), final, Rules(4), [Loss(100, "SIGKILL of mx9")])


def test_a_good_history_passes_and_every_checker_has_seen_some_of_it(tmp_path: Path) -> None:
    verdict = judged(tmp_path, good())
    assert verdict.violations == []
    unseen = {name for name, count in verdict.checks.items() if not count}
    assert unseen == {"equal tables after equal entries"}, "one node alone has nobody to be compared with"
    assert verdict.leader_changes == 0
    assert verdict.gap is not None and verdict.gap.seconds < 1
    assert verdict.verdicts == {"pass": 1, "defer": 2, "degraded": 1}
    assert any("1 passed and 2 deferred by the cluster; 1 degraded" in line for line in told(verdict, {"kill -9": 1}))


PLANTED: dict[str, Callable[[Recording], None]] = {
    "linearizable registers": lambda r: r.did("read", key="k", result=[1, 1]),
    "configuration revisions": lambda r: r.did("set", key="other", value=9, result=2),
    "exactly once, nothing lost, no phantom": lambda r: r.did("add", name="lost", result=3),
    "places follow real time": lambda r: r.did("add", name="late", result=1),
    "monotonic sessions": lambda r: r.did("revision", result=1),
    "one leader per term": lambda r: r.status(1, "a", 9),
    "equal tables after equal entries": lambda r: r.event("tables", index=50, hash="z"),
    "greylist": lambda r: r.check("defer", "early"),
    "greylist counts": lambda r: r.check("pass", "known"),
    "leases": lambda r: r.did("acquire", name="report", result=1),
    "notifications": lambda r: r.did("publish", text="lost", result=2),
    "notifications handed on": lambda r: r.event(
        "handed", consumer="mx1", subscription="1", position=2, text="phantom"
    ),
    "entries of lists": lambda r: r.did("list", name="lost", result=4),
    "releases of held messages": lambda r: r.event("delivered", session="mx1.1.releaser", message="m"),
    "clients": lambda r: r.event("broken", session="mx1.1.client", error="KeyError()"),
}


@pytest.mark.parametrize("checker", PLANTED)
def test_what_is_planted_is_found(checker: str, tmp_path: Path) -> None:
    recording = good()
    PLANTED[checker](recording)
    found = judged(tmp_path, recording).violations
    assert any(text.startswith(f"{checker}: ") for text in found), found


@pytest.mark.parametrize(
    ("final", "words"),
    [
        (replace(FINAL, ledger=[*FINAL.ledger, ("three", 1, 3)]), "told that it never will be"),
        (replace(FINAL, ledger=[*FINAL.ledger[:1], ("two", 2, 2)]), "two was carried out 2 times"),
        (replace(FINAL, counted=9), "the cluster counted 9 checks"),
        (replace(FINAL, digests=[*FINAL.digests, Digest("mx3", 60, "n")]), "hold different tables"),
        (replace(FINAL, notices={1: "a", 2: "c"}), "c is there and nobody has published it"),
        (replace(FINAL, listed={**FINAL.listed, "mx2": []}), "mx2 lacks e2"),
        (replace(FINAL, held={"m": ["claimed", 0]}), "counts 0 deliveries of 1, 1 acknowledged"),
    ],
)
def test_what_is_wrong_in_the_end_is_found(final: Final, words: str, tmp_path: Path) -> None:
    found = judged(tmp_path, good(), final).violations
    assert len(found) == 1 and words in found[0], found
