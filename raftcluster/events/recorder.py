"""One node's events: numbered, written to its own file first, then handed to the operating system's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from raftcluster.events.catalogue import SEVERITIES, Event, Field, check, kind
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet

log = logging.getLogger("raftcluster.events")


class Recorder:
    """Thread: any but the tick thread, for it waits for the disk."""

    def __init__(
        self,
        file: EventLog,
        node: Mapping[str, Any],
        outlet: Outlet | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`node` is what node.json says: who this is."""
        self.file = file
        self.outlet = outlet or Outlet()
        self._who = {name: str(node[name]) for name in ("cluster_id", "cluster", "node_id")} | {"node": node["name"]}
        self._clock = clock

    def write(self, name: str, **fields: Field) -> Event:
        """Record an event of the kind `name`: when this returns it is on the disk.

        Raises `OSError` when it is not; `KeyError` or `ValueError` when the catalogue has no such kind or other fields.
        """
        event = self._event(name, fields)
        event = replace(event, sequence=self.file.append(event.record()))
        self.outlet.send(event)
        level = logging.WARNING if SEVERITIES[event.kind.severity] <= SEVERITIES["warning"] else logging.INFO
        log.log(level, "%s: %s", name, event.message)
        return event

    def note(self, name: str, **fields: Field) -> None:
        """The same where nothing depends on it: a disk that does not take it is logged, the operating system told."""
        try:
            self.write(name, **fields)
        except OSError as error:
            log.error("event %s is not in %s: %s", name, self.file.path, error)
            self.outlet.send(self._event(name, fields))

    def _event(self, name: str, fields: Mapping[str, Field]) -> Event:
        found = kind(name)
        check(found, fields)
        return Event(found, self._clock(), 0, **self._who, fields=fields)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self.file.close()
