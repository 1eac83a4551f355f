"""One check as it travels: the command that nodes agree about, and its result. Bytes (big endian).

    command   settings revision (8), triplet key (16), node (8), flags (1), then the packed triplet -- under `privacy`
              (flag `HASHED`) the key of the client's network instead
    result    how it is answered (1), passed before (1), first seen (8), milliseconds left (8), milliseconds delayed (8)

Packed by hand like the records, and for the same reason: both are read and written once per check on every node.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import limits
from raftcluster.greylist.record import NODE_BYTES
from raftcluster.greylist.rules import KEY_BYTES

NULL_SENDER: Final = 1  # a flag
HASHED: Final = 2  # a flag: no address is told
CLIENT: Final = 4  # a flag: the node believes that the client is allowed
ANSWERED: Final = 8  # a flag: its client has been told to wait already, whatever is decided
FLAGS: Final = NULL_SENDER | HASHED | CLIENT | ANSWERED
HEAD: Final = Struct(f">Q{KEY_BYTES}s{NODE_BYTES}sB")
RESULT: Final = Struct(">B?QQQ")
CHECK_BYTES: Final = HEAD.size + 2 * limits.ADDRESS_BYTES + 64  # no check is longer

DEFERRED: Final = 0
PASSED: Final = 1
SERVED: Final = 2  # it passes because its client is allowed, whatever its triplet


class Told(NamedTuple):
    """A result; times in milliseconds, `first` of cluster time."""

    passes: int
    """DEFERRED, PASSED or SERVED."""
    before: bool
    """It has passed before."""
    first: int
    """When the triplet was first seen; 0 when nobody has looked."""
    left: int
    """How long the client has to wait yet."""
    delayed: int
    """How long ago the first attempt was, when it passes for the first time."""


def command(
    revision: int, key: bytes, node: bytes, null_sender: bool, rest: bytes, hashed: bool = False, client: bool = False
) -> bytes:
    """A check of the triplet with this key, made at `node` under the settings of this revision; `rest` is the packed
    triplet, with `hashed` the key of its network. `client`: the node believes that the client is allowed."""
    flags = null_sender * NULL_SENDER | hashed * HASHED | client * CLIENT
    return HEAD.pack(revision, key, node, flags) + rest


def answered(command: bytes) -> bytes:
    """The same check, whose client has been told to wait already."""
    return command[: HEAD.size - 1] + bytes([command[HEAD.size - 1] | ANSWERED]) + command[HEAD.size :]


def told(result: bytes) -> Told:
    """What a result says."""
    return Told._make(RESULT.unpack(result))
