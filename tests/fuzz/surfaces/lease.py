"""Commands of leases, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.lease.machine import NAME, LeaseMachine, read_leases
from raftcluster.machine import ReadTables
from tests.fuzz.commands import agree
from tests.fuzz.source import Source

NAMES = ("job", "a/b", "x@y", "", "-", "n" * 200, "n" * 201, "\u0661", "job\n")
NODES = ("id-1", "id-2", "", "i" * 254)
TIMES = (1_000, 2_000, 60_000, 604_800_000, 604_800_001, 999, 0)


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 37 + n * (salt + 3)) % 256 for n in range(90))


def run(data: bytes) -> str:
    return agree(data, lambda: [LeaseMachine()], NAME, [["acquire", "job", "id-1", "mx1", 1_000, 0]], command)


def command(source: Source, tables: ReadTables) -> Any:
    """One is taken, kept or let go of, under a token that was given or not; or none of these."""
    kind, name = source.byte(), source.choice(NAMES)
    held = read_leases(tables, "", 4)
    if held and source.flag():
        name = source.choice(held).name
    token = source.choice([each.token for each in held] or [1]) if source.byte() < 200 else source.integer()
    if kind < 110:
        made = ["acquire", name, source.choice(NODES), source.choice(NODES), source.choice(TIMES), source.choice(TIMES)]
    elif kind < 180:
        made = ["renew", name, token, source.choice(TIMES)]
    elif kind < 240:
        made = ["release", name, token]
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
