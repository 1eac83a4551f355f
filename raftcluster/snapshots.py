"""Snapshots between nodes, over a connection of their own: never through the engine's link, never blocking anything.

A snapshot is the sender's last durable checkpoint, read in one transaction while new checkpoints go on. The receiver
spools it to a file, compares the checksum of the whole, and only then has it installed, in one transaction.

    receiver -> sender   (the stream's kind says it all)
    sender -> receiver   {"index", "anchor"}, then the blocks in pieces of bytes, then {"bytes", "sha256"}
    block                length (4 bytes, big-endian), msgpack [table, [[key, value], ...]]

Thread: `serve` and `fetch` block; each runs on a thread of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO, Protocol

from raftcluster import failpoints, limits
from raftcluster.codec import Value, pack, unpack
from raftcluster.engine.recovery import Anchor
from raftcluster.errors import FrameError, RaftclusterError, Unavailable
from raftcluster.storage.ports import Chunk, Row, TableStore

log = logging.getLogger("raftcluster.node")

LENGTH_BYTES = 4


class Stream(Protocol):
    """What is needed of a connection: see `transport`."""

    def send(self, value: Value) -> None: ...
    def receive(self, timeout: float) -> Value: ...
    def close(self) -> None: ...


def serve(store: TableStore, peer: str, stream: Stream) -> None:
    """Send the newest checkpoint. Raises `Unavailable` when there is none yet."""
    snapshot = store.snapshot()
    if snapshot is None:
        raise Unavailable("there is no checkpoint yet", subject=peer, remedy="ask again in a second")
    stream.send({"index": snapshot.index, "anchor": snapshot.anchor})
    total = hashlib.sha256(snapshot.anchor)
    rows = size = 0
    with closing(snapshot.chunks) as chunks:
        for table, chunk in chunks:
            packed = pack_chunk(table, chunk)
            block = len(packed).to_bytes(LENGTH_BYTES, "big") + packed
            total.update(block)
            rows, size = rows + len(chunk), size + len(block)
            for start in range(0, len(block), limits.SNAPSHOT_CHUNK_BYTES):  # one row may be larger than a frame
                stream.send(block[start : start + limits.SNAPSHOT_CHUNK_BYTES])
                failpoints.reach("snapshot.send")
    stream.send({"bytes": size, "sha256": total.digest()})
    log.info("sent %d rows as of entry %d to %s", rows, snapshot.index, peer)


def fetch_from(
    open_stream: Callable[[str, str], Stream], peer: str, spool: Path, store: TableStore, done: Callable[[bool], None]
) -> None:
    """`fetch` over a connection of its own to `peer`."""
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
) -> None:
    """Receive into `spool`, check, have it installed; `done(installed)` is called in any case, once.

    Each frame must come within `seconds`. The file has no name while it is written: nobody else can write to it, and
    nothing of it is left whatever happens.
    """
    with ExitStack() as undo:
        try:
            spool.unlink(missing_ok=True)
            file = undo.enter_context(spool.open("x+b"))
            spool.unlink()
            index, anchor = _receive(stream, file, seconds)
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


def _receive(stream: Stream, file: BinaryIO, seconds: float) -> tuple[int, bytes]:
    head = stream.receive(seconds)
    index, anchor = head["index"], head["anchor"]
    if Anchor.decode(anchor).index != index:
        raise FrameError(f"the anchor is not that of entry {index!r}", subject="snapshot")
    total = hashlib.sha256(anchor)
    while isinstance(value := stream.receive(seconds), bytes):
        total.update(value)
        file.write(value)
        failpoints.reach("snapshot.write")
    if value["bytes"] != file.tell() or value["sha256"] != total.digest():
        raise FrameError(f"the snapshot at entry {index} arrived damaged ({file.tell()} bytes)", subject="snapshot")
    return index, anchor


def _read(file: BinaryIO) -> Iterator[Chunk]:
    while length := file.read(LENGTH_BYTES):
        size = int.from_bytes(length, "big")
        yield unpack_chunk(file.read(size))


def pack_chunk(table: str, rows: Sequence[Row]) -> bytes:
    """Rows of a table, as they travel and as backups keep them."""
    return pack([table, [list(row) for row in rows]])


def unpack_chunk(data: bytes) -> Chunk:
    """What `pack_chunk` packed. Raises `FrameError`, `ValueError` or `TypeError` when it is none."""
    table, rows = unpack(data, limit_bytes=len(data))
    return str(table), [(bytes(key), bytes(value)) for key, value in rows]
