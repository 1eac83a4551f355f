"""Whether a port of a host can be connected to, seen from this host. Nothing is sent."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from typing import Final

from raftcluster.discovery.candidate import Reach
from raftcluster.transport import sockets

SECONDS: Final = 2.0
"""For all addresses of a host together."""
_NO_WAY: Final = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM)


def reach(addresses: Sequence[str], port: int, seconds: float = SECONDS) -> Reach:
    """The best that a connection to any of the addresses met. Thread: any; waits up to `seconds`."""
    met = Reach.UNRESOLVED
    end = time.monotonic() + seconds
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        this = _reach(address, port, time.monotonic() + max(0.05, (end - time.monotonic()) / left))
        if this is Reach.OPEN:
            return this
        if met in (Reach.UNRESOLVED, Reach.UNREACHABLE) or this is Reach.REFUSED:
            met = this
    return met


def _reach(address: str, port: int, deadline: float) -> Reach:
    try:
        sockets.dial((address, port), deadline, lambda _: None).close()
    except ConnectionError:
        return Reach.REFUSED
    except TimeoutError:
        return Reach.SILENT
    except OSError as error:
        return Reach.UNREACHABLE if error.errno in _NO_WAY else Reach.SILENT
    return Reach.OPEN
