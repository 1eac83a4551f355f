"""The way to the operating system's event log: the journal where it runs, else the local syslog daemon, else nobody.

Nothing here waits: a log daemon that does not read loses an event, which is in the node's own file all the same.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from typing import Final

from raftcluster.events import journald, syslog
from raftcluster.events.catalogue import Event

log = logging.getLogger("raftcluster.events")

JOURNAL: Final = "/run/systemd/journal/socket"
SYSLOG: Final = "/dev/log"
SYNC_SECONDS: Final = 10.0
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where events go besides the node's own file. Looked for at each event: daemons come and go. Thread: any."""

    journal: str | None = JOURNAL
    syslog: str | None = SYSLOG
    patient: bool = False
    """Whoever sends tries again: that nobody took it is not worth a line."""

    def system(self) -> str:
        """Who would take an event now: "the journal", "syslog", or ""."""
        if self.journal is not None and os.path.exists(self.journal):
            return "the journal"
        return "syslog" if self.syslog is not None and os.path.exists(self.syslog) else ""

    def send(self, event: Event) -> str:
        """Hand the event over: "journal", "syslog", or "" when nobody took it."""
        if self.journal is not None and _sent(self.journal, journald.datagram(event), self.patient):
            return "journal"
        if self.syslog is not None and _sent(
            self.syslog, syslog.datagram(event, os.getpid()), self.patient, large=False
        ):
            return "syslog"
        return ""

    def sync(self) -> bool:
        """Have the journal write what it was sent to the disk; it acknowledges no datagram. Whether it says it has."""
        command = shutil.which("journalctl")
        if self.journal is None or command is None or not os.path.exists(self.journal):
            return False
        try:
            done = subprocess.run([command, "--sync"], capture_output=True, timeout=SYNC_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.info("journalctl --sync: %s", error)
            return False
        return done.returncode == 0


def _sent(path: str, data: bytes, patient: bool, *, large: bool = True) -> bool:
    """One datagram to the unix socket at `path`; False when nobody listens, its queue is full, or this process can open no more."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(path)
            try:
                sender.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError as error:
                if not large or error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                _send_as_file(sender, data)
    except OSError as error:
        if not patient and not isinstance(error, FileNotFoundError | ConnectionRefusedError):
            log.info("%s took no event: %s", path, error)
        return False
    return True


def _send_as_file(sender: socket.socket, data: bytes) -> None:
    """What is too large for a datagram goes as a sealed file in memory, whose descriptor is sent (the journal's rule)."""
    descriptor = os.memfd_create("raftcluster-event", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(sender, [b""], [descriptor], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        os.close(descriptor)
