"""Answers compared: who is odd, which ranges and rows differ, what the verdict is; and what no answer may be."""

from __future__ import annotations

from typing import Any

import pytest

from raftcluster import limits
from raftcluster.errors import Damaged, FrameError, Unavailable
from raftcluster.storage.digest import Ranges
from raftcluster.verify.answer import TABLES, Answer, Wanted
from raftcluster.verify.examination import row_digest
from raftcluster.verify.report import (
    DIFFERENT,
    EQUAL,
    SILENT,
    UNREADABLE,
    NodeFinding,
    Report,
    common_index,
    compare_rows,
    compare_tables,
    differing,
)

Rows = dict[bytes, bytes]
ROWS: Rows = {number.to_bytes(4): b"value %d" % number for number in range(3_000)}


def answer(index: int = 9, **tables: Rows) -> Answer:
    found = Answer(index, done=True)
    for table, rows in tables.items():
        ranges = Ranges()
        found.tables[f"m.{table}"] = [*ranges.add(sorted(rows.items())), ranges.end()]
    return found


def rows_in(rows: Rows, wanted: list[Wanted], limit: int = limits.VERIFY_ROWS) -> Answer:
    found = Answer()
    for number, each in enumerate(wanted):
        held = sorted(key for key in rows if each.holds(key))[:limit]
        found.rows[number] = {key: row_digest(rows[key]) for key in held}
    return found


def report(answers: dict[str, Answer], silent: dict[str, str] | None = None) -> Report:
    reasons = silent or {}
    nodes = [NodeFinding.of(name, name, answers.get(name), reasons.get(name, "")) for name in (*answers, *reasons)]
    return Report(9, nodes, compare_tables(answers, list(reasons)), [], 0)


def test_equal_answers_are_equal() -> None:
    answers = {name: answer(t=ROWS) for name in ("mx1", "mx2", "mx3")}
    (table,) = compare_tables(answers, [])
    assert table.rows == 3_000 and set(table.nodes.values()) == {EQUAL} and len(set(table.digests.values())) == 1
    assert differing(list(answers.values())) == []
    assert report(answers).verdict == "sound"
    report(answers).check()


@pytest.mark.parametrize(
    ("change", "odd"),
    [({b"\0\0\0\7": b"other"}, b"\0\0\0\7"), ({b"\0\0\0\7\0": b""}, b"\0\0\0\7\0"), (None, b"\0\0\1\7")],
    ids=["another value", "one too many", "missing"],
)
def test_the_odd_row_of_three_is_found_and_its_node_named(change: Rows | None, odd: bytes) -> None:
    theirs = {**ROWS, **change} if change else {key: value for key, value in ROWS.items() if key != odd}
    tables = {"mx1": ROWS, "mx2": theirs, "mx3": ROWS}
    answers = {name: answer(t=rows, same=ROWS) for name, rows in tables.items()}
    assert {each.table: dict(each.nodes) for each in compare_tables(answers, ["mx4"])} == {
        "m.same": {"mx1": EQUAL, "mx2": EQUAL, "mx3": EQUAL, "mx4": SILENT},
        "m.t": {"mx1": EQUAL, "mx2": DIFFERENT, "mx3": EQUAL, "mx4": SILENT},
    }
    (wanted,) = differing(list(answers.values()))
    assert wanted.table == "m.t" and wanted.holds(odd)
    assert sum(wanted.holds(key) for key in ROWS) < 2_000, "not the whole table"
    (row,) = compare_rows([wanted], {name: rows_in(rows, [wanted]) for name, rows in tables.items()}, 4_096)
    assert (row.table, row.key, row.odd) == ("m.t", odd, ["mx2"])
    assert row.nodes["mx1"] == row.nodes["mx3"] != row.nodes["mx2"]


def test_two_that_differ_are_both_odd() -> None:
    answers = {"mx1": answer(t=ROWS), "mx2": answer(t={**ROWS, b"x": b""})}
    (table,) = compare_tables(answers, [])
    assert set(table.nodes.values()) == {DIFFERENT}
    with pytest.raises(Damaged, match=r"m\.t of mx1, mx2"):
        report(answers).check()


def test_a_table_that_one_node_lacks_is_different_there() -> None:
    answers = {"mx1": answer(t=ROWS), "mx2": answer(), "mx3": answer(t=ROWS)}
    (table,) = compare_tables(answers, [])
    assert table.nodes["mx2"] == DIFFERENT
    assert [each.table for each in differing(list(answers.values()))] == ["m.t"]


