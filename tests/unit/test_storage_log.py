"""The log in files beyond its port: its format, its frames and segments, what is torn and what is damaged, and being full."""

from __future__ import annotations

import random
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack
import pytest

from raftcluster import limits
from raftcluster.errors import MissingPrivilege, StorageFailed, StorageFull
from raftcluster.storage import segment
from raftcluster.storage.log import NEXT, LogStore
from raftcluster.storage.ports import LogImage, Record
from raftcluster.storage.runs import DEFAULT
from raftcluster.storage.segment import Place, Replay
from tests.contract.stores import FileBench
from tests.helpers import eventually, no_more_threads


def appends(first: int, last: int, size: int = 0) -> list[Record]:
    return [("append", b"command %d" % index + b"x" * size, index, 7) for index in range(first, last + 1)]


def image(first: int, last: int, size: int = 0, *, term: int = 0, vote: str | None = None, commit: int = 0) -> LogImage:
    return LogImage([(r[1], r[2], r[3]) for r in appends(first, last, size)], term, vote, commit)  # type: ignore[misc]


def written(path: Path, *tickets: list[Record]) -> None:
    """Each ticket in a frame of its own."""
    log = LogStore(path)
    for records in tickets:
        log.submit(records)
        log.block()
    log.close()


def read(path: Path) -> LogImage:
    log = LogStore(path)
    try:
        return log.load()
    finally:
        log.close()


def files(path: Path) -> list[Path]:
    return sorted(path.iterdir())


def frames(data: bytes) -> list[tuple[int, int, list[Any]]]:
    """Number, length and records of each frame, read with nothing but what the format says."""
    found, at = [], 0
    while any(data[at : at + 21]):
        begin, length, checksum, number, check = struct.unpack_from(">BIIQI", data, at)
        payload, end = data[at + 21 : at + 21 + length], data[at + 21 + length]
        assert checksum == crc32(payload) and check == crc32(data[at : at + 17]) and begin == end == 255
        found.append((number, 22 + length, msgpack.unpackb(payload)))
        at += 22 + length
    assert not any(data[at:])
    return found


def test_the_files_are_as_documented(tmp_path: Path) -> None:
    written(tmp_path / "log", [*appends(258, 259), ("vote", 9, "mx1"), ("commit", 258)], [("cut", 259)])
    (file,) = files(tmp_path / "log")
    assert file.name == "0000000000000001.segment" and file.stat().st_size == limits.FIRST_SEGMENT_BYTES
    assert file.stat().st_mode & 0o777 == 0o600
    assert [(number, records) for number, _, records in frames(file.read_bytes())] == [
        (1, [["segment", 0, 0, 0, None, 0]]),
        (
            2,
            [
                ["append", b"command 258", 258, 7],
                ["append", b"command 259", 259, 7],
                ["vote", 9, "mx1"],
                ["commit", 258],
            ],
        ),
        (3, [["cut", 259]]),
    ]


def test_all_that_waits_is_one_frame(tmp_path: Path) -> None:
    bench = FileBench(tmp_path, DEFAULT)
    log = bench.open_log()
    tickets: list[int] = []
    log.on_durable = tickets.append
    log.submit(appends(1, 1))
    log.block()
    bench.full()
    for index in range(2, 502):
        log.submit(appends(index, index))
    eventually(lambda: log.health == "full", what="health")
    bench.well()
    eventually(lambda: tickets[-1] == 501, what="the last ticket")
    assert tickets == [1, 501]
    log.close()
    assert [len(records) for _, _, records in frames(files(tmp_path / "log")[0].read_bytes())] == [1, 1, 500]


# --- segments


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_SEGMENT_BYTES", 2_048)
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 8_192)


def test_segments_become_longer_and_say_what_holds_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    written(tmp_path, [("vote", 9, "mx1"), ("commit", 3)], *(appends(index, index, 900) for index in range(1, 31)))
    found = [file for file in files(tmp_path) if file.name != NEXT]
    assert [file.stat().st_size for file in found] == [2_048, 4_096, 8_192, 8_192, 8_192]
    told = [frames(file.read_bytes()) for file in found]
    assert [int(file.name[:16], 16) for file in found] == [each[0][0] for each in told]
    numbers = [number for each in told for number, _, _ in each]
    assert numbers == list(range(1, len(numbers) + 1))
    lasts = [[records[-1][2] for _, _, records in each if records[-1][0] == "append"][-1] for each in told]
    assert [each[0][2] for each in told[1:]] == [[["segment", 1, last, 9, "mx1", 3]] for last in lasts[:-1]]
    assert read(tmp_path) == image(1, 30, 900, term=9, vote="mx1", commit=3)


