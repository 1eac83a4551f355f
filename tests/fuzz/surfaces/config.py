"""Commands of the configuration, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.config.machine import NAME, ConfigMachine
from raftcluster.machine import ReadTables
from tests.fuzz.commands import agree
from tests.fuzz.source import Source

KEYS = ("a", "a/b", "mail.size", "local/x", "greylist/delay", "a" * 240, "a" * 241, "A", "", "/", "x/y/z", "\u0661")


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 41 + n * (salt + 5)) % 256 for n in range(90))


def run(data: bytes) -> str:
    return agree(data, lambda: [ConfigMachine()], NAME, [["set", "a", 1, "", "", "mx1", None]], command)


def command(source: Source, tables: ReadTables) -> Any:
    """A value set or deleted, or neither."""
    kind = source.byte()
    expected = source.choice((None, None, 0, 1, 2, 3))
    if kind < 160:
        made = ["set", source.choice(KEYS), source.value(6), "author", "reason", "mx1", expected]
    elif kind < 235:
        made = ["delete", source.choice(KEYS), "author", "reason", "mx1", expected]
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
