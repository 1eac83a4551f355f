"""Each hazard of docs/divergences.md as a schedule: it shows on the stock class, and not on ours.

A schedule returns whether the hazard showed. The stock half keeps the guard honest: the day the engine is mended, or the
schedule stops reaching the hazard, it fails.
"""

from __future__ import annotations

import gc
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcluster.engine import seam
from raftcluster.engine.operations import Operation
from raftcluster.errors import Rejected
from raftcluster.storage.log import LogStore
from raftcluster.storage.memory import MemoryDisk, MemoryLog
from tests.simulation.lab import GuardedLab, Message, StockLab

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the stock class leaves dumps open

Any_Lab = StockLab | GuardedLab
THREE = ["n1", "n2", "n3"]


@pytest.fixture(params=["stock", "ours"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lab(kind: str, tmp_path: Path) -> Iterator[Callable[..., Any_Lab]]:
    """Makes a lab of the kind under test."""
    stock: list[StockLab] = []

    def make(
        ids: list[str] = THREE, *, snapshot_bytes: int = 2**16, compact_entries: int = 10**6, **options: Any
    ) -> Any_Lab:
        if kind == "stock":
            options.pop("keep_entries", None)
            stock.append(
                StockLab(ids, str(tmp_path), snapshot_bytes=snapshot_bytes, compact_entries=compact_entries, **options)
            )
            return stock[-1]
        options.pop("membership", None)
        return GuardedLab(ids, **options)

    yield make
    for each in stock:
        each.close()
    if stock:
        stock.clear()
        gc.collect()


def expect(kind: str, showed: bool) -> None:
    assert showed == (kind == "stock"), (
        "the hazard did not show on the stock class" if kind == "stock" else "it shows on ours"
    )


def lost(lab: Any_Lab, node: str, commands: list[int]) -> list[int]:
    """Commands whose caller was told of success and that `node`, the survivor, has not."""
    history = lab.history(node)
    return [c for c in commands if lab.acknowledged.get(c) and c not in history]


def give_snapshot(lab: Any_Lab, leader: str, node: str) -> None:
    """Deliver up to the last part of the snapshot (stock), or to the offer and what it leads to (ours)."""
    queue = lab.sent[leader, node]
    while queue and not ((part := queue[0].get("serialized")) and part[2]) and "offer" not in queue[0]:
        lab.give(leader, node, 1)
    lab.give(leader, node, 1)
    if isinstance(lab, GuardedLab):
        lab.bring_snapshots()


def test_h1_an_offer_of_a_snapshot_commits_nothing(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """An isolated old leader holds a command; the majority went on and compacted; the first message of the snapshot
    carries the new commit index, and the old leader answers its caller: success."""
    x = lab(snapshot_bytes=60, compact_entries=8, keep_entries=0)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    x.unlink("n1", "n2")
    x.unlink("n1", "n3")
    doomed = x.command("n1")
    x.tick("n1")
    x.elect("n2", ["n3"])
    for _ in range(30):
        x.command("n2")
        x.flow(["n2", "n3"], rounds=1)
    x.compact("n2")
    x.beat("n2")
    x.link("n1", "n2")
    for _ in range(12):
        x.beat("n2")
        queue = x.sent["n2", "n1"]
        offered = bool(queue) and bool(queue[0].get("serialized") or queue[0].get("offer"))
        x.give("n2", "n1", 1)
        if offered:
            break
        x.give("n2", "n1")
        x.give("n1", "n2")
    x.tick("n1")
    expect(kind, x.acknowledged.get(doomed) is True)


def test_h2_a_late_acknowledgement_truncates_nothing(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """Several batches are under way, the first acknowledgement moves nextIndex back, what is sent again truncates
    entries that the leader then counts; it acknowledges them to its callers, and dies."""
    x = lab(batch_bytes=120)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    for _ in range(2):
        x.command("n1", "x" * 20)
    x.tick("n1")
    x.beat("n1")
    x.drop("n1", "n3")
    commands = []
    for _ in range(8):
        commands.append(x.command("n1", "x" * 20))
        x.tick("n1")
    x.beat("n1")
    x.drop("n1", "n3")
    x.give("n1", "n2")
    x.give("n2", "n1", 1)
    x.beat("n1")
    x.drop("n1", "n3")
    x.give("n1", "n2", 1)
    x.give("n2", "n1")
    x.tick("n1")
    x.tick("n1")
    x.drop("n1", "n2")
    x.crash("n1")
    x.elect("n2", ["n3"])
    x.flow(["n2", "n3"])
    expect(kind, bool(lost(x, "n2", commands)))


def test_h3_an_acknowledgement_of_an_old_term_does_not_count(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """n2's acknowledgements of term 1 arrive when n1 leads again, in term 3, with another entry at that index."""
    five = ["n1", "n2", "n3", "n4", "n5"]
    x = lab(five)
    x.elect("n1", ["n2", "n3"])
    x.flow(five)
    for _ in range(6):
        x.command("n1")
        x.tick("n1")
    x.beat("n1")
    x.give("n1", "n2")
    stale = x.take("n2", "n1")
    for node in ("n3", "n4", "n5"):
        x.drop("n1", node)
    x.elect("n4", ["n3", "n5"])
    x.drop("n4", "n2")
    for node in ("n1", "n3", "n5"):
        for _ in range(4):
            x.beat("n4")
            x.give("n4", node)
            x.give(node, "n4")
            x.drop("n4", "n2")
    for pair in list(x.sent):
        x.sent[pair].clear()
    x.elect("n1", ["n3", "n5"])
    for node in ("n2", "n4", "n5"):
        x.drop("n1", node)
        x.drop(node, "n1")
    x.sent["n2", "n1"].extend(stale)
    x.give("n2", "n1")
    command = x.command("n1")
    x.tick("n1")
    x.beat("n1")
    x.give("n1", "n3")
    x.give("n3", "n1")
    x.tick("n1")
    x.tick("n1")
    expect(kind, x.acknowledged.get(command) is True)  # n1 and n3 hold it: two of five


def test_h4_a_snapshot_that_did_not_arrive_is_not_acknowledged(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """n1 has a long divergent tail; one chunk of the snapshot is lost; the leader believes that n1 has it all."""
    x = lab(snapshot_bytes=60, compact_entries=8, keep_entries=0)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    x.unlink("n1", "n2")
    x.unlink("n1", "n3")
    for _ in range(60):
        x.command("n1")
        x.tick("n1")
    x.elect("n2", ["n3"])
    for _ in range(30):
        x.command("n2")
        x.flow(["n2", "n3"], rounds=1)
    whole = dict(x.log("n2"))
    x.compact("n2")
    x.flow(["n2", "n3"], rounds=3)
    x.link("n1", "n2")
    removed = False
    for _ in range(80):
        x.beat("n2")
        if isinstance(x, StockLab):
            middle = [m for m in x.sent["n2", "n1"] if (s := m.get("serialized")) and not s[1] and not s[2]]
            if middle and not removed:
                x.sent["n2", "n1"].remove(middle[0])
                removed = True
        else:
            x.fetches.clear()  # the second connection brings nothing
        x.give("n2", "n1")
        x.give("n1", "n2")
        if _match(x, "n2", "n1"):
            break
    match = _match(x, "n2", "n1")
    whole |= dict(x.log("n2"))
    expect(kind, bool(match) and dict(x.log("n1")).get(match) != whole.get(match))


def _match(x: Any_Lab, leader: str, peer: str) -> int:
    if isinstance(x, StockLab):
        return int(x.private(leader, "raftMatchIndex").get(seam.Peer(peer), 0))
    return x.nodes[leader].engine.match_index(peer) or 0


def test_h5_a_snapshot_discards_no_acknowledged_suffix(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """A late reset makes the leader send its snapshot to a follower that has more, and has acknowledged it."""
    x = lab(snapshot_bytes=10**6, keep_entries=0)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    for _ in range(10):
        x.command("n1")
        x.tick("n1")
    x.beat("n1")
    x.drop("n1", "n3")
    x.give("n1", "n2")
    x.give("n2", "n1")
    x.tick("n1")
    x.tick("n1")
    x.compact("n1")
    x.tick("n1")
    x.tick("n1")
    commands = []
    for _ in range(5):
        commands.append(x.command("n1"))
        x.tick("n1")
    x.beat("n1")
    x.drop("n1", "n3")
    x.give("n1", "n2")
    acknowledgements = x.take("n2", "n1")
    reset: Message = {"type": "next_node_idx", "next_node_idx": 3, "reset": True, "success": False}
    if kind == "ours":
        reset |= {"term": x.term("n1"), "seq": 10**6}
    x.deliver("n2", "n1", reset)
    x.beat("n1")
    x.drop("n1", "n3")
    x.sent["n2", "n1"].extendleft(reversed(acknowledgements))
    give_snapshot(x, "n1", "n2")
    x.give("n2", "n1")
    x.tick("n1")
    x.tick("n1")
    x.drop("n1", "n2")
    x.crash("n1")
    x.elect("n2", ["n3"])
    x.flow(["n2", "n3"])
    expect(kind, bool(lost(x, "n2", commands)))


def test_h6_no_cut_empties_the_log(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """n3 compacts at 21; before it cuts, an older snapshot of the leader replaces its log by entries 11 and 12."""
    x = lab(keep_entries=0)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    for _ in range(10):
        x.command("n1")
        x.flow(THREE, rounds=1)
    x.compact("n1")
    x.tick("n1")
    x.tick("n1")
    for _ in range(10):
        x.command("n1")
        x.flow(THREE, rounds=1)
    reset: Message = {"type": "next_node_idx", "next_node_idx": 3, "reset": True, "success": False}
    if kind == "ours":
        reset |= {"term": x.term("n1"), "seq": 10**6}
    x.deliver("n3", "n1", reset)
    x.beat("n1")
    x.compact("n3")
    x.tick("n3")
    give_snapshot(x, "n1", "n3")
    x.drop("n1", "n3")
    for _ in range(5):
        x.tick("n3")
    expect(kind, len(x.log("n3")) == 0)


def test_h7_a_crash_between_dump_and_cut_loses_nothing(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """n2 holds five entries that it has acknowledged; it crashes when its dump is written and its log not yet cut."""
    x = lab(keep_entries=0)
    x.elect("n1", ["n2"])
    for _ in range(10):
        x.command("n1")
        x.tick("n1")
    x.flow(THREE)
    commands = []
    for _ in range(5):
        commands.append(x.command("n1"))
        x.tick("n1")
    x.beat("n1")
    x.drop("n1", "n3")
    x.give("n1", "n2")
    if isinstance(x, StockLab):
        x.compact("n2")
        x.tick("n2")
    else:
        x.nodes["n2"].checkpoint_now()  # durable; what would cut the log waits in the posts, and dies with the crash
    x.give("n2", "n1")
    x.tick("n1")
    x.tick("n1")
    x.crash("n2")
    x.start("n2")
    x.tick("n2")
    x.crash("n1")
    x.elect("n2", ["n3"])
    x.flow(["n2", "n3"])
    expect(kind, bool(lost(x, "n2", commands)))


def test_h8_one_change_of_the_voters_at_a_time(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """Two nodes are added at once at a leader that is cut off: two disjoint majorities acknowledge."""
    x = lab([*THREE, "s1", "s2"], boot=THREE, membership=True)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    if isinstance(x, GuardedLab):
        x.flow([*THREE, "s1", "s2"])
    for node in ("s1", "s2"):
        x.add("n1", node)
    for node in ("n2", "n3"):
        x.unlink("n1", node)
    x.tick("n1")
    for node in ("s1", "s2"):
        x.unlink("n1", node)
        x.link("n1", node)
    one = x.command("n1")
    x.flow(["n1", "s1", "s2"], rounds=8)
    x.elect("n2", ["n3"])
    two = x.command("n2")
    x.flow(["n2", "n3"], rounds=8)
    expect(kind, x.acknowledged.get(one) is True and x.acknowledged.get(two) is True)


def test_h9_a_restart_forgets_no_change_of_the_voters(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """Two changes are committed; two old voters restart before they have applied them: they form the old majority."""
    everybody = [*THREE, "s1", "s2"]
    x = lab(everybody, boot=THREE, membership=True)
    x.elect("n1", ["n2"])
    x.flow(THREE, rounds=2)
    if isinstance(x, GuardedLab):
        x.flow(everybody)
    for node in ("s1", "s2"):
        assert x.add("n1", node) is not False
        x.flow(THREE, rounds=1, seconds=0.02)
        for other in THREE:
            x.unlink(other, node)
            x.link(other, node)
        x.flow(everybody if node == "s2" or kind == "ours" else everybody[:4], rounds=2)
    for node in ("n2", "n3"):
        x.crash(node)
    if isinstance(x, StockLab):
        for node in ("n2", "n3"):
            x.disks[node].pop("commit", None)  # written once a second only
            x.start(node, THREE)
    else:
        for node in ("n2", "n3"):
            x.start(node)
    x.tick("n2")
    x.tick("n3")
    expect(kind, "s1" not in x.members("n2") or "s2" not in x.members("n2"))


def test_h10_a_snapshot_holds_no_uncommitted_voters(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """The leader adds a voter that is never committed, makes a snapshot, sends it to n3, and dies."""
    x = lab([*THREE, "s1"], boot=THREE, membership=True, keep_entries=0)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    if isinstance(x, GuardedLab):
        x.flow([*THREE, "s1"])
    x.unlink("n1", "n3")
    for _ in range(5):
        x.command("n1")
        x.flow(["n1", "n2"], rounds=1)
    x.add("n1", "s1")
    x.tick("n1")
    x.compact("n1")
    x.tick("n1")
    x.tick("n1")
    x.drop("n1", "n2")
    x.link("n1", "n3")
    for _ in range(4):
        x.beat("n1")
        x.drop("n1", "n2")
        queue = x.sent["n1", "n3"]
        while queue:
            if queue[0].get("entries"):
                queue.clear()
                break
            x.give("n1", "n3", 1)
            if isinstance(x, GuardedLab):
                x.bring_snapshots()
        x.give("n3", "n1")
    x.crash("n1")
    x.elect("n2", ["n3"])
    x.flow(["n2", "n3"], rounds=8)
    assert x.history("n3") == x.history("n2") != [], "the snapshot did not arrive"
    expect(kind, "s1" in x.members("n3"))


def test_h11_a_late_answer_completes_no_other_call(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """n2 forwards a command and restarts; the answer to it arrives when another command has the same request id."""
    x = lab()
    x.elect("n1", ["n2"])
    x.flow(THREE)
    first = x.command("n2")
    x.tick("n2")
    x.give("n2", "n1")
    x.tick("n1")
    late = [m for m in x.sent["n1", "n2"] if m["type"] == "apply_command_response"]
    x.crash("n2")
    x.start("n2")
    heartbeat: Message = {
        "type": "append_entries",
        "term": x.term("n1"),
        "commit_index": 1,
        "entries": [],
        "prevLogIdx": 1,
        "prevLogTerm": 0,
    }
    x.deliver("n1", "n2", heartbeat if kind == "stock" else heartbeat | {"seq": 1})
    second = x.command("n2")
    x.tick("n2")
    x.drop("n2", "n1")
    for message in late:
        x.deliver("n1", "n2", message)
    x.flow(THREE, rounds=4)
    assert first != second
    expect(kind, x.acknowledged.get(second) is True and second not in x.history("n1"))


def test_h12_a_failing_command_is_carried_out_once_and_stops_nobody(kind: str, lab: Callable[..., Any_Lab]) -> None:
    x = lab()
    x.elect("n1", ["n2"])
    x.flow(THREE)
    x.poison.add(1)
    poison, healthy = x.command("n1"), x.command("n1")
    x.flow(THREE, rounds=10)
    times = Counter(x.executed["n1"])[poison]
    expect(kind, times > 1 or x.acknowledged.get(healthy) is not True)


def test_h13_a_restart_applies_nothing_twice(kind: str, lab: Callable[..., Any_Lab]) -> None:
    x = lab()
    x.elect("n1", ["n2"])
    x.command("n1")
    x.flow(THREE)
    if isinstance(x, GuardedLab):
        x.compact("n2")
    x.beat("n2", seconds=1.2)
    before = len(x.executed["n2"])
    x.crash("n2")
    x.start("n2")
    x.tick("n2")
    x.flow(THREE)
    assert before == 1
    expect(kind, len(x.executed["n2"]) > before)


def test_h14_a_commit_index_above_the_log_commits_nothing(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """All lose power: the commit index survived, the log's end did not. The next leader applies at once what is new."""
    x = lab()
    x.elect("n1", ["n2"])
    x.flow(THREE)
    kept = {node: len(x.log(node)) for node in THREE}
    for _ in range(10):
        x.command("n1")
        x.flow(THREE, rounds=1)
    x.beat(*THREE, seconds=1.1)
    x.flow(THREE)
    for node in THREE:
        x.crash(node)
        disk = x.disks[node]
        if isinstance(disk, MemoryDisk):
            del disk.entries[kept[node] :]
        else:
            del disk["log"][kept[node] :]
    for node in THREE:
        x.start(node)
    x.elect("n1", ["n2"])
    for node in THREE[1:]:
        x.drop("n1", node)
    command = x.command("n1")
    x.tick("n1")
    x.tick("n1")
    expect(kind, x.acknowledged.get(command) is True)


def test_h15_a_divergent_tail_of_several_batches_catches_up(kind: str, lab: Callable[..., Any_Lab]) -> None:
    x = lab(batch_bytes=100)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    for _ in range(3):
        x.command("n1")
        x.tick("n1")
    x.tick("n1")
    x.sent.clear()
    x.elect("n2", ["n3"])
    x.drop("n2", "n1")
    for _ in range(20):
        x.command("n2")
        x.tick("n2")
        x.give("n2", "n3")
        x.give("n3", "n2")
        x.drop("n2", "n1")
    for _ in range(12):
        x.beat("n2", "n3")
        x.give("n2", "n3")
        x.give("n3", "n2")
        x.drop("n2", "n1")
    for _ in range(600):
        x.beat("n2", "n1", "n3")
        for a, b in (("n2", "n1"), ("n1", "n2"), ("n2", "n3"), ("n3", "n2")):
            x.give(a, b)
    expect(kind, x.log("n1")[-1] != x.log("n2")[-1])


def test_h16_a_leader_without_a_snapshot_does_not_spin(kind: str, lab: Callable[..., Any_Lab]) -> None:
    x = lab(keep_entries=0)
    x.elect("n1", ["n2"])
    x.flow(THREE)
    x.unlink("n1", "n3")
    for _ in range(5):
        x.command("n1")
        x.flow(["n1", "n2"], rounds=1)
    x.compact("n1")
    x.tick("n1")
    x.tick("n1")
    for _ in range(5):
        x.command("n1")
        x.flow(["n1", "n2"], rounds=1)
    x.link("n1", "n3")
    if isinstance(x, StockLab):
        x.private("n1", "serializer").checkSerializing = lambda: (1, 5)  # a dump is being written
        x.private("n1", "serializer").getTransmissionData = lambda node: None  # so there is none to send
    x.flow(["n1", "n3"], rounds=2)
    x.drop("n1", "n3")
    x.beat("n1")
    expect(kind, len(x.sent["n1", "n3"]) > 100)


def test_h17_an_isolated_node_deposes_no_healthy_leader(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """n3 hears nobody for a while; back again, its inflated term ends a leadership that nothing was wrong with."""
    x = lab()
    x.elect("n1", ["n2"])
    x.flow(THREE)
    term = x.term("n1")
    for _ in range(40):
        x.beat("n1", "n2", "n3", seconds=0.1)
        for a, b in (("n1", "n2"), ("n2", "n1")):
            x.give(a, b)
        for other in ("n1", "n2"):
            x.drop("n3", other)
            x.drop(other, "n3")
    x.flow(THREE, rounds=40, seconds=0.1)
    expect(kind, x.term("n1") > term)


def test_h17_a_deposed_leader_is_told(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """An append of an old term is answered by silence: its sender believes that it leads until a time-out of 30 s."""
    x = lab()
    x.elect("n1", ["n2"])
    x.flow(THREE)
    x.unlink("n1", "n2")
    x.unlink("n1", "n3")
    x.elect("n2", ["n3"])
    x.link("n1", "n3")
    for _ in range(5):
        x.beat("n1")
        x.give("n1", "n3")
        x.give("n3", "n1")
        x.drop("n2", "n1")
    expect(kind, x.is_leader("n1"))


def test_h18_votes_count_once_and_only_of_voters(kind: str, lab: Callable[..., Any_Lab]) -> None:
    five = ["n1", "n2", "n3", "n4", "n5"]
    x = lab([*five, "evil"], boot=five)
    if isinstance(x, StockLab):
        x.nodes["n1"]._SyncObj__raftElectionDeadline = 0
        x.tick("n1")
        vote = {"type": "response_vote", "term": x.term("n1")}
        for _ in range(2):
            x.private("n1", "onMessageReceived")(seam.Peer("evil"), vote)
    else:
        x.clock.now += 5
        x.nodes["n1"].engine.campaign()
        x.tick("n1")
        vote = {"type": "response_vote", "term": x.term("n1")}
        for _ in range(2):
            x.deliver("evil", "n1", vote)
            x.deliver("n2", "n1", vote)
    expect(kind, x.is_leader("n1"))


def test_h19_a_kill_while_the_log_is_cut_loses_no_entry(kind: str, tmp_path: Path) -> None:
    """The stock journal rewrites itself entry by entry; ours cuts in the transaction that the crash undoes."""
    if kind == "stock":
        from pysyncobj.journal import FileJournal  # the class under test

        journal: Any = FileJournal(str(tmp_path / "journal"))
        for index in range(1, 101):
            journal.add(b"\0command", index, 1)
        real, count = journal._FileJournal__setLastRecordOffset, [0]

        def killed(offset: int) -> None:
            count[0] += 1
            if count[0] == 4:
                raise KeyboardInterrupt
            real(offset)

        journal._FileJournal__setLastRecordOffset = killed
        with pytest.raises(KeyboardInterrupt):
            journal.deleteEntriesTo(50)
        journal._destroy()
        journal = FileJournal(str(tmp_path / "journal"))
        left = len(journal)
        journal._destroy()
        with pytest.raises(struct.error):
            struct.pack("<I", 2**32)  # what a journal of 4 GiB meets
    else:
        disk = MemoryDisk()
        log = MemoryLog(disk)
        log.submit([("append", b"\0command", index, 1) for index in range(1, 101)])
        log.complete()
        log.submit([("cut", 51), ("append", b"\0command", 101, 1)])
        disk.crash(records=0)
        left = len(MemoryLog(disk).load().entries)
        store = LogStore(tmp_path / "log")
        store.submit([("append", b"\0command", index, 1) for index in range(1, 101)])
        store.block()
        store.submit([("cut", 51)])
        store.close()
        store = LogStore(tmp_path / "log")
        assert [e[1] for e in store.load().entries] == list(range(51, 101))
        store.close()
    expect(kind, left < 50)


def test_h20_no_entry_is_sent_in_parts(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """For more than a third of the sizes the stock class ends a transmission twice."""
    twice = 0
    for size in range(300, 420, 6):
        x = lab(["n1", "n2"], batch_bytes=100 if kind == "stock" else 1000)
        x.elect("n1", ["n2"])
        x.flow(["n1", "n2"])
        x.command("n1", "z" * size)
        x.tick("n1")
        x.beat("n1")
        parts = Counter(m["transmission"] for m in x.sent["n1", "n2"] if "transmission" in m)
        twice += parts["finish"] == 2
        x.flow(["n1", "n2"], rounds=4)
        if kind == "ours":
            assert not parts and x.acknowledged.get(1) is True
    expect(kind, twice > 0)


def test_h20_too_large_an_operation_is_rejected() -> None:
    x = GuardedLab(["n1"])
    x.elect("n1", [])
    operation = Operation("history", b"0123456789abcdef", 1, [[1, "x" * 2**19]])
    with pytest.raises(Rejected) as refused:
        x.nodes["n1"].submit(operation, lambda results, error: None)
    assert refused.value.code == "too-large"


def test_h21_a_call_whose_leader_is_gone_is_not_forgotten(kind: str, lab: Callable[..., Any_Lab]) -> None:
    """n2's forwarded command is lost with its connection; the leader stays: nobody ever calls back."""
    x = lab()
    x.elect("n1", ["n2"])
    x.flow(THREE)
    command = x.command("n2")
    x.tick("n2")
    x.drop("n2", "n1")
    x.unlink("n1", "n2")
    x.link("n1", "n2")
    x.flow(THREE, rounds=40)
    expect(kind, command not in x.acknowledged)
