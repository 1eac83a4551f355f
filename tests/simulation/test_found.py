"""What the simulation, or writing it, has found in the engine: each defect as a schedule of its own."""

from __future__ import annotations

from dataclasses import replace

from raftcluster import limits
from raftcluster.engine.operations import Operation, Result, encode_operation
from raftcluster.engine.ports import Observer
from raftcluster.errors import RaftclusterError
from tests.simulation.lab import GuardedLab

THREE = ["n1", "n2", "n3"]
FOUR = [*THREE, "n4"]


class Caller:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def __call__(self, results: list[Result] | None, error: RaftclusterError | None) -> None:
        assert error is None and results is not None
        self.results += results


def operation(number: int) -> Operation:
    return Operation("history", number.to_bytes(16, "big"), 1, [[number, ""]])


def test_a_leader_with_a_full_queue_carries_out_all_that_its_own_callers_ask() -> None:
    """The leader marked what found no room in its queue as sent, and as its own leader never sent it again."""
    lab = GuardedLab(["n1"])
    replica = lab.nodes["n1"]
    replica.bounds = replace(replica.bounds, queue=2, in_flight=1)
    lab.elect("n1", [])
    callers = [Caller() for _ in range(10)]
    for number, caller in enumerate(callers):
        replica.submit(operation(number), caller)
    lab.flow(["n1"], rounds=20)
    assert [caller.results for caller in callers] == [[[0, number]] for number in range(10)]


def test_a_follower_whose_link_takes_no_frame_sends_it_later() -> None:
    """The operations of a frame that the link refused were neither unsent nor sent any more: nobody sent them again."""
    lab = GuardedLab(THREE)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    follower, caller = lab.nodes["n2"], Caller()
    refused: list[dict[str, object]] = []
    send = follower.ports.send

    def full_once(peer: str, message: dict[str, object]) -> bool:
        if message["type"] == "forward" and not refused:
            refused.append(message)
            return False
        return send(peer, message)

    follower.ports = replace(follower.ports, send=full_once)
    follower.submit(operation(1), caller)
    lab.flow(THREE, rounds=8)
    assert len(refused) == 1
    assert caller.results == [[0, 1]]


def test_giving_up_concludes_nothing_while_another_caller_waits_for_the_same_operation() -> None:
    """The first of two callers was told 'not applied' of what the second one's wait then had applied."""
    lab = GuardedLab(["n1"])
    replica, first, second = lab.nodes["n1"], Caller(), Caller()
    replica.submit(operation(1), first)
    replica.submit(operation(1), second)
    assert replica.outbox.give_up(operation(1).id, first) is False
    lab.elect("n1", [])
    lab.flow(["n1"])
    assert (first.results, second.results) == ([], [[0, 1]])


def test_a_caller_who_waited_alone_learns_that_nothing_was_sent() -> None:
    lab = GuardedLab(["n1"])
    replica, caller = lab.nodes["n1"], Caller()
    replica.submit(operation(1), caller)
    assert replica.outbox.give_up(operation(1).id, caller) is True
    lab.elect("n1", [])
    lab.flow(["n1"])
    assert caller.results == [] and lab.executed == {}


def test_an_answer_to_the_read_of_a_process_before_is_none_to_this_one() -> None:
    """Read requests were numbered from 1 with each start. n2 asks, dies, is back and asks again; between the two a
    command is acknowledged. The leader's answer to the first request must not release the second read."""
    lab = GuardedLab(THREE)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)

    def ask() -> tuple[int, list[str]]:
        told: list[str] = []
        lab.nodes["n2"].queries.ask(lambda: told.append("read"), lambda error: told.append("failed"), within=None)
        (number,) = [m["number"] for m in lab.take("n2", "n1") if m["type"] == "read_index"]
        return number, told

    first, _ = ask()
    lab.crash("n2")
    lab.start("n2")
    lab.beat("n1")
    lab.give("n1", "n2")  # now n2 knows the leader
    lab.take("n2", "n1")
    second, told = ask()
    command = lab.command("n1")
    lab.flow(["n1", "n3"])
    assert lab.acknowledged[command]
    for number, expected in ((first, []), (second, ["read"])):
        lab.nodes["n2"].deliver("n1", {"type": "read_at", "number": number, "index": 1})
        lab.tick("n2")
        assert told == expected


