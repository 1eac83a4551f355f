"""Snapshots between nodes, over a connection of their own: never through the engine's link, never blocking anything.

A snapshot is the sender's last durable checkpoint, read in one transaction while new checkpoints go on. The receiver
spools it to a file, compares the checksum of the whole, and only then has it installed, in one transaction.

Whoever sends may be hostile: what comes is bounded in size (no more than the tables may hold, never the last of the disk),
must keep up a rate, so that it ends, and is read row by row where a block is larger than any frame.

    receiver -> sender   (the stream's kind says it all)
    sender -> receiver   {"index", "anchor"}, then the blocks in pieces of bytes, then {"bytes", "sha256"}
    block                length (4 bytes, big-endian), msgpack [table, [[key, value], ...]]

Thread: `serve` and `fetch` block; each runs on a thread of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from raftcluster import failpoints, heap, limits
from raftcluster.codec import Value, pack, unpack, unpack_rows
from raftcluster.engine.operations import Ring
from raftcluster.engine.recovery import Anchor
from raftcluster.errors import FrameError, RaftclusterError, StorageFull, Unavailable
from raftcluster.storage.ports import Chunk, Row, TableStore

log = logging.getLogger("raftcluster.node")

LENGTH_BYTES = 4


class Stream(Protocol):
    """What is needed of a connection: see `transport`."""

    def send(self, value: Value) -> None: ...
    def receive(self, timeout: float) -> Value: ...
    def close(self) -> None: ...


def serve(
    store: TableStore,
    peer: str,
    stream: Stream,
    begun: Callable[[int], None] = lambda index: None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send the newest checkpoint; `begun` is told its index before. Raises `Unavailable` when there is none yet, and when the
    peer takes it so slowly that it should have ended it: what it reads cannot be given back meanwhile."""
    snapshot = store.snapshot()
    if snapshot is None:
        raise Unavailable("there is no checkpoint yet", subject=peer, remedy="ask again in a second")
    begun(snapshot.index)
    stream.send({"index": snapshot.index, "anchor": snapshot.anchor})
    total = hashlib.sha256(snapshot.anchor)
    rows = size = 0
    since = clock()
    with closing(snapshot.chunks) as chunks:
        for table, chunk in chunks:
            packed = pack_chunk(table, chunk)
            block = len(packed).to_bytes(LENGTH_BYTES, "big") + packed
            total.update(block)
            rows, size = rows + len(chunk), size + len(block)
            for start in range(0, len(block), limits.SNAPSHOT_CHUNK_BYTES):  # one row may be larger than a frame
                stream.send(block[start : start + limits.SNAPSHOT_CHUNK_BYTES])
                _keeps_up(clock() - since, size, limits.FRAME_SECONDS)
                failpoints.reach("snapshot.send")
    stream.send({"bytes": size, "sha256": total.digest()})
    heap.trim()
    log.info("sent %d rows as of entry %d to %s", rows, snapshot.index, peer)


def begin_fetch(
    open_stream: Callable[[str, str], Stream],
    peer: str,
    spool: Path,
    store: TableStore,
    post: Callable[[Callable[[], None]], None],
    finish: Callable[[bool], None],
) -> None:
    """`fetch_from` on a thread of its own."""
    work = partial(fetch_from, open_stream, peer, spool, store, post, finish)
    try:
        threading.Thread(target=work, name="raftcluster-fetch", daemon=True).start()
    except RuntimeError as error:  # no more threads: as when the peer cannot be reached
        log.warning("no snapshot from %s: %s", peer, error)
        post(partial(finish, False))


def fetch_from(
    open_stream: Callable[[str, str], Stream],
    peer: str,
    spool: Path,
    store: TableStore,
    post: Callable[[Callable[[], None]], None],
    finish: Callable[[bool], None],
) -> None:
    """`fetch` over a connection of its own to `peer`; `finish(installed)` is posted."""

    def done(installed: bool) -> None:
        post(partial(finish, installed))
        post(heap.trim)  # when what the snapshot has replaced is no longer held

    try:
        stream = open_stream(peer, "snapshot")
    except RaftclusterError as error:
        log.warning("no snapshot from %s: %s", peer, error)
        done(False)
        return
    try:
        fetch(stream, spool, store, done)
    finally:
        stream.close()


