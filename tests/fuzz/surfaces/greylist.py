"""Commands of the greylist, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.greylist import check
from raftcluster.greylist.machine import NAME, GreylistMachine
from raftcluster.greylist.settings import NAMES
from raftcluster.machine import ReadTables
from tests.fuzz.commands import agree
from tests.fuzz.source import Source

VALUES = (
    1,
    60,
    180,
    60.5,
    7200,
    86_400,
    10**9,
    24,
    64,
    True,
    False,
    "pass",
    "defer",
    "wait %s s",
    "100 %",
    None,
    0.001,
)


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 37 + n * (salt + 3)) % 256 for n in range(90))


def run(data: bytes) -> str:
    return agree(
        data, lambda: [GreylistMachine()], NAME, [["settings", {"lab": True, "delay": 1}, "", "", 0, "mx1"]], command
    )


def command(source: Source, tables: ReadTables) -> Any:
    """A check, a change of settings, or neither."""
    kind = source.byte()
    if kind < 170:
        key, node = bytes([source.below(6)]) * 16, b"node%04d" % source.below(3)
        asked = check.command(source.below(3) or 1, key, node, source.flag(), source.take(source.byte() % 64))
        return source.damaged(asked) if source.flag(16) else asked
    if kind < 235:
        changes = {
            source.choice((*NAMES, "else")): source.spoilt(source.choice(VALUES)) for _ in range(source.below(4))
        }
        made = ["settings", changes, "author", "reason", source.choice((None, 0, 1, 2)), "mx1"]
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
