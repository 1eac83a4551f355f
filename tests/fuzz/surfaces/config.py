"""Commands of the configuration, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.config.machine import NAME, ConfigMachine
from raftcluster.machine import ReadTables
from tests.fuzz.commands import agree
from tests.fuzz.source import Source

KEYS = ("a", "a/b", "mail.size", "local/x", "greylist/delay", "a" * 240, "a" * 241, "A", "", "/", "x/y/z", "\u0661")

KEYWORDS = ("type", "minimum", "multipleOf", "maxLength", "pattern", "enum", "anyOf", "items", "properties", "x")


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 41 + n * (salt + 5)) % 256 for n in range(90))


def run(data: bytes) -> str:
    return agree(data, lambda: [ConfigMachine()], NAME, [["set", "a", 1, "", "", "mx1", None]], command)


def command(source: Source, tables: ReadTables) -> Any:
    """A value set or deleted, several of them, a schema, or none of these."""
    kind = source.byte()
    expected = source.choice((None, None, 0, 1, 2, 3))
    if kind < 160:
        made = ["set", source.choice(KEYS), source.value(6), "author", "reason", "mx1", expected]
    elif kind < 200:
        made = ["delete", source.choice(KEYS), "author", "reason", "mx1", expected]
    elif kind < 225:
        conditions = [[source.choice(KEYS), source.choice(("revision", "value")), source.value(2)]][: source.below(2)]
        changes = [["set", source.choice(KEYS), source.value(3)], ["delete", source.choice(KEYS)]]
        made = ["transact", conditions, changes[: source.below(3)], "author", "reason", "mx1"]
    elif kind < 240:
        schema = {source.choice(KEYWORDS): source.value(3)}
        made = ["schema", source.choice(KEYS), source.below(3), {"properties": {source.choice(("b", "size")): schema}}]
    elif kind < 248:
        made = ["report", source.choice(("n1", "", "n2")), "mx1", source.below(4), source.choice(("", "why"))]
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
