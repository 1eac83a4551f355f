"""A snapshot as a member may send it: head, pieces, blocks in them, and the sum."""

from __future__ import annotations

import atexit
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from raftcluster.codec import pack, unpack
from raftcluster.engine.applier import Applier
from raftcluster.engine.recovery import Anchor
from raftcluster.errors import Unavailable
from raftcluster.snapshots import fetch
from raftcluster.storage.memory import MemoryDisk, MemoryTables
from raftcluster.storage.ports import Unit
from tests.fuzz.source import Source

TABLES = ("machine.rows", "engine.ring", "config.values", "checkpoint", "x.y.z", "")
_FOLDER = tempfile.TemporaryDirectory(prefix="raftcluster-fuzz-")
atexit.register(_FOLDER.cleanup)


def seeds() -> Iterable[bytes]:
    for salt in range(8):
        yield bytes((salt * 53 + n * (salt + 11)) % 256 for n in range(100))
    yield bytes(40)
    yield bytes([0, 9, 0, 1, 3, 0, 2, 65, 65, 2, 66, 66, 0, 0, 0, 0, 0])


def run(data: bytes) -> None:
    """Either all of it is installed, or nothing has changed; a node can always be started from the tables."""
    source = Source(data)
    disk = MemoryDisk()
    store = MemoryTables(disk, auto=True)
    ring = pack([[bytes(16), 1, pack([[0, 1]])]])
    before = {"machine.rows": {b"key": b"value"}, "engine.ring": {(3).to_bytes(8, "big"): ring}}
    store.checkpoint(Unit(3, before, Anchor(3, 1, b"\x01", 1, ("a",), 0).encode()), lambda done: None)
    spool, done = Path(_FOLDER.name) / "spool", list[bool]()
    sent = _Sent(source)
    fetch(sent, spool, store, done.append, clock=sent.clock)
    assert len(done) == 1 and not spool.exists() and store.health == "ok"
    if done == [True]:
        assert {name: rows for name, rows in disk.tables.items() if rows} == sent.tables()
        assert unpack(disk.anchor or b"")[0] == disk.index >= 3
    else:
        assert disk.index == 3 and disk.tables == before
    store.refresh()
    Applier([], store, 8, 0)


class _Sent:
    """A stream that brings what the input says."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._body = b""
        self._values = self._made()
        self._now = 0.0

    def clock(self) -> float:
        """Later with each piece; now and then much later."""
        self._now += 0.1 if self._source.byte() < 250 else 1e6
        return self._now

    def send(self, value: Any) -> None:
        raise AssertionError("nothing is said to who sends a snapshot")

    def receive(self, timeout: float) -> Any:
        """As `transport.Stream.receive`."""
        assert timeout <= 30.0
        try:
            return unpack(pack(next(self._values)))
        except (StopIteration, OverflowError, ValueError):
            raise Unavailable("the connection has ended") from None

    def close(self) -> None: ...

    def tables(self) -> dict[str, dict[bytes, bytes]]:
        """What the snapshot holds, read in the plainest way."""
        found: dict[str, dict[bytes, bytes]] = {}
        rest = self._body
        while rest:
            size = 4 + int.from_bytes(rest[:4], "big")
            table, rows = unpack(rest[4:size])
            found.setdefault(table, {}).update(dict(rows))
            rest = rest[size:]
        return {name: rows for name, rows in found.items() if rows}

    def _made(self) -> Iterator[Any]:
        source = self._source
        index = source.spoilt_number(source.below(12))
        anchor = pack([index, source.below(3), b"\x01", source.below(3), ["a", source.spoilt("b")], source.below(5)])
        yield source.spoilt({"index": source.spoilt(index), "anchor": source.spoilt(anchor)})
        body = b"".join(self._block() for _ in range(source.below(5)))
        if source.flag(16):
            body = source.damaged(body)
        self._body = body
        step = 1 + source.below(300)
        for start in range(0, len(body), step):
            yield body[start : start + step]
            if source.flag(32):
                yield source.value()
        total = hashlib.sha256(anchor + body).digest()
        yield source.spoilt({"bytes": source.spoilt(len(body)), "sha256": source.spoilt(total)})

    def _block(self) -> bytes:
        source = self._source
        table = source.choice(TABLES[:3]) if source.byte() < 230 else source.choice(TABLES)
        rows: list[Any] = sorted([self._key(table), self._row(table)] for _ in range(source.below(5)))
        block = pack(source.spoilt([source.spoilt(table, 32), source.spoilt(rows, 32)], 32))
        length = source.spoilt_number(len(block)) % 2**32
        return length.to_bytes(4, "big") + (source.damaged(block) if source.flag(16) else block)

    def _key(self, table: str) -> bytes:
        source = self._source
        if table == "engine.ring" and source.byte() < 200:
            return source.choice((b"floor", source.byte().to_bytes(8, "big")))
        return source.take(1 + source.below(3))

    def _row(self, table: str) -> bytes:
        source = self._source
        if table == "engine.ring" and source.byte() < 200:
            results = [source.choice(([0, 1], [3], [1, "a", "b", "c", "d"], [9])) for _ in range(source.below(3))]
            return pack([[source.take(1) * 16, source.spoilt(len(results)), pack(results)]])
        return source.take(source.below(9))
