"""`replicate = off`: each node decides by itself; what becomes of it when triplets are shared again."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcluster.errors import RaftclusterError, Rejected, StorageFull, Unavailable
from raftcluster.greylist import alone
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.clients import ALLOWED, Client, client_key
from raftcluster.greylist.clients import CLIENTS as CLIENT_ROWS
from raftcluster.greylist.expiry import EXPIRY, RECORDS
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine, read_record
from raftcluster.greylist.record import NODES_MAX, Record
from raftcluster.greylist.settings import Settings
from raftcluster.greylist.verdict import Verdict
from tests.helpers import eventually
from tests.local_host import LocalHost, MemoryRows

DELAY, WINDOW, LIFE = Settings().waits()
MAIL: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}
KEY = bytes.fromhex("60f8c2d327e0326b92d55b72882a61d2")


class Pair:
    """Two nodes of one cluster. Each has applied what the other has; each has a store of its own."""

    def __init__(self) -> None:
        self.host = LocalHost([GreylistMachine(), ListsMachine()])
        self.stores = [MemoryRows(), MemoryRows()]
        self.nodes = [Greylist(self.host, self.stores[0])]
        self.host.id = "node-2"
        self.nodes.append(Greylist(self.host, self.stores[1]))

    def switch(self, on: bool) -> None:
        self.nodes[0].configure({"replicate": on})

    def check(self, node: int = 0, **changes: Any) -> Verdict:
        return self.nodes[node].check(**{**MAIL, **changes})

    def record(self) -> Record | None:
        return read_record(self.host.tables["greylist"], KEY)

    def merged(self) -> None:
        def all_of_it() -> bool:
            return not any(node.stats()["alone"] for node in self.nodes) and not any(
                rows.keys(b"greylist/") for rows in self.stores
            )

        eventually(all_of_it, what="all is merged")

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(alone, "RETRY_SECONDS", 0.01)
    made = Pair()
    yield made
    made.close()


def ask(greylist: Greylist, how: str, mail: dict[str, Any]) -> Verdict:
    if how == "check":
        return greylist.check(**mail)
    if how == "acheck":
        return asyncio.run(greylist.acheck(**mail))
    answers: list[tuple[Verdict | None, RaftclusterError | None]] = []
    greylist.submit(lambda verdict, error: answers.append((verdict, error)), **mail)
    eventually(lambda: len(answers) == 1)
    ((verdict, error),) = answers
    assert verdict is not None and error is None
    return verdict


@pytest.mark.parametrize("how", ["check", "acheck", "submit"])
def test_a_triplets_story_is_the_same_and_nobody_else_is_asked(pair: Pair, how: str) -> None:
    pair.switch(False)
    before = pair.host.proposals
    greylist = pair.nodes[0]
    assert ask(greylist, how, MAIL) == Verdict("defer", "new", 180, 0, None, False, "Greylisted, retry in 180 s")
    pair.host.now += DELAY - 1
    assert ask(greylist, how, MAIL) == Verdict("defer", "early", 1, 0, None, False, "Greylisted, retry in 1 s")
    pair.host.now += 1
    header = "X-Greylist: delayed 180 seconds by raftcluster at node-1.example.org"
    assert ask(greylist, how, MAIL) == Verdict("pass", "waited", 0, 180, header, False, "")
    assert ask(greylist, how, MAIL) == Verdict("pass", "known", 0, 0, None, False, "")
    assert pair.host.proposals <= before + 1, "but for finding out that it is so"
    assert pair.record() is None
    assert greylist.stats()["unshared"] == {"pass": 2, "defer": 2}
    assert greylist.stats()["degraded"] == {"pass": 0, "defer": 0}


def test_without_a_quorum_it_is_all_the_same(pair: Pair) -> None:
    pair.switch(False)
    pair.check()
    pair.host.failure = Unavailable("no quorum")
    pair.host.now += DELAY
    verdict = pair.check()
    assert (verdict.reason, verdict.degraded) == ("waited", False)


def test_each_node_waits_for_itself_and_what_was_shared_counts_at_both(pair: Pair) -> None:
    pair.check(sender="shared@example.net")
    pair.switch(False)
    pair.check()
    pair.host.now += DELAY
    assert pair.check(1).reason == "new", "the other one's first attempt is the other one's"
    assert pair.check(0).reason == "waited"
    assert [pair.check(node, sender="shared@example.net").reason for node in (0, 1)] == ["waited", "waited"]


def test_when_shared_again_the_earliest_attempt_holds_and_no_count_is_lost(pair: Pair) -> None:
    pair.switch(False)
    began = pair.host.now
    pair.check(0)
    pair.host.now += 60_000
    pair.check(1)
    pair.host.now = began + DELAY - 1
    pair.switch(True)
    pair.merged()
    assert pair.check(1).reason == "early"
    pair.host.now += 1
    assert pair.check(1).reason == "waited"
    record = pair.record()
    assert record is not None and record.first == began
    assert record.counters == ((b"node-1*\0", 1, 0), (b"node-2\0\0", 1, 1), (b"node-2*\0", 1, 0))


def test_what_a_node_knows_holds_there_from_the_first_check_after_the_switch(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to the cluster before the check does; the rest, here a hundred records, takes its time."""
    monkeypatch.setattr(alone, "ROWS_MAX", 3)
    pair.switch(False)
    for number in range(100):
        pair.check(sender=f"s{number}x@example.net")
    pair.host.now += DELAY
    assert pair.check(sender="s99x@example.net").reason == "waited"
    pair.switch(True)
    assert pair.check(sender="s99x@example.net").reason == "known"
    assert pair.check(sender="s98x@example.net").reason == "waited"
    pair.merged()
    assert pair.nodes[0].stats()["records"] == 100


