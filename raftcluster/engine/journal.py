"""The engine's log: an image in memory, and the ordered records that make it durable through the asynchronous log port.

The engine (pysyncobj) sees a list of entries. Every change of it becomes a record; `flush` submits what has gathered
as one *ticket*. Who may say what before which ticket is durable is the guard's business; the journal only knows

* `durable_index` -- the last entry of the **current** log that is known to be on the disk. A truncation lowers it, and
  lowers what every outstanding ticket may raise it to, because those tickets speak of entries that are gone;
* `commit` rides with later records and never goes to the disk ahead of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import overload

from raftcluster import failpoints
from raftcluster.engine import membership
from raftcluster.storage.ports import Entry, Log, Record


@dataclass(slots=True)
class _Ticket:
    number: int
    end_index: int
    """Invariant: <= the index of the last entry of the current log at every time since it was submitted."""
    submitted: float


class Journal:
    """See above. Thread: tick thread only."""

    def __init__(
        self,
        log: Log,
        now: Callable[[], float],
        *,
        entries: list[Entry],
        term: int,
        vote: str | None,
        commit: int,
        base_index: int,
        base_voters: Iterable[str],
        repair: list[Record],
    ) -> None:
        self._log = log
        self._now = now
        self.entries = entries
        self._term, self._vote, self._commit = term, vote, commit
        self.base_index = base_index
        """Index of the last checkpoint known durable; the log is never cut beyond it."""
        self.base_voters = frozenset(base_voters)
        self._changes = [(e[1], c) for e in entries if e[1] > base_index and (c := membership.decode(e[0])) is not None]
        self._records: list[Record] = repair
        self._dirty = bool(repair)
        self.durable_index = 0 if repair else (entries[-1][1] if entries else 0)
        self.submitted = 0
        self.done = 0
        self.term_ticket = 0
        """The ticket that covers the newest term and vote."""
        self.synchronous = False
        """A cluster of one that elects itself: each record is durable before it counts (rule 7)."""
        self._tickets: deque[_Ticket] = deque()
        self._latencies: deque[float] = deque([0.0], maxlen=8)
        self.bytes = sum(len(e[0]) for e in entries)

    # ---- what the engine calls (its Journal interface)

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        return self.entries[position]

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, command: bytes, idx: int, term: int) -> None:
        self.entries.append((command, idx, term))
        self.bytes += len(command)
        self._records.append(("append", command, idx, term))
        self._dirty = True
        if (change := membership.decode(command)) is not None:
            self._changes.append((idx, change))
        if self.synchronous:
            self.block()

    def clear(self) -> None:
        self.entries = []
        self.bytes = 0
        self._changes = []
        self._records.append(("reset",))
        self._lower(0)
        self._dirty = True

    def deleteEntriesFrom(self, position: int) -> None:  # noqa: N802 - the engine's name
        index = self.entries[0][1] + position
        self.bytes -= sum(len(e[0]) for e in self.entries[position:])
        del self.entries[position:]
        self._changes = [c for c in self._changes if c[0] < index]
        self._records.append(("truncate", index))
        self._lower(index - 1)
        self._dirty = True

    def deleteEntriesTo(self, position: int) -> None:  # noqa: N802 - the engine's name
        if position <= 0:
            return
        index = self.entries[0][1] + position
        assert index <= self.base_index, "the log is cut only behind a durable checkpoint"
        self.bytes -= sum(len(e[0]) for e in self.entries[:position])
        self.entries = self.entries[position:]
        self._records.append(("cut", index))
        self._dirty = True

    def setRaftCommitIndex(self, commit: int) -> None:  # noqa: N802 - the engine's name
        if commit != self._commit:
            self._commit = commit
            self._records.append(("commit", commit))  # never dirty by itself: it rides with what follows

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - the engine's name
        return self._commit

    def setCurrentTerm(self, term: int, vote: str | None) -> None:  # noqa: N802 - the engine's name
        failpoints.reach("vote.persist.before")
        self._term, self._vote = term, vote
        self._records.append(("vote", term, vote))
        self._dirty = True
        self.term_ticket = self.submitted + 1
        if self.synchronous:
            self.block()

    def getCurrentTerm(self) -> int:  # noqa: N802 - the engine's name
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 - the engine's name
        return self._vote

    def onOneSecondTimer(self) -> None:  # noqa: N802 - the engine's name
        """Nothing to do: everything is written as it happens."""

    def _destroy(self) -> None:
        self.flush()

    # ---- what the guard and the replica ask

    def get(self, index: int) -> Entry | None:
        """The entry at `index`, or None when the log does not hold it (any more)."""
        if not self.entries:
            return None
        position = index - self.entries[0][1]
        return self.entries[position] if 0 <= position < len(self.entries) else None

    @property
    def first_index(self) -> int:
        return self.entries[0][1]

    @property
    def last(self) -> Entry:
        return self.entries[-1]

    def voters(self, index: int | None = None) -> frozenset[str]:
        """The configuration at `index`, by default at the log's end. `index` is not below the base."""
        return membership.fold(self.base_voters, (c for i, c in self._changes if index is None or i <= index))

    def change_after(self, index: int) -> bool:
        """Whether a membership entry lies above `index`."""
        return any(i > index for i, _ in self._changes)

    def rebase(self, index: int, voters: Iterable[str]) -> None:
        """A checkpoint at `index` is known durable."""
        self.base_index = index
        self.base_voters = frozenset(voters)
        self._changes = [c for c in self._changes if c[0] > index]

    # ---- the port

    @property
    def ticket(self) -> int:
        """The ticket that covers everything so far, submitted or about to be."""
        return self.submitted + 1 if self._dirty else self.submitted

    def flush(self) -> None:
        """Submit what has gathered."""
        if self._dirty:
            failpoints.reach("log.append.before")
            records, self._records = self._records, []
            self._dirty = False
            self.submitted = self._log.submit(records)
            failpoints.reach("log.append.after")
            self._tickets.append(_Ticket(self.submitted, self.entries[-1][1] if self.entries else 0, self._now()))

    def block(self) -> None:
        """Submit and wait until durable."""
        self.flush()
        self.note_durable(self._log.block())

    def note_durable(self, ticket: int) -> None:
        """The port says that everything up to `ticket` is on the disk."""
        while self._tickets and self._tickets[0].number <= ticket:
            done = self._tickets.popleft()
            self.done = done.number
            self.durable_index = max(self.durable_index, done.end_index)
            self._latencies.append(self._now() - done.submitted)

    def slowest(self) -> float:
        """The slowest recent or outstanding ticket, in seconds (rule 8: elections wait as long as disks take here)."""
        outstanding = self._now() - self._tickets[0].submitted if self._tickets else 0.0
        return max(max(self._latencies), outstanding)

    def _lower(self, index: int) -> None:
        self.durable_index = min(self.durable_index, index)
        for ticket in self._tickets:
            ticket.end_index = min(ticket.end_index, index)
