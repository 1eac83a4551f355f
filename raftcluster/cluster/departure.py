"""A node that was removed says so, and does not start again: others have decided without it since.

Its directory is marked once it has learnt of its removal, from its own log or from a member that proves itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from raftcluster.errors import Removed
from raftcluster.storage.directory import DataDirectory

MARK: Final = "REMOVED"


def depart(directory: DataDirectory, node: dict[str, Any]) -> Callable[[], None]:
    """From now on no node starts from this directory; what is returned raises that. `node` is node.json."""
    directory.write(MARK, json.dumps({"learnt_at": int(time.time())}).encode())

    def stop() -> None:
        raise _removed(node)

    return stop


def check_not_removed(directory: DataDirectory, node: dict[str, Any]) -> None:
    """Raises `Removed` when the directory is marked."""
    if (directory.path / MARK).exists():
        raise _removed(node)


def _removed(node: dict[str, Any]) -> Removed:
    return Removed(
        f"{node['name']} was removed from cluster {node['cluster']}",
        subject=str(node["name"]),
        remedy="to be a member again, have it invited and join with an empty data directory",
    )
