"""Rows of the log as a disk may give them back, and what becomes of a node that goes on from them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from raftcluster.codec import pack
from raftcluster.engine import membership, operations
from raftcluster.engine.operations import Operation
from raftcluster.engine.recovery import Anchor, check_stores, recover
from raftcluster.errors import FrameError, StorageFailed
from raftcluster.storage.log import _sealed, read_entry, read_number, sealed_entry
from raftcluster.storage.ports import Entry, LogImage
from tests.fuzz.source import Source
from tests.fuzz.victim import Victim

PATH = Path("log")


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 29 + n * (salt + 9)) % 256 for n in range(80))
    yield b"\x00" + bytes([0, 0, 1, 3, 0, 0]) * 6


def run(data: bytes) -> None:
    """What was damaged is told, or does not matter: a node that starts from it takes part like any other."""
    source = Source(data)
    entries: list[Entry] = []
    try:
        for _ in range(source.below(8)):
            entries.append(_row(source, entries))
        term, vote = read_number(PATH, "vote", _number(source))
        commit, _ = read_number(PATH, "commit", _number(source))
        image = LogImage(entries, term, vote, commit)
        anchor = _anchor(source, entries)
        check_stores(image, anchor)
    except StorageFailed:
        return
    assert (
        [index for _, index, _ in entries] == list(range(entries[0][1], entries[0][1] + len(entries)))
        if entries
        else True
    )
    found = recover(image, anchor)
    assert not found.entries or found.commit <= found.entries[-1][1]
    if (
        all(0 < index < 2**62 and entry_term < 2**61 for _, index, entry_term in entries)
        and term < 2**61
        and (anchor is None or anchor.term < 2**61)
    ):
        victim = Victim(image, None if anchor is None else anchor.encode())
        victim.turn(1.0)
        victim.check()


def _row(source: Source, entries: list[Entry]) -> Entry:
    index = entries[-1][1] + 1 if entries else 1 + source.below(3)
    entry_term = max(entries[-1][2] if entries else 0, source.below(4))
    key, value = sealed_entry((command(source), source.spoilt_number(index), source.spoilt_number(entry_term)))
    if source.flag(16):
        key, value = source.damaged(key), source.damaged(value)
    return read_entry(PATH, key, value, entries[-1][1] if entries else None)


def _number(source: Source) -> bytes | None:
    how = source.byte()
    if how < 40:
        return None
    text = source.take(3) if how > 230 else source.choice((b"a", b"b", b""))
    value = _sealed(source.spoilt_number(source.below(8)), text)
    return source.damaged(value) if how % 16 == 15 else value


def _anchor(source: Source, entries: list[Entry]) -> Anchor | None:
    if not source.flag() or not entries:
        return None
    entry = source.choice(entries)
    try:
        made = Anchor(entry[1], source.spoilt_number(entry[2]), entry[0], 0, ("a", "b"), source.below(9))
        return Anchor.decode(source.damaged(made.encode()) if source.flag(8) else made.encode())
    except (FrameError, OverflowError):
        return None


def command(source: Source) -> bytes:
    """The bytes of an entry: each kind there is, sound or not."""
    kind = source.below(8)
    if kind == 0:
        return operations.NO_OP
    if kind in (1, 2):
        change = membership.Change(
            source.choice(("add", "rem", "set")), source.choice(("a", "b", "c", "d", "", "x" * 70))
        )
        made = membership.MEMBERSHIP + membership.encode(change)
    elif kind == 3:
        made = source.take(source.byte())
    else:
        stamp = struct.pack(">Q", source.choice((0, 1, 10**12, 2**53, 2**64 - 1)))
        operation = Operation(
            source.choice(("greylist", "config", "cluster", "x")),
            source.take(1) * 16,
            0,
            source.spoilt([source.value()]),
        )
        try:
            made = operations.REGULAR + stamp + pack([pack(list(operation)), source.spoilt(b"x")])
        except (ValueError, OverflowError):
            return operations.NO_OP
    return source.damaged(made) if source.flag(16) else made
