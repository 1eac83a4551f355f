"""How large values get to the cluster: uploaded in parts before the change that sets them. Thread: any; these calls wait.

A change that is made of them is as any other: it is made as a whole or not at all. What was uploaded for one that is given up
nobody sees, and the cluster removes it by itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.config.blobs import parts_of, read_blob
from raftcluster.config.machine import NAME
from raftcluster.errors import OutcomeUnknown, Unavailable
from raftcluster.host import Host
from raftcluster.machine import ReadTables

ROOM: Final = limits.OPERATION_BYTES - 4 * limits.KIB
"""What a command's keys, values and conditions may take, without its author and reason."""
PART_SECONDS: Final = 2.0
"""A part is asked for again after so long: it may be repeated."""


class Uploads:
    """One node's."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def uploaded(
        self, changes: Sequence[Sequence[Value]], packed: Mapping[int, bytes], taken: int, end: float
    ) -> list[list[Value]]:
        """`changes` as they are proposed: what is too large for one command is uploaded, until `end` (time.monotonic).

        `packed` has the values of those that set something, by number; `taken` bytes of the command are not theirs. Raises
        `Unavailable`: then no change was made.
        """
        sent = [list(each) for each in changes]
        room = ROOM - taken - sum(len(each[1]) + 48 for each in sent)
        inline = sum(map(len, packed.values()))
        for number in sorted(packed, key=lambda n: len(packed[n]), reverse=True):
            size = len(packed[number])
            if size <= limits.CONFIG_INLINE_BYTES and inline <= room:
                break
            inline -= size
            sent[number] = ["blob", sent[number][1], self._upload(packed[number], end)]
        return sent

    def _upload(self, packed: bytes, end: float) -> bytes:
        """Its digest. Nothing is sent of what the cluster has."""
        digest = sha256(packed).digest()
        while not self._is_there(digest):
            for number, part in enumerate(parts_of(packed)):
                self._send(["part", digest, len(packed), number, part], end)
        return digest

    def _send(self, command: list[Value], end: float) -> None:
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise Unavailable("a large value could not be uploaded in time", subject=NAME, remedy="ask again")
            try:
                self._host.propose(NAME, command, deadline=min(left, PART_SECONDS))
            except OutcomeUnknown:
                continue
            return

    def _is_there(self, digest: bytes) -> bool:
        def read(tables: ReadTables, now: int) -> bool:
            blob = read_blob(tables, digest)
            return (
                blob is not None
                and blob.items > 0
                and (blob.references > 0 or blob.expires - now > PART_SECONDS * 1000)
            )

        return self._host.query(NAME, read)
