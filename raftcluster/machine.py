"""The public protocol of a replicated state machine.

Duties of an implementation, in order of importance:

1. `apply` is **deterministic**: a function of (its tables, the command, the cluster time) and of nothing else -- no
   clock, no randomness, no IO, no environment, no iteration over a set. Every node runs it on the same sequence.
2. `apply` changes its tables and nothing else. What the world must do about it (files, links, mail) is the work of a
   reconciler that compares tables with reality afterwards, as often as it likes.
3. To refuse a command, raise :class:`raftcluster.errors.Rejected`; its writes are undone and the caller gets the error.
   Any other `Exception` undoes the writes as well and is a deterministic failure of that command alone.
4. Work per call is bounded: scans take a `limit`.
5. Keys are at most 511 bytes, values `limits.VALUE_BYTES`, a result packed `limits.RESULT_BYTES` (it is kept on every
   node); what is longer is refused as if the machine had raised `Rejected`. Tables are named in `tables`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from raftcluster.codec import Value


class ReadTables(Protocol):
    """One machine's tables, for reading. Only valid during the call it was passed to."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        """Up to `limit` rows with start <= key < stop, in key order."""


class Tables(ReadTables, Protocol):
    """One machine's tables, for reading and writing. Only valid during the `apply` or `tick` it was passed to."""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set `key`."""

    def delete(self, table: str, key: bytes) -> None:
        """Remove `key`; nothing happens when it is absent."""


@runtime_checkable
class StateMachine(Protocol):
    """See the duties above.

    Thread: every method is called on the node's tick thread, one at a time, between two log entries.
    """

    @property
    def name(self) -> str:
        """[a-z][a-z0-9_]*, unique in the cluster, at most 32 characters. A class attribute does, here and below."""

    @property
    def schema(self) -> int:
        """Version of the tables; nodes with another one are refused."""

    @property
    def tables(self) -> Sequence[str]:
        """Short names; `records` of machine `greylist` is the LMDB database `greylist.records`."""

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """Carry out one command at cluster time `time` (milliseconds, never decreasing) and return its result.

        `command` and the result are plain msgpack values. Raises `Rejected` to refuse.
        """

    def tick(self, tables: Tables, time: int) -> None:
        """Bounded background work (expiry); called once after the commands of each log entry, on every node alike."""


@runtime_checkable
class Inspectable(Protocol):
    """What a state machine may offer besides: to tell its own rows from damaged ones, for `Node.verify`."""

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """Raise any `Exception` when `apply` and `tick` never write such a row.

        Thread: any, also while the machine is at work: a function of its arguments and of nothing else. About 1 us.
        """
