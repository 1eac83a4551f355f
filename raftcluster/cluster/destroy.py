"""The end of a cluster on one node: first the record, then the removal.

    1 record   the tombstone into the archive, outside the data directory: a node that comes back when all others are gone
               learns of the end from nobody else; the event `cluster-destroyed` into the node's event file and the system's
               log, and that file into the archive; all of it durable before anything is removed
    2 mark     the data directory says from now on that it is to be removed, and all that is needed for it
    3 stop     the node
    4 remove   the firewall's table; keys and certificates, genesis, tables (in them tokens), log, the rest; the marker
    5 restore  the directory itself goes unless it was there before the node, and the folders that were made for it

Where a push has put the program on this host for this node, the marker stays instead of step 5 and says so: whoever runs the node
as root (the unit, `supervise`) then removes the program, user, unit, directory and marker, with the script that the push has left.

A crash anywhere is finished by the next start, or the next `finish`: every step looks for what is left of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from raftcluster import failpoints
from raftcluster.cluster.archive import Archive
from raftcluster.cluster.tombstone import Tombstone
from raftcluster.errors import StorageRefusal
from raftcluster.events.recorder import Recorder
from raftcluster.storage.directory import (
    DESTROYED,
    DataDirectory,
    archive,
    check_before,
    check_node,
    damaged,
    read_object,
    refusals,
    sync_directory,
)

MARKER: Final = "DESTROYED"
_FIRST: Final = ("certificates", "genesis", "join.json", "node.json", "tables", "log", "local")
"""Removed in this order: what gives access goes first."""


@dataclass(frozen=True, slots=True)
class Marked:
    """What the marker says: enough to finish without anything else of the directory."""

    event_id: str
    node: Mapping[str, Any]
    """node.json."""
    before: Mapping[str, Any]
    """What `DataDirectory.create` has found."""
    software: str = ""
    """Where the program lies that has to go, too; empty: none has."""


def record(
    directory: DataDirectory, tombstone: Tombstone, signed_by: list[str], recorder: Recorder, sync: Callable[[], object]
) -> None:
    """Step 1. `sync` has the system's log write what it was sent. Raises `OSError`."""
    said, kept = tombstone.content(), Archive(archive(directory.path))
    kept.keep(said.cluster_id, tombstone.pack())
    failpoints.reach("destroy.record.before")
    decided = datetime.fromtimestamp(said.decided / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    recorder.write(
        "cluster-destroyed", event_id=said.event_id, reason=said.reason, decided=decided, signed_by=signed_by
    )
    sync()
    kept.follow(said.cluster_id, directory.path)
    failpoints.reach("destroy.record.after")


def is_recorded(directory: DataDirectory, cluster_id: str, event_id: str) -> bool:
    """Whether step 1 is done."""
    return Archive(archive(directory.path)).holds(cluster_id, event_id)


def mark(directory: DataDirectory, event_id: str, software: str = "") -> None:
    """Step 2: from now on this directory is one to be removed, also after a crash."""
    before = directory.read_before()
    marked = {"event_id": event_id, "node": directory.read_node(), "before": before, "software": software}
    directory.write(MARKER, json.dumps(marked, indent=2, sort_keys=True).encode())


def is_marked(path: str | os.PathLike[str]) -> bool:
    """Whether the directory belongs to a destroyed cluster: do not start from it, `finish` it."""
    with refusals(Path(path)):
        return (Path(path) / MARKER).exists()


def marked(path: str | os.PathLike[str]) -> Marked:
    """What the marker says. Raises `StorageFailed` when it is damaged, `StorageRefusal` when there is none."""
    file = Path(path) / MARKER
    said = read_object(file)
    if said is None:
        raise StorageRefusal(
            f"{path} is not marked", subject=str(path), remedy="name the directory of a destroyed node"
        )
    said = {"software": "", **said}
    kinds = {"event_id": str, "node": dict, "before": dict, "software": str}
    if set(said) != set(kinds) or not all(isinstance(said[name], kind) for name, kind in kinds.items()):
        raise damaged(file, "it does not say what to do")
    check_node(said["node"], file)
    check_before(said["before"], file)
    return Marked(**said)


def is_wiped(path: str | os.PathLike[str]) -> bool:
    """Whether the marker is all that is left, beside what is kept."""
    return {each.name for each in Path(path).iterdir()} <= {MARKER, DESTROYED}


def wipe(
    path: str | os.PathLike[str],
    note: Callable[[str], None] = lambda step: None,
    finished: Callable[[], None] = lambda: None,
    *,
    stay_marked: bool = False,
) -> None:
    """Steps 4 and 5, without the firewall: remove what is in a marked directory, and itself if it was not there before.

    Nothing may use it any more. `note` is told of each thing that is gone, `finished` when nothing is left but the marker,
    which goes last: what a crash leaves is still marked. With `stay_marked` it stays. Raises `OSError`; can be repeated.
    """
    root = Path(path)
    if not is_marked(root):
        return
    before = marked(root).before
    kept = (*_FIRST, MARKER, DESTROYED)
    for name in (*_FIRST, *sorted(each.name for each in root.iterdir() if each.name not in kept)):
        failpoints.reach("destroy.wipe")
        target = root / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        elif target.exists() or target.is_symlink():
            target.unlink()
        else:
            continue
        sync_directory(root)
        note(f"{target} removed")
    if stay_marked:
        return
    finished()
    if marked(root).software:
        return  # the rest is root's
    failpoints.reach("destroy.wipe.marker")
    (root / MARKER).unlink()
    sync_directory(root)
    failpoints.reach("destroy.wipe.directory")
    restore(root, before)
    failpoints.reach("destroy.wipe.after")


def restore(root: Path, before: Mapping[str, Any]) -> None:
    """Step 5: an empty directory goes unless it was there before, and the folders that were made for it."""
    made = [] if before.get("existed") else [root, *map(Path, before.get("made", []))]
    for folder in made:
        try:
            folder.rmdir()
        except OSError:  # somebody uses it, or it holds the archive, or is not this user's to remove
            return
        sync_directory(folder.parent)
