"""What a committed entry does: its operations on the machines' tables, their results into the ring.

Deterministic, but for the errors that stop the node: every node carries out the same entries in the same order, and gets
the same tables, the same results and the same ring.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from raftcluster import failpoints, limits
from raftcluster.codec import pack
from raftcluster.engine import operations
from raftcluster.engine.operations import Operation, Result, Ring
from raftcluster.errors import Rejected, StorageRefusal
from raftcluster.machine import ReadTables, StateMachine, Tables
from raftcluster.storage.overlay import Overlay
from raftcluster.storage.ports import Entry, TableStore

log = logging.getLogger("raftcluster.engine")

NOTHING_BYTES: Final = len(pack([[operations.DONE, None]]))


class Applier:
    """The machines of one node, and their tables as applied. Thread: tick thread only."""

    def __init__(self, machines: Sequence[StateMachine], store: TableStore, ring_operations: int, stamp: int) -> None:
        self.overlay = Overlay(store)
        self.stamp = stamp
        """Greatest stamp applied, in milliseconds of cluster time. Invariant: never decreases."""
        self._machines: dict[str, tuple[StateMachine, Tables]] = {
            m.name: (m, self.overlay.view(m.name, m.tables)) for m in machines
        }
        self._readers = {m.name: self.overlay.reader(m.name, m.tables) for m in machines}
        assert len(self._machines) == len(machines) and Ring.MACHINE not in self._machines, "machine names are unique"
        self._ring = Ring(ring_operations)
        self._answered = 0
        """Bytes of the answers in this entry."""
        self._ring_tables = self.overlay.view(Ring.MACHINE, [Ring.TABLE])
        self._ring.load(self._ring_tables)

    @property
    def machines(self) -> set[str]:
        """The names of all machines."""
        return set(self._machines)

    def tables(self, machine: str) -> ReadTables:
        """A machine's tables, as applied; raises `Rejected` for an unknown name."""
        found = self._readers.get(machine)
        if found is None:
            raise Rejected(f"no state machine is called {machine!a}", subject=machine)
        return found

    def results(self, ident: bytes) -> list[Result] | None:
        """The results that are kept for an operation's id, one a command."""
        return self._ring.get(ident)

    def replaced(self, stamp: int) -> None:
        """The store is another one: a snapshot was installed."""
        self.overlay.replace()
        self._ring.load(self._ring_tables)
        self.stamp = max(self.stamp, stamp)

    def apply(self, entry: Entry) -> tuple[list[tuple[bytes, list[Result]]], set[str]]:
        """Carry out one committed entry: the results by operation, and the machines that had a command in it.

        Raises `StorageRefusal`, `OSError` or `MemoryError` to stop the node: what this host cannot do is no result.
        """
        command, index, _ = entry
        stamp = operations.entry_stamp(command)
        touched: set[str] = set()
        results: list[tuple[bytes, list[Result]]] = []
        if stamp is None:
            return results, touched
        failpoints.reach("entry.apply.before")
        self.stamp = stamp = max(self.stamp, stamp)
        new: dict[bytes, list[Result]] = {}
        self._answered = 0
        for packed in operations.entry_operations(command):
            operation = operations.decode_operation(packed)
            if operation is None:
                continue
            ident = operation.id
            told = new.get(ident) or self._ring.get(ident)
            if told is None:
                told = new[ident] = self._carry_out(operation, stamp)
                touched.add(operation.machine)
            results.append((ident, told))
        self._answered = 0
        for machine, tables in self._machines.values():
            self._run(machine.tick, [(tables, stamp)])
        self.overlay.begin()
        self._ring.close(index, new, self._ring_tables)
        self.overlay.commit()
        failpoints.reach("entry.apply.after")
        return results, touched

    def _carry_out(self, operation: Operation, stamp: int) -> list[Result]:
        """The results of one operation's commands."""
        if operation.born < self._ring.floor:
            return [[operations.UNKNOWN]] * len(operation.commands)
        found = self._machines.get(operation.machine)
        if found is None:
            error = Rejected(f"no state machine is called {operation.machine!a:.80}", subject=operation.machine)
            error.code = "no-machine"
            return [operations.rejection(error)] * len(operation.commands)
        machine, tables = found
        return self._run(machine.apply, [(command, tables, stamp) for command in operation.commands])

    def _run(self, work: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Result]:
        """Run a machine, once for each of `calls`: the writes of one count together or not at all, and its failure is a
        result, the same on every node.

        What the disk or the memory of this one host does is no result: it stops the node.
        """
        overlay = self.overlay
        results: list[Result] = []
        for arguments in calls:
            overlay.begin()
            try:
                value = work(*arguments)
                if value is None:
                    size = NOTHING_BYTES  # of each machine at the end of each entry
                else:
                    size = len(value if type(value) is bytes else pack([[operations.DONE, value]]))  # or it fails here
                self._answered += size
                if size > limits.RESULT_BYTES or self._answered > limits.ENTRY_RESULT_BYTES:
                    raise Rejected(f"an answer of {size} bytes", remedy=f"up to {limits.RESULT_BYTES} are kept")
            except (StorageRefusal, OSError, MemoryError):
                raise
            except Rejected as error:
                overlay.rollback()
                results.append(operations.rejection(error))
            except Exception as error:
                overlay.rollback()
                log.exception("a state machine failed; the command is refused on every node alike")
                results.append([operations.FAILED, type(error).__name__])
            else:
                overlay.commit()
                results.append([operations.DONE, value])
        return results
