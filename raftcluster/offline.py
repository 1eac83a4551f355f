"""What a data directory holds, read through while no node runs there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from raftcluster.builtin import all_machines
from raftcluster.machine import StateMachine
from raftcluster.storage.directory import DataDirectory
from raftcluster.storage.image import Image
from raftcluster.storage.log import LogStore
from raftcluster.storage.tables import TableStore
from raftcluster.verify.answer import Answer
from raftcluster.verify.examination import examine
from raftcluster.verify.report import NodeFinding, Report, compare_tables
from raftcluster.verifying import inspectors


def scrub(path: str | os.PathLike[str], *, machines: Sequence[StateMachine] = ()) -> Report:
    """Read all of `path`: the log's checksums, the tables to their last row, each row by its machine (`machines` are the
    embedder's). `Report.index` and the digests may be compared with another node's of the same index.

    Nothing is changed. Raises `StorageRefusal` when it is no data directory or in use, `StorageFailed` when it cannot even
    be opened. Thread: blocks; a second for a million rows.
    """
    everything = all_machines(machines)
    with ExitStack() as undo:
        directory = undo.enter_context(DataDirectory.open(path))
        facts = directory.read_node()
        log = LogStore(directory.log)
        undo.callback(log.close)
        store = TableStore(directory.tables)
        undo.callback(store.close)
        snapshot = store.snapshot()
        answer = Answer(0 if snapshot is None else snapshot.index)
        image = Image(answer.index, snapshot, {})
        undo.callback(image.close)
        for frame in examine(image, log, inspectors(everything), lambda seconds: None):
            answer.take(frame)
    name = facts["name"]
    finding = NodeFinding.of(facts["node_id"], name, answer)
    return Report(answer.index, [finding], compare_tables({name: answer}, []), [], 0)
