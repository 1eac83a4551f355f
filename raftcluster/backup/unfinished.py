"""Marks of work on a data directory that was begun: a node does not start from it before it is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from raftcluster.errors import StorageRefusal

RESTORE: Final = "restore.json"
RECOVER: Final = "recover.json"


def check_finished(path: Path) -> None:
    """Raises `StorageRefusal` when a restore into, or a recovery of, this directory broke off."""
    for mark, verb in ((RESTORE, "restore"), (RECOVER, "recover")):
        if (path / mark).exists():
            raise StorageRefusal(
                f"`raftcluster {verb}` was begun in {path} and is not finished",
                subject=str(path),
                remedy=f"repeat it: raftcluster -C {path} {verb}",
            )