def test_a_learner_that_hears_nobody_is_not_led() -> None:
    """It never campaigns, so it knew its last leader's name for ever, and never looked for the tombstone of its cluster."""
    lab = GuardedLab(FOUR, boot=THREE)
    lab.elect("n1", ["n2"])
    lab.flow(FOUR)
    learner = lab.nodes["n4"]
    assert (learner.engine.leader, learner.led) == ("n1", True) and "n4" not in learner.journal.voters()
    for peer in THREE:
        lab.unlink("n4", peer)
    lab.flow(["n4"], rounds=30)
    assert (learner.led, lab.nodes["n1"].led) == (False, True)


def test_after_an_install_the_hook_names_the_entry_at_the_snapshots_index() -> None:
    """It was given the last entry of the log, which may be one that is not even committed."""
    lab = GuardedLab(THREE, keep_entries=0)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    lab.unlink("n1", "n3")
    lab.unlink("n2", "n3")
    for _ in range(5):
        lab.command("n1")
        lab.flow(["n1", "n2"], rounds=2)
    lab.compact("n1")
    told: list[tuple[int, int]] = []
    n3 = lab.nodes["n3"]
    n3.observer = Observer(applied=lambda entry, machines: told.append((entry[1], n3.engine.applied)))
    lab.link("n1", "n3")
    while not lab.fetches:
        lab.flow(["n1", "n3"], rounds=1)
    lab.bring_snapshots()
    index = lab.disks["n1"].index
    assert told == [(index, index)]


def test_a_leader_that_is_cut_off_does_not_call_its_state_current() -> None:
    """It said 'not stale at all' until it stepped down, while its successor acknowledged writes."""
    lab = GuardedLab(THREE)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    assert lab.nodes["n1"].queries.staleness() < 1.0 and lab.nodes["n2"].queries.staleness() < 1.0
    lab.unlink("n1", "n2")
    lab.unlink("n1", "n3")
    lab.elect("n2", ["n3"])
    command = lab.command("n2")
    lab.flow(["n2", "n3"])
    assert lab.acknowledged[command] and lab.is_leader("n1")
    answers: list[str] = []
    lab.nodes["n1"].queries.ask(lambda: answers.append("read"), lambda error: answers.append("refused"), within=1.0)
    assert answers == ["refused"]


def test_followers_inherit_how_old_their_leaders_state_is() -> None:
    """n1 leads n2 and is cut off from the others; what it sends n2 is no newer than its own last majority."""
    five = ["n1", "n2", "n3", "n4", "n5"]
    lab = GuardedLab(five)
    lab.elect("n1", five[1:])
    lab.flow(five)
    for node in ("n1", "n2"):
        for other in ("n3", "n4", "n5"):
            lab.unlink(node, other)
    lab.flow(["n1", "n2"], rounds=20)
    assert lab.is_leader("n1")
    assert lab.nodes["n2"].queries.staleness() > 2.0


def test_a_leader_that_cannot_apply_appends_no_more() -> None:
    """With the overlay full behind a slow disk it went on appending, and with it all that was sent again meanwhile."""
    lab = GuardedLab(["n1"])
    replica = lab.nodes["n1"]
    lab.elect("n1", [])
    replica.bounds = replace(replica.bounds, overlay_keys=10, in_flight=2)
    for number in range(100):
        replica.submit(operation(number), Caller())
    lab.flow(["n1"], rounds=60)
    assert replica.applier.overlay.keys >= 10
    assert replica.journal.last[1] == replica.engine.applied + 2


