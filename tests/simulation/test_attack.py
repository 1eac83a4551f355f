"""A member with a valid certificate that sends what no node of ours would: nobody stops, nothing is lost, nothing is believed
that only the leader may say.

Most of these failed before what they guard against was mended; some rows of the tables always held.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.codec import pack
from raftcluster.engine import operations
from raftcluster.engine.applier import Applier
from raftcluster.engine.operations import Operation
from raftcluster.engine.wire import TERM_LEAP
from raftcluster.errors import FrameError, Rejected
from raftcluster.greylist import check
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.machine import Tables
from raftcluster.storage.memory import MemoryDisk, MemoryTables
from tests.simulation.lab import GuardedLab, History, Message

LAST = 2**62 - 1
NODES = ["n1", "n2", "n3"]


def lab_with_leader() -> GuardedLab:
    lab = GuardedLab(NODES)
    lab.elect("n1", ["n2", "n3"])
    for _ in range(3):
        lab.command("n1")
    lab.flow(NODES)
    return lab


def append(**fields: Any) -> Message:
    return {"type": "append_entries", "term": 1, "commit_index": 0, "seq": 1, "entries": [], **fields}


HOSTILE: dict[str, Message] = {
    "an append that follows nothing": append(term=2),
    "an append that follows no term": append(term=2, prevLogIdx=None),
    "another entry where one is committed": append(
        term=2, entries=[[b"\x01", 2, 7]], prevLogIdx=1, prevLogTerm=0, commit_index=2
    ),
    "the last term of all": {"type": "term", "term": LAST},
    "a vote in the last term": {"type": "request_vote", "term": LAST, "last_log_index": LAST, "last_log_term": LAST},
    "an append of the last term": append(term=LAST),
    "the end of time": append(prevLogIdx=1, prevLogTerm=0, time=float(LAST), fresh=float(LAST)),
    "nearly the end of time": append(term=2, prevLogIdx=1, prevLogTerm=0, time=2.0**47, fresh=2.0**47),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("victim", ["n1", "n2"])
def test_nonsense_of_a_member_stops_nobody(name: str, victim: str) -> None:
    lab = lab_with_leader()
    try:
        lab.nodes[victim].deliver("n3", dict(HOSTILE[name]))
    except FrameError:
        pass  # the caller closes that link
    lab.tick(victim)
    for _ in range(20):  # long enough for an election
        lab.flow(NODES, 10)
    leader = next(node for node in NODES if lab.is_leader(node))
    number = lab.command(leader)
    lab.flow(NODES)
    assert lab.errors == [] and lab.acknowledged[number]
    assert len({tuple(lab.history(node)) for node in NODES}) == 1


def test_a_term_has_one_leader() -> None:
    lab = lab_with_leader()
    for node in ("n1", "n2"):
        with pytest.raises(FrameError, match="has a leader: n1"):
            lab.nodes[node].deliver("n3", append(prevLogIdx=1, prevLogTerm=0, time=2.0**46))
    assert lab.is_leader("n1")


def test_an_entry_that_cannot_be_sent_on_is_not_taken() -> None:
    lab = lab_with_leader()
    _, index, term = lab.nodes["n2"].journal.last
    entry = [b"\x00" * limits.APPEND_BYTES, index + 1, term + 1]
    message = append(term=term + 1, entries=[entry], prevLogIdx=index, prevLogTerm=term)
    with pytest.raises(FrameError, match="entries"):
        lab.nodes["n2"].deliver("n3", message)
    lab.elect("n2", ["n1", "n3"])
    assert lab.errors == []


def test_terms_cannot_be_used_up_by_one_message() -> None:
    lab = lab_with_leader()
    with pytest.raises(FrameError, match="beyond reach"):
        lab.nodes["n2"].deliver("n3", {"type": "term", "term": lab.term("n2") + TERM_LEAP + 1})
    lab.nodes["n2"].deliver("n3", {"type": "term", "term": lab.term("n2") + TERM_LEAP})
    assert lab.term("n2") > TERM_LEAP


def test_only_the_leader_that_was_asked_tells_the_index_of_a_read() -> None:
    lab = lab_with_leader()
    reader, told = lab.nodes["n2"], []
    reader.queries.ask(lambda: told.append("read"), lambda error: told.append("failed"), within=None)
    question = lab.sent["n2", "n1"][-1]
    assert question["type"] == "read_index"
    reader.deliver("n3", {"type": "read_at", "number": question["number"], "index": 0})
    lab.tick("n2")
    assert told == [], "n3 is no leader, and has answered for it"
    lab.flow(NODES)
    assert told == ["read"]


def test_a_read_is_not_kept_waiting_for_a_leader_that_is_gone() -> None:
    lab = lab_with_leader()
    reader, told = lab.nodes["n2"], []
    reader.queries.ask(lambda: told.append("read"), lambda error: told.append("failed"), within=None)
    lab.unlink("n1", "n2")
    lab.tick("n2")
    assert told == ["failed"]


def test_a_read_whose_probe_is_lost_is_confirmed_by_the_next_one() -> None:
    lab = lab_with_leader()
    leader, told = lab.nodes["n1"], []
    leader.queries.ask(lambda: told.append(1), lambda error: told.append(-1), within=None)
    lab.drop("n1", "n2")
    lab.drop("n1", "n3")
    leader.queries.ask(lambda: told.append(2), lambda error: told.append(-2), within=None)
    lab.flow(NODES)
    assert told == [1, 2]


def test_an_acknowledgement_of_a_probe_that_was_never_sent_counts_for_none() -> None:
    lab = lab_with_leader()
    leader, told = lab.nodes["n1"], []
    leader.deliver("n3", {"type": "read_ack", "term": lab.term("n1"), "number": 1000})
    leader.queries.ask(lambda: told.append(1), lambda error: told.append(-1), within=None)
    lab.tick("n1")
    assert told == []


def test_two_nodes_that_take_each_other_for_the_leader_do_not_pass_a_transfer_to_and_fro() -> None:
    lab = lab_with_leader()
    lab.drop("n2", "n1")
    lab.nodes["n2"].deliver("n1", {"type": "transfer", "target": None})
    assert not [m for m in lab.sent["n2", "n1"] if m["type"] == "transfer"]


def test_votes_of_other_terms_are_not_kept() -> None:
    lab = lab_with_leader()
    for term in range(1000, 2000):
        lab.nodes["n2"].deliver("n3", {"type": "response_vote", "term": term})
    assert len(lab.nodes["n2"].guard._votes) <= len(NODES)


def test_what_a_member_floods_the_leader_with_is_bounded_in_bytes() -> None:
    lab = lab_with_leader()
    leader = lab.nodes["n1"]
    leader.bounds = replace(leader.bounds, queue_bytes=10_000)
    flood = [b"%04d" % number + b"x" * 1_000 for number in range(100)]
    for _ in range(2):
        leader.deliver("n3", {"type": "forward", "operations": flood})
    assert sum(map(len, leader._queue)) == leader._queue_bytes < 11_004
    for _ in range(100):
        lab.tick("n1")
    assert not leader._queue and leader._queue_bytes == 0
    number = lab.command("n1")
    lab.flow(NODES)
    assert lab.acknowledged[number]


def test_what_callers_hand_in_is_bounded_in_bytes() -> None:
    lab = GuardedLab(NODES)
    node, answers = lab.nodes["n1"], []
    node.bounds = replace(node.bounds, pending_bytes=10_000)
    for number in range(20):
        operation = Operation("history", number.to_bytes(16, "big"), 0, [[number, "x" * 1_000]])
        node.submit(operation, lambda result, error: answers.append(error))
    assert 9 < len(answers) < 12 and len(node.outbox) + len(answers) == 20


def test_nothing_is_kept_of_calls_that_were_given_up_while_nobody_leads() -> None:
    lab = GuardedLab(NODES)
    node = lab.nodes["n1"]

    def answer(*_: object) -> None: ...

    for number in range(100):
        node.submit(Operation("history", number.to_bytes(16, "big"), 0, [[number, ""]]), answer)
        lab.tick("n1")
        assert node.outbox.give_up(number.to_bytes(16, "big"), answer)
    assert not node.outbox and len(node.outbox) == node.outbox.bytes == node.outbox.commands == 0


def test_nobody_waits_for_a_successor_that_is_not_linked() -> None:
    lab = lab_with_leader()
    lab.unlink("n1", "n3")
    lab.nodes["n1"].deliver("n2", {"type": "transfer", "target": "n3"})
    assert not lab.nodes["n1"].leadership.leaving
    number = lab.command("n1")
    lab.flow(["n1", "n2"])
    assert lab.acknowledged[number]


def test_an_operation_that_this_host_has_no_memory_for_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise FrameError("malformed") from MemoryError()

    monkeypatch.setattr(operations, "unpack", exhausted)
    with pytest.raises(MemoryError):
        operations.decode_operation(b"")
    with pytest.raises(MemoryError):
        operations.entry_operations(b"\x00" * 9)


def test_a_node_is_well_when_both_its_log_and_its_tables_are() -> None:
    lab = lab_with_leader()
    node = lab.nodes["n2"]
    lab.logs["n2"].on_health("full", "no space")
    for health in ("full", "ok"):
        node.store.on_health(health, "")
    lab.settle("n2")
    assert node.health == "full" and node.guard.full
    lab.logs["n2"].on_health("ok", "")
    lab.settle("n2")
    assert node.health == "ok" and not node.guard.full


def test_what_operations_answer_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are kept on every node: 65,536 refusals that quote 250 kB each were 16 GB."""
    monkeypatch.setattr(limits, "RING_BYTES", 20_000)
    lab = lab_with_leader()
    for number in range(100, 160):
        packed = operations.encode_operation(Operation("é" * 100_000, number.to_bytes(16, "big"), 0, [None]))
        lab.nodes["n1"].deliver("n3", {"type": "forward", "operations": [packed]})
        lab.tick("n1")
    lab.flow(NODES)
    for node in NODES:
        ring = lab.nodes[node].applier._ring
        kept = ring._results.values()
        assert sum(map(len, kept)) == ring._bytes <= 20_000 + limits.RESULT_BYTES
        assert max(map(len, kept)) < sum(operations.TEXT_BYTES) + 100
    number = lab.command("n1")
    lab.flow(NODES)
    assert lab.acknowledged[number] and lab.errors == []


