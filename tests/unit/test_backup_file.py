"""The backup file: whatever is done to it is noticed, and nothing is ever written over."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from raftcluster import limits
from raftcluster.backup.file import MAGIC, Header, Reader, pieces, save
from raftcluster.backup.summary import Summary, verify
from raftcluster.codec import pack
from raftcluster.engine.recovery import Anchor
from raftcluster.errors import BackupDamaged, BackupForeign, MissingPrivilege, Refusal, StorageFull
from raftcluster.storage.ports import Chunk, Snapshot

ROWS = {
    "config.values": [(b"a", b"1"), (b"b", b"2" * 100)],
    "greylist.records": [(b"%03d" % n, b"r") for n in range(9)],
}


def header(index: int = 7) -> Header:
    anchor = Anchor(index, 3, b"\x01", 2, ("n1",), 1_000).encode()
    return Header("c1", "mail", "mta/1.0", "standalone", False, "mx1", {"config": 1}, index, anchor, 1_700_000_000)


def snapshot(rows: dict[str, list[tuple[bytes, bytes]]], size: int = 1_000) -> Snapshot:
    def chunks() -> Generator[Chunk, None, None]:
        for table, found in rows.items():
            for start in range(0, len(found), size):
                yield table, found[start : start + size]

    return Snapshot(7, header().anchor, {table: len(found) for table, found in rows.items()}, chunks())


def content() -> bytes:
    return b"".join(pieces(header(), snapshot(ROWS, 4)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(tmp_path / "backup", [content()])
    return tmp_path / "backup"


def changed(file: Path, data: bytes) -> Path:
    other = file.with_name("changed")
    other.write_bytes(data)
    return other


def refused(path: Path) -> Refusal:
    with pytest.raises(Refusal) as caught:
        verify(path)
    assert isinstance(caught.value, BackupDamaged | BackupForeign)
    assert str(path) in caught.value.message and caught.value.remedy
    return caught.value


def test_what_was_written_is_read(file: Path) -> None:
    found: Summary = verify(file)
    assert (found.cluster, found.node, found.index, found.term, found.cluster_time_ms) == ("mail", "mx1", 7, 3, 1_000)
    assert found.rows == {"config.values": 2, "greylist.records": 9} and found.bytes == file.stat().st_size
    with Reader(file) as reader:
        read: dict[str, list[tuple[bytes, bytes]]] = {}
        for table, rows in reader.chunks():
            read.setdefault(table, []).extend(rows)
        assert read == ROWS and reader.sum.hex() == found.sha256
    assert verify(file) == found


def test_only_the_owner_can_read_it_and_pieces_are_bounded(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    rows = {"machine.rows": [(b"k", b"x" * (3 * limits.SNAPSHOT_CHUNK_BYTES))]}
    made = list(pieces(header(), snapshot(rows)))
    assert max(map(len, made)) <= limits.SNAPSHOT_CHUNK_BYTES
    large = file.with_name("large")
    save(large, made)
    assert verify(large).rows == {"machine.rows": 1}


def test_a_file_that_was_cut_short_anywhere_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole)):
        assert isinstance(refused(changed(file, whole[:length])), BackupDamaged), length


def test_a_changed_bit_anywhere_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        refused(changed(file, bytes(data)))


def test_a_block_that_is_missing_doubled_or_out_of_its_place_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    blocks, at = [], len(MAGIC)
    while at < len(whole):
        end = at + 36 + int.from_bytes(whole[at : at + 4], "big")
        blocks.append(whole[at:end])
        at = end
    assert len(blocks) == 6
    for number in range(1, len(blocks)):
        for other in (
            [*blocks[:number], *blocks[number + 1 :]],
            [*blocks[:number], blocks[number], *blocks[number:]],
            [*blocks[: number - 1], blocks[number], blocks[number - 1], *blocks[number + 1 :]],
        ):
            assert isinstance(refused(changed(file, MAGIC + b"".join(other))), BackupDamaged)
    assert "behind its end" in refused(changed(file, whole + b"\0")).message


def test_other_files_are_none(file: Path, tmp_path: Path) -> None:
    assert "it is empty" in refused(changed(file, b"")).message
    refused(changed(file, b"SQLite format 3\0" * 100))
    newer = refused(changed(file, MAGIC.replace(b"1", b"2") + file.read_bytes()[len(MAGIC) :]))
    assert isinstance(newer, BackupForeign) and "format 2, this program reads 1" in newer.message
    with pytest.raises(Refusal, match="No such file"):
        verify(tmp_path / "absent")
    with pytest.raises(Refusal):
        verify(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refusal, match="no regular file"):
        verify(tmp_path / "pipe")


def test_rows_that_no_table_can_hold_are_refused_although_the_sums_are_right(file: Path) -> None:
    for rows in (
        {"config.values": [(b"b", b"1"), (b"a", b"2")]},
        {"Not a table": [(b"b", b"1")]},
        {"config.values": [(b"x" * 512, b"1")]},
    ):
        other = file.with_name("wrong")
        other.unlink(missing_ok=True)
        save(other, pieces(header(), snapshot(rows)))
        refused(other)


def test_nothing_is_written_over(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(Refusal, match="exists already") as caught:
        save(file, [b"other"])
    assert caught.value.exit_code == 4 and file.read_bytes() == before
    link = file.with_name("link")
    link.symlink_to(file.with_name("target"))
    with pytest.raises(Refusal):
        save(link, [b"other"])
    assert not file.with_name("target").exists()


@pytest.mark.parametrize("error", [KeyError("defect"), StorageFull("full"), KeyboardInterrupt()])
def test_what_breaks_off_leaves_no_file(tmp_path: Path, error: BaseException) -> None:
    def broken() -> Iterator[bytes]:
        yield b"begun"
        raise error

    with pytest.raises(type(error)):
        save(tmp_path / "backup", broken())
    assert list(tmp_path.iterdir()) == []


def test_the_last_space_of_a_disk_is_left_to_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISK_RESERVE_BYTES", 2**62)
    with pytest.raises(StorageFull, match="No space left"):
        save(tmp_path / "backup", [b"content"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_or_not_ours(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="No such file"):
        save(tmp_path / "absent" / "backup", [b"content"])
    with pytest.raises((MissingPrivilege, Refusal)):
        save("/proc/backup", [b"content"])


def test_what_an_attempt_that_was_killed_has_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".backup.part").write_bytes(b"half")
    save(tmp_path / "backup", [content()])
    assert os.listdir(tmp_path) == ["backup"] and verify(tmp_path / "backup").index == 7


def test_a_header_that_is_none(file: Path) -> None:
    fields = {name: getattr(header(), name) for name in Header.__dataclass_fields__}
    for wrong in ({**fields, "index": 8}, {**fields, "lab": 1}, {**fields, "anchor": b""}, {}, {"cluster": "x"}):
        with pytest.raises(BackupDamaged, match="its header is malformed"):
            Header.of(pack(wrong), "backup")
    assert Header.of(pack(fields), "backup") == header()