def fetch(
    stream: Stream,
    spool: Path,
    store: TableStore,
    done: Callable[[bool], None],
    *,
    seconds: float = limits.FRAME_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Receive into `spool`, check, have it installed; `done(installed)` is called in any case, once.

    Each frame must come within `seconds`, and all of them at `SNAPSHOT_BYTES_PER_SECOND` or more. The file has no name
    while it is written: nobody else can write to it, and nothing of it is left whatever happens.
    """
    with ExitStack() as undo:
        try:
            spool.unlink(missing_ok=True)
            file = undo.enter_context(spool.open("x+b"))
            spool.unlink()
            index, anchor = _receive(stream, file, seconds, clock)
            file.seek(0)
        except Exception as error:  # noqa: BLE001 - whatever a peer sends: nothing is applied here until `done` is called
            log.warning("no snapshot was received: %r", error)
            done(False)
            return
        undo.pop_all()

    def installed(good: bool) -> None:
        file.close()
        done(good)

    failpoints.reach("snapshot.received")
    store.install(index, anchor, _read(file), installed)


def _receive(stream: Stream, file: BinaryIO, seconds: float, clock: Callable[[], float]) -> tuple[int, bytes]:
    """Raises `FrameError` for what is no snapshot, `Unavailable` when it comes too slowly, `StorageFull`."""
    begun, size = clock(), 0
    head = stream.receive(seconds)
    if not isinstance(head, dict) or not isinstance(head.get("anchor"), bytes):
        raise FrameError("this does not begin a snapshot", subject="snapshot")
    index, anchor = head.get("index"), head["anchor"]
    if type(index) is not int or Anchor.decode(anchor).index != index:
        raise FrameError(f"the anchor is not that of entry {index!r:.40}", subject="snapshot")
    total = hashlib.sha256(anchor)
    while isinstance(value := stream.receive(seconds), bytes):
        size += len(value)
        if not value or size > limits.SNAPSHOT_BYTES:
            raise FrameError(f"after {size} bytes the snapshot does not end", subject="snapshot")
        _keeps_up(clock() - begun, size, seconds)
        space = os.fstatvfs(file.fileno())
        if space.f_bavail * space.f_frsize < 2 * limits.DISK_RESERVE_BYTES + len(value):
            raise StorageFull(
                f"no space for a snapshot, after {size} bytes", subject="snapshot", remedy="free disk space"
            )
        total.update(value)
        file.write(value)
        failpoints.reach("snapshot.write")
    if not isinstance(value, dict) or (value.get("bytes"), value.get("sha256")) != (size, total.digest()):
        raise FrameError(f"the snapshot at entry {index} arrived damaged ({size} bytes)", subject="snapshot")
    return index, anchor


def _keeps_up(passed: float, size: int, seconds: float) -> None:
    """Raise `Unavailable` when `size` bytes in `passed` seconds are too few. For either end."""
    if passed > seconds + size / limits.SNAPSHOT_BYTES_PER_SECOND:
        raise Unavailable(f"too slow: {size} bytes in {passed:.0f} s", subject="snapshot")


def _read(file: BinaryIO) -> Iterator[Chunk]:
    """Raises `FrameError` for a block that is none."""
    while length := file.read(LENGTH_BYTES):
        size = int.from_bytes(length, "big")
        if size > limits.SNAPSHOT_BLOCK_BYTES:
            raise FrameError(f"a block of {size} bytes", subject="snapshot")
        table, rows = unpack_chunk(file.read(size))
        if table == f"{Ring.MACHINE}.{Ring.TABLE}":
            for key, row in rows:
                Ring.row(key, row)  # the engine's own: a node that cannot read it back could never start again
        yield table, rows


def pack_chunk(table: str, rows: Sequence[Row]) -> bytes:
    """Rows of a table, as they travel and as backups keep them."""
    return pack([table, [list(row) for row in rows]])


def unpack_chunk(data: bytes) -> Chunk:
    """What `pack_chunk` packed. Raises `FrameError` when it is none; keys and values may still be anything."""
    if len(data) > limits.FRAME_BYTES:  # it holds one large row, and few small ones
        return unpack_rows(data, most=limits.SNAPSHOT_CHUNK_BYTES)
    match unpack(data):
        case [str(table), [*rows]] if all(type(row) is list and len(row) == 2 for row in rows):
            return table, [(key, value) for key, value in rows]
    raise FrameError("a block that holds no rows", subject="snapshot")
