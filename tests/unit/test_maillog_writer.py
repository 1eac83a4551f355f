"""What is logged reaches the files, costs who decides nothing, and what does not reach them is counted."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.config.local import Local
from raftcluster.errors import Rejected
from raftcluster.greylist.request import Mail
from raftcluster.greylist.verdict import Verdict
from raftcluster.logs import Logs
from raftcluster.maillog import files, writer
from raftcluster.maillog.api import MailLog
from raftcluster.maillog.entry import Entry
from raftcluster.maillog.gathering import FROM_THE_END
from raftcluster.maillog.settings import Settings
from raftcluster.maillog.writer import Writer
from tests.helpers import eventually, no_more_threads
from tests.local_host import MemoryRows

MAIL = Mail("192.0.2.7", None, "a@example.net", "b@example.org", "1", False, False, "mx")
FACTS = {"name": "mx1", "node_id": "n1", "cluster": "mail", "cluster_id": "c1"}
VERDICT = Verdict("defer", "new", 300, 0, None, False, "wait")


class Disk:
    """A writer whose disk stands still until it is let go."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.space = folder, 2**40
        self.free, self.reached = threading.Event(), threading.Event()
        self.free.set()
        self.writer = Writer(folder, Settings(), self.entry, space=lambda _: self.space)

    def entry(self, number: int) -> Entry:
        """On the writer's thread, before it writes."""
        self.reached.set()
        assert self.free.wait(60)
        return Entry(time.time(), "Rejected", subject=str(number))

    def entries(self) -> list[Entry]:
        return list(files.entries(self.folder))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GATHER_SECONDS", 0.005)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "log")
    yield made
    made.free.set()
    made.writer.close()


def test_entries_come_in_order_and_are_durable_after_a_flush(disk: Disk) -> None:
    assert not threading.active_count() or disk.writer._thread is None, "no thread before the first"
    for number in range(500):
        disk.writer.put(number)
    assert disk.writer.flush()
    assert [(each.sequence, each.subject) for each in disk.entries()] == [(n + 1, str(n)) for n in range(500)]
    assert disk.writer.durable == disk.writer.last == 500 and disk.writer.dropped == 0


def test_without_a_flush_they_are_durable_after_a_moment(disk: Disk) -> None:
    disk.writer.put(1)
    eventually(lambda: disk.writer.durable == 1)


