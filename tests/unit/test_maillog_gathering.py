"""Several nodes' logs merged while they are read; who does not answer is named and holds nobody up."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcluster.errors import FrameError, Unavailable
from raftcluster.maillog import files, gathering
from raftcluster.maillog.entry import Entry
from raftcluster.maillog.files import Appender, Page
from raftcluster.maillog.gathering import Batch, Gathering, Member, Notice, serve
from raftcluster.maillog.settings import Settings
from tests.helpers import eventually, no_more_threads


class Log:
    """One node's log in a folder, as a source that can be made silent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.silent = folder, ""
        self.appender = Appender(folder, Settings())
        self.asked = 0

    def write(self, *moments: float) -> None:
        self.appender.append([Entry(each, "Rejected", subject=f"{self.folder.name} {each}") for each in moments])

    def __call__(self, after: int, since: float, wait: float) -> Page:
        self.asked += 1
        if self.silent:
            raise Unavailable(self.silent)
        if after == gathering.FROM_THE_END:
            return Page([], files.last_sequence(self.folder), True, 0)
        return files.page(self.folder, after, since, limit_bytes=100)


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[dict[str, Log]]:
    made = {name: Log(tmp_path / name) for name in ("mx1", "mx2", "mx3")}
    yield made
    for each in made.values():
        each.appender.close()


class Reading:
    """What a gathering has handed out so far, read on a thread."""

    def __init__(self, gathered: Gathering) -> None:
        self.gathered = gathered
        self.batches: deque[Batch] = deque()
        self.thread = threading.Thread(target=lambda: self.batches.extend(gathered))
        self.thread.start()

    def times(self) -> list[float]:
        return [each.entry.time for batch in list(self.batches) for each in batch.entries]

    def notices(self) -> list[Notice]:
        return [each for batch in list(self.batches) for each in batch.notices]


@pytest.fixture
def read() -> Iterator[Callable[..., Reading]]:
    begun: list[Reading] = []
    ending = threading.Event()

    def begin(logs: dict[str, Log], since: float | None = None, follow: bool = False) -> Reading:
        begun.append(Reading(Gathering(logs, since, follow, ending)))
        return begun[-1]

    yield begin
    ending.set()
    for each in begun:
        each.thread.join(60)
        assert not each.thread.is_alive()


def test_entries_of_all_nodes_come_in_the_order_of_their_times(
    logs: dict[str, Log], read: Callable[..., Reading]
) -> None:
    for number, log in enumerate(logs.values()):
        log.write(*(3.0 * each + number for each in range(1, 301)))
    reading = read(logs)
    reading.thread.join(60)
    assert reading.times() == [float(each) for each in range(3, 903)] and reading.notices() == []
    first = reading.batches[0].entries[0]
    assert (first.node, first.entry.subject, first.entry.sequence) == ("mx1", "mx1 3.0", 1)


def test_since_holds_for_all_nodes(logs: dict[str, Log], read: Callable[..., Reading]) -> None:
    for log in logs.values():
        log.write(1.0, 2.0, 3.0)
    reading = read(logs, since=3.0)
    reading.thread.join(60)
    assert reading.times() == [3.0, 3.0, 3.0]


def test_a_node_that_does_not_answer_is_named_and_the_others_are_read(
    logs: dict[str, Log], read: Callable[..., Reading]
) -> None:
    for log in logs.values():
        log.write(1.0)
    logs["mx2"].silent = "connection refused"
    reading = read(logs)
    reading.thread.join(60)
    assert reading.notices() == [Notice("mx2", "connection refused")] and reading.times() == [1.0, 1.0]


