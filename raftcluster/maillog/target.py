"""Where entries are exported to: a syslog receiver over UDP, TCP or TLS, or the operating system's own log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from raftcluster.events.outlet import JOURNAL, SYSLOG, Outlet
from raftcluster.maillog import catalogue, syslog
from raftcluster.maillog.address import SYSTEM, parse
from raftcluster.maillog.cef import Device
from raftcluster.maillog.entry import Entry
from raftcluster.transport import outbound
from raftcluster.transport.outbound import Files, Outbound
from raftcluster.transport.sockets import Socket

DIAL_SECONDS: Final = 10.0
FINISH_SECONDS: Final = 2.0
PROBE_SECONDS: Final = 0.2  # for a host to say that nobody listens for datagrams there


class Target(Protocol):
    """A connection. Errors are `OSError`."""

    resend_seconds: float
    """What was sent so long ago has arrived, if what came after it was taken."""
    resend_bytes: int
    """The same, of what was sent before so many bytes."""

    def send(self, entries: Sequence[Entry], waits: Callable[[], bool]) -> int:
        """Send these; how many bytes they were. `waits` is asked now and then while the receiver takes nothing."""

    def pending(self) -> int:
        """How many of the last bytes sent have certainly not arrived, whatever time has passed."""

    def ended(self) -> str | None:
        """Why it is over, None while it is not."""

    def finish(self) -> bool:
        """The last thing: whether the receiver has everything."""

    def close(self) -> None: ...


class Receiver:
    """A syslog receiver."""

    def __init__(self, link: Outbound, kind: str, device: Device) -> None:
        self._link, self._kind, self._device = link, kind, device
        self._pid = os.getpid()
        self._began = False
        datagrams = kind == "udp"
        self.resend_seconds = 1.0 if datagrams else 60.0
        self.resend_bytes = 16 * 1024 * 1024  # more than both hosts' buffers hold

    def send(self, entries: Sequence[Entry], waits: Callable[[], bool]) -> int:
        """See `Target`."""
        messages = [syslog.message(each, self._device, self._pid) for each in entries]
        if self._kind != "udp":
            data = b"".join(map(syslog.counted, messages))
            self._link.send(data, waits)
            return len(data)
        for each in messages:
            self._link.send(each, waits)
            if not self._began:  # a host says so when nobody listens: better now than behind a thousand
                self._began = True
                time.sleep(PROBE_SECONDS)
                if (reason := self._link.ended()) is not None:
                    raise ConnectionRefusedError(reason)
        return sum(map(len, messages))

    def pending(self) -> int:
        """See `Target`."""
        return 0 if self._kind == "udp" else self._link.pending()

    def ended(self) -> str | None:
        """See `Target`."""
        return self._link.ended()

    def finish(self) -> bool:
        """See `Target`."""
        return self._link.ended() is None if self._kind == "udp" else self._link.finish(FINISH_SECONDS)

    def close(self) -> None:
        """Hang up."""
        self._link.close()


class System:
    """The journal, or the local syslog daemon where there is none."""

    resend_seconds = 0.0
    resend_bytes = 0

    def __init__(self, device: Device, journal: str = JOURNAL, daemon: str = SYSLOG) -> None:
        """Raises `OSError` when there is neither."""
        self._device = device
        has_journal = os.path.exists(journal)
        self._outlet = Outlet(journal if has_journal else None, None if has_journal else daemon, patient=True)
        if not self._outlet.system():
            raise FileNotFoundError(f"there is neither {journal} nor {daemon}")

    def send(self, entries: Sequence[Entry], waits: Callable[[], bool]) -> int:
        """See `Target`."""
        for each in entries:
            event = catalogue.event(each, self._device)
            while not self._outlet.send(event):
                if self.ended() or not waits():
                    raise ConnectionAbortedError(f"{self._outlet.system() or 'the log daemon'} takes nothing")
                time.sleep(PROBE_SECONDS)
        return 0

    def pending(self) -> int:
        """See `Target`."""
        return 0

    def ended(self) -> str | None:
        """See `Target`."""
        return None if self._outlet.system() else "the log daemon has gone"

    def finish(self) -> bool:
        """See `Target`."""
        return True

    def close(self) -> None:
        """Nothing is open."""


def connect(target: str, name: str, files: Files, device: Device, opened: Callable[[Socket], None]) -> Target:
    """Connect to what `address.parse` takes; `name` is the receiver's in its certificate, by default the host's. Raises `OSError`."""
    kind, address = parse(target)
    if kind == SYSTEM:
        return System(device)
    return Receiver(outbound.dial(kind, address, files, name or address[0], DIAL_SECONDS, opened), kind, device)
