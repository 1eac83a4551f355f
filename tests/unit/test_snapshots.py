"""Snapshots between two stores: what fits no frame, what a hostile peer sends, two at once over one spool file."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from raftcluster import limits, snapshots
from raftcluster.codec import pack, unpack
from raftcluster.engine.recovery import Anchor
from raftcluster.errors import FrameError, Unavailable
from raftcluster.storage.digest import digest
from raftcluster.storage.ports import Unit
from raftcluster.storage.tables import TableStore
from raftcluster.transport import frames
from tests.helpers import eventually, no_more_threads


class Pipe:
    """A stream's frames in memory, as large as the real ones may be."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[bytes] = SimpleQueue()

    def send(self, value: Any) -> None:
        self.queue.put(frames.encode(value))

    def receive(self, timeout: float) -> Any:
        return unpack(self.queue.get(timeout=timeout)[4:])

    def close(self) -> None: ...


def anchor(index: int) -> bytes:
    return Anchor(index, 1, b"\x01", 1, ("n1",), 0).encode()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[TableStore]]:
    stores = [TableStore(tmp_path / name) for name in ("source", "target")]
    yield stores
    for store in stores:
        store.close()


def fill(store: TableStore, index: int, rows: dict[bytes, bytes | None]) -> None:
    done: list[bool] = []
    store.checkpoint(Unit(index, {"machine.rows": rows}, anchor(index)), done.append)
    eventually(lambda: done == [True])


def hashes(store: TableStore) -> dict[str, str]:
    snapshot = store.snapshot()
    assert snapshot is not None
    return digest(snapshot)