def test_a_frame_longer_than_any_segment_has_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    written(tmp_path, appends(1, 1), appends(2, 2, 50_000), appends(3, 3))
    assert read(tmp_path).entries == appends_of((1, 0), (2, 50_000), (3, 0))


def appends_of(*pairs: tuple[int, int]) -> list[tuple[bytes, int, int]]:
    return [entry for index, size in pairs for entry in image(index, index, size).entries]


def test_segments_go_when_none_of_their_entries_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    log = LogStore(tmp_path)
    for index in range(1, 31):
        log.submit(appends(index, index, 900))
        log.block()
    before = {file.name for file in files(tmp_path)} - {NEXT}
    log.submit([("cut", 29)])
    log.block()
    left = {file.name for file in files(tmp_path)} - {NEXT}
    assert len(before) == 5 and left == {max(before)}
    assert log.load() == image(29, 30, 900)
    log.submit([("reset",), *appends(5, 6)])
    log.close()
    assert read(tmp_path) == image(5, 6)


def test_a_segment_whose_removal_was_not_durable_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them, any of them, all of them: names are not durable in any order."""
    small(monkeypatch)
    path = tmp_path / "log"
    written(path, [("vote", 3, "a")], *(appends(index, index, 900) for index in range(1, 31)))
    held = {file: file.read_bytes() for file in files(path)}
    written(path, [("cut", 30), ("vote", 4, None)])
    gone = [file for file in held if not file.exists()]
    assert len(gone) == 4
    for number in range(1 << len(gone)):
        for bit, file in enumerate(gone):
            if number >> bit & 1:
                file.write_bytes(held[file])
            else:
                file.unlink(missing_ok=True)
        assert read(path) == image(30, 30, 900, term=4)


@pytest.mark.parametrize("number", range(4))
def test_a_segment_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    small(monkeypatch)
    written(tmp_path, *(appends(index, index, 900) for index in range(1, 31)))
    files(tmp_path)[number].unlink()
    with pytest.raises(StorageFailed, match="the segment that holds entry 1 is missing") as caught:
        LogStore(tmp_path)
    assert str(tmp_path) in str(caught.value) and "join again" in caught.value.remedy


def test_what_was_being_filled_when_the_node_ended_is_nothing(tmp_path: Path) -> None:
    written(tmp_path, appends(1, 3))
    (tmp_path / NEXT).write_bytes(b"x" * 700)
    assert read(tmp_path) == image(1, 3)
    assert not (tmp_path / NEXT).exists()


def test_a_next_segment_that_cannot_be_filled_ahead_is_made_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    (tmp_path / "log").mkdir()
    log = LogStore(tmp_path / "log")
    (tmp_path / "log" / NEXT / "in the way").mkdir(parents=True)
    log.submit(appends(1, 1, 1_500))
    log.block()
    assert log._ahead is not None
    log._ahead.join()
    (tmp_path / "log" / NEXT / "in the way").rmdir()
    (tmp_path / "log" / NEXT).rmdir()
    log.submit(appends(2, 2, 1_500))
    assert log.block() == 2
    log.close()
    assert read(tmp_path / "log") == image(1, 2, 1_500)


def test_without_threads_a_next_segment_is_made_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log was failed for good: what had just become durable was not told, and the node stopped."""
    small(monkeypatch)
    log = LogStore(tmp_path)
    with no_more_threads():
        for index in (1, 2, 3):
            log.submit(appends(index, index, 1_500))
            assert log.block() == index
    assert log.health == "ok"
    while log._ahead is None:
        index += 1
        assert index < 20, "the next segment is made ahead again"
        log.submit(appends(index, index, 1_500))
        log.block()
    log.close()
    assert read(tmp_path) == image(1, index, 1_500)


# --- torn, damaged


