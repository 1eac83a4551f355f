"""What a node keeps for itself survives restarts, and is nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb
import pytest

import raftcluster
from raftcluster import Node
from raftcluster.errors import Unavailable
from raftcluster.storage.local import LocalStore
from tests.helpers import free_ports


def test_rows_are_durable_and_ordered(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "local")
    for key in (b"b", b"a/2", b"a/1"):
        store.put(key, key)
    assert store.get(b"a/1") == b"a/1" and store.get(b"c") is None
    assert store.keys(b"a/") == [b"a/1", b"a/2"]
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.get(b"a/1")
    again = LocalStore(tmp_path / "local")
    assert again.delete(b"a/1") and not again.delete(b"a/1")
    assert again.keys(b"") == [b"a/2", b"b"]
    again.close()


def test_many_rows_are_written_and_removed_in_one_transaction(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "local")
    begun = [store.begun]
    store.write({b"a": b"1", b"b": b"2", b"c": b"3"})
    assert [*begun, store.begun] == [False, True]
    wrong: dict[bytes, Any] = {b"a": None, b"d": "no bytes"}
    with pytest.raises(TypeError):
        store.write(wrong)
    assert store.keys(b"") == [b"a", b"b", b"c"], "all or none"
    store.write({b"a": None, b"b": b"4", b"never": None})
    store.close()
    again = LocalStore(tmp_path / "local")
    assert again.begun and again.keys(b"") == [b"b", b"c"] and again.get(b"b") == b"4"
    again.close()


def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "local")
    assert not store.begun
    store.close()
    assert not (tmp_path / "local").exists()


def test_a_node_keeps_its_own_in_the_third_environment_and_in_no_other(tmp_path: Path) -> None:
    """R6: no byte of a key or value below `local/` is in the log, or in the tables that all nodes have."""
    path = tmp_path / "mx0"
    raftcluster.init(path, cluster="one", node="mx0", listen=("127.0.0.1", free_ports(1)[0]), lab=True)
    with Node.open(path) as node:
        node.config.set("shared/key-of-all", "value-of-all")
        node.config.local.set("local/schedule/nightly-scan", "three-o-clock")
    with Node.open(path) as node:
        assert node.config.get("local/schedule/nightly-scan") == "three-o-clock"
    for name, found in (("log", b"key-of-all"), ("tables", b"key-of-all"), ("local", b"nightly-scan")):
        rows = contents(path / name)
        assert (found in rows, b"nightly-scan" in rows, b"three-o-clock" in rows) == (True, *[name == "local"] * 2)


def contents(path: Path) -> bytes:
    """All keys and values of all databases of an environment, or all bytes of a log."""
    if segments := sorted(path.glob("*.segment")):
        return b"".join(each.read_bytes() for each in segments)
    with lmdb.open(str(path), max_dbs=256, readonly=True, lock=False) as environment, environment.begin() as reading:
        names = [bytes(name) for name in reading.cursor().iternext(keys=True, values=False)]
        databases = [environment.open_db(name, txn=reading, create=False) for name in names]
        return b"\n".join(key + value for each in databases for key, value in reading.cursor(db=each))