def test_under_load_the_second_entry_in_flight_is_no_smaller_than_the_first() -> None:
    """Two in flight whatever they held made three small entries of what two large ones carry: a third of the rate was lost."""
    lab = GuardedLab(THREE)
    leader = lab.nodes["n1"]
    leader.bounds = replace(leader.bounds, in_flight=2, entry_operations=100)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    callers = [Caller() for _ in range(13)]
    before = leader.journal.last[1]
    assert before == leader.engine.applied
    appended = []
    for numbers in (range(4), range(4, 5), range(5, 9), range(9, 13)):
        for number in numbers:
            leader.submit(operation(number), callers[number])
        lab.flow(["n1"], rounds=3)
        appended.append(leader.journal.last[1] - before)
    assert appended == [1, 1, 2, 2], "4 alone; 1 waits; 5 follow; the rest waits"
    lab.flow(THREE, rounds=20)
    assert [caller.results for caller in callers] == [[[0, number]] for number in range(13)]


def test_a_log_of_large_entries_keeps_the_one_before_the_checkpoint() -> None:
    """Over its bound of bytes the log was cut at the checkpoint itself when there was nothing to cut; recovery, which
    looks for the entry before, then took the whole log for another one: committed entries were gone."""
    lab = GuardedLab(["n1"])
    replica = lab.nodes["n1"]
    replica.bounds = replace(replica.bounds, keep_entries=5, keep_bytes=10)
    lab.elect("n1", [])
    assert replica.engine.applied == 2
    lab.compact("n1")
    assert (replica.journal.base_index, replica.journal.first_index) == (2, 1)
    for _ in range(3):
        lab.command("n1")
        lab.flow(["n1"], rounds=2)
    history = lab.history("n1")
    lab.crash("n1")
    lab.start("n1")
    lab.elect("n1", [])
    lab.flow(["n1"])
    assert lab.history("n1") == history == [1, 2, 3]


def test_what_is_sent_again_while_it_waits_is_appended_once() -> None:
    """Behind a slow disk the leader's queue filled with copies of what its followers sent again, and grew for ever."""
    lab = GuardedLab(THREE)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    frame = {"type": "forward", "operations": [encode_operation(operation(n)) for n in range(3)]}
    for _ in range(5):
        lab.nodes["n1"].deliver("n2", frame)
    before = lab.nodes["n1"].journal.last[1]
    lab.flow(THREE, rounds=8)
    assert lab.nodes["n1"].journal.last[1] == before + 3
    assert lab.history("n3") == [0, 1, 2]


def test_an_entry_of_a_leader_that_stands_still_is_no_later_leaders() -> None:
    """Between two looks at the clock the process stood still for longer than a heartbeat: the entry stayed in the engine's own
    queue. Deposed meanwhile, the engine handed it to the next leader itself, which ours forbids it: the node stopped."""
    lab = GuardedLab(THREE)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    before = lab.nodes["n1"].journal.last[1]
    lab.nodes["n1"].submit(operation(1), Caller())
    lab.clock.reading_seconds = 0.2
    lab.tick("n1")
    lab.clock.reading_seconds = 1e-6
    written = lab.nodes["n1"].journal.last[1] - before
    lab.elect("n2", ["n3"])
    lab.give("n2", "n1")
    lab.flow(THREE, rounds=8)
    assert (written, lab.errors) == (1, [])
    assert lab.history("n1") == lab.history("n2") == [1]


def test_what_a_link_that_is_replaced_has_lost_is_sent_again_at_once() -> None:
    """A new certificate replaces a link between two steps: the follower saw it up before and after, and only its timer, half
    a second to a second later, sent again what had been on its way."""
    lab = GuardedLab(THREE)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    caller = Caller()
    lab.nodes["n2"].submit(operation(1), caller)
    lab.tick("n2")
    assert [message["type"] for message in lab.take("n2", "n1")] == ["forward"], "it is lost with the link"
    lab.unlink("n1", "n2")
    lab.link("n1", "n2")
    lab.tick("n2")
    assert "forward" in [message["type"] for message in lab.sent["n2", "n1"]]
    lab.flow(THREE)
    assert caller.results == [[0, 1]]


