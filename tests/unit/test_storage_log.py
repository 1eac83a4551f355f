"""The LMDB log beyond its port: its file, its batches, damage, and the two ways of being full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

from raftcluster import limits
from raftcluster.errors import StorageFailed
from raftcluster.storage.log import LogStore
from raftcluster.storage.ports import LogImage, Record
from raftcluster.storage.runs import DEFAULT
from tests.contract.stores import LmdbBench
from tests.helpers import eventually

LOAD = """
import sys
from pathlib import Path
from raftcluster.errors import StorageFailed
from raftcluster.storage.log import LogStore
try:
    log = LogStore(Path(sys.argv[1]))
    print(len(log.load().entries), "entries")
    log.close()
except StorageFailed as error:
    print("StorageFailed", error)
"""


def outside(path: Path, expression: str) -> str:
    """`expression` over `env`, evaluated by another process with nothing but py-lmdb."""
    code = f"import lmdb, sys; env = lmdb.open(sys.argv[1], max_dbs=9, readonly=True); print({expression})"
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    ).stdout.strip()


def appends(first: int, last: int, size: int = 0) -> list[Record]:
    return [("append", b"command %d" % index + b"x" * size, index, 7) for index in range(first, last + 1)]


def written(path: Path, *records: Record) -> None:
    log = LogStore(path)
    log.submit(records)
    log.close()


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    written(tmp_path / "log", *appends(258, 259), ("vote", 9, "mx1"), ("commit", 258))
    checksum = crc32(b"command 258", crc32((7).to_bytes(8), crc32((258).to_bytes(8))))
    entry = outside(
        tmp_path / "log", "(lambda db: env.begin(db).get((258).to_bytes(8, 'big')).hex())(env.open_db(b'entries'))"
    )
    assert bytes.fromhex(entry) == (7).to_bytes(8) + checksum.to_bytes(4) + b"command 258"
    vote = outside(tmp_path / "log", "(lambda db: env.begin(db).get(b'vote').hex())(env.open_db(b'meta'))")
    assert bytes.fromhex(vote) == (9).to_bytes(8) + crc32(b"mx1", crc32((9).to_bytes(8))).to_bytes(4) + b"mx1"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "log").iterdir()} == {0o600}


def test_all_that_waits_is_one_transaction(tmp_path: Path) -> None:
    bench = LmdbBench(tmp_path, DEFAULT)
    log = bench.open_log()
    tickets: list[int] = []
    log.on_durable = tickets.append
    log.submit(appends(1, 1))
    log.block()
    before = int(outside(tmp_path / "log", "env.info()['last_txnid']"))
    bench.full()
    for index in range(2, 502):
        log.submit(appends(index, index))
    eventually(lambda: log.health == "full", what="health")
    bench.well()
    eventually(lambda: tickets[-1] == 501, what="the last ticket")
    assert tickets == [1, 501]
    assert int(outside(tmp_path / "log", "env.info()['last_txnid']")) == before + 1
    log.close()


@pytest.mark.parametrize("found", [b"command 2", (7).to_bytes(8) + crc32(b"a", crc32((7).to_bytes(8))).to_bytes(4)])
def test_a_flipped_bit_is_found(tmp_path: Path, found: bytes) -> None:
    written(tmp_path, *appends(1, 3), ("vote", 7, "a"))
    data = bytearray((tmp_path / "data.mdb").read_bytes())
    position = data.rindex(found)
    data[position] ^= 0x04
    (tmp_path / "data.mdb").write_bytes(data)
    log = LogStore(tmp_path)
    with pytest.raises(StorageFailed, match="is corrupt") as caught:
        log.load()
    assert str(tmp_path) in str(caught.value) and "join again" in caught.value.remedy
    log.close()


@pytest.mark.parametrize("percent", [20, 40, 60, 80, 95])
def test_a_file_cut_short_is_corrupt_and_kills_nobody(tmp_path: Path, percent: int) -> None:
    """A map beyond the end of its file is a SIGBUS."""
    written(tmp_path, *appends(1, 200, size=5000))
    size = (tmp_path / "data.mdb").stat().st_size
    with (tmp_path / "data.mdb").open("r+b") as file:
        file.truncate(size * percent // 100 // 4096 * 4096)
    result = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True, capture_output=True, text=True)
    assert result.stdout.startswith("StorageFailed") and str(tmp_path) in result.stdout


def test_a_file_that_is_no_environment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no environment" * 1000)
    with pytest.raises(StorageFailed, match="is corrupt"):
        LogStore(tmp_path)


def test_a_full_map_waits_for_a_cut_and_loses_nothing(tmp_path: Path) -> None:
    """The records that do not fit stand before the cut that makes room for them."""
    log = LogStore(tmp_path, map_bytes=limits.MIB)
    tickets: list[int] = []
    health: list[str] = []
    log.on_durable = tickets.append
    log.on_health = lambda what, reason: health.append(what)
    index = 0
    while not health:
        index += 1
        log.submit([*appends(index, index, size=9000), ("commit", index)])
        eventually(lambda: health or len(tickets) == index, what="durable or full")  # noqa: B023 -- called at once
    assert health == ["full"] and tickets[-1] == index - 1
    log.submit(appends(index + 1, index + 20, size=9000))
    log.submit([("cut", 50), ("vote", 8, "a")])
    assert tickets[-1] == index - 1
    eventually(lambda: health == ["full", "ok"], what="health")
    assert tickets[-1] == log.block() == index + 2
    expected = LogImage([(r[1], r[2], r[3]) for r in appends(50, index + 20, size=9000)], 8, "a", index)  # type: ignore[misc]
    assert log.load() == expected
    log.close()
    log = LogStore(tmp_path, map_bytes=limits.MIB)
    assert log.load() == expected
    log.close()


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
