"""What a verification has found: answers of several nodes compared, for people and programs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from raftcluster.errors import Damaged, RaftclusterError, Unavailable
from raftcluster.storage.digest import Range, table_digest
from raftcluster.verify.answer import Answer, Trouble, Wanted

Verdict = Literal["sound", "incomplete", "damaged"]

EQUAL: Final = "equal"
DIFFERENT: Final = "different"
UNREADABLE: Final = "unreadable"
SILENT: Final = "not answered"


@dataclass(frozen=True)
class NodeFinding:
    """One member."""

    id: str
    name: str
    reason: str
    """Why there is no answer; empty when there is one."""
    index: int
    rows: int
    log_entries: int
    """Whose checksums were found right."""
    troubles: Sequence[Trouble]
    more_troubles: int

    @classmethod
    def of(cls, id: str, name: str, answer: Answer | None, reason: str = "") -> NodeFinding:
        """What a member's answer says of it; `reason` when there is none."""
        if answer is None:
            return cls(id, name, reason, 0, 0, 0, [], 0)
        troubles = sorted(answer.troubles, key=lambda each: (each.where, each.key or b""))
        return cls(id, name, "", answer.index, answer.count, answer.entries, troubles, answer.more)


@dataclass(frozen=True)
class TableFinding:
    """One table at all nodes."""

    table: str
    rows: int
    """Of the node that has most."""
    nodes: Mapping[str, str]
    """Name of the node -> `EQUAL`; `DIFFERENT` from what the majority of those that answered have, or, without a majority,
    from any other; `UNREADABLE`; `SILENT`."""
    digests: Mapping[str, str]


@dataclass(frozen=True)
class RowFinding:
    """One row that is not the same at all nodes."""

    table: str
    key: bytes
    nodes: Mapping[str, str | None]
    """Name of the node -> digest of its value, None where there is none."""
    odd: Sequence[str]
    """The nodes that have not what the majority has; all of them when there is no majority."""


@dataclass(frozen=True)
class Report:
    """See the module. `verdict` sums it up."""

    index: int
    """The log index at which the tables were compared."""
    nodes: Sequence[NodeFinding]
    tables: Sequence[TableFinding]
    rows: Sequence[RowFinding]
    more_ranges: int
    """Ranges of rows that differ, too, and were not looked into."""

    @property
    def verdict(self) -> Verdict:
        """damaged: a difference, or something that cannot be read; incomplete: none, but not everybody has answered."""
        bad = any({DIFFERENT, UNREADABLE} & set(each.nodes.values()) for each in self.tables)
        if bad or any(each.troubles for each in self.nodes):
            return "damaged"
        return "incomplete" if any(each.reason for each in self.nodes) else "sound"

    def check(self) -> None:
        """Raise `Damaged` or `Unavailable` unless the verdict is "sound"; who and what is in the text."""
        if (error := self.error()) is not None:
            raise error

    def error(self) -> RaftclusterError | None:
        """What `check` raises."""
        if self.verdict == "damaged":
            odd = {n for t in self.tables for n, state in t.nodes.items() if state in (DIFFERENT, UNREADABLE)}
            odd |= {each.name for each in self.nodes if each.troubles}
            where = sorted({each.where for node in self.nodes for each in node.troubles} | set(self._odd_tables()))
            return Damaged(
                f"{', '.join(where)} of {', '.join(sorted(odd))}",
                subject=", ".join(sorted(odd)),
                remedy="see docs/operations.md: a damaged node is removed and joins again",
            )
        if self.verdict == "incomplete":
            silent = [f"{each.name} ({each.reason})" for each in self.nodes if each.reason]
            return Unavailable(
                f"no answer from {', '.join(silent)}",
                subject=", ".join(each.name for each in self.nodes if each.reason),
                remedy="what was compared is equal; ask again when all are up",
            )
        return None

    def _odd_tables(self) -> Iterable[str]:
        return (t.table for t in self.tables if {DIFFERENT, UNREADABLE} & set(t.nodes.values()))

    def values(self) -> dict[str, Any]:
        """As plain values, with the verdict and the error, for programs."""
        error = self.error()
        told = None if error is None else {"code": error.code, "message": error.message, "remedy": error.remedy}
        plain = asdict(self)
        for node in plain["nodes"]:
            node["troubles"] = [each._asdict() for each in node["troubles"]]
        return {"verdict": self.verdict, "error": told, **plain}


def common_index(answers: Iterable[Answer]) -> int:
    """The index at which to compare: that of most answers, the lower one of two."""
    counts = Counter(each.index for each in answers)
    return max(counts, key=lambda index: (counts[index], -index), default=0)


def differing(answers: Sequence[Answer]) -> list[Wanted]:
    """The ranges of rows in which answers of one index differ: between those boundaries that all of them have."""
    found = []
    for table in sorted({name for each in answers for name in each.tables}):
        columns = [column for each in answers if _whole(column := each.column(table))]
        if len(columns) < 2:
            continue
        shared = set.intersection(*({each.last for each in column} for column in columns))
        after = b""
        for parts in zip(*(_cut(column, shared) for column in columns), strict=True):
            last = parts[0][-1].last
            if len({tuple(each.digest for each in part) for part in parts}) > 1:
                found.append(Wanted(table, after, last))
            after = after if last is None else last
    return found


def compare_tables(answers: Mapping[str, Answer], silent: Sequence[str]) -> list[TableFinding]:
    """Every table at every node; `answers` by the node's name, all of one index."""
    found = []
    for table in sorted({name for each in answers.values() for name in each.tables}):
        columns = {name: each.column(table) for name, each in answers.items()}
        digests = {name: table_digest(column) for name, column in columns.items() if _whole(column)}
        odd = _odd(digests)
        states = {name: EQUAL if name in digests else UNREADABLE for name in columns}
        states |= dict.fromkeys(odd, DIFFERENT) | dict.fromkeys(silent, SILENT)
        rows = max(sum(each.rows for each in column) for column in columns.values())
        found.append(TableFinding(table, rows, states, digests))
    return found


def compare_rows(wanted: Sequence[Wanted], answers: Mapping[str, Answer], limit: int) -> list[RowFinding]:
    """The rows that are not the same, by the answers to a second round. A node that names `limit` rows of a range has more:
    nothing is said of what is behind the last of them."""
    found = []
    for number, each in enumerate(wanted):
        columns = {name: answer.rows.get(number, {}) for name, answer in answers.items()}
        horizons = [max(rows) for rows in columns.values() if len(rows) >= limit]
        for key in sorted({key for rows in columns.values() for key in rows}):
            if horizons and key > min(horizons):
                break
            digests = {name: None if key not in rows else rows[key].hex() for name, rows in columns.items()}
            if odd := _odd(digests):
                found.append(RowFinding(each.table, key, digests, odd))
    return found


def _whole(column: Sequence[Range]) -> bool:
    return bool(column) and column[-1].last is None


def _cut(column: Sequence[Range], shared: set[bytes | None]) -> list[list[Range]]:
    parts: list[list[Range]] = [[]]
    for each in column:
        parts[-1].append(each)
        if each.last in shared:
            parts.append([])
    return parts[:-1]


def _odd(values: Mapping[str, str | None]) -> list[str]:
    """Whose value is not that of more than half; everybody when no value is; nobody when all are the same."""
    counts = Counter(values.values())
    if len(counts) <= 1:
        return []
    value, count = counts.most_common(1)[0]
    return sorted(name for name in values if 2 * count <= len(values) or values[name] != value)
