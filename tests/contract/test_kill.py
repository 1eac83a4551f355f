"""A killed process: whatever it was told is durable is there, and the rest is a prefix of what it had submitted."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from raftcluster.storage.log import LogStore
from raftcluster.storage.runs import DEFAULT, Bounds
from raftcluster.storage.tables import TableStore
from tests import checkout
from tests.contract.models import LogModel, Tables, change, content, log_history, table_history
from tests.contract.stores import TINY
from tests.contract.writer import OUTSTANDING


@pytest.mark.parametrize("round_", range(24))
def test_a_killed_process_leaves_a_prefix_that_holds_all_that_was_durable(tmp_path: Path, round_: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    after = random.Random(seed).randint(1, 120)
    print(f"seed {seed}: killed after {after} reports")
    durable = killed(tmp_path, seed, after)
    check_log(tmp_path / "log", seed, durable.get("log", 0))
    check_tables(tmp_path / "tables", seed, durable.get("tables", 0), DEFAULT)
    check_tables(tmp_path / "runs", seed, durable.get("runs", 0), TINY)


def killed(path: Path, seed: int, after: int) -> dict[str, int]:
    """Run a writer until it has reported `after` times, kill it; returns the last number reported of each store."""
    command = [sys.executable, "-m", "tests.contract.writer", str(path), str(seed)]
    with subprocess.Popen(command, cwd=checkout.ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = list(islice(writer.stdout, after))
        writer.kill()
        lines += writer.stdout
    assert len(lines) >= after, "the writer ended by itself"
    reports = (line.split() for line in lines if line.endswith("\n"))
    return {store: int(number) for store, number in reports}


def check_log(path: Path, seed: int, durable: int) -> None:
    log = LogStore(path)
    image = log.load()
    log.close()
    model = LogModel()
    history = log_history(seed)
    for records in islice(history, durable):
        model.apply(records)
    possible = [model.image()]
    for records in islice(history, 2 * OUTSTANDING):
        model.apply(records)
        possible.append(model.image())
    assert image in possible


def check_tables(path: Path, seed: int, durable: int, bounds: Bounds) -> None:
    store = TableStore(path, bounds=bounds)
    found, anchor = content(store), store.anchor()
    store.close()
    at_rest = TableStore(path)
    assert content(at_rest) == found and at_rest.anchor() == anchor
    at_rest.close()
    tables: Tables = {"a.one": {}, "a.two": {}, "b.one": {}}
    number = 0
    reached = None
    for unit in table_history(seed):
        if anchor is None or unit.index > anchor[0]:
            break
        number += 1
        change(tables, unit)
        reached = (unit.index, unit.anchor)
    assert durable <= number <= durable + 2 * OUTSTANDING
    assert found == tables and anchor == reached
