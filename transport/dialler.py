"""One thread per peer that this node dials: dial, hand over, wait until the link is wanted again.

Links are replaced while they are up. The peer, which has the new connection first, closes the old one; that may be seen here before the new one
has been handed over. So what counts is the newest connection: the end of an older one is not missed, and a peer that asks for
a new link, so that it can show a newer certificate, gets none when it shows that already on the one that is on its way.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from raftcluster import limits
from raftcluster.errors import RaftclusterError, Unavailable
from raftcluster.transport import sockets
from raftcluster.transport.handshake import Refused
from raftcluster.transport.refusals import LOGGER, RefusalLog
from raftcluster.transport.sockets import Socket
from raftcluster.transport.trust import Connection

_LIVED_SECONDS: Final = 1.0  # a link that was up for less counts as a failed dial: no storm of links that fall at once


class Dialler:
    """Dials as long as a link is wanted, with exponential pauses and jitter; `want` cuts a pause short."""

    def __init__(
        self,
        node_id: str,
        connect: Callable[[Callable[[Socket], None]], Connection],
        deliver: Callable[[Connection], None],
        log: RefusalLog,
        seed: int,
    ) -> None:
        self.node_id = node_id
        self._connect = connect
        self._deliver = deliver
        self._log = log
        self._random = random.Random(seed)
        self._condition = threading.Condition()
        self._wanted = True
        self._dialling = False
        self._newest: Connection | None = None
        self._asked: Connection | None = None
        """The link over which the peer has asked for another one, while a dial was under way."""
        self._stopping = False
        self._failures = 0
        self._not_before = 0.0
        self._news = False  # since the last dial began: its failure is no reason for a pause
        self._socket: Socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"raftcluster-dial-{node_id}", daemon=True)

    def start(self) -> None:
        """Begin to dial. Raises `Unavailable` when there is no thread for it."""
        try:
            self._thread.start()
        except RuntimeError as error:
            text = f"cannot dial {self.node_id}: {error}"
            raise Unavailable(text, subject=self.node_id, remedy="allow this process more threads") from error

    def want(self) -> None:
        """Any thread: dial now, though there may be a link: the new one will replace it."""
        with self._condition:
            self._wanted = True
        self.hurry()

    def hurry(self) -> None:
        """Any thread: end a pause between dials, if one is under way: the peer may have moved."""
        with self._condition:
            self._news = True
            self._failures = 0
            self._not_before = 0.0
            self._condition.notify()

    def lost(self, connection: Connection, lived: float) -> None:
        """Tick thread: the link that was delivered is gone, after `lived` seconds."""
        with self._condition:
            if not self._dialling and connection is self._newest:
                self._again(lived)

    def asked(self, connection: Connection, lived: float) -> None:
        """Tick thread: over the link, which has lived for so long, the peer asks for another one; with a pause, when it asks again and again."""
        with self._condition:
            if self._dialling:
                self._asked = connection
            elif self._newest is None or not _is_newer(self._newest, connection):
                self._again(lived)

    def _again(self, lived: float) -> None:
        self._wanted = True
        if lived < _LIVED_SECONDS:
            self._failed(limits.REFUSED_SECONDS)
        self._condition.notify()

    def stop(self) -> None:
        """Any thread: end soon. `join` waits for it."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
            if self._socket is not None:
                sockets.abort(self._socket)

    def join(self, timeout: float) -> None:
        """Wait for the end; a name that is being resolved cannot be interrupted."""
        self._thread.join(timeout)

    @property
    def ended(self) -> bool:
        """Whether its thread is gone."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._due():
            longest = limits.DIAL_MAX_SECONDS
            try:
                connection = self._connect(self._opened)
            except Refused as refused:
                self._log.note(refused.reason, self.node_id, refused.message, refused.remedy)
                longest = limits.REFUSED_SECONDS
            except (OSError, RaftclusterError) as error:
                level = logging.DEBUG if self._failures else logging.INFO  # once, not at each of the dials that follow
                LOGGER.log(level, "cannot dial %s: %s", self.node_id, error)
            except Exception:  # noqa: BLE001 - a defect: this dial has failed, the next may do better
                LOGGER.exception("dialling %s failed", self.node_id)
            else:
                with self._condition:
                    self._failures = 0
                    self._socket = None
                    self._newest, self._dialling = connection, False
                    if self._asked is not None and not _is_newer(connection, self._asked):
                        self._wanted = True
                self._deliver(connection)
                continue
            with self._condition:
                self._wanted, self._dialling = True, False
                self._socket = None
                self._failed(longest)

    def _due(self) -> bool:
        """Wait until it is time for a dial; False to end."""
        with self._condition:
            while not self._stopping:
                pause = self._not_before - time.monotonic()
                if self._wanted and pause <= 0:
                    self._wanted = self._news = False
                    self._dialling, self._asked = True, None
                    return True
                self._condition.wait(pause if self._wanted else None)
            return False

    def _failed(self, longest: float) -> None:
        if self._news:
            return
        pause = min(longest, limits.DIAL_MIN_SECONDS * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._not_before = time.monotonic() + pause * self._random.uniform(0.5, 1.0)

    def _opened(self, sock: Socket) -> None:
        with self._condition:
            self._socket = sock
            if self._stopping:
                raise OSError("stopping")


def _is_newer(connection: Connection, than: Connection) -> bool:
    """Whether the peer shows a newer certificate on it."""
    return connection.shown.subject.generation > than.shown.subject.generation
