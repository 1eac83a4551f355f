"""Segments of the log as a disk may give them back, and what becomes of a node that goes on from them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from raftcluster.codec import pack
from raftcluster.engine import membership, operations
from raftcluster.engine.operations import Operation
from raftcluster.engine.recovery import Anchor, check_stores, recover
from raftcluster.errors import FrameError, StorageFailed
from raftcluster.storage import segment
from raftcluster.storage.ports import Entry, LogImage
from raftcluster.storage.segment import Damage, Replay, State
from tests.fuzz.source import Source
from tests.fuzz.victim import Victim

SEGMENT_BYTES = 4_096


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 29 + n * (salt + 9)) % 256 for n in range(80))
    yield b"\x00" + bytes([0, 0, 1, 3, 0, 0]) * 6


def run(data: bytes) -> None:
    """What was damaged is told, or does not matter: a node that starts from it takes part like any other."""
    source = Source(data)
    try:
        image = _read(source)
        anchor = _anchor(source, image.entries)
        check_stores(image, anchor)
    except (Damage, StorageFailed):
        return
    entries, term = image.entries, image.term
    assert not entries or [index for _, index, _ in entries] == list(range(entries[0][1], entries[0][1] + len(entries)))
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


def _read(source: Source) -> LogImage:
    """Up to three segments, sound but for a few bytes, and what is read of them. Raises `Damage`."""
    replay, state, number = Replay(), State(), 1
    for last in (False,) * source.below(3) + (True,):
        frames, begins = [segment.frame(number, [state.start()])], number
        number += 1
        for _ in range(source.below(4)):
            records = [_record(source, state) for _ in range(source.below(5))]
            frames.append(segment.frame(number, [each for each in records if each is not None]))
            number += 1
        data = b"".join(frames)
        data += bytes(max(0, SEGMENT_BYTES - len(data)))
        if source.flag(16):
            data = source.damaged(data)
        place = replay.take(data, begins)
        if segment.torn(data, place) and not last:
            raise Damage("a torn frame that others follow")
    return replay.image()


def _record(source: Source, state: State) -> Any:
    """One that the state allows, for the most part; None for one that no writer would write."""
    kind = source.below(8)
    if kind == 0:
        record: list[Any] = ["vote", source.spoilt_number(source.below(8)), source.choice((None, "a", "b", ""))]
    elif kind == 1:
        record = ["commit", source.spoilt_number(source.below(8))]
    elif kind == 2:
        record = [source.choice(("truncate", "cut")), source.spoilt_number(source.below(8))]
    elif kind == 3 and source.flag(8):
        record = source.spoilt(["reset"])
    else:
        index = state.last + 1 if state.last else 1 + source.below(3)
        record = ["append", command(source), source.spoilt_number(index), source.spoilt_number(source.below(4))]
    try:
        state.take(record)
    except (Damage, TypeError):
        return record if source.flag(8) else None
    return record


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
