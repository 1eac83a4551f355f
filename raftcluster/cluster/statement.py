"""What a recovered node says to members of the cluster that it has left: which one it is of now.

After a lost quorum a survivor may be made a new cluster of its own. Members of the old one that come back cannot link with
it: cluster and certificates are others. So that they do not wait for it, and their administrator does not wonder, it keeps
a statement that is signed with its **old** key: who knew the node by that key can believe it. It is public.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError, Rejected
from raftcluster.transport.certificates import fingerprint, sign, verify

STATEMENT: Final = "statement"
"""The file's name in the data directory."""
CONTEXT: Final = "raftcluster-recovered-v1"


@dataclass(frozen=True, slots=True)
class Statement:
    """This node is of another cluster now."""

    former_id: str
    """The cluster that was given up."""
    cluster_id: str
    """The one that goes on with its state."""
    cluster: str
    """Its name."""
    node_id: str
    """Who says it; the id is the same in both."""
    root_hash: bytes
    """SHA-256 of the new cluster's first root certificate."""
    decided_at: int
    """By the node's wall clock, in seconds since the epoch."""

    def signed(self, key: bytes, certificate: bytes) -> bytes:
        """The statement with the signature of a node's key (PEM) and the certificate (PEM) that it is known by."""
        return pack([self._values(), certificate, sign(key, self._message())])

    @classmethod
    def checked(cls, data: Value, former_id: str, node_id: str, pins: Collection[bytes]) -> Self | None:
        """The statement in `data` when the member `node_id`, known by these pins, has signed that it has left the cluster
        `former_id`; None for everything else, whoever it comes from."""
        try:
            values, certificate, signature = unpack(data)
            if [type(value) for value in values] != [str, str, str, str, bytes, int]:
                return None
            statement = cls(*values)
            if (statement.former_id, statement.node_id) != (former_id, node_id) or statement.cluster_id == former_id:
                return None
            if fingerprint(certificate) not in pins:
                return None
            verify(certificate, statement._message(), signature)
        except (FrameError, Rejected, TypeError, ValueError, AttributeError):
            return None
        return statement

    def _values(self) -> list[Value]:
        return [getattr(self, field.name) for field in fields(self)]

    def _message(self) -> bytes:
        return pack([CONTEXT, *self._values()])


def statement(path: Path) -> dict[str, bytes]:
    """What the node in the data directory `path` says of itself to everybody: its statement, if it has one to make."""
    file = path / STATEMENT
    return {STATEMENT: file.read_bytes()} if file.exists() else {}
