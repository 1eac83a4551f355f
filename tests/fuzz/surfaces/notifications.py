"""Commands of notifications, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.machine import ReadTables
from raftcluster.notifications.machine import NAME, NotificationsMachine, read_last
from tests.fuzz.commands import agree
from tests.fuzz.source import TEXTS, Source

SEVERITIES = ("info", "warning", "error", "critical", "fatal", "")
KEYS = ("", "k", "disk", "k" * 253, "k" * 254, "\x00", "\u00e9" * 127)
CONSUMERS = ("pager", "a/b", "", "-", "c" * 253, "c" * 254, "\u0661")
LIVES = (1_000, 60_000, 999, 0, 31_536_000_000, 31_536_000_001)


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 31 + n * (salt + 9)) % 256 for n in range(110))


def run(data: bytes) -> str:
    first = ["publish", "info", "a", "k", None, 1_000, "mx1"]
    return agree(data, lambda: [NotificationsMachine()], NAME, [first], command)


def command(source: Source, tables: ReadTables) -> Any:
    """One is published or seen to, a cursor moves or is forgotten; or none of these."""
    kind = source.byte()
    position = source.below(read_last(tables) + 2) if source.byte() < 220 else source.integer()
    consumer = source.choice(CONSUMERS)
    if kind < 110:
        text, payload = source.choice((*TEXTS, "x" * 1_024, "x" * 1_025)), source.value(6)
        made = ["publish", source.choice(SEVERITIES), text, source.choice(KEYS), payload, source.choice(LIVES), "mx1"]
    elif kind < 160:
        made = ["acknowledge", position, source.choice(TEXTS), source.choice(TEXTS)]
    elif kind < 200:
        made = ["advance", consumer, position]
    elif kind < 225:
        made = ["seek", consumer, position]
    elif kind < 245:
        made = ["forget", consumer]
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