def test_what_comes_is_followed_and_a_node_that_comes_back_has_lost_nothing(
    logs: dict[str, Log], read: Callable[..., Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(gathering, "HOLD_SECONDS", 0.02)
    for log in logs.values():
        log.write(1.0)
    logs["mx3"].silent = "down"
    reading = read(logs, since=0.5, follow=True)
    eventually(lambda: reading.times() == [1.0, 1.0] and reading.notices() == [Notice("mx3", "down")])
    logs["mx1"].write(2.0)
    eventually(lambda: reading.times() == [1.0, 1.0, 2.0])
    logs["mx3"].write(3.0)
    logs["mx3"].silent = ""
    eventually(lambda: sorted(reading.times()) == [1.0, 1.0, 1.0, 2.0, 3.0])
    eventually(lambda: reading.notices() == [Notice("mx3", "down"), Notice("mx3", "")])
    reading.gathered.close()
    reading.thread.join(60)
    assert not reading.thread.is_alive(), "it was closed from another thread"


def test_following_without_a_beginning_begins_now(
    logs: dict[str, Log], read: Callable[..., Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "HOLD_SECONDS", 0.02)
    logs["mx1"].write(1.0, 2.0)
    reading = read(logs, follow=True)
    eventually(lambda: all(log.asked > 1 for log in logs.values()))
    logs["mx1"].write(3.0)
    eventually(lambda: reading.times() == [3.0])


def test_what_a_node_logs_before_it_first_answers_has_come_as_well(
    logs: dict[str, Log], read: Callable[..., Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began with what came after its first answer: what a node had decided between its start and that was passed over."""
    monkeypatch.setattr(gathering, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(gathering, "HOLD_SECONDS", 0.02)
    now = time.time()
    logs["mx3"].write(now - 60.0)
    logs["mx3"].silent = "down"
    reading = read(logs, follow=True)
    eventually(lambda: reading.notices() == [Notice("mx3", "down")])
    logs["mx3"].write(now + 60.0)
    os.utime(files.files(logs["mx3"].folder)[0].path, (now + 60.0, now + 60.0))  # the clock of files has coarse ticks
    logs["mx3"].silent = ""
    eventually(lambda: reading.times() == [now + 60.0])
    asked = logs["mx3"].asked
    eventually(lambda: logs["mx3"].asked > asked + 2, what="all that was there is read")
    logs["mx3"].write(now - 30.0)  # its clock is set back
    eventually(lambda: now - 30.0 in reading.times())
    assert reading.times() == [now + 60.0, now - 30.0]


# --- on the way between two nodes


class Wire:
    """Both ends of a connection in one: what is asked is answered by `serve` at once."""

    def __init__(self, log: Log) -> None:
        self.log, self.closed = log, False
        self.asked: deque[Any] = deque()
        self.answers: deque[Any] = deque()
        self.broken: Any = None

    def send(self, value: Any) -> None:
        self.asked.append(value)
        try:
            serve(_End(self), self.log)
        except Unavailable:
            pass

    def receive(self, timeout: float) -> Any:
        return self.broken if self.broken is not None else self.answers.popleft()

    def close(self) -> None:
        self.closed = True


class _End:
    """The serving end."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def send(self, value: Any) -> None:
        self._wire.answers.append(value)

    def receive(self, timeout: float) -> Any:
        if not self._wire.asked:
            raise Unavailable("it has gone")
        return self._wire.asked.popleft()

    def close(self) -> None:
        pass


def test_a_member_is_read_over_one_connection_as_long_as_it_lasts(logs: dict[str, Log]) -> None:
    log, wires = logs["mx1"], list[Wire]()
    log.write(1.0, 2.0)

    def dial() -> Wire:
        wires.append(Wire(log))
        return wires[-1]

    member = Member(dial)
    page = member(0, 0.0, 0.0)
    assert member(page.last, 0.0, 0.0).last == 2 and len(wires) == 1
    log.silent = "disk"
    with pytest.raises(Unavailable, match="disk"):
        member(2, 0.0, 0.0)
    assert wires[0].closed
    log.silent = ""
    assert member(2, 0.0, 0.0) == Page([], 2, True, 1) and len(wires) == 2


@pytest.mark.parametrize(
    "answer", [None, {}, {"lines": ["text"], "last": 1, "end": True, "oldest": 1}, {"lines": b"", "last": 1}]
)
def test_nonsense_of_a_member_is_refused(logs: dict[str, Log], answer: Any) -> None:
    wire = Wire(logs["mx1"])
    wire.broken = {"nothing": True} if answer is None else answer
    with pytest.raises(FrameError):
        Member(lambda: wire)(0, 0.0, 0.0)
    assert wire.closed


def test_who_stops_iterating_ends_it(logs: dict[str, Log]) -> None:
    """Its threads read on for nobody as long as the node ran."""
    logs["mx1"].write(*range(20))
    for _ in Gathering(logs, 0.0, True, threading.Event()):
        break
    eventually(
        lambda: not [each for each in threading.enumerate() if each.name.startswith("raftcluster-logs")],
        what="all end",
    )


def test_without_threads_for_all_nodes_none_is_read(logs: dict[str, Log]) -> None:
    """Those that had begun went on for as long as the node ran."""
    with no_more_threads(left=2), pytest.raises(RuntimeError):
        Gathering(logs, None, True, threading.Event())
    eventually(
        lambda: not [each for each in threading.enumerate() if each.name.startswith("raftcluster-logs")],
        what="the others end",
    )


@pytest.mark.parametrize("asked", [None, {"after": "1"}, {"after": 1, "since": None, "wait": 0.0}, [1]])
def test_nonsense_is_not_answered(logs: dict[str, Log], asked: Any) -> None:
    wire = Wire(logs["mx1"])
    wire.asked.append(asked)
    with pytest.raises(FrameError):
        serve(_End(wire), logs["mx1"])
    assert not wire.answers
