"""Early answers (`ack = early`): a client that will have to wait is told so before the cluster has decided it.

A node's applied state that is at most two election time-outs old says DEFER: so the cluster will, too, or it passes by less than
that. The check still goes to the cluster, marked as answered: whatever is decided there, it counts as deferred, and the first pass
is left for an attempt that hears of it. What does not foresee a DEFER asks as ever, so no pass is ever early.
"""

from __future__ import annotations

from typing import Final

from raftcluster import limits
from raftcluster.greylist import check
from raftcluster.greylist.check import Told
from raftcluster.greylist.machine import read_record, read_settings_row
from raftcluster.greylist.request import Request
from raftcluster.greylist.rules import DEFER, decide
from raftcluster.machine import ReadTables

STALE_SECONDS: Final = 2 * limits.ELECTION_MAX_SECONDS


def foresee(request: Request, tables: ReadTables, now: int, staleness: float) -> Told | None:
    """What the client can be told already; None: the cluster must be asked. `staleness` in seconds."""
    if staleness > STALE_SECONDS or request.hinted or read_settings_row(tables)[0] != request.current.revision:
        return None
    record = read_record(tables, request.key)
    first, expires, passed = (record.first, record.expires, record.passed) if record else (0, 0, False)
    waits = request.current.settings.waits()
    action, first, _, before, left, delayed = decide(first, expires, passed, now, waits, not request.sender)
    return Told(check.DEFERRED, before, first, left, delayed) if action == DEFER else None
