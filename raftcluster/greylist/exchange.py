"""Greylist records as a file: JSON Lines or CSV, with a first line that says what it is and a last one that proves it whole.

    JSON Lines  {"raftcluster-greylist": 1, "node": ..., "time_ms": ..., "network4": 24, "network6": 64}
                {"key": ..., "network": ..., "sender": ..., "recipient": ..., "first_ms": ..., "last_ms": ..., "expires_ms": ...,
                 "passed": ..., "counters": [[node, deferred, passed], ...]}, one line a record
                {"records": how many, "sha256": of all bytes before this line}
    CSV         raftcluster-greylist,1,node,time_ms,network4,network6
                a line with the names of the columns; one line a record; end,how many,sha256

Times are milliseconds of cluster time. Addresses may be any bytes: those that are no UTF-8 are escaped as Python's
`surrogateescape` does. Under `privacy` network, sender and recipient are empty. Pure.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from io import StringIO
from struct import error
from typing import Any, Final, Literal, NamedTuple

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist.inspection import inspect_record
from raftcluster.greylist.record import NODE_BYTES, Record
from raftcluster.greylist.rules import Triplet, triplet_of

Format = Literal["jsonl", "csv"]
MAGIC: Final = "raftcluster-greylist"
VERSION: Final = 1
LINE_CHARACTERS: Final = 16 * limits.ADDRESS_BYTES  # no record is longer, be all of it escaped

_HEADER: Final = ("node", "time_ms", "network4", "network6")
_COLUMNS: Final = (
    "key", "network", "sender", "recipient", "first_ms", "last_ms", "expires_ms", "passed", "counters",
)  # fmt: skip


class Header(NamedTuple):
    """What the first line says."""

    node: str
    """Where it was written."""
    time: int
    network4: int
    network6: int


Row = tuple[bytes, bytes]
"""A key and a packed record."""


def write(header: Header, rows: Iterable[Row], form: Format) -> Iterator[str]:
    """The file's lines, each with its end."""
    digest, count = sha256(), 0
    for line in _lines(header, form):
        digest.update(_bytes(line))
        yield line
    for key, row in rows:
        line = _line(_fields(key, row), form)
        digest.update(_bytes(line))
        count += 1
        yield line
    if form == "jsonl":
        yield json.dumps({"records": count, "sha256": digest.hexdigest()}) + "\n"
    else:
        yield _csv(["end", count, digest.hexdigest()])


def read(lines: Iterable[str]) -> Iterator[Header | Row]:
    """What the lines hold: the header, then the records. Raises `Rejected`, naming the line, as soon as something is wrong: also
    at the end, when the file is cut, so nothing may be believed before that."""
    digest, count, number = sha256(), 0, 0
    form: Format = "jsonl"
    ended = False
    for number, line in enumerate(lines, 1):
        if ended:
            raise _wrong(number, "there is more behind the last line")
        if len(line) > LINE_CHARACTERS or not line.endswith("\n"):
            raise _wrong(number, "is cut, or longer than any record")
        try:
            if number == 1:
                form = "jsonl" if line.startswith("{") else "csv"
                yield _header(line, form)
            elif number == 2 and form == "csv":
                if _cells(line) != list(_COLUMNS):
                    raise ValueError("the columns are others")
            elif (trailer := _trailer(line, form)) is not None:
                if trailer != (count, digest.hexdigest()):
                    raise ValueError("what is before it is not what was written: it was changed or is cut")
                ended = True
            else:
                count += 1
                yield _record(line, form)
        except (ValueError, TypeError, LookupError, error, RecursionError) as wrong:
            reason = str(wrong) if type(wrong) is ValueError and number > 1 else "is no record"
            if number == 1:
                reason = str(wrong) if "version" in str(wrong) else "is not the beginning of greylist records"
            raise _wrong(number, reason) from wrong
        digest.update(_bytes(line))
    if not ended:
        raise _wrong(number + 1, "the last line is missing: the file is cut")


def shown(key: bytes, row: bytes) -> dict[str, Value]:
    """A record as JSON has it."""
    return dict(zip(_COLUMNS, _fields(key, row), strict=True))


