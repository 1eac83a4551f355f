"""What the stores must be equal to, written as plainly as possible; and the sequences that are tried on both."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from raftcluster.storage.ports import LogImage, Record, TableStore, Unit

Tables = dict[str, dict[bytes, bytes]]


class LogModel:
    """A log as a dictionary."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[bytes, int]] = {}
        self.term = 0
        self.vote: str | None = None
        self.commit = 0

    def apply(self, records: Sequence[Record]) -> None:
        for record in records:
            match record:
                case ("append", command, index, term):
                    self.entries[index] = (command, term)
                case ("truncate", bound):
                    self.entries = {index: entry for index, entry in self.entries.items() if index < bound}
                case ("cut", bound):
                    self.entries = {index: entry for index, entry in self.entries.items() if index >= bound}
                case ("reset",):
                    self.entries = {}
                case ("vote", term, vote):
                    self.term, self.vote = term, vote
                case ("commit", index):
                    self.commit = index

    def image(self) -> LogImage:
        entries = [(command, index, term) for index, (command, term) in sorted(self.entries.items())]
        return LogImage(entries, self.term, self.vote, self.commit)


def log_history(seed: int) -> Iterator[list[Record]]:
    """An endless sequence of records, a ticket's at a time, as an engine might submit them."""
    chance = random.Random(seed)
    first, last, term = 1, 0, 1
    while True:
        records: list[Record] = []
        for _ in range(chance.randint(0, 5)):
            what = chance.random()
            if what < 0.70 or last < first:
                last += 1
                records.append(("append", chance.randbytes(chance.choice((0, 10, 100, 3000, 9000))), last, term))
            elif what < 0.78:
                term += 1
                records.append(("vote", term, chance.choice((None, "a", "node-b"))))
            elif what < 0.86:
                bound = chance.randint(first, last + 1)
                records.append(("truncate", bound))
                last = bound - 1
            elif what < 0.94:
                bound = chance.randint(first, last)
                records.append(("cut", bound))
                first = bound
            elif what < 0.95:
                records.append(("reset",))
                first = last + chance.randint(0, 3)
                last = first - 1
            else:
                records.append(("commit", last))
        yield records


def table_history(seed: int) -> Iterator[Unit]:
    """An endless sequence of units. Each writes its index into every table: half a unit cannot look like a whole one."""
    chance = random.Random(seed)
    index = 0
    while True:
        index += chance.randint(1, 3)
        changes: dict[str, dict[bytes, bytes | None]] = {}
        for table in ("a.one", "a.two", "b.one"):
            rows: dict[bytes, bytes | None] = {}
            for _ in range(chance.randint(0, 60)):
                key = b"%04d" % chance.randrange(500)
                rows[key] = None if chance.random() < 0.3 else chance.randbytes(chance.choice((0, 20, 300)))
            rows[b"index"] = b"%d" % index
            changes[table] = rows
        yield Unit(index, changes, b"anchor of %d" % index)


def change(tables: Tables, unit: Unit) -> None:
    """Apply `unit` to `tables`."""
    for table, rows in unit.changes.items():
        for key, value in rows.items():
            if value is None:
                tables.setdefault(table, {}).pop(key, None)
            else:
                tables.setdefault(table, {})[key] = value


def content(store: TableStore, tables: Sequence[str] = ("a.one", "a.two", "b.one")) -> Tables:
    """Everything that reads see."""
    return {table: dict(store.scan(table, limit=10_000_000)) for table in tables}
