"""What one node says of its tables, as it travels, and what the asking node makes of it.

{"armed": true}                                     it waits for the mark's entry
{"index"}                                           it has applied it: its tables are read as of that entry
{"table", "ranges": [[last key or nil, rows, SHA-256], ...]}     of a first round, in order
{"range", "rows": [[key, first half of the value's SHA-256], ...]}     of a second one: a wanted range by its number
{"entries", "troubles": [[where, key or nil, text], ...], "more"}      the end: of the log, and what is damaged
{"error"}                                           instead of any of these: why there is no answer
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import FrameError, RaftclusterError, Unavailable
from raftcluster.storage.digest import Range, Ranges

TABLES: Final = "tables"
"""Where a trouble is that has ended the reading of the tables."""
LOG: Final = "log"
DIGEST_BYTES: Final = 32
ROW_DIGEST_BYTES: Final = 16
_OVERHEAD_BYTES: Final = 16  # of an item of a list, about


class Wanted(NamedTuple):
    """A range to be looked into: the keys of `table` from behind `after` to `last`; None: to its end."""

    table: str
    after: bytes
    last: bytes | None

    def holds(self, key: bytes) -> bool:
        """Whether a key of its table is in it."""
        return self.after < key and (self.last is None or key <= self.last)


class Trouble(NamedTuple):
    """Something damaged."""

    where: str
    """A table, `TABLES` or `LOG`."""
    key: bytes | None
    text: str


@dataclass
class Answer:
    """Of one node to one round, complete once `done`."""

    index: int = 0
    tables: dict[str, list[Range]] = field(default_factory=dict)
    rows: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    """Number of a wanted range -> key -> digest of the value."""
    entries: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    more: int = 0
    """Troubles that are not named."""
    done: bool = False
    _bytes: int = 0

    @property
    def count(self) -> int:
        """Rows of all tables so far."""
        return sum(each.rows for ranges in self.tables.values() for each in ranges)

    def column(self, table: str) -> list[Range]:
        """The ranges of a table: of one without rows, one that is empty; none when reading broke off before it."""
        broken = any(each.where == TABLES for each in self.troubles)
        return self.tables.get(table, [] if broken else [Ranges().end()])

    def take(self, frame: Value) -> None:
        """One frame. Raises `FrameError` for nonsense or too much of it, and the peer's error as `Unavailable`."""
        match frame:
            case {"error": str(text)}:
                raise Unavailable(text[: limits.KIB])
            case {"armed": True}:
                return
            case {"index": int(index)}:
                self.index = index
                return
            case {"table": str(table), "ranges": [*ranges]}:
                self.tables.setdefault(table, []).extend(map(self._range, ranges))
                return
            case {"range": int(number), "rows": [*rows]}:
                self.rows.setdefault(number, {}).update(map(self._row, rows))
                return
            case {"entries": int(entries), "troubles": [*troubles], "more": int(more)}:
                self.entries, self.more, self.done = entries, more, True
                self.troubles = [self._trouble(each) for each in troubles]
                return
        raise FrameError("a malformed answer", subject="verify")

    def _range(self, value: Value) -> Range:
        match value:
            case [bytes() | None as last, int(rows), bytes(digest)] if rows >= 0 and len(digest) == DIGEST_BYTES:
                self._weigh(len(last or b"") + DIGEST_BYTES)
                return Range(last, rows, digest)
        raise FrameError("a malformed range", subject="verify")

    def _row(self, value: Value) -> tuple[bytes, bytes]:
        match value:
            case [bytes(key), bytes(digest)] if len(digest) == ROW_DIGEST_BYTES:
                self._weigh(len(key) + ROW_DIGEST_BYTES)
                return key, digest
        raise FrameError("a malformed row", subject="verify")

    def _trouble(self, value: Value) -> Trouble:
        match value:
            case [str(where), bytes() | None as key, str(text)]:
                self._weigh(len(where) + len(key or b"") + len(text))
                return Trouble(where, key, text)
        raise FrameError("a malformed trouble", subject="verify")

    def _weigh(self, size: int) -> None:
        self._bytes += size + _OVERHEAD_BYTES
        if self._bytes > limits.VERIFY_BYTES:
            raise FrameError(f"more than {limits.VERIFY_BYTES} bytes of digests", subject="verify")


def refusal(error: RaftclusterError) -> Value:
    """The frame that says why there is no answer."""
    return {"error": error.message}
