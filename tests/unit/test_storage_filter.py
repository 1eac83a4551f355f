"""A filter never says no to a key that it was given, and seldom yes to another."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from raftcluster.storage.filter import SHIFT, Filter

KEYS = 10_000


def has(found: Filter, key: bytes) -> bool:
    """As readers ask."""
    at = hash(key) >> SHIFT & found.mask
    return bool(found.bits[at >> 3] & 1 << (at & 7))


@given(keys=st.lists(st.binary(max_size=20)), room=st.integers(1, 100), bits=st.integers(1, 40))
def test_what_was_added_is_there_however_many_they_are(keys: list[bytes], room: int, bits: int) -> None:
    found = Filter(room, bits)
    found.add(keys)
    assert all(has(found, key) for key in keys)
    assert found.left == room - len(keys)
    assert len(found.bits) * 8 == found.mask + 1 >= room * bits


def test_of_other_keys_few_are_said_to_be_there() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    found = Filter(KEYS, 16)
    found.add(chance.randbytes(16) for _ in range(KEYS))
    assert sum(has(found, chance.randbytes(16)) for _ in range(KEYS)) < 1.3 * KEYS / 16