def test_whoever_decides_waits_for_no_disk_and_what_is_too_much_is_counted(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAILLOG_QUEUE", 100)
    disk.free.clear()
    disk.writer.put(0)
    assert disk.reached.wait(60), "the writer stands still"
    for number in range(1, 151):
        disk.writer.put(number)
    assert disk.writer.dropped == 51, "a hundred wait, one of them is being written"
    disk.free.set()
    assert disk.writer.flush()
    found = disk.entries()
    told = [each for each in found if each.action == "Dropped"]
    assert sum(each.lost for each in told) == 51 and {each.category for each in told} == {"log"}
    sequences = [each.sequence for each in found]
    assert sequences[-1] - len(sequences) == 51, "and so many numbers are left out"
    assert [each.subject for each in found if each.subject] == [str(number) for number in range(100)]


def test_a_disk_without_space_gets_nothing_more_and_the_log_says_so_later(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SYNC_SECONDS", 0.0)
    disk.space = limits.MAILLOG_RESERVE_BYTES - 1
    for number in range(10):
        disk.writer.put(number)
    eventually(lambda: disk.writer.dropped == 10)
    assert "free" in disk.writer.trouble and disk.entries() == []
    disk.space = limits.MAILLOG_RESERVE_BYTES
    disk.writer.put(10)
    assert disk.writer.flush()
    told, last = disk.entries()
    assert (told.action, told.lost, told.sequence) == ("Dropped", 10, 11) and "free" in told.reason
    assert (last.subject, last.sequence) == ("10", 12) and disk.writer.trouble == ""


def test_a_disk_that_fails_costs_entries_and_nothing_else(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    append = files.Appender.append

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.Appender, "append", fail)
    disk.writer.put(1)
    eventually(lambda: disk.writer.dropped == 1)
    assert "Input/output" in disk.writer.trouble
    monkeypatch.setattr(files.Appender, "append", append)
    disk.writer.put(2)
    assert disk.writer.flush()
    assert [(each.action, each.sequence) for each in disk.entries()] == [("Dropped", 2), ("Rejected", 3)]


def test_what_a_disk_failed_to_take_is_counted_for_good_and_not_called_durable_by_a_second_attempt(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SYNC_SECONDS", 0.01)
    sync, synced = os.fdatasync, list[str]()

    def name(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    def count(descriptor: int) -> None:
        synced.append(name(descriptor))
        sync(descriptor)

    disk.writer.put(1)
    assert disk.writer.flush()
    monkeypatch.setattr(os, "fdatasync", fail)
    for number in (2, 3):
        disk.writer.put(number)
    eventually(lambda: disk.writer.unsure == 2)
    monkeypatch.setattr(os, "fdatasync", count)
    disk.writer.put(4)
    assert disk.writer.flush() and disk.writer.durable == disk.writer.last == 4
    assert [each.sequence for each in disk.entries()] == [1, 2, 3, 4]
    *before, newest = [each.path.name for each in files.files(disk.folder)]
    assert before and set(synced) == {newest}, "nothing is written behind what may be lost"
    assert disk.writer.unsure == 2 and disk.writer.dropped == 0
    assert disk.writer.trouble == "2 entries may be lost: the disk has failed, [Errno 5] Input/output error"


def test_a_disk_that_failed_between_two_files_is_told_with_its_reason(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(appender: files.Appender, *_: Any) -> None:
        appender.unsure += 2
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files.Appender, "append", fail)
        disk.writer.put(1)
        eventually(lambda: disk.writer.dropped == 1)
    disk.writer.put(2)
    assert disk.writer.flush()
    assert "the disk has failed, [Errno 5] Input/output error" in disk.writer.trouble


def test_what_waits_is_written_at_the_end(disk: Disk) -> None:
    for number in range(1_000):
        disk.writer.put(number)
    disk.writer.close()
    disk.writer.close()
    assert len(disk.entries()) == 1_000
    disk.writer.put(1)
    assert disk.writer.dropped == 1, "and nothing behind it"


# --- the log of a node


class World:
    """A node's log and its settings."""

    def __init__(self, folder: Path) -> None:
        self.local = Local(MemoryRows())
        self.log = MailLog(folder / "maillog", self.local, FACTS)

    def decided(self, count: int = 1) -> None:
        for _ in range(count):
            self.log.decided(MAIL, VERDICT, "policy")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.log.close()


def test_decisions_and_what_the_product_writes_are_in_one_log(world: World) -> None:
    world.decided()
    world.log.write(
        "antispam", "Marked", sender=b"a@x", recipient="b@y", subject="caf\u00e9", message_id="<1@x>", reason="score 7"
    )
    assert world.log.flush()
    first, second = world.log.read()
    assert (first.category, first.action, first.helo, first.source) == ("greylisting", "Rejected", "mx", "policy")
    assert (second.category, second.sender, second.subject) == ("antispam", "a@x", "caf\u00e9")
    assert second.source == "product" and second.message_id == "<1@x>" and second.sequence == 2
    status = world.log.status()
    assert status["last"] == 2 and status["bytes"] > 0 and status["dropped"] == 0 and status["enabled"] is True
    assert list(world.log.read(since=second.time)) == [second]


@pytest.mark.parametrize(("category", "action"), [("", "x"), ("x", ""), ("log", "Dropped")])
def test_an_entry_without_a_category_of_its_own_is_refused(world: World, category: str, action: str) -> None:
    with pytest.raises(Rejected):
        world.log.write(category, action)


def test_a_fork_is_told_since_nobody_writes_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: mine + 1)
    with pytest.raises(Rejected, match="fork"):
        world.log.write("antispam", "Marked")
    monkeypatch.undo()
    assert world.log.status()["last"] == 0


def test_it_is_switched_off_and_on_while_it_runs_and_the_numbers_go_on(world: World) -> None:
    world.decided(3)
    world.local.set("local/maillog/enabled", False)
    world.decided(5)
    assert len(list(world.log.read())) == 3 and world.log.status()["enabled"] is False
    assert world.log.status()["last"] == 3
    world.local.delete("local/maillog/enabled")
    world.decided(2)
    assert world.log.flush()
    assert [each.sequence for each in world.log.read()] == [1, 2, 3, 4, 5]


def test_settings_are_judged_before_they_are_kept(world: World) -> None:
    world.local.set("local/maillog/keep_bytes", 1024**2 * 64)
    for key, value in (("keep_bytes", 5), ("file_bytes", 1024**2 * 33), ("colour", 1), ("enabled", "no")):
        with pytest.raises(Rejected):
            world.local.set(f"local/maillog/{key}", value)
        assert world.local.get(f"local/maillog/{key}") != value
    world.local.set("local/ui/theme", "dark")
    assert world.log.settings == Settings(keep_bytes=1024**2 * 64)
    with pytest.raises(Rejected, match="not set"):
        world.local.delete("local/maillog/keep_days")


def test_settings_hold_for_the_files_at_once(world: World) -> None:
    world.local.set("local/maillog/file_bytes", 64 * 1024)
    world.local.set("local/maillog/keep_bytes", 128 * 1024)
    for _ in range(20):
        world.decided(100)
        assert world.log.flush()
    assert len(files.files(world.log.folder)) >= 2
    assert int(str(world.log.status()["bytes"])) < 3 * 64 * 1024 + 40_000


def test_settings_of_another_version_are_not_used_and_harm_nothing(tmp_path: Path) -> None:
    rows = MemoryRows()
    Local(rows).set("local/maillog/of_tomorrow", 1)
    log = MailLog(tmp_path / "maillog", Local(rows), FACTS)
    log.decided(MAIL, VERDICT, "policy")
    assert log.flush() and log.settings == Settings()
    log.close()


def test_a_folder_that_cannot_be_read_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "maillog").write_text("a file")
    log = MailLog(tmp_path / "maillog", Local(MemoryRows()), FACTS)
    log.decided(MAIL, VERDICT, "policy")
    assert "Not a directory" in str(log.status()["trouble"])
    log.close()


def test_a_file_that_goes_while_it_is_looked_at_is_no_end_of_the_numbers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is removed at every rotation: the status then said `last` 0."""
    world.decided(3)
    assert world.log.flush()
    found = files.files
    monkeypatch.setattr(files, "files", lambda folder: [files.LogFile(1, folder / "gone.jsonl"), *found(folder)])
    assert world.log.status()["last"] == 3


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    worlds = []
    for _ in range(3):
        worlds.append(World(tmp_path))
        worlds[-1].decided()
        worlds[-1].log.close()
        worlds[-1].log.close()
        worlds[-1].decided()
    assert threading.active_count() == before
    assert [each.sequence for each in worlds[0].log.read()] == [1, 2, 3]


def test_many_who_decide_at_once(world: World) -> None:
    work: Callable[[], None] = lambda: world.decided(200)  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert world.log.flush()
    assert [each.sequence for each in world.log.read()] == list(range(1, 1_601))


def test_other_nodes_read_what_is_on_the_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure the last second's numbers are given again: who follows would pass over what has them then."""
    node = Logs.__new__(Logs)
    node.maillog, node._ending = world.log, threading.Event()
    sync, power = os.fdatasync, threading.Event()

    def slow(descriptor: int) -> None:
        assert power.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    world.decided()
    try:
        eventually(lambda: list(world.log.read()))
        assert node._own_page(0, 0.0, 0.0).lines == [] and node._own_page(FROM_THE_END, 0.0, 0.0).last == 0
    finally:
        power.set()
    assert world.log.flush() and len(node._own_page(0, 0.0, 0.0).lines) == 1


def test_what_is_not_on_the_disk_is_not_exported_while_the_log_is_switched_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, power, reached = os.fdatasync, threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        reached.set()
        assert power.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    world.decided()
    off = threading.Thread(target=lambda: world.local.set("local/maillog/enabled", False))
    try:
        off.start()
        assert reached.wait(60)
        eventually(lambda: world.log._writer is None or world.log._writer._ending.is_set())
        assert world.log.durable() == 0
    finally:
        power.set()
        off.join(60)
    assert world.log.durable() == 1


class Shared(deque[Any]):
    """As if somebody appended between any two steps of an iterator."""

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("deque mutated during iteration")


def test_others_append_while_the_writer_takes(disk: Disk) -> None:
    """It took what waits through an iterator: in a soak, an append between two of its steps ended the thread after some tens of
    thousands of groups, and with it the log."""
    disk.writer._queue = Shared()
    for number in range(500):
        disk.writer.put(number)
    assert disk.writer.flush() and disk.writer.last == 500 and disk.writer.trouble == ""


def test_a_thread_that_stops_says_so_and_holds_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.writer, "_entry", lambda number: 1 // 0)
    disk.writer.put(1)
    eventually(lambda: disk.writer.trouble != "")
    assert "ZeroDivisionError" in disk.writer.trouble
    disk.writer.put(2)
    assert disk.writer.dropped == 2 and not disk.writer._queue
    assert not disk.writer.flush(0.1)


def test_without_threads_what_is_logged_waits_for_one(disk: Disk) -> None:
    """Whoever had decided was told what the system said; the next ones were not, and nothing was written any more."""
    with no_more_threads():
        disk.writer.put(1)
        assert "new thread" in disk.writer.trouble
        disk.writer.put(2)
        assert not disk.writer.flush(0.1)
    disk.writer.put(3)
    assert disk.writer.flush() and [each.subject for each in disk.entries()] == ["1", "2", "3"]
    assert disk.writer.trouble == ""


def test_a_writer_that_never_got_its_thread_ends(tmp_path: Path) -> None:
    made = Disk(tmp_path / "log")
    with no_more_threads():
        made.writer.put(1)
    made.writer.close()
