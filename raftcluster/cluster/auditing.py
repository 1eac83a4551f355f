"""Who has changed members and certificates, from where and why: kept by the machine, beside what it has changed. Pure.

What somebody decides reaches the machine as ["attributed", [author, origin, reason], [verb, ...]]; the command inside is
carried out as if it had come alone, and leaves a row. A command that comes alone, as logs of earlier versions hold them and
as the steps of a generation still do, leaves none.

    audit    number (8 bytes, big-endian) -> `Change`; the newest `KEPT`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from raftcluster.cluster.records import Member, Record, rejected
from raftcluster.cluster.view import FACTS, MEMBERS, generation, invitation, last, pending
from raftcluster.codec import Value, pack
from raftcluster.machine import ReadTables, Tables

AUDIT: Final = "audit"
ATTRIBUTED: Final = "attributed"
COUNT: Final = b"audited"
"""The fact that holds how many rows there have been."""
KEPT: Final = 1_000
"""Rows: years of a mail cluster. What is older is in the nodes' event records."""
NOTE_BYTES: Final = 1_024
"""Author, origin and reason, each."""
ITSELF: Final = "raftcluster"
"""The author of what the cluster has decided by itself."""


@dataclass(frozen=True, slots=True)
class Change(Record):
    """One decision that was carried out."""

    number: int
    """Counts them from 1; never used again, also after `restore` and `recover`."""
    time: int
    """Cluster time, milliseconds."""
    action: str
    """One of `ACTIONS`."""
    subject: str
    """What it was about: a member's name, a generation, a token."""
    author: str
    """Who: a user, a joining host's name, or `ITSELF`."""
    origin: str
    """From where: the node at which it was asked, or the address of a host that is no member yet."""
    reason: str


def attributed(command: Value, author: str, origin: str, reason: str) -> Value:
    """The command with who has decided it. Raises `Rejected` for what is no text of at most `NOTE_BYTES`."""
    note = [author, origin, reason]
    _check(note)
    return [ATTRIBUTED, note, command]


def opened(command: Value) -> tuple[list[str] | None, Value]:
    """(author, origin and reason; None when it comes alone, the command). Raises `Rejected` for an envelope that is none."""
    if not isinstance(command, list) or not command or command[0] != ATTRIBUTED:
        return None, command
    if len(command) != 3:
        raise rejected("malformed", f"malformed arguments of {ATTRIBUTED}", subject=ATTRIBUTED)
    _check(command[1])
    return command[1], command[2]


def is_repeated(tables: ReadTables, verb: str, arguments: list[Any]) -> bool:
    """Whether this is decided already: who joins or returns asks again until it is answered, and once is enough."""
    if verb == "begin":
        tokens = [invitation(tables, each) for each in arguments[1][7:8] if isinstance(each, str)]
        return any(each is not None and each.used_by is not None for each in tokens)
    coming = pending(tables) if verb == "return" else None
    return coming is not None and arguments[1] in coming.joiners


def keep(tables: Tables, time: int, verb: str, arguments: list[Any], result: Value, note: list[str]) -> None:
    """Leave a row of what was carried out, if it is anybody's decision."""
    told = ACTIONS.get(verb)
    if told is None or (found := told(tables, arguments, result)) is None:
        return
    action, subject = found
    number = read_count(tables) + 1
    tables.put(FACTS, COUNT, pack(number))
    tables.put(AUDIT, _key(number), Change(number, time, action, subject, *note).pack())
    if number > KEPT:
        tables.delete(AUDIT, _key(number - KEPT))


def read_changes(tables: ReadTables, after: int, limit: int) -> list[Change]:
    """Up to `limit` rows whose numbers are greater than `after`, the oldest first."""
    return [Change.unpack(row) for _, row in tables.scan(AUDIT, _key(after + 1), limit=limit)]


def read_newest(tables: ReadTables, limit: int) -> list[Change]:
    """The newest `limit` rows, newest first."""
    return read_changes(tables, max(0, read_count(tables) - limit), limit)[::-1]


def read_count(tables: ReadTables) -> int:
    """The number of the newest row; 0 when there was none."""
    return last(tables, COUNT.decode())


def _check(note: Value) -> None:
    if not isinstance(note, list) or len(note) != 3 or not all(_is_text(each) for each in note):
        raise rejected(
            "malformed", f"author, origin and reason are texts of at most {NOTE_BYTES} bytes each", subject="reason"
        )


def _is_text(value: Value) -> bool:
    try:
        return isinstance(value, str) and len(value.encode()) <= NOTE_BYTES
    except UnicodeEncodeError:
        return False


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _member(tables: ReadTables, node_id: str) -> str:
    """The name, when it is known."""
    row = tables.get(MEMBERS, node_id.encode()) if node_id else None
    return node_id if row is None else Member.unpack(row).name


def _token(tables: ReadTables, token_id: str) -> str:
    known = invitation(tables, token_id)
    return token_id if known is None else f"{known.name} (token {token_id})"


def _moved(tables: ReadTables, arguments: list[Any]) -> str:
    node_id, host, port = arguments
    return f"{_member(tables, node_id)} to " + (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _rotated(tables: ReadTables, arguments: list[Any], number: Value) -> str:
    without = ", ".join(_member(tables, each) for each in arguments[1])
    return f"generation {number}" + (f" without {without}" if without else "")


def _overdue(tables: ReadTables, number: int, went_on: Value) -> tuple[str, str] | None:
    found = generation(tables, number)
    return None if went_on or found is None else ("abort", f"generation {number}: {found.reason}")


def _reported(tables: ReadTables, arguments: list[Any], result: list[Any]) -> tuple[str, str] | None:
    """A version that runs for the first time on a member, and what that has enabled."""
    node_id, product, _ = arguments
    before, enabled = result
    if before == product and not enabled:
        return None
    changed = "" if before == product else f" from {before} to {product}"
    return "upgrade", f"{_member(tables, node_id)}{changed}" + (f"; enabled: {', '.join(enabled)}" if enabled else "")


ACTIONS: Final[Mapping[str, Callable[[ReadTables, list[Any], Value], tuple[str, str] | None]]] = {
    "genesis": lambda tables, given, result: ("init", str(given[0][1])),
    "restored": lambda tables, given, result: ("restore", f"cluster {given[0]} at entry {given[1]}"),
    "recovered": lambda tables, given, result: ("recover", f"cluster {given[0]} at entry {given[1]}"),
    "invite": lambda tables, given, result: ("invite", _token(tables, given[0])),
    "revoke": lambda tables, given, result: ("revoke", _token(tables, given[0])),
    "begin": lambda tables, given, result: ("join", f"{given[1][1]} (token {given[1][7]})"),
    "return": lambda tables, given, result: ("return", _member(tables, given[1])),
    "leaving": lambda tables, given, result: ("remove", _member(tables, given[0])),
    "address": lambda tables, given, result: ("move", _moved(tables, given)),
    "report": lambda tables, given, result: _reported(tables, given, result),
    "rotate": lambda tables, given, result: ("rotate", _rotated(tables, given, result)),
    "abort": lambda tables, given, result: ("abort", f"generation {given[0]}"),
    "overdue": lambda tables, given, result: _overdue(tables, given[0], result),
    "transfer": lambda tables, given, result: ("transfer", _member(tables, given[0]) or "to whoever has most"),
    "destroy": lambda tables, given, result: ("destroy", str(given[1])),
}
"""Verb -> (action, subject) of what its command has done, given its arguments and result; None when that was nothing."""
