"""What is kept of a triplet, its bytes, and how two copies of it become one.

Bytes (big endian): first, last, expires (8 each), passed (1), n (1), then n times a node and its two counters
(8 + 4 + 4), then the packed triplet, absent under `privacy`. Packed by hand because it is read and written once per
check on every node: msgpack costs eight times as much.

A record is a semilattice: `join` is commutative, associative and idempotent, so copies that were written apart can be
brought together in any order, as often as one likes.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

NODE_BYTES: Final = 8
COUNT_MAX: Final = 2**32 - 1  # counters stop here
NODES_MAX: Final = 255
HEAD: Final = Struct(">QQQ?B")
NODE: Final = Struct(f">{NODE_BYTES}sII")
FRESH: Final = Struct(f">QQQ?B{NODE_BYTES}sII")  # a record with one node


class Record(NamedTuple):
    """Times in milliseconds of cluster time. The field comments say how two copies are joined."""

    first: int  # least
    last: int  # greatest
    expires: int  # greatest
    passed: bool  # or
    counters: tuple[tuple[bytes, int, int], ...]  # (node, deferred, passed), by node; greatest per node
    triplet: bytes  # packed; empty under `privacy`; the greatest, should a key ever have two

    def pack(self) -> bytes:
        """The bytes of the table row."""
        head = HEAD.pack(self.first, self.last, self.expires, self.passed, len(self.counters))
        return head + b"".join(NODE.pack(*counter) for counter in self.counters) + self.triplet

    @classmethod
    def unpack(cls, row: bytes) -> Record:
        """What `pack` packed."""
        first, last, expires, passed, nodes = HEAD.unpack_from(row)
        end = HEAD.size + nodes * NODE.size
        counters = tuple(NODE.iter_unpack(row[HEAD.size : end]))
        return cls(first, last, expires, passed, counters, row[end:])


def join(one: Record, other: Record) -> Record:
    """The one record that both are copies of."""
    counters = {node: (deferred, passed) for node, deferred, passed in one.counters}
    for node, deferred, passed in other.counters:
        known = counters.get(node, (0, 0))
        counters[node] = (max(known[0], deferred), max(known[1], passed))
    return Record(
        min(one.first, other.first),
        max(one.last, other.last),
        max(one.expires, other.expires),
        one.passed or other.passed,
        tuple((node, *counters[node]) for node in sorted(counters)),
        max(one.triplet, other.triplet),
    )


def node_label(node_id: str) -> bytes:
    """A node as records name it: the first bytes of its id."""
    return node_id.encode()[:NODE_BYTES].ljust(NODE_BYTES, b"\0")


def node_text(label: bytes) -> str:
    """A label for people."""
    return label.rstrip(b"\0").decode("utf-8", "replace")
