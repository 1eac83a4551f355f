"""Places at which a test has the process end at once, as a crash or a loss of power would.

In production nothing is armed, and reaching a place costs one look at a variable. A test arms one, in this process with
`arm` or from outside with `RAFTCLUSTER_FAILPOINT=name` or `=name:count` (the count-th time that it is reached), read once
at import. The process then sends itself SIGKILL: no handler runs, no buffer is flushed, no lock is given back.

`tests/integration/test_failpoints.py` has a real process die at each of them; a house test sees to it that none is left out.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

VARIABLE: Final = "RAFTCLUSTER_FAILPOINT"

NAMES: Final = {
    # the log
    "log.append.before": "new entries are in memory and not yet submitted",
    "log.append.after": "they are submitted to the writer thread",
    "log.commit.before": "they are in a frame, and it is not written",
    "log.commit.after": "the frame is durable and nobody knows",
    "log.durable": "the tick thread knows, and what waited for it has not left",
    "log.segment.before": "the next segment of the log is durable and has no name yet",
    "log.segment.after": "it has its name, and that is not durable yet",
    "log.cut": "the log was cut behind a checkpoint, durably, and the segments that nobody needs are there",
    "log.reset": "the log was replaced after the install of a snapshot, durably, and its old segments are there",
    "vote.persist.before": "a term or a vote is decided and not recorded",
    "vote.persist.after": "it is durable; the vote, or the request for one, has not left",
    "append_entries.send.before": "the message is made",
    "append_entries.send.after": "the link has it",
    # the tables
    "entry.apply.before": "an entry is committed and not applied",
    "entry.apply.after": "it is applied in memory, and no caller knows",
    "tables.commit.before": "a checkpoint is in LMDB's transaction",
    "tables.commit.after": "it is durable and nobody knows",
    "snapshot.send": "a snapshot is on its way to a peer",
    "snapshot.write": "a part of it is in the receiver's spool file",
    "snapshot.received": "all of it is there and checked, and not handed to the tables",
    "snapshot.install.before": "it is in LMDB's transaction",
    "snapshot.install.after": "it is durable, and neither memory nor the log follow yet",
    # members, certificates, files
    "membership.append": "a change of the voters is in the leader's log, in memory",
    "membership.apply.before": "the engine is about to follow a change of the voters",
    "membership.apply.after": "the engine has followed it",
    "members.keep": "whom to link with is on the disk, and the links do not follow yet",
    "file.rename.before": "a file's new content is durable under another name",
    "file.rename.after": "it has its name, and that is not durable yet",
    "mint.before": "the minting child is about to be started",
    "mint.key": "in the child: it holds the root's key, and nothing is signed",
    "mint.signed": "in the child: all is signed, and the key not gone",
    "mint.answered": "in the child: the answer is out, and the key not gone",
    "mint.after": "the certificates are minted and not proposed",
    # the end of a cluster
    "destroy.record.before": "the end is decided, and its event not recorded",
    "destroy.record.after": "the event is recorded, and the others do not know",
    "destroy.mark.before": "all have recorded it, and the directory is not marked",
    "destroy.mark.after": "the directory is marked, and the node runs",
    "destroy.wipe": "a part of the directory is about to be removed (the count says which)",
    "destroy.wipe.marker": "nothing but the marker is left",
    "destroy.wipe.directory": "the empty directory is left",
    "destroy.wipe.after": "it is gone, and that is not durable yet",
}
"""Every place, and what is true there."""


class _Armed:
    """One place, and how often it may be passed before. Thread: any."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self._left = name, count
        self._lock = threading.Lock()

    def passed(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


_armed: _Armed | None = None


def reach(name: str) -> None:
    """The caller is at `name`: the end, if that is armed. Thread: any."""
    if _armed is not None and _armed.name == name:
        _armed.passed()


def arm(name: str | None, count: int = 1) -> None:
    """End this process when `name` is reached for the `count`-th time from now on; None: nowhere. Raises `ValueError`."""
    global _armed
    if name is not None and (name not in NAMES or count < 1):
        raise ValueError(f"no failpoint {name!r}, or no count {count}")
    _armed = None if name is None else _Armed(name, count)


def environment() -> dict[str, str]:
    """What arms a child process that is given no other environment. Empty when nothing is armed."""
    return {} if _armed is None else {VARIABLE: _armed.name}


def _read(setting: str) -> None:
    name, _, count = setting.partition(":")
    arm(name, int(count or 1))


if VARIABLE in os.environ:
    _read(os.environ[VARIABLE])