def test_a_read_that_was_asked_over_a_link_that_is_replaced_may_be_asked_again_at_once() -> None:
    """The follower saw its leader linked before and after, and the read waited for an answer until its deadline."""
    lab = GuardedLab(THREE)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    told: list[str] = []
    lab.nodes["n2"].queries.ask(lambda: told.append("read"), lambda error: told.append("failed"), within=None)
    lab.unlink("n1", "n2")
    lab.link("n1", "n2")
    assert told == ["failed"]


def test_a_leaders_read_whose_probe_is_lost_with_its_link_is_confirmed_over_the_next_one() -> None:
    """Only the next read's probe confirmed it; on a leader that is asked once it waited until its deadline."""
    lab = GuardedLab(THREE)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    told: list[str] = []
    lab.unlink("n1", "n3")
    lab.nodes["n1"].queries.ask(lambda: told.append("read"), lambda error: told.append("failed"), within=None)
    lab.unlink("n1", "n2")
    lab.link("n1", "n2")
    lab.flow(["n1", "n2"])
    assert told == ["read"]


def test_a_cluster_of_one_sleeps_while_its_disk_is_slow() -> None:
    """Its heartbeat was due and could not be sent before the disk was done: it looked again and again without a pause."""
    lab = GuardedLab(["n1"])
    lab.elect("n1", [])
    lab.flow(["n1"])
    replica, caller = lab.nodes["n1"], Caller()
    lab.logs["n1"]._auto = False
    replica.submit(operation(1), caller)
    lab.tick("n1")
    lab.beat("n1", seconds=1.0)
    assert (replica.pause(), caller.results) == (limits.TICK_SECONDS, [])
    lab.logs["n1"].complete()
    lab.settle("n1")
    lab.tick("n1")
    assert caller.results == [[0, 1]]
    assert 0.0 < replica.pause() <= limits.TICK_SECONDS, "the heartbeats go on"


def test_what_follows_a_snapshot_that_is_on_its_way_stays_in_the_log() -> None:
    """A snapshot took longer than the log keeps what is committed meanwhile: the member needed another one, for ever."""
    lab = GuardedLab(THREE, keep_entries=5)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)

    def commit(count: int, *ids: str) -> None:
        for _ in range(count):
            lab.command("n1")
            lab.flow(ids, rounds=2)
        lab.compact("n1")

    lab.unlink("n1", "n3")
    lab.unlink("n2", "n3")
    commit(20, "n1", "n2")
    leader = lab.nodes["n1"]
    lab.link("n1", "n3")
    lab.flow(THREE)
    assert lab.fetches == [("n3", "n1")]
    sent = leader.store.snapshot()
    assert sent is not None
    leader.holding.begin("n3", sent.index)
    commit(1, "n1", "n2")  # what follows is not much yet
    commit(40, "n1", "n2")
    assert leader.journal.first_index <= sent.index, "it is still needed"
    lab.fetches.clear()
    lab.nodes["n3"].store.install(sent.index, sent.anchor, sent.chunks, lab.nodes["n3"].snapshot_done)
    lab.settle("n3")
    lab.flow(THREE, rounds=20)
    assert lab.fetches == [] and lab.history("n3") == lab.history("n1"), "one snapshot was enough"
    commit(8, *THREE)
    assert leader.journal.first_index > sent.index, "nobody needs it any more"


def test_a_member_that_makes_no_progress_does_not_keep_the_log() -> None:
    lab = GuardedLab(THREE, keep_entries=5)
    lab.elect("n1", ["n2"])
    lab.flow(THREE)
    leader = lab.nodes["n1"]
    lab.unlink("n1", "n3")
    lab.unlink("n2", "n3")
    lab.link("n1", "n3")
    at = leader.journal.last[1]
    leader.holding.begin("n3", at)
    for _ in range(20):
        lab.command("n1")
        lab.flow(["n1", "n2"], rounds=2)
    lab.compact("n1")
    assert leader.journal.first_index <= at
    lab.clock.now += limits.LOG_HOLD_SECONDS
    lab.elect("n1", ["n2"]) if not leader.engine.is_leader else None
    lab.command("n1")
    lab.flow(["n1", "n2"], rounds=4)
    lab.compact("n1")
    assert leader.journal.first_index > at
