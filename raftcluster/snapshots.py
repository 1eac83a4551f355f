"""Snapshots between nodes, over a connection of their own: never through the engine's link, never blocking anything.

A snapshot is the sender's last durable checkpoint, read in one transaction while new checkpoints go on. The receiver
spools it to a file, compares the checksum of the whole, and only then has it installed, in one transaction.

    receiver -> sender   (the stream's kind says it all)
    sender -> receiver   {"index", "anchor"}, then [table, [[key, value], ...]] each, then {"rows", "sha256"}

Thread: `serve` and `fetch` block; each runs on a thread of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol

from raftcluster import limits
from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError, RaftclusterError, Unavailable
from raftcluster.storage.ports import Chunk, TableStore

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
    rows = 0
    with closing(snapshot.chunks) as chunks:
        for table, chunk in chunks:
            value = [table, [list(row) for row in chunk]]
            total.update(pack(value))
            rows += len(chunk)
            stream.send(value)
    stream.send({"rows": rows, "sha256": total.digest()})
    log.info("sent %d rows as of entry %d to %s", rows, snapshot.index, peer)


def fetch(
    stream: Stream,
    spool: Path,
    store: TableStore,
    done: Callable[[bool], None],
    *,
    seconds: float = limits.FRAME_SECONDS,
) -> None:
    """Receive into `spool`, check, have it installed; `done(installed)` is called in any case, once.

    Each frame must come within `seconds`.
    """
    try:
        index, anchor = _receive(stream, spool, seconds)
    except (RaftclusterError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("no snapshot was received: %s", error)
        spool.unlink(missing_ok=True)
        done(False)
        return

    def installed(good: bool) -> None:
        spool.unlink(missing_ok=True)
        done(good)

    store.install(index, anchor, _read(spool), installed)


def _receive(stream: Stream, spool: Path, seconds: float) -> tuple[int, bytes]:
    head = stream.receive(seconds)
    index, anchor = int(head["index"]), bytes(head["anchor"])
    total = hashlib.sha256(anchor)
    rows = 0
    with spool.open("wb") as file:
        while not isinstance(value := stream.receive(seconds), dict):
            packed = pack(value)
            total.update(packed)
            rows += len(value[1])
            file.write(len(packed).to_bytes(LENGTH_BYTES, "big") + packed)
    if value["rows"] != rows or value["sha256"] != total.digest():
        raise FrameError(
            f"the snapshot at entry {index} arrived damaged ({rows} of {value['rows']} rows)", subject="snapshot"
        )
    return index, anchor


def _read(spool: Path) -> Iterator[Chunk]:
    with spool.open("rb") as file:
        while packed := _block(file):
            table, rows = unpack(packed)
            yield str(table), [(bytes(key), bytes(value)) for key, value in rows]


def _block(file: BinaryIO) -> bytes:
    length = file.read(LENGTH_BYTES)
    return file.read(int.from_bytes(length, "big")) if length else b""
