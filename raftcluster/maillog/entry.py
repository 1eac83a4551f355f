"""One line of the mail-protection log: what was decided about one recipient of one message. Pure.

A line is one JSON object; fields that say nothing are left out, and `sequence` is always the first, so that a place in a
file can be found without reading all of it.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from raftcluster import limits

VERIFIED: Final = "Verified"
"""It passes: its triplet has waited, or has before, or its client has earned it."""
REJECTED: Final = "Rejected"
"""It has to wait: the first attempt."""
NOT_VERIFIED: Final = "Rejected (not verified)"
"""It came again before its time and has to wait on."""
PASSED: Final = "Passed"
"""It passes without having waited: there was nothing to decide, or nobody could, or the greylist only trains."""
DROPPED: Final = "Dropped"
"""Of the log itself: so many entries before this one were not written."""

GREYLISTING: Final = "greylisting"
LOG: Final = "log"
"""The category of what the log says of itself."""


class Entry(NamedTuple):
    """One decision, in the order of the columns."""

    time: float
    """Of this node's wall clock, seconds since the epoch."""
    action: str
    """What was decided: see below."""
    client: str = ""
    """The SMTP client's address."""
    helo: str = ""
    """As it has called itself."""
    sender: str = ""
    """MAIL FROM; empty: the null sender."""
    recipient: str = ""
    """RCPT TO."""
    seconds_left: int = 0
    """How long it has to wait yet."""
    reason: str = ""
    """Why: of the greylist `new`, `early`, `waited`, `known`, `client`, `authenticated`, `opted-out`, `not-opted-in`, `allowed`, `spf`,
    or the code of the error for which the cluster did not decide."""
    category: str = GREYLISTING
    """Which protection has decided."""
    source: str = "api"
    """Who asked: `policy` (Postfix), `worker`, `api`, or the product."""
    client_name: str = ""
    """The client's verified host name."""
    instance: str = ""
    """The SMTP transaction."""
    message_id: str = ""
    """The message's Message-ID, as far as who asks knows it: Postfix's policy requests do not."""
    subject: str = ""
    """Its subject: the same."""
    degraded: bool = False
    """Not decided by the cluster."""
    lost: int = 0
    """Of `Dropped`: how many."""
    sequence: int = 0
    """Counts this node's entries from 1, across restarts: a gap shows that some are missing."""

    def record(self) -> dict[str, Any]:
        """As JSON has it: without what says nothing."""
        return {"sequence": self.sequence, **{name: value for name, value in zip(_REST, self, strict=False) if value}}

    def line(self, sequence: int) -> bytes:
        """The line in the file, under this number."""
        pairs = [
            name + (_QUOTE(value) if type(value) is str else "true" if value is True else repr(value))
            for name, value in zip(_NAMES, self, strict=False)
            if value
        ]
        return f'{{"sequence":{sequence}{"".join(pairs)}}}\n'.encode("ascii")


_REST: Final = Entry._fields[:-1]
_NAMES: Final = tuple(f',"{name}":' for name in _REST)
_QUOTE: Final = json.encoder.encode_basestring_ascii
_END: Final = 253_402_300_800  # no date is behind the year 9999
_START: Final = b'{"sequence":'
_TYPES: Final = {name: type(value) for name, value in Entry._field_defaults.items()} | {"time": float, "action": str}


def cut(text: object) -> str:
    """A value as it is kept: text, and no longer than it may be."""
    if type(text) is str and len(text) <= limits.MAILLOG_TEXT:
        return text
    if not text:
        return ""
    shown = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else str(text)
    return shown[: limits.MAILLOG_TEXT]


def quoted(value: object) -> str:
    """A value in JSON, as it is kept."""
    if type(value) is str and len(value) <= limits.MAILLOG_TEXT:
        return _QUOTE(value)
    return _QUOTE(cut(value))


def sequence_of(line: bytes) -> int | None:
    """The number of a line, or of its beginning; None when it is none, or may be cut short."""
    if not line.startswith(_START):
        return None
    number, comma, _ = line[len(_START) :].partition(b",")
    return int(number) if comma and number.isdigit() else None


def parse(line: bytes) -> Entry | None:
    """The entry of a line; None when it is not whole."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not {"sequence", "time", "action"} <= record.keys():
        return None
    known = {name: value for name, value in record.items() if name in _TYPES}
    for name, value in known.items():
        if type(value) is not _TYPES[name] and not (name == "time" and type(value) is int):
            return None
    if not 0 <= known["time"] < _END or known["sequence"] < 0:
        return None
    return Entry(**known)
