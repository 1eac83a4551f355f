"""One node's mail-protection log: `node.maillog`.

What is decided about mail on this node, one entry for each recipient of a message: by the greylist, whoever asked it, and by
the protections of the product that embeds this node (`write`). It stays in the files of this node and is in no log entry,
snapshot or backup. `read` reads this node's; `Node.logs` all nodes'.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Protocol

from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist.request import Asked
from raftcluster.greylist.verdict import Verdict
from raftcluster.maillog import files
from raftcluster.maillog.cef import Device
from raftcluster.maillog.decision import Decision
from raftcluster.maillog.entry import LOG, Entry, cut
from raftcluster.maillog.exporter import Exporter
from raftcluster.maillog.files import Line, Page
from raftcluster.maillog.settings import PREFIX, Settings
from raftcluster.maillog.writer import Writer

log = logging.getLogger("raftcluster.maillog")


class LocalKeys(Protocol):
    """The node's own configuration: `config.local.Local`."""

    def values(self, prefix: str) -> dict[str, Value]: ...

    def guard(
        self, prefix: str, check: Callable[[Mapping[str, Value]], object], changed: Callable[[], None]
    ) -> None: ...


class MailLog:
    """See the head of the file. Thread: any; `decided` and `write` never wait."""

    def __init__(self, folder: Path, local: LocalKeys, facts: Mapping[str, Any]) -> None:
        """`local` has the settings, and tells of changes; `facts` is node.json. No thread runs before the first entry, unless there is
        something to export."""
        self.folder = folder
        self._local = local
        self._pid = os.getpid()
        who = [str(facts[name]) for name in ("name", "node_id", "cluster", "cluster_id")]
        self._device = Device(who[0], who[1], who[2], who[3], installed("raftcluster"))
        self._lock = threading.Lock()  # of changes of the settings, and the end
        self._writer: Writer | None = None
        self._exporter: Exporter | None = None
        self._closed = False
        self._trouble = ""
        self.settings = Settings()
        local.guard(PREFIX, Settings.of, self._configure)
        self._configure()

    def decided(self, asked: Asked, verdict: Verdict, source: str) -> None:
        """Log the greylist's verdict; `source` says who asked."""
        if (writer := self._writer) is not None:
            writer.put(time.time(), source, asked, verdict)

    def write(
        self,
        category: str,
        action: str,
        *,
        client: str = "",
        helo: str = "",
        sender: str | bytes = "",
        recipient: str | bytes = "",
        reason: str = "",
        message_id: str = "",
        subject: str = "",
        client_name: str = "",
        instance: str = "",
        source: str = "product",
    ) -> None:
        """Log what another protection has decided: `category` names it, `action` says what it did.

        `sender` and `recipient` are the envelope's: never what a message's header says. Long values are cut. Raises `Rejected` when
        `category` or `action` is empty, or the category the log's own.
        """
        if os.getpid() != self._pid:
            raise Rejected(
                f"this node was opened in process {self._pid} and this is a fork of it",
                subject="fork",
                remedy="write over its worker socket",
            )
        if not category or not action or category == LOG:
            raise Rejected(
                "an entry needs a category of its own, and an action", subject="maillog", remedy=f"not {LOG!r}"
            )
        if (writer := self._writer) is not None:
            named = (client, helo, sender, recipient)
            rest = (reason, category, source or "product", client_name, instance, message_id, subject)
            client, helo, sender, recipient = map(cut, named)
            reason, category, source, client_name, instance, message_id, subject = map(cut, rest)
            writer.put(
                Entry(
                    time.time(),
                    cut(action),
                    client,
                    helo,
                    sender,
                    recipient,
                    0,
                    reason,
                    category,
                    source,
                    client_name,
                    instance,
                    message_id,
                    subject,
                )
            )

    def read(self, since: float = 0.0) -> Iterator[Entry]:
        """What is kept and not older than `since` (seconds since the epoch), the oldest first. Raises `OSError`."""
        return files.entries(self.folder, since)

    def page(self, after: int = 0, since: float = 0.0) -> Page:
        """Some of it, as it is in the files: see `files.page`."""
        return files.page(self.folder, after, since)

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until all that was logged before is on the disk; whether it is."""
        writer = self._writer
        return writer is None or writer.flush(seconds)

    def status(self) -> dict[str, Value]:
        """Whether it is written, up to which number, how much is kept, how many entries were dropped since the start, how many
        may be lost because a sync failed, and why nothing is written just now, or what is wrong, if so."""
        writer, exporter, kept, first, last = self._writer, self._exporter, 0, 0, 0
        try:
            last = files.last_sequence(self.folder) if writer is None else writer.last
            found = files.files(self.folder)
            first = found[0].first if found else 0
            kept = sum(each.path.stat().st_size for each in found)
        except OSError as error:  # it was removed meanwhile, or cannot be read
            log.info("the mail log's files: %s", error)
        return {
            "enabled": self.settings.enabled,
            "first": first,
            "last": last,
            "bytes": kept,
            "dropped": 0 if writer is None else writer.dropped,
            "unsure": 0 if writer is None else writer.unsure,
            "trouble": self._trouble if writer is None else writer.trouble,
            "export": None if exporter is None else exporter.status(),
        }

    def troubles(self) -> dict[str, str]:
        """For `Node.status`: what is not as it should be."""
        writer, exporter = self._writer, self._exporter
        found = {
            "maillog": self._trouble if writer is None else writer.trouble,
            "maillog-export": "" if exporter is None else exporter.trouble(),
        }
        return {name: text for name, text in found.items() if text}

    def close(self) -> None:
        """Write what waits, and end. Idempotent."""
        with self._lock:
            self._closed = True
            writer, exporter = self._writer, self._exporter
        if writer is not None:
            writer.close()
        if exporter is not None:
            exporter.close()
        self._writer = self._exporter = None  # until then the writer says what is on the disk

    def _configure(self) -> None:
        """Be as the settings are now."""
        with self._lock:
            if self._closed:
                return
            try:
                self.settings = Settings.of(self._local.values(PREFIX))
            except Rejected as error:  # they were set under another version
                log.error("the mail log's settings are not used: %s", error)
            writer = self._writer
            if writer is not None and self.settings.enabled:
                writer.use(self.settings)
            elif writer is not None:
                writer.close()
                self._writer = None  # until then it says what is on the disk
            elif self.settings.enabled:
                self._begin()
            exporter = self._exporter
            if exporter is not None and self.settings.export:
                exporter.use(self.settings)
            elif exporter is not None:
                self._exporter = None
                exporter.close()
            elif self.settings.export:
                self._exporter = Exporter(self.folder, self._device, self.settings, self.durable)

    def _begin(self) -> None:
        try:
            self._writer, self._trouble = Writer(self.folder, self.settings, _entry, written=self._written), ""
        except OSError as error:
            self._trouble = str(error)
            log.error("there is no mail log: %s", error)

    def durable(self) -> int:
        """Up to which number entries may leave the node: what a power failure takes is given again."""
        if (writer := self._writer) is not None:
            return writer.durable
        try:
            return files.last_sequence(self.folder)  # whoever wrote it has closed it
        except OSError:
            return 0

    def _written(self) -> None:
        if (exporter := self._exporter) is not None:
            exporter.wake()


def _entry(*what: Any) -> Line:
    """What was put: an entry, or the parts of a decision."""
    return what[0] if len(what) == 1 else Decision(*what)
