"""What a data directory holds, read through while no node runs there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from raftcluster.builtin import all_machines
from raftcluster.config.chain import Place, Proof, prove, read_proof
from raftcluster.config.machine import NAME
from raftcluster.config.reading import CHANGES, STAMP
from raftcluster.limits import SCAN_ROWS
from raftcluster.machine import StateMachine
from raftcluster.storage.directory import DataDirectory
from raftcluster.storage.image import Image
from raftcluster.storage.log import LogStore
from raftcluster.storage.tables import TableStore
from raftcluster.verify.answer import Answer, Trouble
from raftcluster.verify.examination import examine
from raftcluster.verify.report import NodeFinding, Report, compare_tables
from raftcluster.verifying import inspectors


def scrub(path: str | os.PathLike[str], *, machines: Sequence[StateMachine] = ()) -> Report:
    """Read all of `path`: the log's checksums, the tables to their last row, each row by its machine (`machines` are the
    embedder's), the chain of the configuration's changes. `Report.index` and the digests may be compared with another node's of the same index.

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
        proof = None if answer.troubles else _prove(store)  # what cannot be read is named already
        if proof is not None and proof.bad is not None:
            trouble = Trouble(f"{NAME}.{CHANGES}", STAMP.pack(proof.bad), f"revision {proof.bad}: {proof.reason}")
            answer.troubles.append(trouble)
    name = facts["name"]
    finding = NodeFinding.of(facts["node_id"], name, answer)
    return Report(answer.index, [finding], compare_tables({name: answer}, []), [], 0)


def verify_config(path: str | os.PathLike[str]) -> Proof:
    """Whether the configuration's past in `path`, where no node runs, is what it was: `Proof.bad` is the first revision that
    is not. It is `Config.verify` for a stopped node, as of its last checkpoint.

    Nothing is changed. Raises `StorageRefusal` when it is no data directory or in use, `StorageFailed` when it cannot be read.
    """
    with ExitStack() as undo:
        directory = undo.enter_context(DataDirectory.open(path))
        store = TableStore(directory.tables)
        undo.callback(store.close)
        return _prove(store)


def _prove(store: TableStore) -> Proof:
    tables, place = _Stored(store), Place()
    while not place.done:
        place = prove(tables, place, SCAN_ROWS)
    return read_proof(tables, place)


class _Stored:
    """The configuration's tables as `ReadTables`, from the disk."""

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._store.get(f"{NAME}.{table}", key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = SCAN_ROWS
    ) -> list[tuple[bytes, bytes]]:
        return list(self._store.scan(f"{NAME}.{table}", start, stop, limit))