def _fields(key: bytes, row: bytes) -> list[Any]:
    record = Record.unpack(row)
    parts = [_text(part) for part in triplet_of(record.triplet) or (b"", b"", b"")]
    counters = [[_text(node.rstrip(b"\0")), deferred, passed] for node, deferred, passed in record.counters]
    return [key.hex(), *parts, record.first, record.last, record.expires, record.passed, counters]


def _record(line: str, form: Format) -> Row:
    fields: list[Any]
    if form == "jsonl":
        found = json.loads(line)
        if not isinstance(found, dict) or set(found) != set(_COLUMNS):
            raise ValueError("has other fields than a record")
        fields = [found[name] for name in _COLUMNS]
    else:
        cells = _cells(line)
        if len(cells) != len(_COLUMNS):
            raise ValueError("has not as many fields as a record")
        passed = {"yes": True, "no": False}[cells[7]]
        fields = [*cells[:4], *(int(each) for each in cells[4:7]), passed, json.loads(cells[8])]
    key, network, sender, recipient, first, last, expires, passed, counters = fields
    if not all(type(each) is int for each in (first, last, expires)) or type(passed) is not bool:
        raise ValueError("has times that are no numbers, or has passed neither true nor false")
    triplet = Triplet(_raw(network), _raw(sender), _raw(recipient))
    packed = triplet.pack() if any(triplet) else b""
    nodes = tuple((_label(node), _count(deferred), _count(passes)) for node, deferred, passes in counters)
    row = Record(first, last, expires, passed, nodes, packed).pack()
    made = bytes.fromhex(key)
    inspect_record(made, row)
    return made, row


def _header(line: str, form: Format) -> Header:
    values: list[Any]
    if form == "jsonl":
        found = json.loads(line)
        values = [MAGIC if MAGIC in found else None, found.get(MAGIC), *(found.get(name) for name in _HEADER)]
    else:
        values = list(_cells(line))
        values[1:] = [int(values[1]), values[2], *(int(each) for each in values[3:])]
    magic, version, node, *numbers = values
    if magic != MAGIC or type(node) is not str or len(numbers) != 3 or {int} != {type(each) for each in numbers}:
        raise ValueError("is not the beginning of greylist records")
    if version != VERSION:
        raise ValueError(f"is of version {version!r:.20}, not {VERSION}")
    return Header(node, *numbers)


def _lines(header: Header, form: Format) -> list[str]:
    if form == "csv":
        return [_csv([MAGIC, VERSION, *header]), _csv(_COLUMNS)]
    return [json.dumps(dict(zip((MAGIC, *_HEADER), (VERSION, *header), strict=True))) + "\n"]


def _line(fields: list[Any], form: Format) -> str:
    if form == "jsonl":
        return json.dumps(dict(zip(_COLUMNS, fields, strict=True))) + "\n"
    return _csv([*fields[:7], "yes" if fields[7] else "no", json.dumps(fields[8])])


def _trailer(line: str, form: Format) -> tuple[int, str] | None:
    if form == "jsonl":
        if not line.startswith('{"records"'):
            return None
        found = json.loads(line)
        return found["records"], found["sha256"]
    if not line.startswith("end,"):
        return None
    _, count, digest = _cells(line)
    return int(count), digest


def _csv(cells: Iterable[Any]) -> str:
    out = StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _cells(line: str) -> list[str]:
    try:
        (cells,) = csv.reader([line], strict=True)
    except csv.Error as wrong:
        raise ValueError(f"is no line of CSV: {wrong}") from wrong
    return cells


def _text(part: bytes) -> str:
    return part.decode("utf-8", "surrogateescape")


def _raw(text: Any) -> bytes:
    if type(text) is not str:
        raise ValueError("has an address or a node that is no text")
    return text.encode("utf-8", "surrogateescape")


def _bytes(line: str) -> bytes:
    return line.encode("utf-8", "surrogateescape")


def _label(node: Any) -> bytes:
    label = _raw(node)
    if not 0 < len(label) <= NODE_BYTES:
        raise ValueError("has a counter of no node")
    return label.ljust(NODE_BYTES, b"\0")


def _count(number: Any) -> int:
    if type(number) is not int:
        raise ValueError("has a counter that is no number")
    return number


def _wrong(number: int, problem: str) -> Rejected:
    return Rejected(f"line {number}: {problem}", subject=f"line {number}", remedy="nothing was imported")