def test_switched_back_and_forth_nothing_begins_anew(pair: Pair) -> None:
    pair.check()
    began = pair.host.now
    for number in range(6):
        pair.switch(number % 2 == 1)
        pair.host.now += 1_000
        assert pair.check(0).reason == "early"
    pair.host.now = began + DELAY
    assert pair.check(0).reason == "waited"
    pair.switch(False)
    assert pair.check(0).reason == "known"


def test_a_check_that_the_switch_overtakes_on_its_way_is_decided_once(pair: Pair) -> None:
    """It was sent while triplets were shared; its place in the log is behind the switch."""
    held: list[Callable[[], None]] = []
    submit = pair.host.submit

    def late(*arguments: Any, **options: Any) -> None:
        held.append(lambda: submit(*arguments, **options))

    answers: list[Verdict | None] = []
    pair.check(0, sender="other@example.net")
    pair.host.submit = late  # type: ignore[method-assign]
    pair.nodes[0].submit(lambda verdict, _: answers.append(verdict), **MAIL)
    pair.host.submit = submit  # type: ignore[method-assign]
    pair.switch(False)
    held[0]()
    eventually(lambda: len(answers) == 1)
    assert answers[0] is not None and answers[0].reason == "new"
    assert pair.record() is None and pair.nodes[0].stats()["alone"] == 1


def test_an_early_answer_that_the_switch_overtakes_is_kept(pair: Pair) -> None:
    pair.nodes[0].configure({"ack": "early"})
    pair.check(sender="other@example.net")
    held: list[Callable[[], None]] = []
    submit = pair.host.submit

    def late(*arguments: Any, **options: Any) -> None:
        held.append(lambda: submit(*arguments, **options))

    pair.host.submit = late  # type: ignore[method-assign]
    assert pair.check().reason == "new"
    pair.host.submit = submit  # type: ignore[method-assign]
    pair.switch(False)
    held[0]()
    pair.host.now += DELAY
    assert pair.check().reason == "waited"


def test_asked_again_in_a_transaction_it_says_the_same_and_counts_once(pair: Pair) -> None:
    pair.switch(False)
    first = pair.check(instance="i1")
    pair.host.now += 1_000
    assert pair.check(instance="i1") == first
    assert pair.check(instance="i2").reason == "early"
    pair.host.now += DELAY
    assert pair.check(instance="i3").header == pair.check(instance="i3").header is not None
    pair.switch(True)
    pair.merged()
    record = pair.record()
    assert record is not None and record.counters == ((b"node-1*\0", 2, 1),)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("change", [{"replicate": False}, {"replicate": True}, {"replicate": False, "delay": 100}])
