"""Examinations on the twins in memory, with replicas that are driven by hand: the image is that of the mark's entry, wherever
the checkpoints are; and what each machine takes for a sound row."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.config.api import Config
from raftcluster.config.machine import ConfigMachine
from raftcluster.engine.inspection import inspect_ring
from raftcluster.engine.operations import Operation
from raftcluster.errors import FrameError, Unavailable
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.machine import Inspectable
from raftcluster.verify.answer import Answer, Wanted
from raftcluster.verify.examination import MARK_BYTES, Examiner
from raftcluster.verify.report import compare_rows, compare_tables, differing
from raftcluster.verify.verifier import Named, Verifier
from tests.helpers import eventually, no_more_threads
from tests.local_host import LocalHost, MemoryRows
from tests.simulation.lab import GuardedLab

NODES = ("n1", "n2", "n3")
MARK = bytes(range(MARK_BYTES))


def no_rest(seconds: float) -> None: ...


class Trio:
    """Three replicas, each with its examiner; n1 leads."""

    def __init__(self) -> None:
        self.lab = GuardedLab(NODES)
        self.examiners = {node: self._examiner(node) for node in NODES}
        self.lab.elect("n1", ["n2", "n3"])
        self.commands(20)

    def _examiner(self, node: str) -> Examiner:
        replica = self.lab.nodes[node]
        examiner = Examiner(
            replica.journal.get, replica.applier.overlay.image, self.lab.logs[node], {"engine": inspect_ring}, no_rest
        )
        replica.observer.applied = lambda entry, machines: examiner.applied(entry[1])
        return examiner

    def commands(self, count: int) -> None:
        for _ in range(count):
            self.lab.command("n1")
        self._settle()

    def mark(self, mark: bytes = MARK) -> None:
        replica = self.lab.nodes["n1"]
        replica.submit(Operation("history", mark, replica.engine.applied, [[0, ""]]), lambda result, error: None)
        self.lab.command("n1")  # right behind it, in an entry of its own
        self._settle()

    def _settle(self) -> None:
        for _ in range(100):
            self.lab.flow(NODES)
            histories = [self.lab.history(node) for node in NODES]
            if self.lab.commands in histories[0] and histories[0] == histories[1] == histories[2]:
                return
        raise AssertionError(f"not settled: {self.lab.errors}")

    def round(self, wanted: list[Wanted] | None = None, mark: bytes = MARK) -> dict[str, Answer]:
        answers = {node: Answer() for node in NODES}
        frames = {node: examiner.examine(mark, wanted) for node, examiner in self.examiners.items()}
        for node in NODES:
            answers[node].take(next(frames[node]))
        self.mark(mark)
        for node in NODES:
            for frame in frames[node]:
                answers[node].take(frame)
        assert all(answer.done for answer in answers.values())
        return answers


def test_the_image_is_that_of_the_marks_entry_wherever_the_checkpoints_are() -> None:
    trio = Trio()
    trio.lab.compact("n2")
    trio.commands(10)
    trio.lab.compact("n3")
    trio.lab.nodes["n3"].checkpoint_now()  # durable, and not yet released
    answers = trio.round()
    (index,) = {answer.index for answer in answers.values()}
    assert all(replica.engine.applied > index for replica in trio.lab.nodes.values()), "they have gone on meanwhile"
    assert {each.table: set(each.nodes.values()) for each in compare_tables(answers, [])} == {
        "engine.ring": {"equal"},
        "history.rows": {"equal"},
    }
    assert {answer.tables["history.rows"][-1].rows for answer in answers.values()} == {31}, "20, 10 and the mark's"
    assert all(answer.entries > 30 and not answer.troubles for answer in answers.values())


def test_a_row_that_decayed_on_one_disk_is_found_on_the_twin_too() -> None:
    trio = Trio()
    for node in NODES:
        trio.lab.compact(node)
    key = (7).to_bytes(4)
    trio.lab.disks["n2"].tables["history.rows"][key] = b"decayed"
    ring = trio.lab.disks["n3"].tables["engine.ring"]
    cut = min(ring)
    ring[cut] = ring[cut][:-1]
    answers = trio.round()
    odd = {
        each.table: [n for n, state in each.nodes.items() if state != "equal"] for each in compare_tables(answers, [])
    }
    assert odd == {"engine.ring": ["n3"], "history.rows": ["n2"]}
    assert [(each.where, each.key) for each in answers["n3"].troubles] == [("engine.ring", cut)]
    wanted = differing(list(answers.values()))
    rows = compare_rows(wanted, trio.round(wanted, MARK[::-1]), 4_096)
    assert [(each.table, each.key, each.odd) for each in rows] == [
        ("engine.ring", cut, ["n3"]),
        ("history.rows", key, ["n2"]),
    ]


def test_a_mark_that_does_not_come_ends_in_unavailable_and_leaves_nothing_armed() -> None:
    trio = Trio()
    frames = trio.examiners["n1"].examine(MARK, None, seconds=0.01)
    assert next(frames) == {"armed": True}
    with pytest.raises(Unavailable, match="did not apply"):
        next(frames)
    trio.mark()
    assert trio.examiners["n1"]._armed == {}


class Asking:
    """A stream of one member that asks, and hears what it is told."""

    def __init__(self, *said: Any) -> None:
        self.said, self.heard = list(said), []  # type: ignore[var-annotated]

    def send(self, value: Any) -> None:
        self.heard.append(value)

    def receive(self, timeout: float) -> Any:
        return self.said.pop(0)

    def close(self) -> None: ...

    def abort(self) -> None: ...


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"mark": b"short", "wanted": None},
        {"mark": MARK, "wanted": [["history.rows", b""]]},
        {"mark": MARK, "wanted": [["../rows", b"", None]]},
        {"mark": MARK, "wanted": [["history.rows", b"", None]] * 1_000},
        {"mark": MARK, "wanted": "all"},
    ],
    ids=repr,
)
def test_a_question_that_is_none_is_not_answered(said: Any) -> None:
    asking = Asking(said)
    verifier = Verifier("n2", Trio().examiners["n2"], list, lambda peer: asking, lambda mark, seconds: None)
    with pytest.raises(FrameError):
        verifier.serve(asking)
    assert asking.heard == []


class Silent:
    """A member that answers nothing until its connection is ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def send(self, value: Any) -> None: ...

    def receive(self, timeout: float) -> Any:
        assert self.ended.wait(60)
        raise Unavailable("it was ended")

    def close(self) -> None: ...

    def abort(self) -> None:
        self.ended.set()