def test_a_table_that_could_not_be_read_to_its_end_is_that_and_not_different() -> None:
    broken = answer(a=ROWS)
    broken.tables["m.b"] = broken.tables["m.a"][:3]
    broken.take({"entries": 1, "troubles": [[TABLES, b"key", "unreadable"]], "more": 0})
    whole = {name: answer(a=ROWS, b=ROWS, c=ROWS) for name in ("mx1", "mx3")}
    answers = {**whole, "mx2": broken}
    states = {each.table: each.nodes["mx2"] for each in compare_tables(answers, [])}
    assert states == {"m.a": EQUAL, "m.b": UNREADABLE, "m.c": UNREADABLE}
    assert differing(list(answers.values())) == []
    assert report(answers).verdict == "damaged"
    with pytest.raises(Damaged, match=r"m\.b, m\.c, tables of mx2"):
        report(answers).check()


def test_who_is_silent_is_named_and_damage_goes_before_silence() -> None:
    silent = {"mx3": "cannot reach mx3"}
    good = report({"mx1": answer(t=ROWS), "mx2": answer(t=ROWS)}, silent)
    assert good.verdict == "incomplete"
    with pytest.raises(Unavailable, match=r"no answer from mx3 \(cannot reach mx3\)"):
        good.check()
    assert report({"mx1": answer(t=ROWS), "mx2": answer(t={})}, silent).verdict == "damaged"


def test_more_rows_than_are_named_are_compared_as_far_as_all_go() -> None:
    wanted = [Wanted("m.t", b"", None)]
    theirs = {key + b"\0": value for key, value in ROWS.items() if key[-1] % 2}
    answers = {"mx1": rows_in(ROWS, wanted, 100), "mx2": rows_in(theirs, wanted, 100)}
    rows = compare_rows(wanted, answers, 100)
    assert {each.key for each in rows if each.nodes["mx1"]} == set(sorted(ROWS)[:100])
    assert {each.key for each in rows if each.nodes["mx2"]} == {key for key in theirs if key <= sorted(ROWS)[99]}


def test_answers_are_compared_at_the_index_of_most() -> None:
    assert common_index([answer(5), answer(9), answer(9)]) == 9
    assert common_index([answer(9), answer(5)]) == 5
    assert common_index([]) == 0


def test_values_are_plain_and_complete() -> None:
    answers = {"mx1": answer(t=ROWS), "mx2": answer(t={})}
    answers["mx2"].take({"entries": 7, "troubles": [["log", None, "entry 3 fails its checksum"]], "more": 2})
    told: Any = report(answers).values()
    assert told["verdict"] == "damaged" and told["error"]["code"] == "damaged"
    assert told["nodes"][1]["troubles"] == [{"where": "log", "key": None, "text": "entry 3 fails its checksum"}]
    assert told["nodes"][1]["more_troubles"] == 2 and told["nodes"][1]["log_entries"] == 7


RANGE = [b"key", 1, bytes(32)]
NONSENSE: list[Any] = [
    None,
    [],
    {},
    {"armed": False},
    {"index": "9"},
    {"table": b"m.t", "ranges": []},
    {"table": "m.t", "ranges": None},
    {"table": "m.t", "ranges": [[b"key", 1, bytes(31)]]},
    {"table": "m.t", "ranges": [[b"key", -1, bytes(32)]]},
    {"table": "m.t", "ranges": [["key", 1, bytes(32)]]},
    {"table": "m.t", "ranges": [RANGE[:2]]},
    {"range": 0, "rows": [[b"key", bytes(32)]]},
    {"range": None, "rows": []},
    {"entries": 1, "troubles": [["m.t", "key", ""]], "more": 0},
    {"entries": 1, "troubles": None, "more": 0},
]


@pytest.mark.parametrize("frame", NONSENSE, ids=repr)
def test_nonsense_is_no_answer(frame: Any) -> None:
    with pytest.raises(FrameError):
        Answer().take(frame)


def test_a_members_error_is_its_reason_and_cut() -> None:
    with pytest.raises(Unavailable) as raised:
        Answer().take({"error": "x" * limits.MIB})
    assert len(str(raised.value)) <= limits.KIB


def test_an_answer_is_bounded() -> None:
    found = Answer()
    piece = {"table": "m.t", "ranges": [[b"k" * 500, 1, bytes(32)]] * 10_000}
    for _ in range(12):
        found.take(piece)
    with pytest.raises(FrameError, match="bytes of digests"):
        found.take(piece)