def test_asked_again_over_a_change_that_the_first_time_found_out_about_it_counts_once(
    pair: Pair, shared: bool, change: dict[str, Any]
) -> None:
    pair.switch(shared)
    pair.check()
    pair.host.now += DELAY
    pair.nodes[1].configure(change)
    first = pair.check(instance="i1")
    assert first.reason == "waited" and first.header is not None
    assert pair.check(instance="i1") == first
    pair.switch(True)
    pair.merged()
    record = pair.record()
    assert record is not None and sum(deferred + passed for _, deferred, passed in record.counters) == 2


@pytest.mark.parametrize("named", [MAIL, {"sender_domain": "example.net"}])
def test_what_is_forgotten_is_forgotten_at_every_node_and_stays_so(pair: Pair, named: dict[str, Any]) -> None:
    pair.switch(False)
    for node in (0, 1):
        pair.check(node)
    pair.host.now += DELAY
    assert pair.check(0).reason == "waited"
    pair.host.now += 1
    pair.nodes[1].records.forget(**named)
    pair.host.now += 1
    assert pair.nodes[0].explain(**MAIL)["rule"] == "new"
    assert [pair.check(node).reason for node in (0, 1)] == ["new", "new"]
    pair.switch(True)
    pair.merged()
    pair.host.now += 1
    assert pair.check(0).reason == "early"


def test_explain_says_what_the_node_would(pair: Pair) -> None:
    pair.switch(False)
    for pause in (0, 1, DELAY - 2, 1, 1, WINDOW, LIFE - 1, LIFE):
        pair.host.now += pause
        explanation = pair.nodes[0].explain(**MAIL)
        verdict = pair.check(0)
        told = (verdict.action, verdict.reason, verdict.seconds_left)
        assert told == (explanation["action"], explanation["rule"], explanation["seconds_left"])
    assert pair.nodes[1].explain(**MAIL)["rule"] == "new"


def test_what_has_expired_is_removed_bit_by_bit(pair: Pair) -> None:
    pair.switch(False)
    for number in range(200):
        pair.check(sender=f"s{number}x@example.net")
    pair.host.now += WINDOW
    pair.check()
    eventually(lambda: pair.nodes[0].stats()["alone"] == 1, what="the walk has come round")
    assert len(pair.stores[0].keys(b"greylist/")) == 1


def test_what_is_seen_now_and_then_for_years_is_known_when_shared_again(pair: Pair) -> None:
    pair.switch(False)
    pair.check()
    pair.host.now += DELAY
    for _ in range(5):
        assert pair.check().action == "pass"
        pair.host.now += LIFE - 1
    pair.switch(True)
    pair.merged()
    assert pair.check(1).reason == "known"


