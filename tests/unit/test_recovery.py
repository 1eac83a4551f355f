"""What a node continues from after a restart, and when it must not continue."""

from __future__ import annotations

import pytest

from raftcluster.engine.recovery import Anchor, check_stores, recover
from raftcluster.errors import StorageFailed
from raftcluster.storage.memory import MemoryDisk, MemoryLog
from raftcluster.storage.ports import Entry, LogImage

ANCHOR = Anchor(3, 2, b"\x00c", 1, ("n1",), 7)
ENTRIES: list[Entry] = [(b"\x01", 1, 0), (b"\x01", 2, 1), (b"\x00c", 3, 2), (b"\x00d", 4, 2)]


def test_a_log_that_holds_the_checkpoint_is_kept() -> None:
    found = recover(LogImage(ENTRIES, 2, "n2", 3), ANCHOR)
    assert (found.entries, found.commit, found.term, found.vote, found.repair) == (ENTRIES, 3, 2, "n2", [])


@pytest.mark.parametrize("entries", [[], ENTRIES[:2], [*ENTRIES[:2], (b"\x00x", 3, 1)]])
def test_any_other_log_becomes_the_checkpoints_entry_and_the_one_before(entries: list[Entry]) -> None:
    found = recover(LogImage(entries, 2, "n2", 2), ANCHOR)
    assert (found.entries, found.commit, found.vote) == (ANCHOR.entries(), 3, "n2")


def test_a_commit_index_above_the_log_is_clamped() -> None:
    assert recover(LogImage(ENTRIES, 2, None, 99), None).commit == 4


def test_the_term_is_no_older_than_the_checkpoints() -> None:
    found = recover(LogImage(ENTRIES[:1], 1, "n3", 1), ANCHOR)
    assert (found.term, found.vote) == (2, None)


@pytest.mark.parametrize("records", range(5))
def test_a_repair_that_power_loss_tears_is_no_log_that_is_gone(records: int) -> None:
    """A learner that lost power behind its first snapshot, and once more while its log followed, was refused: between the
    reset and the first append it looked like a node without a log."""
    disk = MemoryDisk()
    disk.entries = ENTRIES[:1]
    log = MemoryLog(disk)
    log.submit(recover(log.load(), ANCHOR).repair)
    disk.crash(records)
    again = MemoryLog(disk).load()
    check_stores(again, ANCHOR)
    assert recover(again, ANCHOR).entries == ANCHOR.entries()


def test_a_node_whose_log_is_gone_is_refused() -> None:
    with pytest.raises(StorageFailed, match="the log is gone"):
        check_stores(LogImage([], 0, None, 0), ANCHOR)


def test_a_node_whose_tables_are_gone_is_refused_unless_its_log_has_everything() -> None:
    """It started, and stopped over an assertion as soon as a leader told it what is committed."""
    with pytest.raises(StorageFailed, match="the tables are gone, and the log begins at entry 2"):
        check_stores(LogImage(ENTRIES[1:], 2, None, 3), None)
    check_stores(LogImage(ENTRIES, 2, None, 3), None)


def test_a_node_whose_tables_are_older_than_its_log_is_refused() -> None:
    """It made its log that of the older checkpoint: entries that it had acknowledged were gone."""
    for first in (2, 3):
        with pytest.raises(StorageFailed, match=f"they end at entry 3, and it begins at entry {first + 1}"):
            check_stores(LogImage(ENTRIES[first:], 2, None, 3), ANCHOR)
    check_stores(LogImage(ENTRIES[1:], 2, None, 3), ANCHOR)
