"""What the surfaces of the state machines share: commands through two appliers that must end alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from raftcluster.codec import pack, unpack
from raftcluster.engine import operations
from raftcluster.engine.applier import Applier
from raftcluster.engine.operations import Operation, Result
from raftcluster.engine.recovery import Anchor
from raftcluster.machine import ReadTables, StateMachine
from raftcluster.storage.digest import digest
from raftcluster.storage.memory import MemoryDisk, MemoryTables
from raftcluster.storage.ports import Entry
from tests.fuzz.source import EDGES, Source

Make = Callable[[], Sequence[StateMachine]]
Command = Callable[[Source, ReadTables], Any]
"""Makes a command of the bytes, given the tables that it will meet."""
RING = 8
ENTRIES = 16


class Node:
    """An applier over tables in memory."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.disk = MemoryDisk()
        self.stamp = 0
        self.open()

    def open(self) -> None:
        """As after a restart: nothing is left but the tables."""
        self.store = MemoryTables(self.disk, auto=True)
        self.applier = Applier(self.make(), self.store, RING, self.stamp)

    def checkpoint(self, entry: Entry) -> None:
        """Everything applied goes to the tables."""
        anchor = Anchor(entry[1], 1, entry[0], 1, (), min(self.applier.stamp, 2**63)).encode()
        done: list[bool] = []
        self.store.checkpoint(self.applier.overlay.freeze(entry[1], anchor), done.append)
        assert done == [True]
        self.applier.overlay.release()
        self.stamp = self.applier.stamp

    def hashes(self) -> dict[str, str]:
        """Of all tables, as checkpointed."""
        snapshot = self.store.snapshot()
        assert snapshot is not None
        return digest(snapshot)


def entry(source: Source, index: int, machine: str, command: Callable[[], Any], stamp: int) -> tuple[Entry, int]:
    """A log entry of some operations, well-formed or not; and its stamp."""
    how = source.byte()
    stamp = max(0, min(source.choice(EDGES), 2**64 - 1)) if how > 250 else stamp + (source.byte() << (how % 24))
    packed: list[Any] = []
    for _ in range(1 + source.below(4)):
        ident = source.byte().to_bytes(operations.ID_BYTES, "big")
        made = [
            source.spoilt(machine, 64),
            ident,
            source.spoilt(max(0, index - source.below(4)), 64),
            [command() for _ in range(1 + source.below(3))],
        ]
        try:
            packed.append(source.take(source.byte()) if source.flag(64) else pack(made))
        except (OverflowError, ValueError):  # what msgpack cannot say is on no wire
            continue
    return (operations.REGULAR + operations.encode_entry(min(stamp, 2**64 - 1), packed), index, 1), stamp


def agree(data: bytes, make: Make, machine: str, first: Sequence[Any], command: Command) -> str:
    """One node runs on, one is restarted after every entry: equal results, equal tables; and nothing ever fails.

    Returns what it came to: the same in every process.
    """
    source = Source(data)
    steady, restarted = Node(make), Node(make)
    total = hashlib.sha256()
    stamp, last = 1_750_000_000_000, None
    for index in range(2, ENTRIES):
        if index == 2:
            packed = [pack(list(Operation(machine, bytes([0, n] * 8), 1, [each]))) for n, each in enumerate(first)]
            made: Entry = (operations.REGULAR + operations.encode_entry(stamp, packed), index, 1)
        elif not source.more:
            break
        else:
            made, stamp = entry(source, index, machine, partial(command, source, steady.applier.tables(machine)), stamp)
        results, touched = steady.applier.apply(made)
        again, touched_again = restarted.applier.apply(made)
        assert pack(results) == pack(again) and touched == touched_again
        total.update(pack(results))
        for _, told in results:
            for result in told:
                _sound(result)
        restarted.checkpoint(made)
        restarted.open()
        last = made
    assert last is not None
    steady.checkpoint(last)
    assert steady.hashes() == restarted.hashes()
    return total.hexdigest() + repr(steady.hashes())


def _sound(result: Result) -> None:
    assert result[0] != operations.FAILED, f"a machine failed: {result[1]}"
    error = operations.error_of(unpack(pack(result)))
    assert error is None or str(error)