def test_a_disk_that_is_full_passes_nobody(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.switch(False)

    def full(_: Any) -> None:
        raise StorageFull("no space")

    with monkeypatch.context() as patched:
        patched.setattr(pair.stores[0], "write", full)
        verdict = pair.check()
    assert (verdict.action, verdict.reason, verdict.degraded) == ("defer", "unavailable", True)
    assert pair.check().reason == "new"


def test_a_cluster_that_does_not_take_what_was_kept_is_not_asked(pair: Pair) -> None:
    """It would not know what this node does."""
    pair.switch(False)
    pair.check()
    pair.host.now += DELAY
    pair.switch(True)
    pair.host.failure = Unavailable("no quorum")
    assert pair.check().degraded
    pair.host.failure = None
    assert pair.check().reason == "waited"


def earn(pair: Pair, node: int, passes: int, apart: int = 3_600_000) -> None:
    for number in range(passes):
        sender = f"earner{pair.host.now}at{number}x@example.net"
        assert pair.check(node, sender=sender).reason == "new"
        pair.host.now += DELAY
        assert pair.check(node, sender=sender).reason == "waited"
        pair.host.now += apart


def clients(pair: Pair) -> dict[str, Any]:
    return {name: pair.nodes[0].stats()[name] for name in ("clients", "allowed_clients")}


def test_what_a_client_has_earned_at_a_node_holds_there_and_everywhere_when_shared_again(pair: Pair) -> None:
    earn(pair, 0, 3)
    pair.switch(False)
    earn(pair, 0, 2)
    stranger = {**MAIL, "sender": "stranger@example.net"}
    assert [node.explain(**stranger)["rule"] for node in pair.nodes] == ["client", "new"]
    assert pair.check(0, sender="stranger@example.net").reason == "client", "three passes were the cluster's"
    assert pair.check(1, sender="stranger@example.net").reason == "new"
    assert clients(pair) == {"clients": 1, "allowed_clients": 0}
    pair.switch(True)
    pair.merged()
    eventually(lambda: clients(pair) == {"clients": 1, "allowed_clients": 1}, what="clients are brought, too")
    eventually(lambda: not pair.stores[0].keys(b"greylist-clients/"), what="and not kept here any more")
    for node in pair.nodes:
        node._hints.refresh()
    assert pair.check(1, sender="another@example.net").reason == "client"


def test_a_client_that_is_brought_with_more_passes_is_allowed_where_it_was_no_more(pair: Pair) -> None:
    """Its place among those who are allowed was an old one, which other nodes had read before more passes were needed."""
    pair.nodes[0].configure({"auto_allow": 2})
    earn(pair, 0, 2)
    pair.nodes[1]._hints.refresh()
    assert pair.check(1, sender="other@example.net").reason == "client"
    pair.nodes[0].configure({"auto_allow": 4})
    assert pair.check(1, sender="another@example.net").reason == "new"
    pair.switch(False)
    earn(pair, 0, 2)
    pair.switch(True)
    pair.merged()
    eventually(lambda: not pair.stores[0].keys(b"greylist-clients/"))
    pair.nodes[1]._hints.refresh()
    assert pair.check(1, sender="third@example.net").reason == "client"
    assert clients(pair) == {"clients": 1, "allowed_clients": 1}


def test_a_client_that_is_forgotten_is_a_stranger_at_every_node(pair: Pair) -> None:
    pair.switch(False)
    earn(pair, 0, 5)
    assert pair.check(0, sender="stranger@example.net").reason == "client"
    pair.host.now += 1
    pair.nodes[1].records.forget(client="192.0.2.7")
    pair.host.now += 1
    assert pair.check(0, sender="one@example.net").reason == "new"
    pair.switch(True)
    pair.merged()
    eventually(lambda: not pair.stores[0].keys(b"greylist-clients/"))
    assert clients(pair) == {"clients": 0, "allowed_clients": 0}


@pytest.mark.parametrize("damaged", [lambda row: row[:20], lambda row: row[:-3] + b"xxx"], ids=["cut", "odd"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_client_whose_row_is_damaged_is_dropped_alone(
    pair: Pair, caplog: pytest.LogCaptureFixture, damaged: Callable[[bytes], bytes], shared: bool
) -> None:
    """Reading it ended the thread that decides, and from then on whoever asked waited for ever."""
    pair.switch(False)
    earn(pair, 0, 5)
    (name,) = pair.stores[0].keys(b"greylist-clients/")
    assert pair.check(0, client="198.51.100.7").reason == "new"
    pair.host.now += DELAY
    assert pair.check(0, client="198.51.100.7").reason == "waited"
    pair.stores[0].rows[name] = damaged(pair.stores[0].rows[name])
    if shared:
        pair.switch(True)
    told: list[Verdict | None] = []
    pair.nodes[0].submit(lambda verdict, _: told.append(verdict), **{**MAIL, "sender": "stranger@example.net"})
    eventually(lambda: told, what="it is decided")
    assert told[0] is not None and told[0].reason == "new", "what it had earned is lost"
    eventually(lambda: name not in pair.stores[0].rows, what="it is removed")
    assert caplog.text.count("is damaged, and dropped") == 1
    if shared:
        eventually(lambda: not pair.stores[0].keys(b"greylist-clients/"))
        assert clients(pair)["clients"] == 1, "the other one is brought"


@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_a_node_serves_while_it_is_cut_off_is_forgotten_with_the_others(pair: Pair, begun: bool) -> None:
    earn(pair, 0, 5)
    pair.switch(False)
    assert pair.check(0, client="192.0.2.8" if begun else "203.0.113.7").reason == ("client" if begun else "new")
    applied = copy.deepcopy(pair.host.tables)
    pair.host.now += 1
    pair.nodes[1].records.forget(client="192.0.2.7")
    pair.host.now += 1
    reached, pair.host.tables = pair.host.tables, applied
    assert pair.check(0, sender="two@example.net").reason == "client", "it has not heard of it"
    pair.host.tables = reached
    assert pair.check(0, sender="three@example.net").reason == "new"
    pair.switch(True)
    pair.merged()
    eventually(lambda: not pair.stores[0].keys(b"greylist-clients/"))
    assert clients(pair)["allowed_clients"] == 0


def test_a_client_that_a_node_kept_before_it_said_since_when_is_allowed_when_it_has_earned_it(pair: Pair) -> None:
    """Rows of earlier versions say 0, until the client is allowed."""
    pair.switch(False)
    earn(pair, 0, 4)
    (name,) = pair.stores[0].keys(b"greylist-clients/")
    pair.stores[0].rows[name] = Client.unpack(pair.stores[0].rows[name])._replace(sequence=0).pack()
    earn(pair, 0, 1)
    assert pair.check(0, sender="stranger@example.net").reason == "client"


def test_clients_that_have_expired_are_removed(pair: Pair) -> None:
    pair.switch(False)
    earn(pair, 0, 1)
    assert len(pair.stores[0].keys(b"greylist-clients/")) == 1
    pair.host.now += LIFE
    pair.check(0)
    eventually(lambda: not pair.stores[0].keys(b"greylist-clients/"))


CLIENTS: Any = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2 * LIFE), st.integers(0, LIFE), st.integers(1, 9), st.integers(0, 9)),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(CLIENTS, CLIENTS, st.booleans(), st.randoms(use_true_random=False))
def test_merging_clients_is_commutative_associative_and_idempotent(
    there: list[Any], brought: list[Any], forget: bool, random: Any
) -> None:
    """On the machine itself, with expired and forgotten ones among them."""
    now = 1_750_000_000_000

    def rows(clients: list[Any]) -> list[Any]:
        found = []
        for number, age, counted, passes, served in clients:
            network = b"192.0.%d.0/24" % number
            last = now - age
            client = Client(last, last + LIFE, last - counted, 0, passes, served, network)
            found.append([client_key(network), client.pack()])
        return found

    def merged(*batches: list[Any]) -> dict[bytes, Client]:
        host = LocalHost([GreylistMachine()], now=now - 2)
        host.propose("greylist", ["clients", rows(there)])
        if forget:
            host.propose("greylist", ["forget", {"client": "192.0.1.0/24"}, "", "", ""])
            host.propose("greylist", ["sweep"])
            host.propose("greylist", ["sweep"])
        host.now = now
        for batch in batches:
            if batch:
                host.propose("greylist", ["clients", batch])
        tables = host.tables["greylist"].rows
        found = {key: Client.unpack(row) for key, row in tables[CLIENT_ROWS].items()}
        living = {key: client for key, client in found.items() if now < client.expires}
        allowed = {key for key, client in living.items() if client.sequence}
        assert allowed == {key for key, client in living.items() if client.passes >= 5}
        assert allowed <= set(tables[ALLOWED].values())
        index = [row[at : at + 16] for row in tables[EXPIRY].values() for at in range(0, len(row), 16)]
        assert sorted(index) == sorted(found), "each is in the index once"
        return {key: client._replace(sequence=0) for key, client in living.items()}

    all_of_them = rows(brought)
    once = merged(all_of_them)
    shuffled = all_of_them[:]
    random.shuffle(shuffled)
    cut = random.randint(0, len(all_of_them))
    assert merged(shuffled) == once, "commutative"
    assert merged(all_of_them[:cut], all_of_them[cut:]) == once, "associative"
    assert merged(all_of_them, shuffled) == once, "idempotent"
    if forget:
        for client in once.values():
            assert client.network != b"192.0.1.0/24" or client.last >= now - 2, "a forgotten one came back"


@pytest.mark.parametrize(
    "rows", [[], [[b"x" * 16, b""]], [[1, b""]], [[client_key(b"a"), Client(1, 2, 3, 0, 1, 0, b"a").pack()]]]
)
def test_what_are_no_clients_are_refused(pair: Pair, rows: Any) -> None:
    with pytest.raises(Rejected):
        pair.host.propose("greylist", ["clients", rows])


STEPS: Any = st.lists(
    st.one_of(
        st.tuples(st.just("check"), st.integers(0, 1), st.integers(0, 1)),
        st.tuples(st.just("pause"), st.sampled_from([1, 1_000, DELAY - 1, DELAY, WINDOW]), st.just(0)),
        st.tuples(st.just("switch"), st.booleans(), st.just(0)),
        st.tuples(st.just("merged"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_whatever_is_switched_when_no_verdict_is_wrong_and_each_is_decided_once(steps: list[Any]) -> None:
    """Held against what an observer of everything knows: nobody passes before the delay, and who has waited at the node that
    saw him first passes there, whatever was switched meanwhile."""
    before = alone.RETRY_SECONDS
    alone.RETRY_SECONDS = 0.002  # type: ignore[misc]
    pair = Pair()
    try:
        pair.switch(True)  # revision 1
        shared, counted = True, 0
        firsts: dict[tuple[int, int], tuple[int, bool]] = {}  # node, triplet -> first attempt of this wait, passed
        for what, which, triplet in steps:
            if what == "pause":
                pair.host.now += which
            elif what == "switch":
                pair.switch(which)
                shared = which
            elif what == "merged" and shared:
                pair.merged()
            elif what == "check":
                verdict = pair.check(which, sender=f"s{triplet}x@example.net")
                counted += 1
                now = pair.host.now
                assert not verdict.degraded
                waits = [at for (_, t), (at, _) in firsts.items() if t == triplet]
                own, passed = firsts.get((which, triplet), (None, False))
                if verdict.action == "pass":
                    assert waits and now - min(waits) >= DELAY, "it passed before anybody has waited"
                elif own is not None:
                    alive = now - own < (LIFE if passed else WINDOW)
                    assert not (alive and now - own >= DELAY), "it waited here, and waits again"
                if own is None or (verdict.action == "defer" and verdict.reason == "new"):
                    firsts[which, triplet] = now, False
                if verdict.action == "pass":
                    firsts[which, triplet] = min(*waits, now), True
        pair.switch(True)
        pair.merged()
        stats = [node.stats() for node in pair.nodes]
        by_cluster = sum(each["deferred"] + each["passed"] for each in stats[0]["nodes"].values())
        by_nodes = sum(sum(each["unshared"].values()) for each in stats)
        assert by_cluster + by_nodes == counted, "each was decided once"
    finally:
        pair.close()
        alone.RETRY_SECONDS = before  # type: ignore[misc]


def test_an_early_answer_that_both_switches_overtake_is_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made under older settings twice over, and then nowhere: the client's next attempt was its first."""
    held = answered_early(pair)
    late: list[Callable[[], None]] = []
    by_itself = pair.nodes[0]._alone
    assert by_itself is not None
    decide = by_itself.decide
    with monkeypatch.context() as patched:
        patched.setattr(by_itself, "decide", lambda *a, **b: late.append(lambda: decide(*a, **b)))
        pair.switch(False)
        held[0]()
        pair.switch(True)
    late[0]()
    eventually(lambda: pair.record() is not None)
    pair.host.now += DELAY
    assert pair.check().reason == "waited"


def test_who_was_told_to_wait_before_a_switch_still_has_its_first_pass_before_it(pair: Pair) -> None:
    """The wait was over when the node decided by itself what had been answered: the next attempt was told that it is known."""
    pair.nodes[0].configure({"ack": "early"})
    pair.check()
    pair.host.now += DELAY - 1
    held = answered_early(pair)
    pair.switch(False)
    pair.host.now += 1
    held[0]()
    assert (pair.check().reason, pair.check().reason) == ("waited", "known")


def test_a_record_that_names_as_many_nodes_as_it_can_is_decided_alone(pair: Pair) -> None:
    """One more did not fit into its row: what decides alone ended with that, and nobody was answered any more."""
    pair.check()
    record = pair.record()
    assert record is not None
    labels = tuple((f"{number:03}".encode().ljust(8, b"\0"), 1, 0) for number in range(NODES_MAX))
    pair.host.tables["greylist"].put(RECORDS, KEY, record._replace(counters=labels).pack())
    pair.switch(False)
    pair.host.now += DELAY
    assert pair.check().reason == "waited"
    pair.switch(True)
    pair.merged()
    assert pair.check(1).reason == "known"


def answered_early(pair: Pair) -> list[Callable[[], None]]:
    """A check at the first node that is answered, and not on its way yet: call what is returned to send it."""
    pair.nodes[0].configure({"ack": "early"})
    pair.check(sender="other@example.net")
    held: list[Callable[[], None]] = []
    submit = pair.host.submit
    pair.host.submit = lambda *a, **b: held.append(lambda: submit(*a, **b))  # type: ignore[method-assign]
    assert pair.check().action == "defer"
    pair.host.submit = submit  # type: ignore[method-assign]
    return held
