"""Commands of the quarantine, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.machine import ReadTables
from raftcluster.quarantine.envelope import Envelope
from raftcluster.quarantine.machine import NAME, QuarantineMachine, read_page
from raftcluster.quarantine.rules import Content
from tests.fuzz.commands import agree
from tests.fuzz.source import Source

ADDRESSES = (
    b"a@b",
    b"",
    b'"x y"@b',
    b"a b@c",
    b"<a@b>",
    b"a@b>\r\n",
    b"\xff\xfe@b",
    b'"\\"@b',
    b"a" * 1_024,
    b"a" * 1_025,
)
ORCPTS = ("", "rfc822;a+40b", "rfc822;a b", "utf-8;\u00fc", ";x", "x" * 501)
NOTIFIES = ("", "NEVER", "SUCCESS,DELAY", "NEVER,DELAY", "never")
TIMES = (1_000, 2_000, 60_000, 3_600_000, 3_600_001, 999, 0, 31_536_000_000)


def _captured() -> list[Any]:
    envelope = Envelope("a@b")
    envelope.rcpt("c@d")
    content = Content(bytes(16), envelope.values(), bytes(32), 7, "1", "", 60_000, "mx1")
    return ["capture", *content, bytes(32)]


def seeds() -> Iterable[bytes]:
    for salt in range(6):
        yield bytes((salt * 43 + n * (salt + 7)) % 256 for n in range(90))


def run(data: bytes) -> str:
    return agree(data, lambda: [QuarantineMachine()], NAME, [_captured()], command)


def command(source: Source, tables: ReadTables) -> Any:
    """Something is captured, claimed, settled or discarded, under ids and tokens that there are or not; or none of these."""
    kind = source.byte()
    there = read_page(tables, 0, b"", 4, 100_000)[0]
    ident = source.choice(there).content.id if there and source.flag() else bytes([source.below(4)]) * 16
    number, token = source.below(4), source.below(5) if source.byte() < 200 else source.integer()
    if kind < 80:
        recipients = [
            [source.choice(ADDRESSES), source.choice(ORCPTS), source.choice(NOTIFIES)] for _ in range(source.below(3))
        ]
        envelope = [source.choice(ADDRESSES), source.choice(("", "FULL", "x")), "", source.flag(), recipients]
        made = ["capture", ident, envelope, bytes(32), source.below(9), "1", "", source.choice(TIMES), "mx1", bytes(32)]
    elif kind < 150:
        made = ["claim", ident, number, "id-1", "mx1", "root", source.choice(TIMES)]
    elif kind < 220:
        made = ["finish", ident, number, token, source.flag(), "250", "root", "mx1"]
    elif kind < 240:
        made = ["discard", ident, "root", "mx1"]
    else:
        return source.value()
    place = source.below(64)
    if place < len(made):
        made[place] = source.value()
    return made
