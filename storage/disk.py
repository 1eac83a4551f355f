"""What is asked of the disk below a store, and how its refusals are told; whatever the store's files are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from raftcluster import limits
from raftcluster.errors import MissingPrivilege, StorageFailed, StorageFull

REBUILD: Final = "remove this node from the cluster, delete its data directory and join again"


def has_space(path: Path) -> bool:
    """Whether the file system of `path` has more free than the reserve."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize > limits.DISK_RESERVE_BYTES


def full(path: Path, reason: str) -> StorageFull:
    """Nothing was written, and may be later."""
    return StorageFull(f"no space in {path}: {reason}", subject=str(path), remedy="free disk space")


def failed(path: Path, text: str) -> StorageFailed:
    """What is on the disk is not known any more, or cannot be."""
    return StorageFailed(text, subject=str(path), remedy="check the disk, restart the node")


def corrupt(path: Path, reason: str) -> StorageFailed:
    """What was read is not what was written."""
    return StorageFailed(f"{path} is corrupt: {reason}", subject=str(path), remedy=REBUILD)


def forbidden(path: Path, reason: str) -> MissingPrivilege:
    """This user may not write there."""
    return MissingPrivilege(f"cannot write {path}: {reason}", subject=str(path), remedy="run as its owner")
