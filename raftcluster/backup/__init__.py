"""Backups, and what to do when a cluster or its quorum is gone.

node.backup("/srv/backup/monday")                    of a running node, see `raftcluster.Node.backup`
raftcluster.backup.verify("/srv/backup/monday")      is it whole, and what is in it
raftcluster.restore(path, "/srv/backup/monday", ...) a new cluster from it
raftcluster.backup.preview(path)                     what a survivor's directory holds
raftcluster.backup.recover(path, confirm="mail")     a new cluster from that
"""

from raftcluster.backup.recovery import Preview, Recovered, Survivor, preview, recover
from raftcluster.backup.restore import Restored
from raftcluster.backup.summary import Summary, verify

__all__ = ["Preview", "Recovered", "Restored", "Summary", "Survivor", "preview", "recover", "verify"]
