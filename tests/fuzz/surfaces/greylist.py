"""Commands of the greylist, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.greylist import check
from raftcluster.greylist.clients import Client, client_key
from raftcluster.greylist.machine import NAME, GreylistMachine
from raftcluster.greylist.record import Record
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


def by_hand(source: Source) -> list[Any]:
    """What an administrator or a node that was cut off brings."""
    key = bytes([source.below(6)]) * 16
    selection = source.choice(({"triplet": key}, {"client": "192.0.2.0/24"}, {"sender-domain": "example.net"}, {}))
    first = source.below(256) * 10**9
    counters = ((b"node%04d" % source.below(3), source.below(9), source.below(9)),)
    record = Record(first, first, first + source.below(256) * 10**8, source.flag(), counters, b"").pack()
    rows = [[key, source.choice((0, first)), source.damaged(record) if source.flag(8) else record]]
    network = source.choice((b"192.0.2.0/24", b"198.51.100.0/24", b"\xff", b""))
    client = Client(
        first, first + source.below(256) * 10**8, first, 0, source.below(9), source.below(9), network
    ).pack()
    clients = [[client_key(network), source.damaged(client) if source.flag(8) else client]]
    return source.choice(
        (
            ["clients", clients],
            ["forget", selection, "author", "mx1", "reason"],
            ["sweep"],
            ["merge", rows],
            ["import", rows, source.choice((None, ["1 record", "author", "mx1", "reason"]))],
        )
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
    elif kind < 248:
        made = by_hand(source)
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
