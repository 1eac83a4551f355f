"""A table that is not empty: triplets brought in as records, many in a command."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Final

from raftcluster import Node
from raftcluster.errors import RaftclusterError
from raftcluster.greylist.record import Record
from raftcluster.greylist.rules import Triplet, key_of

BATCH: Final = 500
FILLING: Final = 8  # batches under way
DAY_MS: Final = 86_400_000


def bring(node: Node, first: int, number: int, expires: int) -> None:
    """Bring in the triplets `first` and the `number` - 1 after it; they expire then (cluster time, milliseconds)."""
    free: SimpleQueue[RaftclusterError | None] = SimpleQueue()
    for _ in range(FILLING):
        free.put(None)
    now = cluster_now(node)
    for start in range(first, first + number, BATCH):
        rows = [_row(each, now, expires) for each in range(start, min(start + BATCH, first + number))]
        if (error := free.get(timeout=60)) is not None:
            raise error
        node.submit("greylist", ["merge", rows], lambda _, error: free.put(error), deadline=60)
    for _ in range(FILLING):
        if (error := free.get(timeout=60)) is not None:
            raise error


def cluster_now(node: Node) -> int:
    """Cluster time, milliseconds."""
    return node.query("greylist", lambda _, now: now)


def _row(number: int, now: int, expires: int) -> list[object]:
    packed = Triplet(b"192.0.%d.0/24" % (number & 255), b"s%d@example.net" % number, b"r@example.org").pack()
    return [key_of(packed), 0, Record(now, now, expires, True, ((b"table\0\0\0", 1, 1),), packed).pack()]