def spoil(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as writing:
        writing.seek(at)
        writing.write(data)


def layout(path: Path) -> tuple[Path, bytes, list[int]]:
    """The only segment, its content, and where each of its frames ends."""
    (file,) = (each for each in files(path) if each.name != NEXT)
    data = file.read_bytes()
    ends = [0]
    for _, length, _ in frames(data):
        ends.append(ends[-1] + length)
    return file, data, ends


@pytest.mark.parametrize("size", [0, 300, 700, 5_000])
def test_a_frame_that_was_torn_is_as_if_never_written(tmp_path: Path, size: int) -> None:
    """Any of its sectors may be missing: what is left is removed, and the log goes on where it was."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    written(tmp_path, appends(1, 1, 4_000), [("vote", 8, "a")], appends(2, 3, size))
    file, data, ends = layout(tmp_path)
    start, end = ends[-2:]
    bounds = sorted({start, end, *range(start - start % 512 + 512, end, 512)})
    parts = list(pairwise(bounds))
    for _ in range(30):
        lost = [part for part in parts if chance.random() < 0.5] or [chance.choice(parts)]
        file.write_bytes(data)
        for first, last in lost:
            spoil(file, first, bytes(last - first))
        log = LogStore(tmp_path)
        assert log.load() == image(1, 1, 4_000, term=8, vote="a")
        assert not any(file.read_bytes()[start:])
        log.submit(appends(2, 2))
        log.close()
        assert read(tmp_path).entries == appends_of((1, 4_000), (2, 0))


def test_whatever_else_is_changed_is_damage(tmp_path: Path) -> None:
    """Each bit of the head and some of the rest, of each frame: the last one is not taken for torn, and nothing is removed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    written(tmp_path, appends(1, 3), [("vote", 7, "a")], appends(4, 4, 900))
    file, data, ends = layout(tmp_path)
    for start, end in pairwise(ends):
        places = [*range(start, start + segment.HEAD_BYTES), *chance.sample(range(start, end), 10)]
        for place in places:
            changed = bytearray(data)
            changed[place] ^= 1 << chance.randrange(8)
            file.write_bytes(changed)
            with pytest.raises(StorageFailed, match=r"is corrupt: frame .* fails its checksum") as caught:
                LogStore(tmp_path)
            assert str(tmp_path) in str(caught.value) and "join again" in caught.value.remedy
            assert file.read_bytes() == changed


def test_a_frame_of_zeros_that_others_follow_is_damage(tmp_path: Path) -> None:
    """The disk said that it had it: a later one was only written after that."""
    written(tmp_path, appends(1, 3), appends(4, 4, 2_000), appends(5, 5))
    file, _, ends = layout(tmp_path)
    spoil(file, ends[2], bytes(ends[3] - ends[2]))
    with pytest.raises(StorageFailed, match="and others follow"):
        LogStore(tmp_path)


@pytest.mark.parametrize("content", [bytes(512), b"\xff" * 512, bytes(256) + b"\xff" * 256])
def test_a_sector_that_decays_before_the_last_frame_is_damage(tmp_path: Path, content: bytes) -> None:
    """It holds the heads of several frames, or the end of one and the head of the next; or a later frame has a sector of zeros."""
    zeros: list[Record] = [("append", bytes(2_000), 31, 7)]
    written(tmp_path, *(appends(index, index, 20) for index in range(1, 31)), zeros, *(appends(n, n) for n in (32, 33)))
    file, data, ends = layout(tmp_path)
    for start in (each for each in range(0, ends[-2] - 511, 512) if data[each : each + 512] != content):
        file.write_bytes(data)
        spoil(file, start, content)
        with pytest.raises(StorageFailed, match=r"is corrupt: frame .* fails its checksum"):
            LogStore(tmp_path)
        assert file.read_bytes() == data[:start] + content + data[start + 512 :]


@pytest.mark.parametrize("percent", [0, 20, 60, 99])
def test_a_segment_cut_short_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, percent: int) -> None:
    small(monkeypatch)
    written(tmp_path, *(appends(index, index, 900) for index in range(1, 31)))
    middle = files(tmp_path)[2]
    with middle.open("r+b") as file:
        file.truncate(middle.stat().st_size * percent // 100 // 4096 * 4096)
    with pytest.raises(StorageFailed, match="is corrupt"):
        LogStore(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no segment" * 1000, bytes(4096)])
def test_what_is_no_segment_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0000000000000001.segment").write_bytes(content)
    with pytest.raises(StorageFailed, match="is corrupt"):
        LogStore(tmp_path)


@pytest.mark.parametrize("name", ["first", "-1", "1" * 17, "1", "000000000000000A"])
def test_a_name_that_is_no_segments_is_refused(tmp_path: Path, name: str) -> None:
    """It may be an older copy of a segment, which would be taken for the newest."""
    written(tmp_path, appends(1, 1))
    (file,) = files(tmp_path)
    (tmp_path / f"{name}.segment").write_bytes(file.read_bytes())
    with pytest.raises(StorageFailed, match=f"is corrupt: {name}.segment is no name of a segment"):
        LogStore(tmp_path)


@pytest.mark.parametrize(
    "records",
    [
        [["append", b"", 1]],
        [["append", "text", 1, 1]],
        [["append", b"", 5, 1]],
        [["append", b"", True, 1]],
        [["vote", 1, b"a"]],
        [["cut", "1"]],
        [["commit"]],
        [["reset", 1]],
        [["segment", 0, 0, 0, None, 0]],
        [["unheard of"]],
        [[7]],
        [[]],
        [7],
        7,
        {"a": 1},
    ],
)
def test_a_sound_frame_with_what_no_log_holds_is_damage(records: Any) -> None:
    begin = segment.frame(1, [["segment", 0, 0, 0, None, 0]])
    one = segment.frame(2, [("append", b"a", 3, 1)])
    with pytest.raises(segment.Damage):
        Replay().take(begin + one + segment.frame(3, records), 1)


@pytest.mark.parametrize("start", [[], [["cut", 1]], [["segment", 1, 2]], [["segment", 0, 0, 0, None, 0]] * 2])
def test_a_segment_that_does_not_begin_as_one_is_damage(start: Any) -> None:
    with pytest.raises(segment.Damage):
        Replay().take(segment.frame(1, start), 1)


def test_a_segment_that_contradicts_the_one_before_is_damage() -> None:
    replay = Replay()
    first = segment.frame(1, [["segment", 0, 0, 0, None, 0]]) + segment.frame(2, [("append", b"a", 3, 1)])
    assert replay.take(first, 1) == Place(len(first), 3)
    with pytest.raises(segment.Damage, match="and should with"):
        replay.take(segment.frame(3, [["segment", 3, 4, 0, None, 0]]), 3)


# --- full, not allowed


def test_a_log_as_long_as_it_may_be_waits_for_a_cut_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records that do not fit stand before the cut that makes room for them."""
    small(monkeypatch)
    log = LogStore(tmp_path, most_bytes=100_000)
    tickets: list[int] = []
    health: list[str] = []
    log.on_durable = tickets.append
    log.on_health = lambda what, reason: health.append(what)
    index = 0
    while not health:
        index += 1
        log.submit([*appends(index, index, size=9000), ("commit", index)])
        eventually(lambda: health or len(tickets) == index, what="durable or full")  # noqa: B023 -- called at once
    assert health == ["full"] and tickets[-1] == index - 1 and 5 < index < 12
    with pytest.raises(StorageFull, match="100000 bytes"):
        log.block()
    log.submit(appends(index + 1, index + 20, size=9000))
    log.submit([("cut", 5), ("vote", 8, "a")])
    assert tickets[-1] == index - 1
    eventually(lambda: health == ["full", "ok"], what="health")
    assert tickets[-1] == log.block() == index + 2
    expected = image(5, index + 20, 9000, term=8, vote="a", commit=index)
    assert log.load() == expected
    log.close()
    assert read(tmp_path) == expected


def test_the_reserve_of_the_disk_is_for_records_that_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogStore(tmp_path)
    log.submit(appends(1, 9))
    log.block()
    with monkeypatch.context() as patch:
        patch.setattr(limits, "DISK_RESERVE_BYTES", 1 << 62)
        log.submit(appends(10, 10))
        eventually(lambda: log.health == "full", what="health")
        assert [entry[1] for entry in log.load().entries] == list(range(1, 10))
        log.submit([("cut", 5)])
        eventually(lambda: log.health == "ok", what="health")
        assert [entry[1] for entry in log.load().entries] == list(range(5, 11))
    log.close()


def test_a_place_that_is_no_directory_or_not_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(StorageFailed, match=str(tmp_path / "log")):
        LogStore(tmp_path / "log")


def test_a_log_that_may_not_be_written_names_the_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, appends(1, 1))

    def refuse(self: LogStore, path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(LogStore, "_open", refuse)
    with pytest.raises(MissingPrivilege, match=str(tmp_path)):
        LogStore(tmp_path)


def test_a_log_that_had_more_frames_is_told(tmp_path: Path) -> None:
    log = LogStore(tmp_path)
    log.submit(appends(1, 1))
    log.block()
    assert log.written == 2
    log.check_end(2)
    with pytest.raises(StorageFailed, match="its end is missing: it has 2 frames, and had 3") as caught:
        log.check_end(3)
    assert str(tmp_path) in str(caught.value) and "join again" in caught.value.remedy
    log.close()
