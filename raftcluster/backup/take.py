"""A backup of a running node: of one log index, while everything goes on.

The state is brought to the tables' disk by an ordinary checkpoint, then read there in one transaction: neither the tick
thread nor any check waits for it. What was acknowledged anywhere before the call is in it, unless a local one was asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from raftcluster.backup.file import Header, pieces
from raftcluster.cluster.view import View
from raftcluster.engine.replica import Replica
from raftcluster.errors import Rejected, Unavailable
from raftcluster.host import Consistency
from raftcluster.runtime import Runtime
from raftcluster.storage.ports import TableStore

SECONDS: Final = 30.0
"""For the checkpoint; a disk may be slow, and a snapshot from the leader on its way."""
LOOK_SECONDS: Final = 0.01


def content(
    runtime: Runtime,
    store: TableStore,
    node: Mapping[str, Any],
    schema: Mapping[str, int],
    post: Callable[..., None],
    *,
    consistency: Consistency = "linearizable",
    deadline: float = SECONDS,
) -> Iterator[bytes]:
    """The bytes of the backup, see `file`. `node` is node.json; `post` records the event. Thread: any but the tick
    thread.

    Raises `Unavailable`: without a quorum, unless `consistency` is "local"; or when the state is not on the disk within
    `deadline` seconds.
    """
    end = time.monotonic() + deadline
    view = runtime.query("cluster", View.read, consistency=consistency, deadline=deadline)
    if view.facts is None:
        raise Unavailable("the cluster has no genesis yet", subject="cluster", remedy="ask again in a moment")
    if view.destruction is not None:
        raise Rejected("the cluster is being destroyed", subject=view.facts.name)
    index = runtime.call(lambda replica: replica.engine.applied)
    while runtime.call(_written) < index:
        if time.monotonic() >= end:
            raise Unavailable(
                f"entry {index} is not in the tables on the disk within {deadline:g} s",
                subject=str(node["name"]),
                remedy="see the storage in `raftcluster status`, try again",
            )
        threading.Event().wait(LOOK_SECONDS)
    snapshot = store.snapshot()
    assert snapshot is not None, "a checkpoint was written"
    post("backup-taken", index=snapshot.index)
    header = Header(
        view.facts.cluster_id,
        view.facts.name,
        view.facts.product,
        view.facts.realm,
        view.facts.lab,
        str(node["name"]),
        dict(schema),
        snapshot.index,
        snapshot.anchor,
        int(time.time()),
    )
    return pieces(header, snapshot)


def _written(replica: Replica) -> int:
    """The index that the tables on the disk have reached; a checkpoint is begun unless one is under way."""
    replica.checkpoint_now()
    return replica.journal.base_index
