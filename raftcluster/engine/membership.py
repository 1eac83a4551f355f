"""Voters, derived from the log and from nothing else.

The configuration at index i is the checkpoint's configuration plus every membership entry after it up to i (mends H8,
H9, H10 of docs/divergences.md): there is no second place that could disagree with the log after a restart, a
truncation or a snapshot. One change is under way at a time, and each adds or removes exactly one voter, so that any two
consecutive majorities overlap (Raft dissertation, section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from raftcluster.codec import pack, unpack
from raftcluster.errors import FrameError

MEMBERSHIP = b"\x02"
"""First byte of a membership entry, as the engine numbers its command types."""


class Change(NamedTuple):
    """One change of the set of voters."""

    action: str
    """`add` or `rem`, the engine's own words."""
    node: str


def encode(change: Change) -> bytes:
    """The body of a membership command, without the type byte (the engine puts it before)."""
    return pack([change.action, change.node])


def decode(command: bytes) -> Change | None:
    """The change that an entry's command carries, or None when it is no (well-formed) membership entry."""
    if command[:1] != MEMBERSHIP:
        return None
    try:
        value = unpack(command[1:], limit_bytes=4096)
    except FrameError:
        return None
    if isinstance(value, list) and len(value) == 2 and value[0] in ("add", "rem") and isinstance(value[1], str):
        return Change(value[0], value[1])
    return None


def fold(voters: Iterable[str], changes: Iterable[Change]) -> frozenset[str]:
    """`voters` after `changes`, in order."""
    result = set(voters)
    for change in changes:
        if change.action == "add":
            result.add(change.node)
        else:
            result.discard(change.node)
    return frozenset(result)
