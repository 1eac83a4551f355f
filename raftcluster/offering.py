"""The APIs over the built-in machines that need nothing of a node but a host: one attribute each."""

from __future__ import annotations

from pathlib import Path

from raftcluster.auditlog import Audited, read_audit
from raftcluster.config.api import Config
from raftcluster.greylist.api import Greylist
from raftcluster.hosting import Hosting
from raftcluster.lease.api import Leases
from raftcluster.maillog.api import MailLog
from raftcluster.notifications.api import Notifications
from raftcluster.quarantine.api import Quarantine
from raftcluster.storage.local import LocalStore
from raftcluster.twins import twin


class Offering(Hosting):
    """The part of a node that offers them."""

    greylist: Greylist
    config: Config
    lease: Leases
    notifications: Notifications
    quarantine: Quarantine
    maillog: MailLog

    def audit(self, limit: int = 100) -> list[Audited]:
        """The newest changes of configuration, greylist settings, members and certificates, newest first: who, when, from
        where, why. See `auditlog`."""
        return read_audit(self, limit)

    aaudit = twin(audit)

    def _offer(self, local: LocalStore, maillog: Path) -> None:
        """`local` keeps what is this node's own, the folder `maillog` what it has decided. Before the tick thread runs: they
        listen to what is applied."""
        self.notifications, self.quarantine = Notifications(self), Quarantine(self)
        self.config, self.lease = Config(self, local), Leases(self)
        self.maillog = MailLog(maillog, self.config.local, self.facts)
        self.greylist = Greylist(self, local, self.maillog.decided)

    def _withdraw(self) -> None:
        """End what waits in them: watches, leases. While the node still runs."""
        self.quarantine.close()
        self.lease.close()
        self.notifications.close()
        self.greylist.close()
        self.maillog.close()
        self.config.close()
