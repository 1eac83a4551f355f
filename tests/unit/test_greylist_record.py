"""Records: their bytes, and the join that brings copies together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftcluster.greylist.record import COUNT_MAX, Record, join, node_label, node_text

TIMES = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, COUNT_MAX)
NODES = st.sampled_from([b"node-%d\0\0" % number for number in range(4)])
RECORDS = st.builds(
    Record,
    TIMES,
    TIMES,
    TIMES,
    st.booleans(),
    st.dictionaries(NODES, st.tuples(COUNTS, COUNTS), max_size=4).map(
        lambda counts: tuple((node, *counts[node]) for node in sorted(counts))
    ),
    st.sampled_from([b"", b"triplet"]),
)


@given(RECORDS)
def test_a_row_is_read_back(record: Record) -> None:
    assert Record.unpack(record.pack()) == record


@given(RECORDS, RECORDS, RECORDS)
def test_join_is_commutative_associative_and_idempotent(one: Record, two: Record, three: Record) -> None:
    assert join(one, two) == join(two, one)
    assert join(join(one, two), three) == join(one, join(two, three))
    assert join(one, one) == one
    assert join(join(one, two), two) == join(one, two)


@given(RECORDS, RECORDS)
def test_join_loses_nothing(one: Record, two: Record) -> None:
    joined = join(one, two)
    for record in (one, two):
        assert joined.first <= record.first
        assert joined.last >= record.last
        assert joined.expires >= record.expires
        assert joined.passed >= record.passed
        counts = {node: (deferred, passed) for node, deferred, passed in joined.counters}
        for node, deferred, passed in record.counters:
            assert counts[node][0] >= deferred
            assert counts[node][1] >= passed


def test_labels() -> None:
    assert node_label("n1") == b"n1\0\0\0\0\0\0"
    assert node_text(node_label("n1")) == "n1"
    assert node_text(node_label("0123456789abcdef")) == "01234567"
