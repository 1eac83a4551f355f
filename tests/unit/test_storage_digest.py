"""Digests of ranges: where a row differs, there and nowhere else the ranges do."""

from __future__ import annotations

from itertools import islice, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from raftcluster.storage.digest import Range, Ranges, table_digest

ROWS = {number.to_bytes(4): b"value %d" % number for number in range(5_000)}


def ranges_of(rows: dict[bytes, bytes], pieces: int = 1) -> list[Range]:
    ranges = Ranges()
    ordered = iter(sorted(rows.items()))
    size = len(rows) // pieces + 1
    found = [each for _ in range(pieces) for each in ranges.add(list(islice(ordered, size)))]
    return [*found, ranges.end()]


def test_ranges_follow_each_other_and_hold_all_rows() -> None:
    ranges = ranges_of(ROWS)
    assert sum(each.rows for each in ranges) == len(ROWS) and ranges[-1].last is None
    assert all(one.last < other.last for one, other in pairwise(ranges[:-1]) if one.last and other.last)
    assert 10 < len(ranges) < 40, "one in 256 keys ends a range"


def test_the_pieces_in_which_rows_come_do_not_matter() -> None:
    assert ranges_of(ROWS) == ranges_of(ROWS, 7) == ranges_of(ROWS, 999)


def test_a_table_without_rows_has_one_range() -> None:
    (only,) = ranges_of({})
    assert (only.last, only.rows) == (None, 0)


@given(st.integers(0, 4_999), st.sampled_from(["another value", "missing", "one too many"]))
@settings(max_examples=100, deadline=None)
def test_one_row_changes_few_ranges_and_the_tables_digest(number: int, how: str) -> None:
    key = number.to_bytes(4)
    changed = dict(ROWS)
    if how == "another value":
        changed[key] += b"!"
    elif how == "missing":
        del changed[key]
    else:
        changed[key + b"\0"] = b""
    ours, theirs = ranges_of(ROWS), ranges_of(changed)
    assert table_digest(ours) != table_digest(theirs)
    assert len(set(ours) ^ set(theirs)) <= 3


def test_no_row_can_pass_for_two() -> None:
    assert ranges_of({b"a": b"bc"}) != ranges_of({b"ab": b"c"}) != ranges_of({b"a": b"b", b"c": b""})
