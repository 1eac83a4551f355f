"""Commands of the greylist's lists, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.greylist.lists.machine import NAME, ListsMachine, read_entries
from raftcluster.greylist.lists.rules import EFFECTS, KINDS
from raftcluster.machine import ReadTables
from tests.fuzz.commands import agree
from tests.fuzz.source import TEXTS, Source

PATTERNS = (
    "192.0.2.0/24",
    "192.0.2.7/32",
    "2001:db8::/32",
    "::ffff:192.0.2.0/120",
    "0.0.0.0/0",
    "192.0.2.1/24",
    "example.org",
    "Example.org",
    "a@example.org",
    "a+b@example.org",
    "<>",
    "",
    "*.example.org",
    "a/b",
    "\ud800",
    "x" * 64 + "@example.org",
    "b\u00fccher.example",
)
LIVES = (None, None, 1, 1_000, 315_360_000_000, 315_360_000_001, 0, -1, True)


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 29 + n * (salt + 11)) % 256 for n in range(110))


def run(data: bytes) -> str:
    first = ["add", [["allow", "client", "192.0.2.0/24", "", None]], "admin", "mx1", "", False]
    return agree(data, lambda: [ListsMachine()], NAME, [first], command)


def command(source: Source, tables: ReadTables) -> Any:
    """Entries are added or removed, those that are there among them; or none of these."""
    kind = source.byte()
    held, _ = read_entries(tables, b"", 8)
    made: list[Any]
    if kind < 140:
        items: list[Any] = []
        for _ in range(source.below(4)):
            item = [source.choice(EFFECTS), source.choice(KINDS), source.choice(PATTERNS), source.choice(TEXTS)]
            items.append(source.spoilt([*item, source.choice(LIVES)], 32))
        made = ["add", items, source.choice(TEXTS), "mx1", source.choice(TEXTS), source.flag()]
    elif kind < 240:
        known = [[each.list, each.kind, each.pattern] for each in held] or [["rule", "client", "192.0.2.0/24"]]
        chosen = [source.choice(known) for _ in range(source.below(3))]
        made = [
            "remove",
            [source.spoilt(list(each), 32) for each in chosen],
            source.choice(TEXTS),
            "mx1",
            source.choice(TEXTS),
        ]
        if source.flag(8):
            made[1].append([source.choice(("opt", "rule", "x")), source.choice(KINDS), source.choice(PATTERNS)])
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
