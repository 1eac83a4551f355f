"""What `restore` and `recover` write into the tables of a node that does not run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from raftcluster.backup.offline import settle
from raftcluster.errors import RaftclusterError, StorageFailed
from raftcluster.storage.ports import Unit
from raftcluster.storage.tables import TableStore
from tests.helpers import eventually


def test_tables_that_had_failed_before_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they may while what is left of runs is moved, beside the one who opens them: their thread has ended and says no more."""

    def fails(unit: Unit) -> bool:
        raise StorageFailed("the disk has failed")

    told: list[RaftclusterError | bool] = []
    store = TableStore(tmp_path / "tables")
    monkeypatch.setattr(store, "_write", fails)
    store.checkpoint(Unit(1, {}, b"anchor"), told.append)
    eventually(lambda: store.health == "failed", what="the tables have failed")

    def write() -> None:
        try:
            told.append(settle(store, lambda done: store.checkpoint(Unit(2, {}, b"anchor"), done)))
        except RaftclusterError as error:
            told.append(error)

    threading.Thread(target=write, daemon=True).start()
    eventually(lambda: told, what="it is told")
    assert isinstance(told[0], StorageFailed)
    store.close()
