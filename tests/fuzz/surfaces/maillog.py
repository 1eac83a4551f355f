"""The mail log: what strangers' values become on their way to files and a SIEM, lines of a file, and what members ask and answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from raftcluster.errors import FrameError, RaftclusterError, Unavailable
from raftcluster.events import journald
from raftcluster.maillog import catalogue, cef, syslog
from raftcluster.maillog.cef import Device
from raftcluster.maillog.entry import Entry, cut, parse, sequence_of
from raftcluster.maillog.files import Page
from raftcluster.maillog.gathering import Member, serve
from tests.fuzz.source import Source

DEVICE: Final = Device("mx1.example.org", "n1", "mail", "c1", "0.1.0")
LINE: Final = b'{"sequence":7,"time":1.5,"action":"Rejected","client":"192.0.2.7","degraded":true}\n'
HEADER: Final = re.compile(
    r'<\d+>1 \S+ \S+ raftcluster \d+ [a-z-]+ \[meta sequenceId="\d+"\]\[raftcluster@32473 [^\n]*\] CEF:0\|'
)


def seeds() -> Iterable[bytes]:
    for kind in range(3):
        yield bytes([kind]) + LINE
        yield bytes([kind]) + b'\x05\x01a=b\x02|\\\n\x03]"\r\x00' * 9
    yield b"\x00" + LINE.replace(b"7", b"1e9").replace(b"true", b"1")
    yield b"\x00" + LINE[:-9] + b"\xff\xfe}\n"
    yield b"\x02\x08\x03\x05after\x00\x05since\x00\x04wait\x00"


def run(data: bytes) -> None:
    """Nothing is more than one line; what is read back is what was written; nonsense is refused."""
    source = Source(data)
    kind = source.below(3)
    if kind == 0:
        _line(source.rest())
    elif kind == 1:
        _values(source)
    else:
        _conversation(source)


def _line(line: bytes) -> None:
    sequence_of(line)
    entry = parse(line)
    if entry is not None:
        if entry.time and entry.action and entry.category and entry.source:  # else it is left out
            assert parse(entry.line(entry.sequence)) == entry
        _leaves(entry)


def _values(source: Source) -> None:
    number, lost, degraded = source.byte(), source.byte(), source.flag()
    text = [cut(source.take(source.byte()).decode("utf-8", "surrogateescape")) for _ in range(12)]
    action, category, asked = (each or "x" for each in text[:3])
    client, helo, sender, recipient, reason, name, instance, message_id, subject = text[3:]
    entry = Entry(
        *(1.5, action, client, helo, sender, recipient, number, reason, category, asked, name, instance, message_id),
        *(subject, degraded, lost),
    )
    line = entry.line(5)
    assert line.count(b"\n") == 1 and sequence_of(line) == 5 and parse(line) == entry._replace(sequence=5)
    _leaves(entry._replace(sequence=5))


def _leaves(entry: Entry) -> None:
    message = syslog.message(entry, DEVICE, 1)
    assert (b"\n" not in message and len(message) < 16_384 and message.isascii()) or message.decode()
    assert HEADER.match(message.decode()), message
    line = cef.line(entry, DEVICE)
    assert "\n" not in line and "\r" not in line
    assert re.findall(r"(?<!\\)(?:\\\\)*=", line), "keys"
    assert journald.datagram(catalogue.event(entry, DEVICE)).startswith(b"MESSAGE=")


class _Stream:
    """A member that says these values, and then nothing."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def send(self, value: Any) -> None:
        assert value is not None

    def receive(self, timeout: float) -> Any:
        if not self._values:
            raise Unavailable("it has gone")
        return self._values.pop(0)

    def close(self) -> None:
        self._values.clear()


def _conversation(source: Source) -> None:
    names = ("after", "since", "wait", "lines", "last", "end", "oldest", "error")
    values = [
        {each: source.value() for each in names if source.flag()} if source.flag() else source.value() for _ in range(3)
    ]
    with suppress(Unavailable, FrameError):
        serve(_Stream([*values]), lambda after, since, wait: Page([], after, True, 0))
    member = Member(lambda: _Stream([*values]))
    try:
        page = member(0, 0.0, 0.0)
    except RaftclusterError:
        return
    assert all(type(line) is bytes for line in page.lines)
    for line in page.lines:
        _line(line)
