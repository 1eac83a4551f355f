"""Two stores, one truth: what a node continues from after a restart (rule 15).

The tables win. The log is kept only if it holds the checkpoint's entry, with the checkpoint's term; otherwise it becomes
that entry and its predecessor. Term and vote are the log store's, but for this: no log ends with an entry of a term that
its node does not know of.

So a checkpoint may be ahead of the log on the disk, as an installed snapshot is until the log has followed. Nothing that
was promised is lost with that log: what this node has acknowledged, or voted, was durable before it was said, and
records reach the disk in order. What it holds is committed, durable on a majority without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from raftcluster import limits
from raftcluster.codec import pack, unpack
from raftcluster.engine.operations import NO_OP
from raftcluster.errors import FrameError, StorageFailed
from raftcluster.storage.ports import Entry, LogImage, Record


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a checkpoint stands in the log: one unit with its tables (rule 11)."""

    index: int
    term: int
    command: bytes
    """The entry at `index`; a log that begins here can send it on."""
    previous_term: int
    """The term of the entry before, which is never sent."""
    voters: tuple[str, ...]
    """The configuration at `index`."""
    stamp: int
    """The greatest stamp up to `index`, in milliseconds of cluster time."""

    def entries(self) -> list[Entry]:
        """The log that begins at this checkpoint: the engine needs the entry before as well."""
        return [(NO_OP, self.index - 1, self.previous_term), (self.command, self.index, self.term)]

    def encode(self) -> bytes:
        return pack([self.index, self.term, self.command, self.previous_term, list(self.voters), self.stamp])

    @classmethod
    def decode(cls, data: bytes) -> Anchor:
        """Raises `FrameError` for anything else: one may come with a snapshot."""
        match unpack(data):
            case [int(index), int(term), bytes(command), int(previous_term), [*voters], int(stamp)] if (
                index > 1
                and all(0 <= number < 2**62 for number in (index, term, previous_term))
                and 0 <= stamp <= limits.TIME_MS
                and all(isinstance(voter, str) for voter in voters)
            ):
                return cls(index, term, command, previous_term, tuple(voters), stamp)
        raise FrameError("this is no anchor of a checkpoint", subject="snapshot")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What to continue from, and what the log store must be told."""

    entries: list[Entry]
    commit: int
    term: int
    vote: str | None
    repair: list[Record]
    """What the log store must be told so that it agrees."""


def check_stores(image: LogImage, anchor: Anchor | None) -> None:
    """For a node that has run before. Raises `StorageFailed` when its log is gone: it may have voted in terms, and have
    acknowledged entries, that it knows nothing of; under its old id it must never take part again. The same when its
    tables are gone, or are older ones, and the log does not reach back to them, for it was only cut behind them: nothing is left to
    make them of, and nothing says that the log's entries may go."""
    remedy = "remove this node from the cluster, and let it join again in an empty directory"
    if not image.entries and image.term == 0:
        text = "the log is gone, and with it this node's votes and the entries that it has acknowledged"
        raise StorageFailed(text, subject="log", remedy=remedy)
    begin = image.entries[0][1] if image.entries else image.commit
    if anchor is None and begin > 1:
        text = f"the tables are gone, and the log begins at entry {begin}"
        raise StorageFailed(text, subject="tables", remedy=remedy)
    if anchor is not None and image.entries and anchor.index <= begin:
        text = f"the tables are older than the log: they end at entry {anchor.index}, and it begins at entry {begin}"
        raise StorageFailed(text, subject="tables", remedy=remedy)


def recover(image: LogImage, anchor: Anchor | None, *, tables_win: bool = True) -> Recovered:
    """The log and commit index to continue from."""
    entries: list[Entry] = list(image.entries)
    term, vote = image.term, image.vote
    repair: list[Record] = []
    if anchor is not None and tables_win:
        position = anchor.index - entries[0][1] if entries else -1
        if not (0 < position < len(entries) and entries[position][2] == anchor.term):
            entries = anchor.entries()
            if term < anchor.term:
                term, vote = anchor.term, None
            # the term first: torn behind the reset, this must not look like a log that is gone
            repair = [("vote", term, vote), ("reset",), *(("append", *entry) for entry in entries)]
    commit = max(image.commit, 1 if anchor is None else anchor.index)
    if entries:
        commit = min(commit, entries[-1][1])  # H14: never above the end of the log
    return Recovered(entries, commit, term, vote, repair)
