"""One check as it travels: the command that nodes agree about, and its result. Bytes (big endian).

    command   settings revision (8), triplet key (16), node (8), flags (1), packed triplet (absent under `privacy`)
    result    passes (1), passed before (1), first seen (8), milliseconds left (8), milliseconds delayed (8)

Packed by hand like the records, and for the same reason: both are read and written once per check on every node.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import limits
from raftcluster.greylist.record import NODE_BYTES
from raftcluster.greylist.rules import KEY_BYTES

NULL_SENDER: Final = 1  # a flag
FLAGS: Final = NULL_SENDER
HEAD: Final = Struct(f">Q{KEY_BYTES}s{NODE_BYTES}sB")
RESULT: Final = Struct(">??QQQ")
CHECK_BYTES: Final = HEAD.size + 2 * limits.ADDRESS_BYTES + 64  # no check is longer


class Told(NamedTuple):
    """A result; times in milliseconds, `first` of cluster time."""

    passes: bool
    before: bool
    """It has passed before."""
    first: int
    """When the triplet was first seen; 0 would be the epoch."""
    left: int
    """How long the client has to wait yet."""
    delayed: int
    """How long ago the first attempt was, when it passes for the first time."""


def command(revision: int, key: bytes, node: bytes, null_sender: bool, triplet: bytes) -> bytes:
    """A check of the triplet with this key, made at `node` under the settings of this revision."""
    return HEAD.pack(revision, key, node, NULL_SENDER if null_sender else 0) + triplet


def told(result: bytes) -> Told:
    """What a result says."""
    return Told._make(RESULT.unpack(result))
