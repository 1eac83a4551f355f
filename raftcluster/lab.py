"""A cluster for trying out: what makes it one, once."""

from __future__ import annotations

import logging
import threading

from raftcluster import limits
from raftcluster.errors import RaftclusterError, Rejected
from raftcluster.greylist.api import Greylist
from raftcluster.host import GlanceHost

log = logging.getLogger("raftcluster.node")


class Founding:
    """A lab cluster's greylist is told so once, as its first command; a repetition changes nothing. Until `ending`, on a thread of
    its own."""

    def __init__(self, host: GlanceHost, ending: threading.Event, *, wanted: bool) -> None:
        self._host, self._ending = host, ending
        self._thread = threading.Thread(target=self._run, name="raftcluster-found", daemon=True) if wanted else None
        if self._thread is not None:
            self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        """Wait until that is done, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        greylist = Greylist(self._host)
        while not self._ending.is_set():
            try:
                if not greylist.settings(consistency="linearizable").lab:
                    greylist.configure({"lab": True}, reason="init --lab", author=self._host.name, expect_revision=0)
                return
            except Rejected as error:
                log.error("this is no lab cluster: %s", error)
                return
            except RaftclusterError:
                self._ending.wait(limits.RESEND_SECONDS)
