"""Raft's promises, watched from outside: through records, messages, hooks and public state.

It shares no code with the replica. What it knows of a process it has from the records that the process submits to its
log (`submitted`), from what it sends (`sends`), from its hooks (`applied`, `role`), from its disk, and from a look at its
public state after everything it does (`after`).

The names are those of the Raft paper: *election safety*, *leader append-only*, *log matching*, *leader completeness*,
*state machine safety*. What is durable, and when, is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from raftcluster import limits
from raftcluster.codec import Value, unpack
from raftcluster.engine.replica import Replica
from raftcluster.machine import ReadTables, StateMachine
from raftcluster.storage.memory import MemoryDisk
from raftcluster.storage.ports import Entry, Record
from tests.simulation.greylisting import Greylisting
from tests.simulation.leasing import Leasing
from tests.simulation.listing import Listing
from tests.simulation.notifying import Notifying
from tests.simulation.reference import Reference, digest, membership_change
from tests.simulation.releasing import Releasing
from tests.simulation.timekeeping import Note, Timekeeping
from tests.simulation.world import World


class Subject(Protocol):
    """A process, as the checker sees it."""

    name: str
    image: MemoryDisk
    incarnation: int
    began: float

    @property
    def replica(self) -> Replica | None: ...


class _Log:
    """A process's log, from its records alone."""

    def __init__(self, image: MemoryDisk) -> None:
        self.entries: list[Entry] = list(image.entries)
        self.changes = [(e[1], c) for e in self.entries if (c := membership_change(e[0])) is not None]
        self.applied = max(1, image.index)
        self.commit = 1

    def cut(self, start: int, end: int) -> list[Entry]:
        """Remove the entries of these positions and return them."""
        removed = self.entries[start:end]
        del self.entries[start:end]
        if self.changes:
            kept = range(self.entries[0][1], self.entries[-1][1] + 1) if self.entries else range(0)
            self.changes = [c for c in self.changes if c[0] in kept]
        return removed


def _held(entries: Sequence[Entry], index: int) -> Entry | None:
    position = index - entries[0][1] if entries else -1
    return entries[position] if 0 <= position < len(entries) else None


