"""A cluster for trying out: what makes it one, once."""

from __future__ import annotations

import logging
import threading

from raftcluster import limits
from raftcluster.errors import RaftclusterError, Rejected
from raftcluster.greylist.api import Greylist
from raftcluster.host import GlanceHost

log = logging.getLogger("raftcluster.node")


def found(host: GlanceHost, ending: threading.Event) -> None:
    """A lab cluster's greylist is told so once, as its first command; a repetition changes nothing. Thread: its own."""
    greylist = Greylist(host)
    while not ending.is_set():
        try:
            if not greylist.settings(consistency="linearizable").lab:
                greylist.configure({"lab": True}, reason="init --lab", author=host.name, expect_revision=0)
            return
        except Rejected as error:
            log.error("this is no lab cluster: %s", error)
            return
        except RaftclusterError:
            ending.wait(limits.RESEND_SECONDS)
