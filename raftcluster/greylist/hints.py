"""Which clients this node believes to be allowed: the keys of their networks, read from the table `allowed` as it grows.

A belief is a hint that travels with a check; the machine decides. So what is missing here costs a client one wait as if
it were a stranger, for a second at most, and what is here too long costs nothing: it is dropped when the machine says so.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from raftcluster import limits
from raftcluster.errors import OutcomeUnknown, StorageRefusal, Unavailable
from raftcluster.greylist.clients import client_key, read_allowed
from raftcluster.host import Host

LOOK_SECONDS: Final = 1.0  # between two looks at the table, when the greylist has changed: by checks that are answered
LATE_SECONDS: Final = 3.0  # a check that finds the last look older than this looks itself, and waits for it
READ_SECONDS: Final = 0.2  # a check waits no longer for one

_CANNOT_READ: Final = (Unavailable, OutcomeUnknown, StorageRefusal)


class Hints:
    """See the head of the file. Thread: any."""

    def __init__(self, host: Host, machine: str) -> None:
        self._host, self._machine = host, machine
        self._lock = threading.Lock()
        """Never held while the tick thread is waited for."""
        self._keys: set[bytes] = set()
        self._reached = 0
        self._stale = True
        self._look = -LATE_SECONDS
        """When to look again, by the node's own clock."""
        host.on_apply(machine, self._applied)

    @property
    def due(self) -> bool:
        """Whether `refresh` has something to do."""
        return self._stale and time.monotonic() >= self._look

    @property
    def late(self) -> bool:
        """Whether it should have been done already."""
        return self._stale and time.monotonic() >= self._look + LATE_SECONDS - LOOK_SECONDS

    def refresh(self) -> None:
        """Read what was allowed since the last look: all of it, a page after the other. Waits for the tick thread."""
        self._stale, self._look = False, time.monotonic() + LOOK_SECONDS
        more = True
        while more:
            reached = self._reached
            try:
                keys, last = self._host.query(
                    self._machine,
                    lambda tables, _: read_allowed(tables, reached, limits.SCAN_ROWS),  # noqa: B023
                    deadline=READ_SECONDS,
                )
            except _CANNOT_READ:
                self._stale = True
                return
            with self._lock:
                if self._reached == reached:  # else somebody else has read it meanwhile
                    self._keys.update(keys)
                    self._reached = last
            more = len(keys) == limits.SCAN_ROWS

    def allow(self, network: bytes) -> bool:
        """Whether mail from `network` is believed to pass at once."""
        return bool(self._keys) and client_key(network) in self._keys

    def drop(self, network: bytes) -> None:
        """It is not so."""
        with self._lock:
            self._keys.discard(client_key(network))

    def _applied(self, index: int) -> None:
        self._stale = True
