"""What a host keeps of a destroyed cluster, outside the data directory: its tombstone and this node's event record.

    <archive>/<cluster id>.tombstone     `tombstone.Tombstone`, public
    <archive>/<cluster id>.events.log    the node's events up to the last step of its teardown

Both are durable before anything is removed. Where the archive is: `storage.directory.archive`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raftcluster.cluster.tombstone import Statement, Tombstone
from raftcluster.errors import FrameError
from raftcluster.events.log import files, read
from raftcluster.storage.directory import EVENTS, archive, neighbours, read_file, sync_directory

log = logging.getLogger("raftcluster.cluster")

TOMBSTONE: Final = "tombstone"
DESTROYED: Final = "cluster-destroyed"
"""The event."""
_CLUSTER_ID: Final = re.compile(r"[0-9a-f-]{36}")


def archives(directory: Path) -> list[Archive]:
    """Of the data directory, and of those beside it that are the same user's."""
    return [Archive(folder) for folder in (archive(directory), *neighbours(directory))]


def find(directory: Path, cluster_id: str) -> bytes | None:
    """The tombstone of a cluster as this host has it, in one of `archives`; what is damaged is none."""
    return next((found for each in archives(directory) if (found := each.find(cluster_id)) is not None), None)


def _read(file: Path) -> tuple[bytes, Statement] | None:
    """A tombstone that is whole, and what it says."""
    try:
        data = file.read_bytes()
        return data, Tombstone.unpack(data).content()
    except FileNotFoundError:
        return None
    except (OSError, FrameError) as error:
        log.warning("%s is not used: %s", file, error)
        return None


class Archive:
    """The archive at `folder`. Thread: any; one writer. Writing raises `OSError` when the disk does not take it; what cannot be
    read, or is damaged, is not there, and a line in the log says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def events(self, cluster_id: str) -> Path:
        """The event record's file."""
        return self.folder / f"{cluster_id}.{EVENTS}"

    def tombstone(self, cluster_id: str) -> Path:
        """The tombstone's file."""
        return self.folder / f"{cluster_id}.{TOMBSTONE}"

    def keep(self, cluster_id: str, tombstone: bytes) -> None:
        """Keep a tombstone. Can be repeated."""
        self._write(self.tombstone(cluster_id), tombstone)

    def follow(self, cluster_id: str, directory: Path) -> None:
        """Keep what the data directory's event files hold, as long as they are there: a node records until it has stopped. What a
        teardown that broke off has recorded here since stays."""
        found, kept = files(directory / EVENTS), self.events(cluster_id)
        if directory / EVENTS in found:
            recorded = b"".join(map(read_file, found))
            if not kept.exists() or not kept.read_bytes().startswith(recorded):
                self._write(kept, recorded)

    def holds(self, cluster_id: str, event_id: str) -> bool:
        """Whether tombstone and event record of this destruction are here."""
        records = read(self.events(cluster_id)) if self.find(cluster_id) is not None else ()
        return any(each["event"] == DESTROYED and each["fields"]["event_id"] == event_id for each in records)

    def find(self, cluster_id: str) -> bytes | None:
        """The tombstone of a cluster; None when there is none that is whole. Whether it proves anything is not judged."""
        if not _CLUSTER_ID.fullmatch(cluster_id):  # it comes from strangers, and is a file's name here
            return None
        found = _read(self.tombstone(cluster_id))
        return None if found is None or found[1].cluster_id != cluster_id else found[0]

    def statements(self, younger_than_s: float) -> Iterator[Statement]:
        """Of all tombstones that are not older."""
        oldest = time.time() - younger_than_s
        try:
            found = [each for each in sorted(self.folder.iterdir()) if each.suffix == f".{TOMBSTONE}"]
            young = [each for each in found if each.stat().st_mtime >= oldest]
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("nothing in the archive %s is used: %s", self.folder, error)
            return
        yield from (whole[1] for each in young if (whole := _read(each)) is not None)

    def _write(self, target: Path, data: bytes) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(self.folder.parent)
        temporary = target.with_name(f".{target.name}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_directory(self.folder)
