"""A process to be killed: writes a history into an LMDB store and prints what it is told is durable.

python -m tests.contract.writer PATH SEED
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from raftcluster.storage.log import LogStore
from raftcluster.storage.runs import DEFAULT, Bounds
from raftcluster.storage.tables import TableStore
from tests.contract.models import log_history, table_history
from tests.contract.stores import TINY

OUTSTANDING = 40  # submitted and not yet durable, at most


def write_log(path: Path, seed: int) -> None:
    log = LogStore(path)
    room = threading.Semaphore(OUTSTANDING)
    reported = 0

    def durable(ticket: int) -> None:
        nonlocal reported
        os.write(1, b"log %d\n" % ticket)
        room.release(ticket - reported)
        reported = ticket

    log.on_durable = durable
    for records in log_history(seed):
        room.acquire()
        log.submit(records)


def write_tables(path: Path, seed: int, bounds: Bounds) -> None:
    store = TableStore(path, bounds=bounds)
    room = threading.Semaphore(OUTSTANDING)
    for number, unit in enumerate(table_history(seed), 1):
        room.acquire()

        def done(result: bool, number: int = number) -> None:
            os.write(1, b"%s %d\n" % (path.name.encode(), number))
            room.release()

        store.checkpoint(unit, done)


if __name__ == "__main__":
    root, number = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=write_tables, args=(root / "tables", number, DEFAULT), daemon=True).start()
    threading.Thread(target=write_tables, args=(root / "runs", number, TINY), daemon=True).start()
    write_log(root / "log", number)
