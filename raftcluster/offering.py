"""The APIs over the built-in machines that need nothing of a node but a host: one attribute each."""

from __future__ import annotations

from raftcluster.config.api import Config
from raftcluster.greylist.api import Greylist
from raftcluster.hosting import Hosting
from raftcluster.lease.api import Leases
from raftcluster.notifications.api import Notifications
from raftcluster.quarantine.api import Quarantine
from raftcluster.storage.local import LocalStore


class Offering(Hosting):
    """The part of a node that offers them."""

    greylist: Greylist
    config: Config
    lease: Leases
    notifications: Notifications
    quarantine: Quarantine

    def _offer(self, local: LocalStore) -> None:
        """`local` keeps what is this node's own. Before the tick thread runs: they listen to what is applied."""
        self.notifications, self.quarantine = Notifications(self), Quarantine(self)
        self.greylist, self.config, self.lease = Greylist(self, local), Config(self, local), Leases(self)

    def _withdraw(self) -> None:
        """End what waits in them: watches, leases. While the node still runs."""
        self.quarantine.close()
        self.lease.close()
        self.notifications.close()
        self.greylist.close()
        self.config.close()