ROWS = {
    "as many of the largest values as fill a frame": [limits.CONFIG_INLINE_BYTES] * 100,
    "a row that fits no frame": [1, limits.FRAME_BYTES + 1, 1],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_every_size_travel(stores: list[TableStore], tmp_path: Path, name: str) -> None:
    source, target = stores
    fill(source, 9, {b"%04d" % number: b"x" * size for number, size in enumerate(ROWS[name])})
    pipe = Pipe()
    snapshots.serve(source, "n2", pipe)
    done: list[bool] = []
    snapshots.fetch(pipe, tmp_path / "spool", target, done.append)
    eventually(lambda: done == [True])
    assert hashes(target) == hashes(source)


HEAD: dict[str, Any] = {"index": 9, "anchor": anchor(9)}
HOSTILE: dict[str, list[Any]] = {
    "no head": [[]],
    "an empty head": [{}],
    "an anchor that is a length": [{"index": 9, "anchor": 2**40}],
    "an anchor that is none": [{"index": 9, "anchor": b"\x01"}, {"bytes": 0, "sha256": b""}],
    "an anchor of another entry": [{"index": 8, "anchor": anchor(9)}],
    "an index beyond all": [{"index": 2**64 - 1, "anchor": anchor(9)}],
    "an index below all": [{"index": -1, "anchor": anchor(9)}],
    "an empty block": [HEAD, []],
    "a number": [HEAD, 7],
    "pieces without end": [HEAD, b""],
    "no sum": [HEAD, b"\x00\x00\x00\x00", {}],
    "a wrong sum": [HEAD, b"\x00\x00\x00\x00", {"bytes": 4, "sha256": b""}],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_comes_the_fetch_ends_and_nothing_has_changed(
    stores: list[TableStore], tmp_path: Path, name: str
) -> None:
    target = stores[1]
    fill(target, 3, {b"key": b"value"})
    before = hashes(target)
    pipe = Pipe()
    for value in HOSTILE[name]:
        pipe.send(value)
    done: list[bool] = []
    snapshots.fetch(pipe, tmp_path / "spool", target, done.append)
    eventually(lambda: done == [False])
    assert hashes(target) == before and target.health == "ok"
    assert not (tmp_path / "spool").exists()


def test_without_threads_no_snapshot_is_fetched_and_that_is_told(stores: list[TableStore], tmp_path: Path) -> None:
    """It begins on the tick thread: what was raised there stopped the node for good."""
    posted: list[Callable[[], None]] = []
    done: list[bool] = []
    with no_more_threads():
        snapshots.begin_fetch(lambda *_: Pipe(), "n2", tmp_path / "spool", stores[1], posted.append, done.append)
    for work in posted:
        work()
    assert done == [False]


class Endless(Pipe):
    """A head, and the same piece for ever."""

    def __init__(self, piece: bytes) -> None:
        super().__init__()
        self.piece = piece
        self.begun = False

    def receive(self, timeout: float) -> Any:
        begun, self.begun = self.begun, True
        return self.piece if begun else HEAD


def refused(
    piece: bytes,
    directory: Path,
    target: TableStore,
    log: pytest.LogCaptureFixture,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """What is said of a fetch that would never end."""
    done: list[bool] = []
    snapshots.fetch(Endless(piece), directory / "spool", target, done.append, clock=clock)
    assert done == [False] and not (directory / "spool").exists()
    return log.messages[-1]


def test_a_member_that_feeds_bytes_for_ever_meets_a_bound(
    stores: list[TableStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_BYTES", 3 * limits.MIB)
    assert "does not end" in refused(bytes(limits.SNAPSHOT_CHUNK_BYTES), tmp_path, stores[1], caplog)


def test_a_member_that_feeds_one_byte_now_and_then_is_too_slow(
    stores: list[TableStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter(range(0, 10**6, 25))
    told = refused(b"x", tmp_path, stores[1], caplog, clock=lambda: float(next(seconds)))
    assert "too slow" in told and next(seconds) < 10 * limits.FRAME_SECONDS


def test_a_member_that_takes_a_piece_now_and_then_is_too_slow(stores: list[TableStore]) -> None:
    """Each piece was in time. What a transaction reads is not given back: the tables grew as long as it liked, which is hours."""
    fill(stores[0], 7, {bytes([n]): bytes(limits.CONFIG_INLINE_BYTES) for n in range(200)})
    pipe = Pipe()
    with pytest.raises(Unavailable, match="too slow"):
        snapshots.serve(stores[0], "n2", pipe, clock=lambda: 25.0 * pipe.queue.qsize())
    assert 25 * pipe.queue.qsize() < 10 * limits.FRAME_SECONDS


def test_a_snapshot_never_takes_the_last_of_the_disk(
    stores: list[TableStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "DISK_RESERVE_BYTES", 2**60)
    assert "StorageFull" in refused(b"x", tmp_path, stores[1], caplog)


def whole(*blocks: bytes) -> Pipe:
    """A snapshot of these blocks, with a right sum."""
    pipe, body = Pipe(), b"".join(len(block).to_bytes(4, "big") + block for block in blocks)
    pipe.send(HEAD)
    for start in range(0, len(body), limits.MIB):
        pipe.send(body[start : start + limits.MIB])
    pipe.send({"bytes": len(body), "sha256": hashlib.sha256(HEAD["anchor"] + body).digest()})
    return pipe


DEEP = pack(["machine.rows", [[b"k", [[] for _ in range(limits.FRAME_BYTES)]]]])
BLOCKS: dict[str, bytes] = {
    "no list": pack(7),
    "no rows": pack(["machine.rows", [[b"k"]]]),
    "a row that is no bytes": pack(["machine.rows", [[b"k", 5]]]),
    "lists where a large row should be": DEEP,
    "a large row and something else": pack(["machine.rows", [[b"k", bytes(limits.FRAME_BYTES)], [b"l"]]]),
    "bytes left over": pack(["machine.rows", [[b"k", bytes(limits.FRAME_BYTES)]]]) + b"x",
    "a ring that is none": pack(["engine.ring", [[bytes(8), pack([[b"short", b""]])]]]),
    "a ring of a result that is none": pack(["engine.ring", [[bytes(8), pack([[bytes(16), pack([9])]])]]]),
    "a floor that is none": pack(["engine.ring", [[b"floor", pack("x")]]]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_hold_no_rows_change_nothing(stores: list[TableStore], tmp_path: Path, name: str) -> None:
    target = stores[1]
    fill(target, 3, {b"key": b"value"})
    before, done = hashes(target), list[bool]()
    snapshots.fetch(whole(BLOCKS[name]), tmp_path / "spool", target, done.append)
    eventually(lambda: done == [False])
    assert hashes(target) == before and target.health == "ok"


def test_what_a_block_claims_to_be_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            snapshots.unpack_chunk(DEEP)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(DEEP)
    finally:
        tracemalloc.stop()


def test_two_fetches_do_not_write_over_each_other(stores: list[TableStore], tmp_path: Path) -> None:
    """A node that was closed while it fetched, and is opened again in the same process."""
    source, target = stores
    fill(source, 9, {b"%04d" % number: b"x" * limits.CONFIG_INLINE_BYTES for number in range(40)})
    whole = Pipe()
    snapshots.serve(source, "n2", whole)
    values = [whole.queue.get() for _ in range(whole.queue.qsize())]
    slow, done = Pipe(), list[bool]()
    slow.queue.put(values[0])
    slow.queue.put(values[1])
    fetching = threading.Thread(target=snapshots.fetch, args=(slow, tmp_path / "spool", target, done.append))
    fetching.start()
    eventually(slow.queue.empty)
    other, failed = Pipe(), list[bool]()
    other.queue.put(values[0])
    other.queue.put(values[2])
    other.send({"bytes": 0, "sha256": b""})
    snapshots.fetch(other, tmp_path / "spool", target, failed.append)
    for value in values[2:]:
        slow.queue.put(value)
    fetching.join(60)
    eventually(lambda: done == [True] and failed == [False])
    assert hashes(target) == hashes(source)


def test_an_anchor_that_is_none_is_told() -> None:
    for data in (b"\x90", b"\x01", b"", Anchor(0, 1, b"", 1, (), 0).encode()):
        with pytest.raises(FrameError):
            Anchor.decode(data)
