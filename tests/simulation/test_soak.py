"""The day of virtual time, for some minutes: that it runs, and what it takes for growth."""

from __future__ import annotations

from tests.simulation.process import machines
from tests.simulation.world import World
from tests.soak.virtual import VirtualSoak, grew, reachable


def test_a_replica_is_counted_object_by_object_and_no_further() -> None:
    rows: list[object] = [[], {}, "a", b"b" * 1000]
    count, size = reachable(rows)
    assert count == 5 and size > 1000
    rows += [[number] for number in range(300)]
    assert reachable(rows)[0] - count >= 300
    assert reachable([World("any"), machines, rows])[0] == reachable(rows)[0] + 1


def test_it_runs_and_samples_every_replica() -> None:
    soak = VirtualSoak(1)
    told: list[str] = []
    soak.run(0.05, told.append, every=60.0)
    assert len(told) == 3 and soak.events["decided"] > 30 and soak.events["undecided"] == 0
    for rows in soak.samples.values():
        assert len(rows) == 3
        assert rows[0]["objects"] > 200 and rows[2]["rows"] > rows[0]["rows"], "checks of new triplets come in"


def test_growth_is_the_last_quarter_above_the_second() -> None:
    level = {"objects": 5000, "bytes": 400_000, "rows": 3000}
    rising = [{name: min(value, value * n // 10) for name, value in level.items()} for n in range(48)]
    assert list(grew({"n1": rising})) == []
    for name in level:
        leaking = [{**level, name: level[name] + n * level[name] // 50} for n in range(48)]
        assert len(found := list(grew({"n1": rising, "n2": leaking}))) == 1 and f"{name} of n2 grew" in found[0]
