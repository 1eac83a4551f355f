"""Commands of the configuration, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from raftcluster.codec import pack
from raftcluster.config.machine import NAME, ConfigMachine
from raftcluster.machine import ReadTables
from tests.fuzz.commands import agree
from tests.fuzz.source import Source

KEYS = (
    "a",
    "a/b",
    "mail.size",
    "local/x",
    "greylist/delay",
    "a" * 240,
    "a" * 241,
    "A",
    "",
    "/",
    "x/y/z",
    "\u0661",
    "nodes/mx1/a",
)

PACKED = (pack("x" * 40), pack([1, {"a": None}]), pack(5), b"\xc1", b"\x81\xa1a", pack(["y" * 300] * 3))
"""What is uploaded: values, and none."""
KEYWORDS = ("type", "minimum", "multipleOf", "maxLength", "pattern", "enum", "anyOf", "items", "properties", "x")


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 41 + n * (salt + 5)) % 256 for n in range(90))


def run(data: bytes) -> str:
    return agree(data, lambda: [ConfigMachine()], NAME, [["set", "a", 1, "", "", "mx1", None]], command)


def command(source: Source, tables: ReadTables) -> Any:
    """A value set or deleted, several of them, a part of a large one, a schema, or none of these."""
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
    elif kind < 243:
        made = ["report", source.choice(("n1", "", "n2")), "mx1", source.below(4), source.choice(("", "why"))]
    elif kind < 249:
        packed = source.choice(PACKED)
        made = ["part", sha256(packed).digest(), len(packed), source.choice((0, 0, 0, 1)), packed]
    elif kind < 254:
        change = ["blob", source.choice(KEYS), sha256(source.choice(PACKED)).digest()]
        made = ["transact", [], [change], "author", "reason", "mx1"]
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
