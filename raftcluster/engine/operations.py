"""Operations, the entries that hold them, and the ring of recent results that makes an operation happen once.

An *operation* is what some callers of one node asked of one state machine at one moment: one or more commands under one
id, which stays the same however often it is sent. Each command succeeds or fails by itself. An *entry* is everything that
arrived, anywhere in the cluster, since the last entry, under one stamp of cluster time::

    entry      = 0x00, stamp (8 bytes, big endian, milliseconds), msgpack [operation, ...]
    operation  = msgpack bytes of [machine, id, born, [command, ...]]

Operations stay packed inside: the leader joins what it was sent without reading it, and one that is nonsense spoils
nothing but itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

from raftcluster import limits
from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError, OutcomeUnknown, RaftclusterError, Rejected
from raftcluster.machine import ReadTables, Tables

REGULAR = b"\x00"
NO_OP = b"\x01"
STAMP_BYTES = 8
ID_BYTES = 16
TEXT_BYTES = (100, 1_200, 400, 800)
"""Of a refusal's code, message, subject and remedy."""
DEPTH = 512
"""No operation nests deeper."""

_CONTAINERS = frozenset((list, tuple, dict))

DONE, REJECTED, FAILED, UNKNOWN = 0, 1, 2, 3
"""First element of a result: carried out; refused by the machine; the machine failed; too old to tell."""

Result = list[Any]
"""[DONE, value] | [REJECTED, code, message, subject, remedy] | [FAILED, exception name] | [UNKNOWN]"""


class Operation(NamedTuple):
    """Commands to one state machine that travel together."""

    machine: str
    id: bytes
    """16 bytes."""
    born: int
    """The index that the asking node had applied when it first asked. Invariant: an operation whose `born` is below the
    ring's floor is not carried out, because an earlier copy of it may have been, and been forgotten since."""
    commands: list[Value]
    """Invariant: at least one, at most `OPERATION_COMMANDS`."""


def encode_operation(operation: Operation) -> bytes:
    """Raises `Rejected` for what is no plain value, or too large."""
    try:
        packed = pack(list(operation))
        if len(packed) > DEPTH and _too_deep(list(operation)):
            raise ValueError(f"it nests deeper than {DEPTH}")
    except Exception as error:  # whatever the caller's value is, or does when it is looked at
        text = f"the command is no plain value: {error}".encode("utf-8", "backslashreplace").decode()
        raise _refused("value", text, operation, "send plain values") from error
    if len(packed) > limits.OPERATION_BYTES:
        text = f"{len(packed)} bytes where at most {limits.OPERATION_BYTES} are allowed"
        raise _refused("too-large", text, operation, "send less")
    return packed


def _refused(code: str, message: str, operation: Operation, remedy: str) -> Rejected:
    error = Rejected(message, subject=operation.machine, remedy=remedy)
    error.code = code
    return error


def decode_operation(packed: bytes) -> Operation | None:
    """None for anything that is no operation; deterministic, so that every node skips the same ones.

    What nests too deeply is none: a machine that looks at it, if only to say that it knows no such command, would meet the
    interpreter's limit of recursion on one node and not on another that called it from fewer frames.
    """
    try:
        value = unpack(packed, limit_bytes=limits.ENTRY_BYTES)
    except FrameError as error:
        _same_everywhere(error)
        return None
    if not isinstance(value, list) or len(value) != 4:
        return None
    if len(packed) > DEPTH and _too_deep(value):
        return None
    machine, ident, born, commands = value
    if (
        isinstance(machine, str)
        and isinstance(ident, bytes)
        and len(ident) == ID_BYTES
        and type(born) is int
        and isinstance(commands, list)
        and 0 < len(commands) <= limits.OPERATION_COMMANDS
    ):
        return Operation(machine, ident, born, commands)
    return None


def _too_deep(value: Value) -> bool:
    level: list[Value] = [value]
    for _ in range(DEPTH):
        if _CONTAINERS.isdisjoint(map(type, level)):
            return False
        inner = [item for item in level if isinstance(item, list | tuple | dict)]
        level = [each for item in inner for each in (chain(item, item.values()) if isinstance(item, dict) else item)]
    return True


def encode_entry(stamp: int, operations: list[bytes]) -> bytes:
    """Without the type byte, which the engine puts before."""
    return stamp.to_bytes(STAMP_BYTES, "big") + pack(operations)


def entry_stamp(command: bytes) -> int | None:
    """The stamp of an entry, `TIME_MS` at most; None when it carries none (no-op, membership, nonsense)."""
    if command[:1] != REGULAR or len(command) < 1 + STAMP_BYTES:
        return None
    return min(int.from_bytes(command[1 : 1 + STAMP_BYTES], "big"), limits.TIME_MS)


def entry_operations(command: bytes) -> list[bytes]:
    """The packed operations of a stamped entry; those that are no bytes, and entries that are none, count as empty."""
    try:
        value = unpack(command[1 + STAMP_BYTES :])
    except FrameError as error:
        _same_everywhere(error)
        return []
    return [item for item in value if isinstance(item, bytes)] if isinstance(value, list) else []


def _same_everywhere(error: FrameError) -> None:
    """Nonsense is nonsense on every node, but a lack of memory is this one's: it stops instead of skipping anything."""
    if isinstance(error.__cause__, MemoryError):
        raise error.__cause__


