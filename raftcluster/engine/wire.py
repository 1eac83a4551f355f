"""The shape of every message between nodes, checked before anything acts on it.

A member with a valid certificate may still send nonsense, through a defect or by intent; whatever passes here has the
right fields with the right types, so that nothing behind it fails half-way. Unknown types are refused: the wire changes
only with the protocol version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftcluster import limits
from raftcluster.engine.cluster_time import CEILING_MS
from raftcluster.errors import FrameError

_MAX = 2**62
LEAST_BYTES = 24
"""No operation is shorter: its id has 16. A frame of shorter ones would cost the leader a million looks."""
TERM_LEAP = 2**32
"""No message speaks of a term this far above the receiver's: that many elections take decades. Terms never fall again, so
that one message with the last term of all would be the end of the cluster."""


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX


def _number_or_none(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < _MAX)


def _entries(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(e, list | tuple)
        and len(e) == 3
        and isinstance(e[0], bytes)
        and 0 < len(e[0]) < limits.APPEND_BYTES
        and _number(e[1])
        and _number(e[2])
        for e in value
    )


def _follow(entries: Any, previous: int | None, previous_term: int, term: int) -> bool:
    """Whether these entries follow that one in a log of a leader of `term`: indexes without a gap, terms that never fall."""
    if previous is None:
        return not entries
    for index, entry in enumerate(entries, previous + 1):
        if entry[1] != index or not previous_term <= entry[2] <= term:
            return False
        previous_term = entry[2]
    return previous_term <= term


def _time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= CEILING_MS


def _flag(value: Any) -> bool:
    return type(value) is bool


def _time_or_none(value: Any) -> bool:
    return value is None or _time(value)


def _pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and _number(value[0]) and _number(value[1])


def _known(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and _time(value[0])
        and type(value[1]) is int
        and -1 <= value[1] < _MAX
    )


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64


def _operations(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(each, bytes) and len(each) >= LEAST_BYTES for each in value
    )


_REQUIRED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "append_entries": {"term": _number, "commit_index": _number, "seq": _number},
    "next_node_idx": {"term": _number, "next_node_idx": _number, "reset": _flag, "success": _flag},
    "request_vote": {"term": _number, "last_log_index": _number, "last_log_term": _number},
    "response_vote": {"term": _number},
    "timeout_now": {"term": _number},
    "term": {"term": _number},
    "pre_vote": {"term": _number, "index": _number, "last_term": _number, "round": _number},
    "pre_vote_grant": {"term": _number, "round": _number},
    "read_probe": {"term": _number, "number": _number},
    "read_ack": {"term": _number, "number": _number},
    "forward": {"operations": _operations},
    "read_index": {"number": _number},
    "read_at": {"number": _number, "index": _number_or_none},
    "transfer": {"target": lambda value: value is None or _name(value)},
}
_OPTIONAL: dict[str, dict[str, Callable[[Any], bool]]] = {
    "append_entries": {
        "entries": _entries,
        "prevLogIdx": _number_or_none,
        "prevLogTerm": _number_or_none,
        "offer": _pair,
        "time": _time_or_none,
        "fresh": _time,
    },
    "next_node_idx": {"seq": _number, "wall": _time_or_none, "time": lambda value: value is None or _known(value)},
    "request_vote": {"transfer": _flag},
}
_KNOWN = {kind: {"type": _name, **fields, **_OPTIONAL.get(kind, {})} for kind, fields in _REQUIRED.items()}


def check(message: Any, term: int) -> str:
    """The type of a well-formed message to a node in `term`. Raises `FrameError` naming the field that is not."""
    kind = message.get("type") if isinstance(message, dict) else None
    required = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if kind is None or required is None:
        raise FrameError(f"unknown message {kind!r:.80}", subject="message")
    if not required.keys() <= message.keys():
        for field in required:
            if field not in message and not required[field](None):
                raise FrameError(f"{kind}: field {field!r} is None", subject="message")
    known = _KNOWN[kind]
    for field, value in message.items():
        valid = known.get(field)
        if valid is None or not valid(value):
            raise FrameError(f"{kind}: field {field!r} is {value!r:.60}", subject="message")
    if message.get("term", 0) > term + TERM_LEAP:
        raise FrameError(f"{kind}: term {message['term']} is beyond reach of {term}", subject="message")
    if kind == "append_entries" and "offer" not in message:
        previous: Any = message.get("prevLogIdx")
        previous_term: Any = message.get("prevLogTerm")
        if previous is not None and not _number(previous_term):
            raise FrameError(f"{kind}: field 'prevLogTerm' is {previous_term!r:.60}", subject="message")
        if "entries" not in message or not _follow(message["entries"], previous, previous_term, message["term"]):
            raise FrameError(f"{kind}: entries do not follow {previous!r} in term {message['term']}", subject="message")
    return str(kind)
