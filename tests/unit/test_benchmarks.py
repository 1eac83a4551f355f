"""The arithmetic of the benchmarks: order of measurements, medians, the best layout, ratios."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.load import Cell, Row, Sample, Window, best, interleave, quantiles
from benchmarks.report import ratios


def sample(rate: float, p50_ms: float = 1.0, **more: object) -> Sample:
    times = {"p50_ms": p50_ms, "p99_ms": 2 * p50_ms, "p999_ms": 8.0, "max_ms": 9.0}
    return Sample(checks=int(rate * 2), seconds=2.0, **times, **more)  # type: ignore[arg-type]


def row(group: str, label: str, levels: list[int], rate: Callable[[Window], float]) -> Row:
    return Row(group, label, levels, lambda window: sample(rate(window)))


def test_rounds_are_interleaved_level_by_level() -> None:
    seen: list[str] = []

    def noted(label: str) -> Callable[[Window], float]:
        def rate(window: Window) -> float:
            seen.append(f"{label}{window.in_flight}")
            return 100.0

        return rate

    rows = [row("ours", "a", [1, 8], noted("a")), row("theirs", "b", [8], noted("b"))]
    cells = interleave(rows, rounds=2, seconds=1, warm_up=0, progress=lambda what, sample: None)
    assert seen == ["a1", "a8", "b8"] * 2
    assert {(cell.label, cell.in_flight): len(cell.samples) for cell in cells} == {
        ("a", 1): 2,
        ("a", 8): 2,
        ("b", 8): 2,
    }


def test_every_window_has_keys_of_its_own() -> None:
    names: list[str] = []

    def rate(window: Window) -> float:
        names.append(window.name)
        return 1.0

    interleave([row("g", "a b", [1, 8], rate), row("g", "c", [1, 8], rate)], 3, 1, 0, lambda what, sample: None)
    assert len(names) == len(set(names)) == 12
    assert not any(" " in name for name in names)


def test_a_cell_is_the_median_of_its_rounds_with_their_range() -> None:
    cell = Cell("g", "l", 8, [sample(100), sample(900), sample(200)])
    assert cell.median("rate") == 200
    assert cell.span("rate") == (100, 900)


def test_costs_are_per_check_over_all_rounds() -> None:
    rounds = [
        sample(100, cpu_seconds={"a": 1.0, "b": 1.0}, written_bytes=400),
        sample(300, cpu_seconds={"a": 2.0}, written_bytes=400),
    ]
    cell = Cell("g", "l", 8, rounds)
    assert cell.cpu_seconds_per_check == 4.0 / 800
    assert cell.written_bytes_per_check == 1.0
    assert Cell("g", "l", 8, [*rounds, sample(1)]).written_bytes_per_check is None, "not counted in every round"


def test_the_best_layout_stands_for_its_group_and_ratios_are_against_it() -> None:
    cells = [
        Cell("etcd rmw", "1 conn.", 8, [sample(100, 4.0)]),
        Cell("etcd rmw", "4 conn.", 8, [sample(200, 2.0)]),
        Cell("etcd rmw", "4 conn.", 64, [sample(500)]),
        Cell("ours", "embedded", 8, [sample(1000, 0.5)]),
    ]
    assert best(cells)["etcd rmw", 8].label == "4 conn."
    assert ratios(cells) == [{"in_flight": 8, "against": "etcd rmw", "rate": 5.0, "p50": 0.25, "p99": 0.25}]


def test_quantiles_are_the_latency_that_so_many_had_at_most() -> None:
    assert quantiles({1000.0: 500, 2000.0: 490, 30_000.0: 9, 400_000.0: 1}) == {
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "p999_ms": 30.0,
        "max_ms": 400.0,
    }
    assert all(value != value for value in quantiles({}).values())
