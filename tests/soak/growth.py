"""What is measured of a node, and when a run says that it has grown. Reads `/proc` and files; decides purely."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import lmdb

from raftcluster import limits

KIB = 1024
MIB = 1024 * KIB

Sample = Mapping[str, float]
"""Quantity -> value, of one node at one moment."""


class Bound(NamedTuple):
    """By how much the last quarter's median and maximum may exceed the second quarter's."""

    share: float = 0.0
    slack: float = 0.0
    peak_share: float = 0.0
    peak_slack: float = 0.0

    def median_allowed(self, before: float) -> float:
        return before * (1 + self.share) + self.slack

    def peak_allowed(self, before: float) -> float:
        return before * (1 + self.peak_share) + self.peak_slack


HIGH_WATER = 16 * MIB
"""A snapshot that is sent holds the pages it reads, and LMDB writes to others meanwhile: the longest one of a run decides how
large the file becomes, once, whenever it comes. LMDB gives no page back to the file system."""

BOUNDS: dict[str, Bound] = {
    # An hour at 50 checks a second lies between the middles of the two quarters: a leak of 20 bytes a check shows.
    "anonymous": Bound(0.03, 1 * MIB, 0.10, 4 * MIB),
    # Without the pages of LMDB's files: the kernel takes those back when it likes, and the files have bounds of their own.
    "private": Bound(0.03, 1 * MIB, 0.10, 4 * MIB),
    "descriptors": Bound(slack=0, peak_slack=4),
    "threads": Bound(slack=2, peak_slack=4),  # pools grow when they are first needed
    "tables map": Bound(),
    "log files": Bound(slack=1 * MIB, peak_slack=4 * MIB),  # segments are longer when they fill fast
    # Rows and not pages: those of a snapshot are full, and half full after as many changes as there are rows (12 turns of 28,790
    # random keys: 3.9, 7.4, 7.7 and then up to 7.9 MB). The file itself keeps the most that it ever was.
    "tables content": Bound(0.05, 512 * KIB, 0.25, 2 * MIB),
    "tables file": Bound(0.05, HIGH_WATER, 0.10, HIGH_WATER),
    "log entries": Bound(0.25, 64, 1.0, 256),
    "records": Bound(0.10, 100, 0.25, 200),
}


class Change(NamedTuple):
    """One quantity of one node: second quarter against last."""

    node: str
    quantity: str
    before: tuple[float, float]
    """Median and maximum."""
    after: tuple[float, float]
    good: bool


def measured(pid: int, directory: Path) -> dict[str, float]:
    """What the kernel says of a node's process and of its two LMDB environments, in bytes and counts."""
    process = Path("/proc") / str(pid)
    kib = _mapped((process / "smaps").read_text(), {str(directory / "tables" / "data.mdb")})
    threads = next(line for line in (process / "status").read_text().splitlines() if line.startswith("Threads:"))
    found = {
        "private": (kib["Private_Clean"] + kib["Private_Dirty"] + kib["Private_Hugetlb"]) * KIB,
        "anonymous": kib["Anonymous"] * KIB,
        "descriptors": len(os.listdir(process / "fd")),
        "threads": int(threads.split()[1]),
    }
    maps = (process / "maps").read_text().splitlines()
    file = directory / "tables" / "data.mdb"
    spans = [line.split()[0].split("-") for line in maps if line.endswith(str(file))]
    found["tables map"] = sum(int(end, 16) - int(start, 16) for start, end in spans)
    found["tables file"] = file.stat().st_size
    found["log files"] = sum(each.stat().st_size for each in (directory / "log").iterdir())
    found["tables content"] = content(directory / "tables")
    return {name: float(value) for name, value in found.items()}


def _mapped(smaps: str, without: set[str]) -> Counter[str]:
    """The sums of all mappings of `/proc/PID/smaps`, in KiB by name, but for those of the files in `without`."""
    sums: Counter[str] = Counter()
    counted = True
    for line in smaps.splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # the head of a mapping: span, rights, offset, device, inode and perhaps a path
            counted = rest.split(maxsplit=4)[-1].strip() not in without
        elif counted and rest.endswith(" kB"):
            sums[first[:-1]] += int(rest[:-3])
    return sums


def content(environment: Path) -> int:
    """The bytes of all rows in the tables of an LMDB environment, which another process may have open."""
    with (
        lmdb.open(str(environment), readonly=True, create=False, max_dbs=limits.TABLES) as env,
        env.begin() as transaction,
    ):
        tables = [env.open_db(name, transaction) for name in transaction.cursor().iternext(values=False)]
        return sum(len(key) + len(value) for table in tables for key, value in transaction.cursor(table))


def changes(samples: Mapping[str, Sequence[Sample]]) -> list[Change]:
    """Compare the quarters of every node's samples, which were taken at equal intervals. AssertionError with too few."""
    found = []
    for node, rows in samples.items():
        quarter = len(rows) // 4
        assert quarter >= 3, f"{len(rows)} samples of {node} show nothing"
        second, last = rows[quarter : 2 * quarter], rows[-quarter:]
        for quantity, bound in BOUNDS.items():
            before, after = _middle_and_peak(second, quantity), _middle_and_peak(last, quantity)
            good = after[0] <= bound.median_allowed(before[0]) and after[1] <= bound.peak_allowed(before[1])
            found.append(Change(node, quantity, before, after, good))
    return found


def rates(rows: Sequence[Sample], count: str) -> tuple[float, float]:
    """How fast `count` rose, per second, in the second and in the last quarter."""
    quarter = len(rows) // 4

    def rate(part: Sequence[Sample]) -> float:
        return (part[-1][count] - part[0][count]) / (part[-1]["at"] - part[0]["at"])

    return rate(rows[quarter : 2 * quarter]), rate(rows[-quarter:])


def _middle_and_peak(rows: Sequence[Sample], quantity: str) -> tuple[float, float]:
    values = [row[quantity] for row in rows if quantity in row]
    assert values, f"no sample has {quantity}"
    return median(values), max(values)


def table(found: Sequence[Change]) -> list[str]:
    """One line a quantity and node."""
    lines = [f"{'node':6}{'quantity':14}{'2nd quarter: median':>20}{'max':>14}{'last: median':>16}{'max':>14}"]
    for change in found:
        numbers = (*change.before, *change.after)
        shown = "".join(f"{number:>{width},.0f}" for number, width in zip(numbers, (20, 14, 16, 14), strict=True))
        lines.append(f"{change.node:6}{change.quantity:14}{shown}{'' if change.good else '   GREW'}")
    return lines
