"""The end of a cluster on one node: first the record, then the wiping.

The record of the destruction goes to a file **outside** the data directory and is on the disk before anything is removed.
Before both, the decision itself is noted: a node that comes back when all others are gone learns it from nobody.
The marker in the data directory then makes the wiping certain: a node that crashes in between finishes it at its next
start. Removed is what raftcluster made: keys, certificates, tables (and in them tokens), log, the directory itself.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Final

from raftcluster import failpoints
from raftcluster.cluster.records import Destruction, Facts
from raftcluster.storage.directory import DataDirectory, sync_directory

NOTE: Final = "DESTROYING"
"""The decision, as this node has applied it."""
MARKER: Final = "DESTROYED"
_FIRST: Final = ("certificates", "genesis", "join.json", "node.json", "tables", "log", "local")
"""Removed in this order: what gives access goes first."""


def is_recorded(events: Path, event_id: str) -> bool:
    """Whether the event record of this destruction is in the file."""
    try:
        lines = events.read_bytes().splitlines()
    except FileNotFoundError:
        return False
    return any(event_id.encode() in line for line in lines)


def record(events: Path, facts: Facts, node_id: str, decided: Destruction) -> None:
    """Append the event record, one line of JSON, durably. Raises `OSError`."""
    line = {
        "event": "cluster-destroyed",
        "event_id": decided.event_id,
        "cluster_id": facts.cluster_id,
        "cluster": facts.name,
        "node_id": node_id,
        "reason": decided.reason,
        "decided_at_cluster_time_ms": decided.at,
        "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    events.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.write(descriptor, (json.dumps(line, sort_keys=True) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(events.parent)


def note(directory: DataDirectory, decided: Destruction) -> None:
    """Keep the decision where a restart finds it: the tables on the disk may be older, and nobody left to ask. Raises
    `StorageFull`, `StorageFailed`."""
    kept = {"event_id": decided.event_id, "reason": decided.reason, "at": decided.at}
    directory.write(NOTE, (json.dumps(kept) + "\n").encode())


def noted(directory: DataDirectory) -> Destruction | None:
    """The decision that this node has noted."""
    try:
        kept = json.loads((directory.path / NOTE).read_bytes())
    except FileNotFoundError:
        return None
    return Destruction(kept["event_id"], kept["reason"], kept["at"], ())


def mark(directory: DataDirectory, event_id: str) -> None:
    """From now on this directory is one to be wiped, also after a crash."""
    directory.write(MARKER, event_id.encode() + b"\n")


def is_marked(path: str | os.PathLike[str]) -> bool:
    """Whether the directory belongs to a destroyed cluster: do not start from it, `wipe` it."""
    return (Path(path) / MARKER).exists()


def wipe(path: str | os.PathLike[str]) -> None:
    """Remove a marked directory and all that is in it. Nothing may use it any more. Raises `OSError`; can be repeated.

    The marker goes last, so that what is left by a crash is still marked.
    """
    root = Path(path)
    if not is_marked(root):
        return
    for name in (*_FIRST, *sorted(each.name for each in root.iterdir() if each.name not in (*_FIRST, MARKER))):
        failpoints.reach("destroy.wipe")
        target = root / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    sync_directory(root)
    failpoints.reach("destroy.wipe.marker")
    (root / MARKER).unlink()
    failpoints.reach("destroy.wipe.directory")
    root.rmdir()
    failpoints.reach("destroy.wipe.after")
    sync_directory(root.parent)
