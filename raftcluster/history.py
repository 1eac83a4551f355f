"""What the nodes of a data directory have recorded: the one that is there, and those of destroyed clusters before it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raftcluster.errors import StorageRefusal
from raftcluster.events import log
from raftcluster.storage.directory import EVENTS, archive, refusals


def read_events(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The events recorded in the data directory `path`, the oldest first; it need not belong to a running node.

    Each is a dict as docs/events.md has it: "event", "id", "severity", "time" (seconds since the epoch), "message", "fields"
    and who recorded it. Lines that a crash has torn are left out. Raises `StorageRefusal` when there
    are none, `MissingPrivilege`, `StorageFailed`.
    """
    with refusals(Path(path)):
        kept = archive(path)
        files = sorted(kept.glob(f"*.{EVENTS}"), key=lambda file: file.stat().st_mtime) if kept.is_dir() else []
        files.append(Path(path) / EVENTS)
        found = [file for file in files if log.files(file)]
        if not found:
            raise StorageRefusal(
                f"no node has recorded anything in {path}", subject=str(path), remedy="name its directory"
            )
        for file in found:
            yield from log.read(file)