class Checker:
    """See the module's text. The first violation of each kind is kept, and the run stops at the first."""

    def __init__(
        self,
        world: World,
        subjects: Mapping[str, Subject],
        founders: Iterable[str],
        machines: Iterable[StateMachine],
        ring: int,
        compare_seconds: float = 0.0,
        notifications: int = limits.NOTIFICATIONS,
    ) -> None:
        """`compare_seconds`: how long to wait between two comparisons of all that a process's disk holds; 0 for none.
        `notifications`: how many are kept."""
        self._world, self._subjects = world, subjects
        self.violations: list[str] = []
        self.reference = Reference(machines, founders, ring, self._carried_out)
        self.time = Timekeeping(self.violate)
        self.greylist = Greylisting(self.violate)
        self.leases = Leasing(self.violate, lambda: world.time, self.time.course)
        self.notifications = Notifying(self.violate, notifications)
        self.lists = Listing(self.violate)
        claims = Leasing(self.violate, lambda: world.time, self.time.course)
        self.quarantine = Releasing(self.violate, claims)
        self._stamped = 0
        """The last term of which a stamped entry is committed."""
        self._applying = 0
        """The term of the entry that the history takes up."""
        self._logs: dict[str, _Log] = {}
        self._written: dict[tuple[int, int], tuple[bytes, int]] = {}
        """(index, term) -> (command, term of the entry before)."""
        self.committed: dict[int, tuple[bytes, int]] = {}
        self._committed_in: dict[int, int] = {}
        """index -> the term in which it was first seen committed."""
        self._quorums: dict[int, frozenset[str]] = {}
        self._leaders: dict[int, tuple[str, int]] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self._lost: dict[str, MemoryDisk] = {}
        self._units: dict[str, int] = {}
        self._compare_seconds = compare_seconds
        self._compare_at: dict[str, float] = {}
        self._terms: dict[str, int] = {}
        self._unverified: list[tuple[bytes, list[Any]]] = []
        self._numbers: set[int] = set()
        """What the ledger was told, each once."""
        self._not_applied: dict[int, str] = {}
        self.revision = 0
        self.record: Callable[[ReadTables, frozenset[str]], None] | None = None
        """Wants to see the cluster's tables, and who votes, after each command to them."""

    def violate(self, kind: str, detail: str) -> None:
        """Something that must never happen did."""
        self._world.tell("!!!!", f"{kind}: {detail}")
        self.violations.append(f"{kind}: {detail}")

    # ---- a process's log

    def started(self, subject: Subject) -> None:
        self._logs[subject.name] = _Log(subject.image)
        self.time.restarted(subject.name)

    def crashed(self, subject: Subject) -> None:
        if subject.image.term < self._terms.get(subject.name, 0):
            self.violate("durability", f"{subject.name} forgets term {self._terms[subject.name]}")

    def submitted(self, subject: Subject, records: Sequence[Record]) -> None:
        """A process hands records to its log."""
        log = self._logs[subject.name]
        for record in records:
            if record[0] == "append":
                self._append(subject, log, (record[1], record[2], record[3]))
            elif record[0] == "truncate":
                position = max(0, record[1] - log.entries[0][1]) if log.entries else 0
                removed = log.cut(position, len(log.entries))
                self._world.counts["truncations"] += bool(removed)
                self._removed(subject, removed)
                if subject.replica is not None and subject.replica.engine.is_leader and removed:
                    self.violate("leader append-only", f"{subject.name} removes from {record[1]} on")
            elif record[0] == "reset":
                self._removed(subject, log.cut(0, len(log.entries)))
            elif record[0] == "cut" and log.entries:
                if record[1] > subject.image.index:
                    self.violate("cut", f"{subject.name} cuts at {record[1]}, its tables are at {subject.image.index}")
                log.cut(0, record[1] - log.entries[0][1])

    def _append(self, subject: Subject, log: _Log, entry: Entry) -> None:
        command, index, term = entry
        if not log.entries:
            log.entries.append(entry)  # the beginning of a log: a stand-in, or the first of all entries
            return
        before = log.entries[-1]
        if index != before[1] + 1 or term < before[2]:
            self.violate("log", f"{subject.name} writes {index} of term {term} after {before[1]} of term {before[2]}")
        known = self._written.setdefault((index, term), (command, before[2]))
        if known != (command, before[2]):
            self.violate("log matching", f"{subject.name} writes another {index} of term {term}")
        log.entries.append(entry)
        replica = subject.replica
        leads = replica is not None and replica.engine.is_leader and replica.engine.term == term
        if (change := membership_change(command)) is not None:
            if leads and replica is not None:
                open_changes = [i for i, _ in log.changes if i > replica.engine.commit_index]
                if open_changes:
                    self.violate("one change at a time", f"{subject.name} at {index}, {open_changes[0]} is open")
            log.changes.append((index, change))
        if leads and command[:1] == b"\x00":
            self._leads(subject)
            stamp = int.from_bytes(command[1:9], "big")
            self.time.stamped(subject.name, index, term, stamp, subject.began, self._world.time)

    def _removed(self, subject: Subject, removed: Iterable[Entry]) -> None:
        for command, index, term in removed:
            if index > subject.image.index and self.committed.get(index) == (command, term):
                self.violate("durability", f"{subject.name} removes the committed entry {index} of term {term}")
                return

    def _voters(self, replica: Replica) -> frozenset[str]:
        """The configuration at the log's end: the history's, as far as the process has applied it, and its own after."""
        base = min(replica.engine.applied, self.reference.head)
        voters, changes = self.reference.voters[base], []
        for command, index, _ in reversed(replica.journal.entries):
            if index <= base:
                break
            if (change := membership_change(command)) is not None:
                changes.append(change)
        for action, node in reversed(changes):
            voters = voters | {node} if action == "add" else voters - {node}
        return voters

    # ---- messages

    def sends(self, subject: Subject, peer: str, message: Mapping[str, Any]) -> object:
        """What shall travel with the message, for `receives`."""
        kind = message["type"]
        if kind == "response_vote":
            self._voted(subject.name, message["term"], peer)
        elif kind == "request_vote":
            self._voted(subject.name, message["term"], subject.name)
        elif kind in ("append_entries", "next_node_idx") and message.get("time") is not None:
            replica = subject.replica
            if kind == "append_entries" and replica is not None and replica.engine.is_leader:
                self._leads(subject)
            return self.time.note(subject.name, self._world.time)
        return None

    def _voted(self, voter: str, term: int, candidate: str) -> None:
        if self._votes.setdefault((voter, term), candidate) != candidate:
            self.violate("one vote", f"{voter} votes for {candidate} in term {term} as well")
        self._terms[voter] = max(self._terms.get(voter, 0), term)

    def receives(self, subject: Subject, peer: str, message: Mapping[str, Any], note: object) -> None:
        replica = subject.replica
        if not isinstance(note, Note) or replica is None or peer not in replica.guard.linked:
            return
        engine, term, now = replica.engine, message["term"], self._world.time
        if message["type"] == "append_entries":
            if term >= engine.term and not (engine.is_leader and term == engine.term):
                self.time.heard(subject.name, term, note, now)
        elif engine.is_leader and term == engine.term:
            self.time.answered(subject.name, peer, term, note, now)

    def _leads(self, subject: Subject) -> None:
        replica, now = subject.replica, self._world.time
        if replica is None or self.time.goes_on(subject.name, term := replica.engine.term, now):
            return
        if replica.clock.now() is not None:
            # The leader's own log may hold a later leader's stamps than it was told of: those will be committed with its own.
            own = (entry[2] for entry in replica.journal.entries if entry[0][:1] == b"\x00" and entry[2] < term)
            self.time.begins(subject.name, term, now, self._voters(replica), max(self._stamped, *own, 0))

    # ---- hooks

    def role(self, subject: Subject) -> None:
        """A process says that its role, or its leader, has changed."""
        replica = subject.replica
        assert replica is not None
        term = replica.engine.term
        if not replica.engine.is_leader:
            return
        who = (subject.name, subject.incarnation)
        if self._leaders.get(term) == who:
            return
        self._world.counts["elections"] += 1
        self._world.counts["leadership transfers"] += replica.guard.election.transfer_term == term - 1
        self._world.tell(subject.name, f"leads in term {term}")
        if self._leaders.setdefault(term, who) != who:
            self.violate("election safety", f"{subject.name} and {self._leaders[term][0]} lead in term {term}")
        journal = replica.journal
        for index, (command, committed) in self.committed.items():
            if self._committed_in[index] >= term or index <= subject.image.index:
                continue
            held = journal.get(index)
            if held is None or (held[0], held[2]) != (command, committed):
                self.violate("leader completeness", f"{subject.name} leads in term {term} without entry {index}")
                return

    def applied(self, subject: Subject, entry: Entry) -> None:
        """A process says that it has applied an entry, or installed a snapshot up to it."""
        replica, log = subject.replica, self._logs[subject.name]
        assert replica is not None
        command, index, term = entry
        if replica.engine.applied == index:
            log.applied = index
            if not 1 <= index <= self.reference.head:
                self.violate("state machine safety", f"{subject.name} installs {index}, which nobody has applied")
            return
        if index != log.applied + 1:
            self.violate("state machine safety", f"{subject.name} applies {index} after {log.applied}")
        log.applied = index
        if index == self.reference.head + 1:
            self._applying = term
            self.reference.apply(entry)
            self.notifications.settle(self.reference.stamps[-1])
        elif index <= self.reference.head:
            known = self.reference.entries[index]
            if (known[0], known[2]) != (command, term):
                self.violate("state machine safety", f"{subject.name} applies another entry {index}")

    def _carried_out(
        self, index: int, machine: str, ident: bytes, command: Value, result: list[Any], stamp: int
    ) -> None:
        if machine == "ledger" and result[0] == 0:
            number = command[1]
            if number in self._numbers:
                self.violate("exactly once", f"operation {number} is applied again at {index}")
            self._numbers.add(number)
            if number in self._not_applied:
                self.violate("exactly once", f"operation {number} is applied; {self._not_applied[number]} said never")
        elif machine == "greylist":
            self.greylist.told(command, result, stamp)
        elif machine == "lease":
            self.leases.told(command, result, stamp, (index, self._applying))
        elif machine == "notifications":
            self.notifications.told(command, result, stamp)
        elif machine == "lists":
            self.lists.told(command, result, stamp)
        elif machine == "quarantine":
            self.quarantine.told(command, result, stamp, (index, self._applying))
        elif machine == "cluster" and self.record is not None:
            self.record(self.reference.view("cluster"), self.reference.voters[-1])
        elif machine == "config" and result[0] == 0 and type(result[1]) is int:  # a part of an upload makes no revision
            if result[1] != self.revision + 1:
                self.violate("config", f"revision {result[1]} follows {self.revision}")
            self.revision = result[1]

    # ---- after everything a process does

    def after(self, subject: Subject) -> None:
        """Look at a process's public state."""
        replica = subject.replica
        if replica is None:
            return
        engine, journal, log = replica.engine, replica.journal, self._logs[subject.name]
        commit, durable = engine.commit_index, journal.durable_index
        if commit > log.commit:
            self._commits(subject, replica, log, commit)
        if engine.applied > commit:
            self.violate("state machine safety", f"{subject.name} has applied {engine.applied}, committed {commit}")
        if engine.is_leader:
            if commit > durable:
                self.violate("durability", f"leader {subject.name} commits {commit} and holds durably {durable}")
            self._leads(subject)
        if durable > subject.image.index:
            held = _held(subject.image.entries, durable)
            if held is None or held != journal.get(durable):
                self.violate("durability", f"{subject.name} believes that {durable} is durable")
        if self._unverified:
            self._verify()

    def _commits(self, subject: Subject, replica: Replica, log: _Log, commit: int) -> None:
        journal, term = replica.journal, replica.engine.term
        for index in range(log.commit + 1, commit + 1):
            entry = journal.get(index)
            if entry is None or (index <= subject.image.index and index == journal.first_index):
                continue  # came with a snapshot
            known = self.committed.get(index)
            if known is None:
                self.committed[index] = (entry[0], entry[2])
                if entry[0][:1] == b"\x00":
                    self._stamped = max(self._stamped, entry[2])
                self._committed_in[index] = term
                voters = self._quorums[index] = self._voters(replica)
                if 2 * len(self._holders(index, entry[2], voters)) <= len(voters):
                    self.violate(
                        "durability",
                        f"{subject.name} commits {index} of term {entry[2]}, durable on "
                        f"{self._holders(index, entry[2], voters)} of {sorted(voters)}",
                    )
            elif known != (entry[0], entry[2]):
                self.violate("state machine safety", f"{subject.name} commits another entry {index}")
        log.commit = commit

    def wiped(self, subject: Subject) -> None:
        """A process has lost its stores. It is to take no part any more, so that what it held counts as held by it: nobody
        wins a vote in its place."""
        self._lost[subject.name] = subject.image

    def _holders(self, index: int, term: int, voters: Collection[str]) -> list[str]:
        """Who of `voters` has that entry on the disk."""
        found = []
        for name in sorted(voters):
            image = self._lost.get(name) or self._subjects[name].image
            held = _held(image.entries, index)
            if image.index >= index or (held is not None and held[2] == term):
                found.append(name)
        return found

    def unit(self, subject: Subject) -> None:
        """A process's tables have reached the disk: they are exactly what the log's prefix makes of nothing."""
        image, reference = subject.image, self.reference
        index = image.index
        if index == self._units.get(subject.name, 0):
            return
        if index < self._units.get(subject.name, 0):
            self.violate("checkpoint", f"{subject.name}'s tables go back to {index}")
        self._units[subject.name] = index
        self._world.counts["checkpoints"] += 1
        if index > reference.head or image.anchor is None:
            self.violate("checkpoint", f"{subject.name}'s tables are at {index}, which nobody has applied")
            return
        if self._world.time >= self._compare_at.get(subject.name, 0.0):
            self._compare_at[subject.name] = self._world.time + self._compare_seconds
            if digest(image.tables) != reference.digests[index]:
                self.violate("checkpoint", f"{subject.name}'s tables at {index} are not those of the log's prefix")
        at, term, command, previous, voters, stamp = unpack(image.anchor)
        known = reference.entries[index]
        if (at, term, command) != (index, known[2], known[0]) or previous != reference.entries[index - 1][2]:
            self.violate("checkpoint", f"{subject.name}'s anchor at {index} is not the log's entry")
        if frozenset(voters) != reference.voters[index]:
            self.violate("configuration", f"{subject.name}'s checkpoint at {index} says {voters}")
        if stamp != reference.stamps[index]:
            self.violate("checkpoint", f"{subject.name}'s anchor at {index} has the stamp {stamp}")

    # ---- now and then, and at the end

    def sweep(self) -> None:
        """What is too dear to look at after every step."""
        random = self._world.random
        places = sorted(self.committed)
        for index in {places[-1], *random.choices(places, k=3)} if places else set():
            term, voters = self.committed[index][1], self._quorums[index]
            if 2 * len(self._holders(index, term, voters)) <= len(voters):
                self.violate("durability", f"the committed entry {index} is durable on no majority any more")
        for subject in self._subjects.values():
            replica = subject.replica
            if replica is not None:
                voters = self._voters(replica)
                if replica.engine.others != voters - {subject.name}:
                    self.violate(
                        "configuration",
                        f"{subject.name} counts {sorted(replica.engine.others)} besides itself, its log {sorted(voters)}",
                    )

    def same_tables(self, subject: Subject) -> None:
        """A process's tables in memory are those of the history at the index that it has applied."""
        replica = subject.replica
        if replica is None:
            return
        index = replica.engine.applied
        tables = {name: _rows(replica, name) for name in self.reference.tables}
        if index > self.reference.head or digest(tables) != self.reference.digests[index]:
            self.violate("state machine safety", f"{subject.name}'s state at {index} is not that of the log's prefix")

    def finish(self) -> None:
        """The checks on the whole history."""
        self.time.check([(i, t) for i, (_, t) in sorted(self.committed.items())])
        tables, stamp = self.reference.tables, self.reference.stamps[-1]
        self.notifications.finish({int.from_bytes(key, "big") for key in tables["notifications.items"]})
        rows = {tuple(key.decode().split("/", 2)): unpack(row) for key, row in tables["lists.entries"].items()}
        self.lists.finish({key: (row[0], row[5]) for key, row in rows.items()}, stamp)  # type: ignore[misc]
        releases = {(k[:-2], k[-2:]): unpack(row) for k, row in tables["quarantine.releases"].items()}
        held = {(k, int.from_bytes(n, "big")): (row[0], row[8]) for (k, n), row in releases.items()}
        self.quarantine.finish(held, set(tables["quarantine.states"]), stamp)
        for subject in self._subjects.values():
            self.same_tables(subject)

    # ---- what clients are told

    def answered(self, ident: bytes, result: list[Any]) -> None:
        """A client got `result` for its operation; it must be in the history when the process has done its step."""
        self._unverified.append((ident, result))

    def never_applied(self, number: int, who: str) -> None:
        """A client was told that its operation was not applied, and never will be."""
        self._not_applied[number] = who
        if number in self._numbers:
            self.violate("exactly once", f"operation {number} was applied; {who} says that it was not")

    def _verify(self) -> None:
        waiting, self._unverified = self._unverified, []
        for ident, results in waiting:
            known = self.reference.results.get(ident)
            if [3] not in results and known != results:
                self.violate("exactly once", f"a client is told {results} for {ident.hex()}, the history says {known}")


def _rows(replica: Replica, table: str) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    start, page = b"", 500
    while True:
        rows = replica.applier.overlay.scan(table, start, None, page)
        found.update(rows)
        if len(rows) < page:
            return found
        start = rows[-1][0] + b"\0"
