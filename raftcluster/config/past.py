"""What the configuration was: the log of all changes, its state at a revision or a time, and the way back.

Thread: any; these calls wait. Reads are of what this node has applied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config.chain import Place, Proof, prove, read_proof
from raftcluster.config.machine import NAME
from raftcluster.config.reading import Entry, Page, read_at, read_log, read_revision, read_revision_at
from raftcluster.config.rules import check_prefix, check_revision
from raftcluster.errors import Rejected
from raftcluster.host import Host
from raftcluster.machine import ReadTables

KEYS: int = 50  # looked at in one step: a key costs up to a millisecond of the tick thread
ROWS: int = 100  # proven in one step


class Difference(NamedTuple):
    """A key that is not the same at two revisions."""

    key: str
    before: Entry | None
    """None where it was not set."""
    after: Entry | None


class Past:
    """`Config.log`, `at`, `diff` and `rollback` are these."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def log(self, prefix: str, limit: int, before: int | None) -> list[Entry]:
        """See `Config.log`."""
        check_prefix(prefix)
        last = self._revision()
        if before is not None:
            check_revision(before)
        found: list[Entry] = []
        reached = last + 1 if before is None else min(before, last + 1)
        while reached > 1 and len(found) < limit:
            page = self._host.query(NAME, _log(prefix, reached, limit - len(found)))
            found += page.changes
            reached = page.reached
        return found

    def revision_at(self, time: int) -> int:
        """The newest revision made until `time`, cluster time in milliseconds; 0 when there was none."""
        return self._host.query(NAME, lambda tables, _: read_revision_at(tables, time))

    def at(self, revision: int, prefix: str) -> dict[str, Entry]:
        """See `Config.at`."""
        check_prefix(prefix)
        check_revision(revision)
        last = self._revision()
        if revision > last:
            raise Rejected(f"there is no revision {revision}", subject="revision", remedy=f"the newest is {last}")
        found: dict[str, Entry] = {}
        after = ""
        while True:
            page = self._host.query(NAME, _at(prefix, revision, after))
            found |= {each.key: each for each in page if not each.deleted}
            if not page:
                return found
            after = page[-1].key

    def diff(self, first: int, second: int | None, prefix: str) -> list[Difference]:
        """See `Config.diff`."""
        before = self.at(first, prefix)
        after = self.at(self._revision() if second is None else second, prefix)
        return [
            Difference(key, before.get(key), after.get(key))
            for key in sorted(before.keys() | after.keys())
            if _value(before.get(key)) != _value(after.get(key))
        ]

    def verify(self) -> Proof:
        """See `Config.verify`."""
        place = Place()
        while not place.done:
            place = self._host.query(NAME, _proven(place))
        return self._host.query(NAME, lambda tables, _: read_proof(tables, place))

    def _revision(self) -> int:
        return self._host.query(NAME, lambda tables, _: read_revision(tables))


def way_back(differences: list[Difference]) -> tuple[list[Value], list[Value]]:
    """(conditions, changes) of the transaction that takes `differences` back, if they are the newest."""
    conditions: list[Value] = []
    changes: list[Value] = []
    for key, before, after in differences:
        conditions.append([key, "revision", 0 if after is None else after.revision])
        changes.append(["delete", key] if before is None else ["set", key, before.value])
    if len(changes) > limits.TRANSACTION_KEYS:
        raise Rejected(
            f"{len(changes)} keys would change, more than {limits.TRANSACTION_KEYS} at once",
            subject="rollback",
            remedy="name a prefix",
        )
    return conditions, changes


def _value(entry: Entry | None) -> bytes:
    """Comparable: a value is as it is written, True is not 1."""
    return b"" if entry is None else codec.pack(entry.value)


def _proven(place: Place) -> Callable[[ReadTables, int], Place]:
    return lambda tables, _: prove(tables, place, ROWS)


def _log(prefix: str, before: int, limit: int) -> Callable[[ReadTables, int], Page]:
    return lambda tables, _: read_log(tables, prefix, before, limit)


def _at(prefix: str, revision: int, after: str) -> Callable[[ReadTables, int], list[Entry]]:
    return lambda tables, _: read_at(tables, prefix, revision, after, KEYS)
