"""What each node does next, decision by decision. Whole generations: `test_cluster_generations`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raftcluster.cluster.actions import (
    Alarm,
    Amend,
    CatchUp,
    Depart,
    Endorse,
    Expel,
    Forget,
    Found,
    HandOver,
    Local,
    Mint,
    Promote,
    Propose,
    Relink,
    Renew,
    Request,
    Store,
    Use,
    Vouch,
)
from raftcluster.cluster.generations import COLLECT_MS, RETIRE_MS, SWITCH_MS, TRUST_MS
from raftcluster.cluster.lifecycle import GATHER_MS, LONELY_SECONDS, RENEW_MS, RETRY_MS, decide, peers
from raftcluster.cluster.view import View
from tests.cluster_log import Log
from tests.cluster_world import GENESIS, join, three

ALONE = Local("n1", True, 0, {}, {1}, {1}, 1, (1,), {}, voters={"n1"}, rooted={1})


def begun(number: int = 2) -> Log:
    log = Log()
    log.apply(*GENESIS)
    return join(log, f"n{number}")


def collected() -> Log:
    log = begun()
    log.apply("csr", 2, "n1", b"csr-n1")
    return log


def minted() -> Log:
    log = collected()
    log.mint()
    return log


def applied(log: Log, *commands: list[Any]) -> View:
    for command in commands:
        log.apply(*command)
    return log.view


def test_before_genesis_the_founder_founds_and_others_wait() -> None:
    view = Log().view
    assert decide(view, replace(ALONE, founder=True)) == [Found()]
    assert decide(view, ALONE) == []


def test_collect() -> None:
    log = begun()
    assert decide(log.view, ALONE) == [Request(2)], "no key yet"
    waiting = replace(ALONE, requests={2: b"csr-n1"}, on_disk={1, 2})
    assert decide(log.view, waiting) == [Request(2)], "crashed after the key was made: the request is proposed"
    log.apply("csr", 2, "n1", b"lost")
    assert decide(log.view, waiting) == [Request(2), Mint(2, {"n1": b"lost", "n2": b"csr-n2"})], "replaced until minted"
    log.apply("csr", 2, "n1", b"csr-n1")
    assert decide(log.view, waiting) == [Mint(2, {"n1": b"csr-n1", "n2": b"csr-n2"})]
    assert decide(log.view, replace(waiting, leader=False)) == [], "only the leader mints"


def test_one_generation_for_all_who_are_invited() -> None:
    log = collected()
    ready = replace(ALONE, requests={2: b"csr-n1"}, on_disk={1, 2})
    mint = [Mint(2, {"n1": b"csr-n1", "n2": b"csr-n2"})]
    log.apply("invite", "other", bytes(32), "n3.example.org", 3_600, [])
    assert decide(log.view, ready) == [], "the other one may come, too"
    assert decide(replace(log.view, time=log.view.time + GATHER_MS), ready) == mint, "but not for long"
    log.apply("revoke", "other")
    assert decide(log.view, ready) == mint
    log.apply("invite", "third", bytes(32), "n4.example.org", 1, [])
    assert View.read(log.rows, log.view.time + 1_000).invited == 0, "nor with a token that has expired"


def test_a_link_to_who_was_left_out_is_not_waited_for() -> None:
    """It hangs, so that its link is up for a while yet, and gets nothing that could replace it."""
    log = three()
    before = log.view.active.number  # type: ignore[union-attr]
    log.apply("rotate", "x", ["n3"], False)
    number = before + 1
    for node in ("n1", "n2"):
        log.apply("csr", number, node, f"csr-{node}".encode())
    log.mint()
    for node in ("n1", "n2"):
        log.trust(node)
    both = {before, number}
    local = Local("n2", False, 0, {}, both, both, number, (before, number), {"n1": before, "n3": before}, rooted=both)
    assert decide(log.view, local) == [Relink(("n1",))]
    local = replace(local, links={"n1": number, "n3": before})
    assert decide(log.view, local) == [Propose(["switched", number, "n2"])]


def test_trust_switch_retire() -> None:
    log = minted()
    local = replace(ALONE, requests={2: b"csr-n1"}, on_disk={1, 2})
    assert decide(log.view, local) == [Store(2, b"root-2", b"cert-2-n1")]
    local = replace(local, requests={}, stored={1, 2}, rooted={1, 2})
    assert decide(log.view, local) == [Use(1, (1, 2))], "trust before it is said"
    local = replace(local, trusted=(1, 2))
    assert decide(log.view, local) == [Vouch(2)]
    log.trust("n1")
    assert decide(log.view, local) == [Use(2, (1, 2))]
    local = replace(local, presented=2, links={"n2": 1})
    assert decide(log.view, local) == [Relink(("n2",))], "a link still shows the old certificate"
    local = replace(local, links={"n2": 2})
    assert decide(log.view, local) == [Propose(["switched", 2, "n1"])]
    view = applied(log, ["switched", 2, "n1"])
    assert decide(view, local) == [Propose(["retire", 2])]
    view = applied(log, ["retire", 2])
    assert decide(view, replace(local, leader=False)) == [Use(2, (2,))], "only then is the old root dropped"
    local = replace(local, trusted=(2,))
    assert decide(view, local) == [Forget((1,))]
    local = replace(local, stored={2}, on_disk={2}, rooted={2})
    assert decide(view, local) == []
    assert decide(view, replace(local, caught_up={"n2"})) == [Promote("n2")]
    assert decide(view, replace(local, caught_up={"n2"}, leader=False)) == []
    local = replace(local, voters={"n1", "n2"})
    assert decide(view, local) == [Propose(["promoted", "n2"])], "crashed after the engine had changed"
    view = applied(log, ["promoted", "n2"])
    assert decide(view, local) == [Amend()], "the chain names n1 alone"
    assert decide(view, replace(local, leader=False)) == []
    log.apply("amend", "x", "")
    assert decide(log.view, local) == [Endorse(3)]
    assert decide(log.view, replace(local, node_id="n2", leader=False)) == [], "it is no voter of the chain yet"
    log.amend()
    assert decide(log.view, local) == []


def test_the_third_voter_is_named_by_the_chain_before_it_votes() -> None:
    log = three()
    log.apply("removed", "n3")
    number = log.apply("rotate", "x", [], False)
    for node in ("n1", "n2"):
        log.apply("csr", number, node, node.encode())
    log.mint()
    log.trust("n1", "n2")
    log.switch("n1", "n2")
    log.apply("retire", number)
    join(log, "n4")
    number += 1
    for node in ("n1", "n2"):
        log.apply("csr", number, node, node.encode())
    log.mint()
    log.trust("n1", "n2")
    log.switch("n1", "n2")
    log.apply("retire", number)
    leader = Local(
        "n1",
        True,
        0,
        {},
        {number},
        {number},
        number,
        (number,),
        {},
        voters={"n1", "n2"},
        caught_up={"n4"},
        rooted={number},
    )
    assert decide(log.view, leader) == [Amend("n4")]
    log.amend("n4")
    assert decide(log.view, leader) == [Promote("n4")]


def test_the_leader_switches_last_but_does_not_wait_for_ever() -> None:
    log = three()
    log.apply("rotate", "x", [], True)
    number = log.pending().number
    for node in ("n1", "n2", "n3"):
        log.apply("csr", number, node, node.encode())
    log.mint()
    log.trust("n1", "n2", "n3")
    both = {number - 1, number}
    links = {"n2": number - 1, "n3": number - 1}
    voters = {"n1", "n2", "n3"}
    local = Local("n1", True, 0, {}, both, both, number - 1, tuple(both), links, voters=voters, rooted=both)
    follower = replace(local, node_id="n2", leader=False, links={"n1": number - 1})
    assert decide(log.view, local) == []
    assert decide(log.view, follower) == [Use(number, (number - 1, number))]
    elected = replace(follower, leader=True, presented=number, links={})
    assert decide(log.view, elected) == [Propose(["switched", number, "n2"])], "no way back"
    log.switch("n2")
    assert decide(log.view, local) == [], "n3 has not"
    log.time += SWITCH_MS
    assert decide(log.view, local) == [Use(number, (number - 1, number))]
    log.switch("n1")
    done = replace(local, presented=number, links={"n2": number})
    assert decide(log.view, done) == []
    log.time += RETIRE_MS
    assert decide(log.view, done) == [Propose(["retire", number])]


def test_deadlines_of_the_leader() -> None:
    log = three()
    log.apply("rotate", "x", [], True)
    number = log.pending().number
    before = number - 1
    for node in ("n1", "n2"):
        log.apply("csr", number, node, node.encode())
    local = Local(
        "n1", True, 0, {number: b"n1"}, {before}, {before, number}, before, (before,), {},
        voters={"n1", "n2", "n3"}, rooted={before},
    )  # fmt: skip
    assert decide(log.view, local) == []
    log.time += COLLECT_MS
    assert decide(log.view, local) == [Propose(["overdue", number])]
    log.apply("csr", number, "n3", b"n3")
    log.mint()
    both = {before, number}
    local = replace(local, requests={}, stored=both, rooted=both, on_disk=both, trusted=(before, number))
    log.trust("n1")
    assert decide(log.view, local) == []
    log.time += TRUST_MS
    (alarm,) = decide(log.view, local)
    assert isinstance(alarm, Alarm) and alarm.code == "endorsements" and "mx2, mx3" in alarm.text
    log.trust("n2")
    assert decide(log.view, local) == [Propose(["switch", number])], "a majority, without n3"


def test_who_leaves_endorses_and_does_not_lead() -> None:
    log = three()
    log.apply("removed", "n3")
    number = log.apply("rotate", "x", [], False)
    for node in ("n1", "n2"):
        log.apply("csr", number, node, node.encode())
    log.mint()
    log.trust("n1", "n2")
    log.switch("n1", "n2")
    log.apply("retire", number)
    assert log.apply("removed", "n1") == number + 1
    local = Local("n1", True, 0, {}, {number}, {number}, number, (number,), {}, voters={"n1", "n2"}, rooted={number})
    assert decide(log.view, local) == [HandOver()]
    log.apply("csr", number + 1, "n2", b"n2")
    log.mint()
    follower = replace(local, leader=False)
    assert decide(log.view, follower) == [Store(number + 1, f"root-{number + 1}".encode(), None)]
    both = (number, number + 1)
    follower = replace(follower, rooted=set(both), on_disk=set(both))
    assert decide(log.view, follower) == [Use(number, both)]
    assert decide(log.view, replace(follower, trusted=both)) == [Vouch(number + 1)]
    log.trust("n1", "n2")
    leader = replace(
        local, node_id="n2", stored=set(both), rooted=set(both), on_disk=set(both), trusted=both, links={"n1": number}
    )
    assert decide(log.view, leader) == [Propose(["switch", number + 1])]


def test_a_node_that_nobody_links_with_asks_what_it_has_slept_through() -> None:
    view = minted().view
    lonely = replace(ALONE, leader=False, lonely_s=LONELY_SECONDS)
    assert decide(view, replace(lonely, revision=view.revision + 1)) == [CatchUp()], (
        "also before it has any newer table"
    )
    assert CatchUp() in decide(view, lonely) and CatchUp() not in decide(view, replace(lonely, lonely_s=0.1))
    log = three()
    number = log.apply("rotate", "x", ["n3"], True)
    for node in ("n1", "n2"):
        log.apply("csr", number, node, node.encode())
    log.mint()
    log.trust("n1", "n2")
    log.switch("n1", "n2")
    log.apply("retire", number)
    before = number - 1
    excluded = Local("n3", False, 0, {}, {before}, {before}, before, (before,), {"n1": before}, rooted={before})
    assert decide(log.view, excluded) == [CatchUp()], "it sees in the record that it was left out"
    late = replace(excluded, node_id="n2", stored={before, number}, rooted={before, number}, on_disk={before, number})
    assert decide(log.view, late) == [Use(number, (number,))], "it has its certificate: no need to ask"


def test_an_expired_certificate_is_an_alarm_that_says_what_helps() -> None:
    view = minted().view
    found = decide(view, replace(ALONE, leader=False, revision=view.revision + 1, expired=True))
    assert [type(each) for each in found] == [Alarm] and "raftcluster recover" in str(found)


def test_a_joiner_presents_the_only_certificate_it_has() -> None:
    view = minted().view
    joiner = Local("n2", False, view.revision, {}, {2}, {1, 2}, 2, (1, 2), {"n1": 2}, rooted={1, 2})
    assert decide(view, joiner) == []
    assert decide(view, replace(joiner, revision=view.revision + 1)) == [], "a view from before its bundle is ignored"
    log = minted()
    log.trust("n1")
    view = applied(log, ["switched", 2, "n1"], ["retire", 2])
    assert decide(view, joiner) == [Use(2, (2,))]
    assert decide(view, replace(joiner, trusted=(2,))) == [Forget((1,))], "the old root that its bundle carried"


def test_a_lost_key_is_an_alarm_and_nothing_else() -> None:
    view = minted().view
    found = decide(view, replace(ALONE, leader=False))
    assert [type(each) for each in found] == [Alarm] and "generation 2" in str(found)


def test_removal() -> None:
    log = three()
    number = log.view.active.number  # type: ignore[union-attr]
    view = applied(log, ["removed", "n3"])
    leader = Local(
        "n1", True, 0, {}, {number}, {number}, number, (number,), {}, voters={"n1", "n2", "n3"}, rooted={number}
    )
    assert decide(view, leader) == [Renew(), Expel("n3")]
    assert decide(view, replace(leader, node_id="n3", leader=False)) == [Depart()]
    assert list(peers(view, "n1")) == ["n2"]


def test_a_member_loses_its_vote_before_it_is_shut_out() -> None:
    log = three()
    number = log.view.active.number  # type: ignore[union-attr]
    view = applied(log, ["leaving", "n3"])
    leader = Local(
        "n1", True, 0, {}, {number}, {number}, number, (number,), {}, voters={"n1", "n2", "n3"}, rooted={number}
    )
    assert decide(view, leader) == [Expel("n3")]
    without = replace(leader, voters={"n1", "n2"})
    assert decide(view, without) == [Propose(["removed", "n3"])]
    assert decide(view, replace(leader, leader=False)) == []
    assert decide(view, replace(leader, node_id="n3", leader=False)) == [], "it stays until it is shut out"
    assert decide(applied(log, ["removed", "n3"]), without) == [Renew()]


def test_a_learner_that_is_to_go_is_given_no_vote() -> None:
    """The simulation, members/40: the leader made it a voter and had it shut out in one pass."""
    log = three()
    join(log, "n4")
    number = log.pending().number
    for each in log.pending().members:
        log.apply("csr", number, each, each.encode())
    log.mint()
    members = list(log.pending().members)
    log.trust(*members)
    log.switch(*members)
    view = applied(log, ["retire", number])
    leader = Local(
        "n1", True, 0, {}, {number}, {number}, number, (number,), {}, voters={"n1", "n2", "n3"}, rooted={number},
        caught_up={"n4"},
    )  # fmt: skip
    assert decide(view, leader) == [Promote("n4")]
    assert decide(applied(log, ["leaving", "n4"]), leader) == [Propose(["removed", "n4"])]


def test_while_a_change_of_the_voters_is_open_nothing_is_concluded_from_it() -> None:
    """The simulation, members/35: the entry that took the vote was lost with the leader, the one that shut out was not."""
    log = three()
    number = log.view.active.number  # type: ignore[union-attr]
    view = applied(log, ["leaving", "n3"])
    leader = Local(
        "n1",
        True,
        0,
        {},
        {number},
        {number},
        number,
        (number,),
        {},
        voters={"n1", "n2"},
        rooted={number},
        changing=True,
    )
    assert decide(view, leader) == []
    assert decide(view, replace(leader, changing=False)) == [Propose(["removed", "n3"])]


def test_who_is_left_out_loses_its_vote_too() -> None:
    log = three()
    number = log.apply("rotate", "x", ["n3"], True)
    for node in ("n1", "n2"):
        log.apply("csr", number, node, node.encode())
    log.mint()
    both = {number - 1, number}
    leader = Local(
        "n1", True, 0, {}, both, both, number - 1, tuple(sorted(both)), {}, voters={"n1", "n2", "n3"}, rooted=both
    )
    assert Expel("n3") in decide(log.view, leader) and Propose(["promoted", "n3"]) not in decide(log.view, leader)
    assert Expel("n3") not in decide(log.view, replace(leader, voters={"n1", "n2"}))


def test_renewal_at_two_thirds_of_the_certificates_life() -> None:
    log = Log()
    log.apply(*GENESIS)
    log.time += RENEW_MS - 1
    assert decide(log.view, ALONE) == []
    log.time += 1
    assert decide(log.view, ALONE) == [Renew()]
    assert decide(log.view, replace(ALONE, leader=False)) == []
    number = log.apply("rotate", "x", [], True)
    log.apply("abort", number, "asked for")
    assert decide(log.view, ALONE) == [], "not at once again"
    log.time += RETRY_MS
    assert decide(log.view, ALONE) == [Renew()]
