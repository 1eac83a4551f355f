"""Entries on their way out of this node: one thread, for which the log's files are the spool.

Theory of operation. `sent` is the number of the last entry that this connection was given, `position` that of the last one which
has certainly arrived; `position` is kept in a file. Syslog has no acknowledgements: TCP takes what the receiver may never read. So
when a connection breaks, the exporter goes back to `position`, which trails `sent` by what was sent within the last minute, or
by 16 MiB, and by what the receiver's host has not acknowledged, however long ago that was sent: TCP goes on for a quarter of an
hour with a host that has no power. All that is sent again: at least once, and the numbers tell what came twice. An orderly end
(the node stops, other settings) is one of the receiver's saying, by closing its side, that it has read everything: then nothing
comes twice.

What is kept is bounded. When the files went on without the receiver, the numbers show it the gap, and an entry `Dropped` with the
number of the last one that is missing says how many there are.

Only what is on the disk is sent. Behind a backlog half of the time is left to others, in pieces of half a millisecond.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.maillog import files
from raftcluster.maillog.cef import Device
from raftcluster.maillog.entry import DROPPED, LOG, Entry, parse
from raftcluster.maillog.settings import Settings
from raftcluster.maillog.target import Target, connect
from raftcluster.transport import outbound, sockets
from raftcluster.transport.sockets import Socket

log = logging.getLogger("raftcluster.maillog")

SOURCE: Final = "exporter"
RETRY_SECONDS: Final = (0.5, 60.0)  # the first pause and the longest, twice as long each time
LOOK_SECONDS: Final = 1.0  # between two looks at a connection over which nothing is sent
KEEP_SECONDS: Final = 5.0  # between two writes of the position
STEADY_SECONDS: Final = 5.0  # a connection that has lasted so long is one: some are refused behind their handshake
ALARM_SECONDS: Final = 60.0

Connect = Callable[[str, str, outbound.Files, Device, Callable[[Socket], None]], Target]


class _Sent(NamedTuple):
    """What was sent together."""

    last: int
    moment: float
    total: int
    """Bytes sent on this connection until then."""


class Exporter:
    """Thread: the methods from any but the tick thread; `wake` from any."""

    def __init__(
        self, folder: Path, device: Device, settings: Settings, durable: Callable[[], int], connect: Connect = connect
    ) -> None:
        """`durable` is the number up to which entries may leave. The first export begins with what is logged from now on."""
        self._folder, self._device, self._settings, self._durable = folder, device, settings, durable
        self._connect = connect
        self._kept: int | None = None
        self._resumed = False
        self._position = self._sent = durable()
        self._lost = 0
        """Up to which number some are known to be lost: whoever was told of it may be told again."""
        self._unsure: deque[_Sent] = deque()
        self._total = 0
        self._state, self._error, self._since = "connecting", "", time.monotonic()
        self._counts = {"exported": 0, "lost": 0, "connections": 0}
        self._failing: float | None = None
        """Since when no connection has been of use."""
        self._next_keep = 0.0
        self._wake = threading.Event()
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._dialling: Socket | None = None
        self._thread = threading.Thread(target=self._run, name="raftcluster-export", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is more to send."""
        self._wake.set()

    def use(self, settings: Settings) -> None:
        """From now on these."""
        if settings.target() != self._settings.target():
            self._settings = settings
            self._changed.set()
            self._wake.set()

    def status(self) -> dict[str, Value]:
        """`state`: connecting, connected, blocked (the receiver takes nothing), waiting (to try again, see `error`); `position`: up to
        which entry all has arrived; `sent`; `behind`: entries that wait; since the start `exported` (with what was sent again), `lost` (removed before it
        was certain that they had arrived) and `connections`."""
        return {
            "to": self._settings.export,
            "state": self._state,
            "seconds": round(time.monotonic() - self._since, 1),
            "error": self._error,
            "position": self._position,
            "sent": self._sent,
            "behind": max(0, self._durable() - self._sent),
            **self._counts,
        }

    def trouble(self) -> str:
        """What an administrator should know; empty when all is well, or has not been unwell for long."""
        failing = self._failing
        if failing is not None and time.monotonic() > failing + ALARM_SECONDS:
            return f"nothing is exported to {self._settings.export}: {self._error or self._state}"
        return ""

    def close(self) -> None:
        """Tell the receiver that this was all, keep the position, and end. Idempotent."""
        self._ending.set()
        self._changed.set()
        self._wake.set()
        if (sock := self._dialling) is not None:
            sockets.abort(sock)
        self._thread.join()

    # --- the thread

    def _run(self) -> None:
        pause = RETRY_SECONDS[0]
        while not self._ending.is_set():
            self._changed.clear()
            if self._ending.is_set():
                return
            try:
                self._session()
                continue
            except OSError as error:
                self._failed(outbound.why(error))
            except Exception as error:
                log.exception("the export has failed")
                self._failed(repr(error))
            if self._failing is None:  # it had been well
                self._failing, pause = time.monotonic(), RETRY_SECONDS[0]
            self._changed.wait(pause)
            pause = min(2 * pause, RETRY_SECONDS[1])

    def _session(self) -> None:
        """One connection, until the settings change or the exporter ends. Raises `OSError` when it breaks."""
        settings = self._settings
        self._turn("connecting")
        self._resume()
        self._keep()
        named = outbound.Files(settings.export_ca, settings.export_certificate, settings.export_key)
        try:
            target = self._connect(settings.export, settings.export_name, named, self._device, self._opened)
        finally:
            self._dialling = None
        try:
            self._sent, self._total = self._position, 0
            self._unsure.clear()
            self._counts["connections"] += 1
            began = time.monotonic()
            while not self._changed.is_set():
                if not self._send(target):
                    self._wake.wait(LOOK_SECONDS)
                    self._wake.clear()
                if (reason := target.ended()) is not None:
                    raise ConnectionResetError(reason)
                self._confirm(target)
                if time.monotonic() >= began + STEADY_SECONDS:
                    self._failing = None
                if time.monotonic() >= self._next_keep:
                    self._keep()
            if target.finish():
                self._position = self._sent
            self._keep()
        finally:
            self._sent = self._position
            target.close()

    def _resume(self) -> None:
        """Once: go on where the export has ended. Raises `OSError`: to begin anew instead would pass over what waits."""
        if not self._resumed:
            self._kept = files.exported(self._folder)
            if self._kept is not None:
                self._position = self._sent = self._kept
            self._resumed = True

    def _opened(self, sock: Socket) -> None:
        self._dialling = sock
        if self._ending.is_set():
            sockets.abort(sock)

    def _send(self, target: Target) -> bool:
        """A page of what waits; whether there was any."""
        lines, last, _, oldest = files.page(self._folder, self._sent, upto=self._durable())
        if oldest > self._sent + 1:
            self._skip(target, oldest)
        entries = [entry for line in lines if (entry := parse(line)) is not None]
        for start in range(0, len(entries), limits.MAILLOG_EXPORT_GROUP):
            if self._changed.is_set():
                return True
            began = time.monotonic()
            self._give(target, entries[start : start + limits.MAILLOG_EXPORT_GROUP])
            if len(entries) > 2 * limits.MAILLOG_EXPORT_GROUP:  # a backlog
                self._ending.wait(time.monotonic() - began)
        if not self._changed.is_set():
            self._sent = max(self._sent, last)
        return bool(lines)

    def _skip(self, target: Target, oldest: int) -> None:
        """Some were removed before they could be sent: say so."""
        lost = oldest - 1 - self._sent
        self._counts["lost"] += max(0, oldest - 1 - max(self._sent, self._lost))
        self._lost = max(self._lost, oldest - 1)
        log.warning("%d entries of the mail log were removed before they could be exported", lost)
        reason = "removed before they could be exported"
        self._give(
            target,
            [Entry(time.time(), DROPPED, category=LOG, source=SOURCE, reason=reason, lost=lost, sequence=oldest - 1)],
        )

    def _give(self, target: Target, entries: Sequence[Entry]) -> None:
        self._total += target.send(entries, self._waits)
        self._turn("connected")
        self._sent = entries[-1].sequence
        self._counts["exported"] += len(entries)
        self._unsure.append(_Sent(self._sent, time.monotonic(), self._total))

    def _waits(self) -> bool:
        """The receiver takes nothing: wait on?"""
        self._turn("blocked")
        return not self._changed.is_set()

    def _confirm(self, target: Target) -> None:
        """Move `position` to what has arrived."""
        self._turn("connected")
        now, taken = time.monotonic(), self._total - target.pending()
        while (
            self._unsure
            and self._unsure[0].total <= taken
            and (
                now - self._unsure[0].moment >= target.resend_seconds
                or self._total - self._unsure[0].total >= target.resend_bytes
            )
        ):
            self._position = self._unsure.popleft().last
        if not self._unsure:
            self._position = self._sent

    def _failed(self, reason: str) -> None:
        if self._failing is None:
            log.warning("nothing is exported to %s: %s", self._settings.export, reason)
        self._error = reason
        self._turn("waiting")

    def _turn(self, state: str) -> None:
        if state == self._state or (state == "connecting" and self._state == "waiting"):
            return  # who tries again is still waiting
        if state == "connected":
            self._error = ""
        self._state, self._since = state, time.monotonic()

    def _keep(self) -> None:
        """Have the position on the disk. Raises `OSError`."""
        self._next_keep = time.monotonic() + KEEP_SECONDS
        if self._position == self._kept:
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        temporary = self._folder / f".{files.POSITION}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps({"position": self._position}).encode())
            file.flush()
            os.fsync(descriptor)
        temporary.replace(self._folder / files.POSITION)
        self._kept = self._position
