"""What a kill of the leader did, from a record of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raftcluster import limits
from tests.chaos.analysis import History
from tests.chaos.failover import Gap, Kill, figures, led

KILL = Kill("mx1", 10.0, 10.05)


def recorded(folder: Path, *events: dict[str, Any]) -> History:
    path = folder / "mx2-001.history"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return History([path])


def leads(at: float, node: str, term: int, disk: float = 0.02) -> dict[str, Any]:
    return {"t": at, "e": "leads", "node": node, "term": term, "disk": disk}


def call(at: float, ret: float, op: str, result: Any, **asked: Any) -> list[dict[str, Any]]:
    name = f"mx2.1:{at}"
    return [
        {"t": at, "e": "call", "id": name, "session": "mx2.1.client", "op": op, **asked},
        {"t": ret, "e": "ok", "id": name, "result": result},
    ]


def check(at: float, ret: float, *, degraded: bool, request: str = "") -> list[dict[str, Any]]:
    asked = {"triplet": 1, "request": request, "deadline": limits.CALL_SECONDS}
    return call(at, ret, "check", ["defer", "new", 0, degraded], **asked)


def test_a_gap_ends_with_the_first_new_decision_that_was_asked_for_after_the_process_had_ended(tmp_path: Path) -> None:
    history = recorded(
        tmp_path,
        leads(1.0, "mx1", 3),
        *check(10.02, 10.03, degraded=False),  # called before the process had ended
        *check(10.1, 10.11, degraded=False, request="mx2 i1"),  # may be remembered
        *check(10.2, 12.2, degraded=True),
        leads(10.4, "mx3", 4),
        *call(10.3, 10.5, "set", 8, key="k", value=1),
        *check(10.45, 10.48, degraded=False),
    )
    found = figures(history, [KILL])
    assert found.gaps == [pytest.approx(Gap(0.4, 0.48, 0.02))]
    assert found.median == pytest.approx(0.48)
    assert found.slowest == pytest.approx(2.0)
    assert (found.patient, found.degraded) == (4, 1)


def test_a_leader_is_who_began_to_lead_last(tmp_path: Path) -> None:
    history = recorded(tmp_path, leads(1.0, "mx2", 2), leads(2.0, "mx1", 3), leads(10.2, "mx2", 4))
    assert led(history, KILL)
    assert not led(recorded(tmp_path, leads(2.0, "mx1", 3), leads(9.99, "mx2", 4)), KILL)
    assert not led(recorded(tmp_path, leads(11.0, "mx1", 3)), KILL)
