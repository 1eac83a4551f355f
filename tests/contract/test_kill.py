"""A killed process: whatever it was told is durable is there, and the rest is a prefix of what it had submitted."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

from raftcluster.storage.log import LogStore
from raftcluster.storage.tables import TableStore
from tests import checkout
from tests.contract.models import LogModel, Tables, change, content, log_history, table_history
from tests.contract.writer import OUTSTANDING

ROUNDS = 20


def killed(kind: str, path: Path, seed: int, after: int) -> int:
    """Run a writer until it has reported `after` times, kill it; returns the last number that it reported."""
    command = [sys.executable, "-m", "tests.contract.writer", kind, str(path), str(seed)]
    with subprocess.Popen(command, cwd=checkout.ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        lines = list(islice(writer.stdout, after))
        writer.kill()
        lines += writer.stdout
    assert len(lines) >= after, "the writer ended by itself"
    return int(next(line for line in reversed(lines) if line.endswith(b"\n")))


def test_a_killed_log_is_a_prefix_that_holds_every_durable_ticket(tmp_path: Path) -> None:
    for round_ in range(ROUNDS):
        seed = random.randrange(2**32)
        after = random.Random(seed).randint(1, 60)
        print(f"seed {seed}: killed after {after} reports")
        path = tmp_path / str(round_)
        durable = killed("log", path, seed, after)
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


def test_killed_tables_hold_whole_units_and_every_durable_one(tmp_path: Path) -> None:
    for round_ in range(ROUNDS):
        seed = random.randrange(2**32)
        after = random.Random(seed).randint(1, 60)
        print(f"seed {seed}: killed after {after} reports")
        path = tmp_path / str(round_)
        durable = killed("tables", path, seed, after)
        store = TableStore(path)
        found, anchor = content(store), store.anchor()
        store.close()
        assert anchor is not None
        tables: Tables = {"a.one": {}, "a.two": {}, "b.one": {}}
        number = 0
        for unit in table_history(seed):
            number += 1
            change(tables, unit)
            if unit.index >= anchor[0]:
                break
        assert durable <= number <= durable + 2 * OUTSTANDING
        assert found == tables and anchor == (unit.index, unit.anchor)