def test_without_threads_for_all_members_none_is_asked() -> None:
    """Those that were asked already were waited for until nobody wanted to know any more."""
    members, silent = [Named("n1", "mx1"), Named("n3", "mx3")], Silent()
    verifier = Verifier("n2", Trio().examiners["n2"], lambda: members, lambda peer: silent, lambda mark, seconds: None)
    with no_more_threads(left=1), pytest.raises(RuntimeError):
        list(verifier.steps(60.0))
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "raftcluster-verify-mx1"])


def test_an_examination_that_ends_takes_nothing_from_another() -> None:
    """While the tick thread gives one its image another's thread may leave."""
    other = bytes(MARK_BYTES)
    images: list[int] = []

    def image(index: int) -> Any:
        images.append(index)
        leaving.close()
        raise Unavailable("there is none")

    examiner = Examiner(lambda index: (MARK + other, index, 1), image, Trio().lab.logs["n1"], {}, no_rest)
    staying, leaving = examiner.examine(MARK, None), examiner.examine(other, None)
    assert next(staying) == next(leaving) == {"armed": True}
    examiner.applied(7)
    assert images == [7]
    with pytest.raises(Unavailable, match="there is none"):
        next(staying)


# --- what a sound row is


@contextmanager
def used() -> Iterator[LocalHost]:
    """A host whose machines have done what they can."""
    host = LocalHost([ConfigMachine(), GreylistMachine(), ListsMachine()])
    greylist = Greylist(host)
    greylist.configure({"delay": 240, "text": "Wait %s s", "auto_allow": 1}, reason="slow")
    for number in range(200):
        sender = "" if number % 5 == 0 else f"s{number % 50}@example.net"
        greylist.check(client=f"192.0.2.{number % 7}", sender=sender, recipient="r@example.org")
        host.now += 60_000
    greylist.lists.add("opt-out", "recipient", "postmaster@example.org", comment="by law", lifetime=86_400)
    greylist.records.forget(sender_domain="nobody.example")
    host.id = "another-node"
    other = Greylist(host)
    for number in range(50):
        other.check(client=f"192.0.2.{number % 7}", sender=f"s{number}@example.net", recipient="r@example.org")
    for number in range(30):
        host.propose("config", ["set", f"a/{number % 7}", number, "me", "why", "mx1", None])
    host.propose("config", ["delete", "a/1", "me", "", "mx1", None])
    host.propose("config", ["schema", "b", 1, {"properties": {"size": {"type": "integer"}}}])
    host.propose("config", ["report", "n1", "mx1", 3, "no such file"])
    config = Config(host, MemoryRows())
    config.set("a/large", "x" * 100_000)
    host.propose("config", ["part", bytes(32), 200_000, 0, bytes(limits.CONFIG_PART_BYTES)])  # and is given up
    yield host


def rows_of(host: LocalHost) -> list[tuple[Inspectable, str, bytes, bytes]]:
    found: list[tuple[Inspectable, str, bytes, bytes]] = []
    for name, machine in host.machines.items():
        assert isinstance(machine, Inspectable)
        found += [(machine, t, k, v) for t, rows in host.tables[name].rows.items() for k, v in rows.items()]
    return found


def test_what_machines_write_is_sound() -> None:
    with used() as host:
        rows = rows_of(host)
        assert {(machine.name, table) for machine, table, _, _ in rows} == {  # type: ignore[attr-defined]
            (name, table) for name, machine in host.machines.items() for table in machine.tables
        }
        for machine, table, key, value in rows:
            machine.inspect(table, key, value)


def test_a_row_cut_short_or_empty_is_not_sound() -> None:
    """But for what is no row by itself: a part of a large value, whose digest tells, and an index without values."""
    with used() as host:
        for machine, table, key, value in rows_of(host):
            for damaged in (b"", value[:-1]):
                if table != "uploads" and (table != "parts" or not damaged):
                    with pytest.raises(Exception):  # noqa: B017 -- whatever the decoder says
                        machine.inspect(table, key, damaged)


def test_a_record_of_another_triplet_is_not_sound() -> None:
    with used() as host:
        records = host.tables["greylist"].rows["records"]
        machine = host.machines["greylist"]
        assert isinstance(machine, Inspectable)
        (one, first), (other, second), *_ = records.items()
        for key, value in ((one, second), (other, first), (one, first[:-1] + b"\0")):
            with pytest.raises(ValueError, match="not that of its triplet"):
                machine.inspect("records", key, value)


@pytest.mark.parametrize("table", ClusterMachine.tables)
def test_a_row_that_is_none_of_the_clusters_is_not_sound(table: str) -> None:
    for value in (b"", b"\x01", b"\x90", b"\xc1"):
        with pytest.raises((FrameError, ValueError, LookupError)):
            ClusterMachine().inspect(table, b"key", value)