class Answering(History):
    """Answers as long as it is asked to, or refuses at that length."""

    def apply(self, command: Any, tables: Tables, time: int) -> Any:
        tables.put("rows", b"key", b"value")
        if command < 0:
            raise Rejected("x" * -command)
        return "x" * command


def test_an_answer_that_is_too_long_undoes_its_operation() -> None:
    applier = Applier([Answering(lab_with_leader(), "n1")], MemoryTables(MemoryDisk(), auto=True), 10, 0)
    packed = [
        operations.encode_operation(Operation("history", bytes([n] * 16), 0, [limits.RESULT_BYTES + n * 9 - 9]))
        for n in range(2)
    ]
    results, _ = applier.apply((b"\x00" + operations.encode_entry(1, packed[1:]), 2, 1))
    assert results[0][1][0][0] == operations.REJECTED and applier.tables("history").scan("rows") == []
    results, _ = applier.apply((b"\x00" + operations.encode_entry(1, packed[:1]), 3, 1))
    assert results[0][1][0][0] == operations.DONE and applier.tables("history").scan("rows") != []


def test_what_one_entry_answers_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 operations of 256 commands each: what does not fit is undone, what is refused at length is not kept."""
    monkeypatch.setattr(limits, "ENTRY_RESULT_BYTES", 1_000)
    lab = lab_with_leader()
    applier = Applier([Answering(lab, "n1")], MemoryTables(MemoryDisk(), auto=True), 10, 0)
    commands: list[list[Any]] = [[300] * 5, [-300] * 5]
    packed = [
        operations.encode_operation(Operation("history", bytes([n] * 16), 0, each)) for n, each in enumerate(commands)
    ]
    results, _ = applier.apply((b"\x00" + operations.encode_entry(1, packed), 2, 1))
    kinds = [[result[0] for result in told] for _, told in results]
    assert kinds == [[0, 0, 0, 1, 1], [1] * 5]
    assert applier._ring.get(bytes([1] * 16)) == [[operations.UNKNOWN]] * 5
    again, _ = applier.apply((b"\x00" + operations.encode_entry(1, packed[1:]), 3, 1))
    assert again[0][1] == [[operations.UNKNOWN]] * 5


def test_an_operation_of_more_commands_than_travel_together_is_none() -> None:
    most = Operation("history", bytes(16), 0, [None] * limits.OPERATION_COMMANDS)
    assert operations.decode_operation(pack(list(most))) == most
    assert (
        operations.decode_operation(pack(["history", bytes(16), 0, [None] * (limits.OPERATION_COMMANDS + 1)])) is None
    )


def test_a_refusal_that_cannot_be_packed_stops_nobody() -> None:
    error = Rejected("\udcff", subject=7, remedy="x" * 5_000)  # type: ignore[arg-type]
    assert pack(operations.rejection(error)) and operations.rejection(error)[3] == "7"


def test_the_greylist_outlives_the_end_of_time() -> None:
    """At a stamp beyond what its rows hold every check failed, and so did every tick."""
    applier = Applier([GreylistMachine()], MemoryTables(MemoryDisk(), auto=True), 10, 0)
    asked = check.command(0, bytes(16), bytes(8), False, b"")
    packed = operations.encode_operation(Operation("greylist", bytes(16), 0, [asked]))
    results, _ = applier.apply((b"\x00" + (2**64 - 1).to_bytes(8, "big") + pack([packed]), 2, 1))
    assert results[0][1][0][0] == operations.DONE and applier.stamp == limits.TIME_MS
    assert applier.tables("greylist").scan("expiry") != []


@pytest.mark.parametrize(("entries", "previous_term"), [([[b"\x01", 6, 3]], 1), ([[b"\x01", 6, 2]], 3), ([], 3)])
def test_no_leader_has_entries_of_a_later_term(entries: list[Any], previous_term: int) -> None:
    lab = lab_with_leader()
    with pytest.raises(FrameError, match="do not follow"):
        lab.nodes["n2"].deliver("n3", append(term=2, entries=entries, prevLogIdx=5, prevLogTerm=previous_term))


def test_what_nests_too_deeply_is_no_operation() -> None:
    """On one node it met the limit of recursion, on another, called from fewer frames, it did not: their rings differed."""

    def operation(levels: int) -> Operation:
        command: Any = None
        for _ in range(levels):
            command = [command]
        return Operation("history", bytes(16), 0, [command])

    deepest = operations.encode_operation(operation(operations.DEPTH - 3))
    assert operations.decode_operation(deepest) is not None
    assert operations.decode_operation(deepest[:-1] + b"\x91" + b"\xc0") is None
    with pytest.raises(Rejected, match="nests deeper"):
        operations.encode_operation(operation(operations.DEPTH - 2))