def error_of(result: Result) -> RaftclusterError | None:
    """What a result tells its caller; None when it holds a value."""
    kind = result[0]
    if kind == DONE:
        return None
    if kind == REJECTED:
        _, code, message, subject, remedy = result
        error = Rejected(message, subject=subject, remedy=remedy)
        error.code = code
        return error
    if kind == FAILED:
        return Rejected(
            f"the state machine failed: {result[1]}", subject="state machine", remedy="this is a defect of the machine"
        )
    return OutcomeUnknown(
        "the request is older than the results that are kept", subject="request", remedy="read, then decide"
    )


def rejection(error: Rejected) -> Result:
    """What is kept of it on every node: text that can be packed, cut to what a person reads. A machine may quote what it
    was sent, and that may be as long as an operation."""
    texts = (error.code, error.message, error.subject, error.remedy)
    return [REJECTED, *(_cut(text, most) for text, most in zip(texts, TEXT_BYTES, strict=True))]


def _cut(text: object, most: int) -> str:
    return str(text)[:most].encode("utf-8", "backslashreplace")[:most].decode("utf-8", "ignore")


class Ring:
    """The results of the last operations, evicted in log order; part of the tables, so of snapshots and hashes too.

    One row per entry (key: log index), not per operation: a random write each would cost as much as a record's.
    """

    MACHINE = "engine"
    TABLE = "ring"

    def __init__(self, capacity: int = limits.RING_RESULTS) -> None:
        self._capacity = capacity
        """Of results, one a command."""
        self._results: dict[bytes, bytes] = {}
        """Id -> packed results: lists would be looked at by every full collection of the garbage collector, bytes are not."""
        self._rows: deque[tuple[int, bytes, int]] = deque()
        """(log index, ids joined, how many results)"""
        self._held = self._bytes = 0
        """How many results there are, and how long they are."""
        self.floor = 0
        """Lowest log index whose results are all still here; part of the tables, so the same on every node."""

    def load(self, tables: ReadTables) -> None:
        """Fill from the tables."""
        self._results.clear()
        self._rows.clear()
        self._held = self._bytes = self.floor = 0
        start = b""
        while rows := tables.scan(self.TABLE, start, None, limits.SCAN_ROWS):
            for key, row in rows:
                if key == b"floor":
                    (self.floor,) = self.row(key, row)
                else:
                    self._add(int.from_bytes(key, "big"), self.row(key, row))
            start = rows[-1][0] + b"\0"

    @staticmethod
    def row(key: bytes, row: bytes) -> list[Any]:
        """What a row of the ring holds: its (id, number of results, packed results); of the row "floor" that number.

        Raises `FrameError` for what is no row of a ring: one may come with a snapshot.
        """
        value = unpack(row, limit_bytes=limits.VALUE_BYTES)
        if key == b"floor" and type(value) is int and 0 <= value < 2**62:
            return [value]
        if len(key) == STAMP_BYTES and isinstance(value, list) and all(map(_kept, value)):
            return value
        raise FrameError(f"row {key!r:.40} is none of a ring", subject="snapshot")

    def get(self, ident: bytes) -> list[Result] | None:
        """The results of the operation with this id, one a command, if they are still kept."""
        packed = self._results.get(ident)
        return None if packed is None else unpack(packed)

    def __len__(self) -> int:
        return self._held

    def close(self, index: int, new: dict[bytes, list[Result]], tables: Tables) -> None:
        """The entry at `index` has been applied: keep its results by id, evict the oldest beyond the capacity."""
        if not new:
            return
        rows, size = [], 0
        for ident, results in new.items():
            packed = pack(results)
            size += len(packed)
            if size > limits.ENTRY_RESULT_BYTES:  # many refusals: who asks again is not told, and nothing happens twice
                packed = pack([[UNKNOWN]] * len(results))
            rows.append((ident, len(results), packed))
        tables.put(self.TABLE, index.to_bytes(8, "big"), pack(rows))
        self._add(index, rows)
        while (self._held > self._capacity or self._bytes > limits.RING_BYTES) and len(self._rows) > 1:
            oldest, idents, count = self._rows.popleft()
            self._held -= count
            for begin in range(0, len(idents), ID_BYTES):
                self._bytes -= len(self._results.pop(idents[begin : begin + ID_BYTES], b""))
            tables.delete(self.TABLE, oldest.to_bytes(8, "big"))
            self.floor = oldest + 1
            tables.put(self.TABLE, b"floor", pack(self.floor))

    def _add(self, index: int, rows: Sequence[tuple[bytes, int, bytes]]) -> None:
        count = sum(results for _, results, _ in rows)
        self._rows.append((index, b"".join([ident for ident, _, _ in rows]), count))
        self._held += count
        for ident, _, packed in rows:
            self._results[ident] = packed
            self._bytes += len(packed)


def _kept(item: Any) -> bool:
    """Whether this is what a ring keeps of one operation."""
    if type(item) is not list or len(item) != 3 or type(item[0]) is not bytes or type(item[2]) is not bytes:
        return False
    results = unpack(item[2], limit_bytes=limits.VALUE_BYTES)
    return len(item[0]) == ID_BYTES and type(results) is list and len(results) == item[1] and all(map(_result, results))


def _result(result: Any) -> bool:
    kinds = ((2, [DONE]), (5, [REJECTED]), (2, [FAILED]), (1, [UNKNOWN]))
    return type(result) is list and (len(result), result[:1]) in kinds
