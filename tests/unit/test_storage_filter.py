"""A filter never says no to a key that it was given, and seldom yes to another."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from raftcluster.storage.filter import SHIFT, Filter

KEYS = 10_000


@given(keys=st.lists(st.binary(max_size=20)), room=st.integers(1, 100), bits=st.integers(1, 40))
def test_what_was_added_is_there_however_many_they_are(keys: list[bytes], room: int, bits: int) -> None:
    found = Filter(room, bits)
    found.add(keys)
    assert all(key in found for key in keys)
    assert found.left == room - len(keys)
    assert len(found.bits) * 8 == found.mask + 1 >= room * bits


def test_of_other_keys_few_are_said_to_be_there() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    found = Filter(KEYS, 16)
    found.add(chance.randbytes(16) for _ in range(KEYS))
    assert sum(chance.randbytes(16) in found for _ in range(KEYS)) < 1.3 * KEYS / 16


def test_readers_that_read_the_bits_themselves_are_told_the_same() -> None:
    found = Filter(100, 8)
    found.add(b"%d" % number for number in range(100))
    for number in range(1000):
        at = hash(b"%d" % number) >> SHIFT & found.mask
        assert bool(found.bits[at >> 3] & 1 << (at & 7)) == (b"%d" % number in found)
