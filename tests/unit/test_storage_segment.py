"""What is torn and what is damaged, wherever in its sectors a frame begins and ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random, SystemRandom

import pytest

from raftcluster.storage import segment
from raftcluster.storage.ports import Record
from raftcluster.storage.segment import Damage, Place, State

SEQUENCE = 7
RECORDS: tuple[list[Record], ...] = (
    [("commit", 256)],
    [("append", b"", 1, 1 << 40)],
    [("append", b"x" * 200, 1, 1), ("vote", 3, "a")],
    [("append", b"x" * 900, 1, 1 << 24)],
    [("append", b"x" * 1_400, 1, 1), ("commit", 1 << 16)],
)
"""The numbers end in bytes that are zero."""


def written(begin: int, number: int) -> tuple[bytes, list[tuple[int, int]]]:
    """A file with one frame at `begin`, and the frame's parts of sectors."""
    frame = segment.frame(SEQUENCE, RECORDS[number])
    end = begin + len(frame)
    bounds = sorted({begin, end, *range(begin - begin % 512 + 512, end, 512)})
    return bytes(begin) + frame + bytes(4_096 - end), list(pairwise(bounds))


def without(data: bytes, parts: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for start, stop in parts:
        changed[start:stop] = bytes(stop - start)
    return bytes(changed)


def some(parts: list[tuple[int, int]], chance: Random) -> Iterator[list[tuple[int, int]]]:
    for part in parts:
        yield [part]
        yield [each for each in parts if each != part] or parts
    yield [each for each in parts if chance.random() < 0.5] or parts


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_a_frame_that_lacks_its_part_of_a_sector_is_torn(number: int) -> None:
    chance = Random(number)
    for begin in range(512):
        data, parts = written(begin, number)
        for lost in some(parts, chance):
            left = without(data, lost)
            length = segment.torn(left, Place(begin, SEQUENCE))
            assert not any(left[begin + length :]), f"at {begin} without {lost}"
            assert (length == 0) == (not any(left)), f"at {begin} without {lost}"


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_a_frame_that_was_copied_in_part_is_torn(number: int) -> None:
    for begin in (0, 100, *range(486, 512, 5)):
        data, parts = written(begin, number)
        for end in range(begin, parts[-1][1]):
            left = data[:end] + bytes(len(data) - end)
            assert not any(left[begin + segment.torn(left, Place(begin, SEQUENCE)) :]), f"at {begin} up to {end}"


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_a_frame_in_which_a_bit_is_another_is_damaged(number: int) -> None:
    seed = SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = Random(seed)
    for begin in range(512):
        data, parts = written(begin, number)
        end = parts[-1][1]
        for place in (begin, end - 1, *(chance.randrange(begin, end) for _ in range(4))):
            changed = bytearray(data)
            changed[place] ^= 1 << chance.randrange(8)
            with pytest.raises(Damage, match="fails its checksum"):
                segment.torn(bytes(changed), Place(begin, SEQUENCE))


def test_a_frame_behind_which_the_file_ends_too_early_is_damaged() -> None:
    data, parts = written(100, 4)
    for length in range(100 + segment.HEAD_BYTES, parts[-1][1], 50):
        with pytest.raises(Damage, match="longer than its file"):
            segment.torn(data[:length], Place(100, SEQUENCE))


def test_what_a_torn_frame_holds_is_not_taken_for_a_frame_that_follows() -> None:
    """A command may hold anything, also what looks like a frame."""
    inner = segment.frame(SEQUENCE + 1, [("commit", 3)])
    data = segment.frame(SEQUENCE, [("append", inner + b"x" * 2_000, 1, 1)]) + bytes(512)
    assert segment.torn(without(data, [(1024, 1536)]), Place(0, SEQUENCE)) == len(data) - 512


def test_what_a_frame_without_its_head_holds_is_not_taken_for_frames_that_follow() -> None:
    inner = b"".join(segment.frame(SEQUENCE + number, [("commit", number)]) for number in range(1, 60))
    data = segment.frame(SEQUENCE, [("append", b"x" * 512 + inner, 1, 1)]) + bytes(512)
    assert segment.torn(without(data, [(0, 512)]), Place(0, SEQUENCE)) == len(data) - 512


def test_a_damaged_frame_is_told_also_where_garbage_stands_far_behind_it() -> None:
    data, _ = written(100, 2)
    changed = bytearray(data)
    changed[150] ^= 1
    changed[3_000] = 1
    with pytest.raises(Damage, match="fails its checksum"):
        segment.torn(bytes(changed), Place(100, SEQUENCE))


def test_a_frame_behind_which_something_is_has_not_been_torn() -> None:
    """What follows it need not be whole: the frame was durable before that was written."""
    data, parts = written(100, 3)
    changed = bytearray(without(data, [parts[1]]))
    assert segment.torn(bytes(changed), Place(100, SEQUENCE)) == parts[-1][1] - 100
    changed[3_000] = 1
    with pytest.raises(Damage, match="and others follow"):
        segment.torn(bytes(changed), Place(100, SEQUENCE))


def test_heads_that_a_sector_of_zeros_has_taken_do_not_hide_later_frames() -> None:
    small = [segment.frame(SEQUENCE + number, [("commit", number)]) for number in range(40)]
    data = b"".join(small) + bytes(512)
    with pytest.raises(Damage, match="and others follow"):
        segment.torn(without(data, [(0, 512)]), Place(0, SEQUENCE))


def test_a_head_that_is_there_and_another_is_damage_whatever_is_zero_behind_it() -> None:
    begin = 500
    data = bytes(begin) + segment.frame(SEQUENCE, [("append", bytes(2_000), 1, 1)]) + bytes(512)
    for place in range(begin, begin + segment.HEAD_BYTES):
        changed = bytearray(data)
        changed[place] ^= 0x55
        with pytest.raises(Damage, match="fails its checksum in its head"):
            segment.torn(bytes(changed), Place(begin, SEQUENCE))
    assert segment.torn(without(data, [(512, 1024)]), Place(begin, SEQUENCE)) == len(data) - 512 - begin


def test_a_record_without_anything_is_damage() -> None:
    with pytest.raises(Damage, match="unknown kind"):
        State().take([])
