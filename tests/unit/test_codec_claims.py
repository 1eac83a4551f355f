"""Containers that claim more than there is: nothing is allocated for them, whatever a member sends or proposes."""

from __future__ import annotations

import time

import pytest

from raftcluster.codec import pack, unpack
from raftcluster.engine.operations import decode_operation
from raftcluster.errors import FrameError


@pytest.mark.parametrize("marker", [b"\xdd", b"\xdf"])
def test_claims_cost_no_more_than_the_bytes_that_are_there(marker: bytes) -> None:
    size = 10_000
    claim = marker + (size if marker == b"\xdd" else size // 2).to_bytes(4, "big")
    data = claim * 1_000 + b"\xc0" * (size - 5_000)
    began = time.thread_time()
    for _ in range(20):
        with pytest.raises(FrameError):
            unpack(data)
        assert decode_operation(data) is None
    assert time.thread_time() - began < 0.5, "each took 50 ms"


def test_what_is_whole_is_read_as_before() -> None:
    value = [list(range(1_000)), {str(n): [n, b"x" * n] for n in range(300)}, "text" * 500]
    assert unpack(pack(value)) == value
    for data in (pack(value)[:-1], pack(value) + b"\x00"):
        with pytest.raises(FrameError):
            unpack(data)


@pytest.mark.parametrize(
    "data",
    [b"\x01" + b"a secret" * 1_000, b"\xa9a secret\xff", b"\xda\xff\xffa secret"],
    ids=["left over", "no text", "torn"],
)
def test_what_is_malformed_is_not_repeated_in_the_error(data: bytes) -> None:
    """Errors of what others have sent go to logs."""
    with pytest.raises(FrameError) as caught:
        unpack(data)
    assert "secret" not in str(caught.value) and len(str(caught.value)) < 200
