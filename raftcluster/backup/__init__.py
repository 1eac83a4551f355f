"""Backups, and what to do when a cluster or its quorum is gone.

node.backup("/srv/backup/monday")                    of a running node, see `raftcluster.Node.backup`
raftcluster.backup.verify("/srv/backup/monday")      is it whole, and what is in it
raftcluster.restore(path, "/srv/backup/monday", ...) a new cluster from it
raftcluster.backup.preview(path)                     what a survivor's directory holds
raftcluster.backup.recover(path, confirm="mail")     a new cluster from that

The names are imported when they are first used: a client of a running node reads and writes backup files, and needs nothing of
what makes a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raftcluster.backup.file import save
    from raftcluster.backup.recovery import Preview, Recovered, Survivor, preview, recover
    from raftcluster.backup.restore import Restored
    from raftcluster.backup.summary import Summary, verify

__all__ = ["Preview", "Recovered", "Restored", "Summary", "Survivor", "preview", "recover", "save", "verify"]


def __getattr__(name: str) -> Any:
    """The names that are imported when they are first used."""
    home: Any
    match name:
        case "Preview" | "Recovered" | "Survivor" | "preview" | "recover":
            from raftcluster.backup import recovery as home
        case "save":
            from raftcluster.backup import file as home
        case "Restored":
            from raftcluster.backup import restore as home
        case "Summary" | "verify":
            from raftcluster.backup import summary as home
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(home, name)
    return found
