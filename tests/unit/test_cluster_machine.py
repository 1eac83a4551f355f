"""The cluster machine: every transition that is allowed, and every one that is refused, by its code."""

from __future__ import annotations

from typing import Any

import pytest

from raftcluster.cluster import view as tables
from raftcluster.cluster.beginnings import ASLEEP_MS
from raftcluster.cluster.generations import COLLECT_MS, RETIRE_MS, expected_manifest
from raftcluster.cluster.records import SCHEMA
from raftcluster.cluster.tokens import INVITATION_SECONDS, KEPT_MS
from raftcluster.cluster.view import GENERATIONS, INVITATIONS
from raftcluster.errors import Rejected
from tests.cluster_log import Log, genesis, key, minting, pin, vouch

FACTS = ["c1", "mail", False, "mta/1.0", SCHEMA, "standalone", "n1"]
FOUNDER = ["n1", "mx1.example.org", "192.0.2.1", 9777, "mta/1.0"]
GENESIS = genesis(FACTS, FOUNDER)


def joiner(node: str = "n2", token: str = "t2", csr: bytes = b"csr-n2", **other: Any) -> list[Any]:
    number = int(node[1:])
    row: dict[str, Any] = {
        "node": node,
        "name": f"mx{number}.example.org",
        "host": f"192.0.2.{number}",
        "port": 9777,
        "product": "mta/1.1",
        "schema": SCHEMA,
        "realm": "standalone",
        "token": token,
        "hash": csr.ljust(32, b"."),
        "csr": csr,
    }
    assert set(other) <= set(row)
    return list((row | other).values())


def founded() -> Log:
    log = Log()
    log.apply(*GENESIS)
    return log


def invited(node: str = "n2", life_s: int = 60) -> Log:
    log = founded()
    log.apply("invite", f"t{node[1:]}", b"k" * 32, f"mx{node[1:]}.example.org", life_s, [])
    return log


def minted() -> Log:
    log = invited()
    log.apply("begin", "x", joiner())
    log.apply("csr", 2, "n1", b"csr-n1")
    log.mint("n1", "n2")
    return log


def grown() -> Log:
    log = minted()
    log.trust("n1")
    log.apply("switched", 2, "n1")
    log.apply("retire", 2)
    return log


def generation(log: Log, number: int) -> None:
    """From begun to in force, by all who take part."""
    coming = log.pending()
    assert coming.number == number
    for node in coming.members:
        log.apply("csr", number, node, f"csr-{number}-{node}".encode())
    log.mint()
    log.trust(*coming.members)
    log.switch(*coming.members)
    log.apply("retire", number)


def three() -> Log:
    """Three voters, in generation 3."""
    log = grown()
    log.apply("promoted", "n2")
    log.amend()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    generation(log, log.apply("begin", "x", joiner("n3", "t3", csr=b"csr-n3")))
    log.apply("promoted", "n3")
    log.amend()
    return log


def test_genesis_makes_a_cluster_of_one_and_is_idempotent() -> None:
    log = founded()
    assert log.apply(*GENESIS) == "c1"
    view = log.view
    assert view.facts is not None and view.facts.name == "mail" and view.facts.founder == "n1"
    assert (
        list(view.members) == ["n1"]
        and view.members["n1"].role == "voter"
        and view.members["n1"].pins == [pin(1, "n1")]
    )
    assert view.active is not None and (view.active.number, view.active.phase) == (1, "active")
    assert view.pending is None and view.revision == 2
    assert log.refused(*genesis(["c2", *FACTS[1:]], FOUNDER)) == "has-genesis"
    _, facts, founder, first = GENESIS
    assert Log().refused("genesis", facts, founder, [*first[:4], b"another manifest", b"sig"]) == "other-manifest"


def test_a_join_from_invitation_to_voter() -> None:
    log = invited()
    assert log.apply("begin", "x", joiner()) == 2
    assert log.view.members["n2"].joined_at == log.time and log.view.members["n2"].pins == []
    log.apply("csr", 2, "n1", b"csr-n1")
    log.mint("n1", "n2")
    generation = log.pending()
    assert generation.phase == "trust" and generation.root == b"root-2" and generation.endorsements == {}
    assert generation.trusted == ["n2"] and generation.switched == ["n2"], "a joiner has no other generation"
    assert [len(member.pins) for member in log.view.live().values()] == [2, 1]
    log.trust("n1")
    assert log.pending().phase == "switch"
    log.apply("switched", 2, "n1")
    log.apply("retire", 2)
    view = log.view
    assert view.pending is None and view.active is not None and (view.active.number, view.active.phase) == (2, "active")
    assert view.members["n1"].pins == [pin(2, "n1")], "only the new pin"
    before = tables.generation(log.rows, 1)
    assert before is not None and (before.phase, before.root, before.certificates) == ("retired", b"root-1", {})
    log.apply("promoted", "n2")
    assert log.view.members["n2"].role == "voter"


def test_a_token_is_consumed_once_by_one_request() -> None:
    log = invited()
    log.apply("begin", "x", joiner())
    assert log.apply("begin", "y", joiner()) == 2, "the same request again is answered as before"
    assert log.refused("begin", "z", joiner(csr=b"other")) == "token-replayed"
    log = grown()
    log.time += 3_600_000
    assert log.apply("begin", "y", joiner()) == 2, "also when all is over and the token has expired"
    assert log.apply("begin", "y", joiner(port=9999)) == 2 and log.view.members["n2"].port == 9999, (
        "it has moved meanwhile"
    )
    assert log.refused("begin", "y", joiner(host="192.0.2.1")) == "address-taken"
    assert log.refused("begin", "y", joiner("n1", "t2", name="mx2.example.org")) == "no-member", "not another's address"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"token": "t9"}, "token-unknown"),
        ({"name": "mx9.example.org"}, "token-name"),
        ({"product": "gateway/1.0"}, "incompatible"),
        ({"schema": SCHEMA + 1}, "incompatible"),
        ({"realm": "dns:example.org"}, "incompatible"),
        ({"node": "n1", "name": "mx2.example.org", "host": "192.0.2.2"}, "node-known"),
        ({"host": "192.0.2.1"}, "address-taken"),
        ({"name": "MX2 example"}, "bad-name"),
        ({"port": 0}, "bad-address"),
        ({"port": True}, "malformed"),
        ({"host": "two words"}, "bad-address"),
        ({"hash": b"short"}, "malformed"),
        ({"csr": b"x" * 9000}, "malformed"),
        ({"name": "x" * 2000}, "malformed"),
    ],
)
def test_begin_refuses(change: dict[str, Any], code: str) -> None:
    log = invited()
    log.apply("invite", "t1", b"k" * 32, "mx7.example.org", 60, [])
    assert log.refused("begin", "x", joiner(**change)) == code
    assert log.view.pending is None


def test_a_refusal_names_everything_that_differs() -> None:
    log = invited()
    with pytest.raises(Rejected) as caught:
        log.apply("begin", "x", joiner(product="gateway/1", schema=9, realm="dns:other"))
    for part in ("gateway/1", "mta", "version 1", "9", "dns:other", "standalone"):
        assert part in str(caught.value)


def test_tokens_expire_by_cluster_time_and_can_be_revoked() -> None:
    log = invited(life_s=60)
    log.time += 59_999
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    log.time += 1
    assert log.refused("begin", "x", joiner()) == "token-expired"
    log.apply("revoke", "t3")
    assert log.refused("begin", "x", joiner("n3", "t3")) == "token-revoked"
    assert log.refused("revoke", "t9") == "token-unknown"
    log = grown()
    assert log.refused("revoke", "t2") == "token-used"


def test_invitations_are_bounded_and_forgotten_a_day_after_their_end() -> None:
    log = founded()
    assert log.refused("invite", "t1", b"k" * 32, "mx1.example.org", 60, []) == "name-taken"
    assert log.refused("invite", "t1", b"k", "mx2.example.org", 60, []) == "malformed"
    assert log.refused("invite", "t1", b"k" * 32, "mx2.example.org", 0, []) == "malformed"
    assert log.refused("invite", "t1", b"k" * 32, "mx2.example.org", INVITATION_SECONDS + 1, []) == "malformed"
    for number in range(INVITATIONS):
        log.apply("invite", f"t{number:04}", b"k" * 32, "mx2.example.org", 60, [])
    assert log.refused("invite", "tx", b"k" * 32, "mx2.example.org", 60, []) == "too-many-tokens"
    assert log.apply("invite", "t0000", b"k" * 32, "mx2.example.org", 60, []) == log.time + 60_000, "idempotent"
    assert log.refused("invite", "t0000", b"j" * 32, "mx2.example.org", 60, []) == "token-exists"
    log.time += 60_000 + KEPT_MS + 1
    log.apply("invite", "tx", b"k" * 32, "mx2.example.org", 60, [])
    assert [token.token_id for token in tables.invitations(log.rows)] == ["tx"]


def test_a_voter_that_the_coming_manifest_names_is_not_shut_out_before_it_has_endorsed_the_next() -> None:
    """The simulation, members/28: the chain's voters were then two, of whom one was gone: no generation ever again."""
    log = grown()
    log.apply("promoted", "n2")
    log.apply("rotate", "x", [], True)
    for node in ("n1", "n2"):
        log.apply("csr", 3, node, b"csr-3-" + node.encode())
    log.mint()
    assert list(log.pending().members) == ["n1", "n2"] and log.pending().phase == "trust"
    assert log.view.head is not None and list(log.view.head.content().voters) == ["n1"], (
        "the chain does not name it yet"
    )
    assert log.refused("removed", "n2") == "generation-under-way"
    log.trust("n1", "n2")
    log.switch("n1", "n2")
    log.apply("retire", 3)
    assert log.apply("removed", "n2") == 4 and log.pending().leaving == ["n2"]
    log.apply("csr", 4, "n1", b"csr-4-n1")
    log.mint()
    log.trust("n2", "n1")
    log.apply("switch", 4)
    log.switch("n1")
    log.apply("retire", 4)
    assert list(log.view.live()) == ["n1"] and list(log.view.head.content().voters) == ["n1"]


def test_one_generation_at_a_time() -> None:
    log = invited()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    log.apply("rotate", "x", [], True)
    log.apply("csr", 2, "n1", b"csr-n1")
    log.mint()
    assert log.refused("begin", "y", joiner("n3", "t3")) == "generation-under-way"
    assert log.refused("rotate", "y", [], True) == "generation-under-way"
    found = tables.invitation(log.rows, "t3")
    assert found is not None and found.used_by is None, "its token is as good as before"


def test_whoever_asks_while_requests_are_collected_is_let_into_the_same_generation() -> None:
    log = invited()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    log.apply("begin", "x", joiner())
    assert log.apply("begin", "y", joiner("n3", "t3", csr=b"csr-n3")) == 2
    log.apply("csr", 2, "n1", b"csr-n1")
    assert log.refused(*minting(log.view, "n1", "n2")) == "incomplete", "minted before the second one came"
    log.mint()
    log.trust("n1")
    log.switch("n1")
    log.apply("retire", 2)
    assert {each.generation for each in log.view.live().values()} == {2} and len(log.view.live()) == 3


def test_minted_is_accepted_once_and_only_for_all_collected_requests() -> None:
    log = invited()
    log.apply("begin", "x", joiner())
    assert log.refused(*minting(log.view, "n2")) == "incomplete"
    assert log.refused(*minting(log.view)) == "other-request", "n1 has sent none"
    log.apply("csr", 2, "n1", b"csr-n1")
    early = minting(log.view)
    log.apply("csr", 2, "n1", b"csr-n1-again")
    assert log.refused(*early) == "other-request"
    assert log.refused(*minting(log.view, "n1", "n2", "n3")) == "incomplete"
    assert log.refused(*minting(log.view, number=3)) == "not-under-way"
    assert log.refused("csr", 2, "n2", b"another") == "joiner-bound"
    assert log.refused("csr", 2, "n9", b"another") == "no-member"
    verb, number, root, _, signature, issued = minting(log.view)
    assert log.refused(verb, number, root, b"another", signature, issued) == "other-manifest"
    assert log.refused(verb, number, b"", early[3], signature, issued) == "malformed"
    log.mint()
    assert log.refused(*early) == "minted-already"
    assert log.refused("csr", 2, "n1", b"late") == "minted-already"


def test_reports_out_of_order_are_refused_and_doubled_ones_change_nothing() -> None:
    log = invited()
    assert log.refused("trusted", 2, "n1", []) == "not-under-way"
    log.apply("begin", "x", joiner())
    log.apply("csr", 2, "n1", b"csr-n1")
    log.apply("csr", 2, "n1", b"csr-n1")
    assert log.refused("trusted", 2, "n1", [key(1, "n1"), b"s"]) == "out-of-order"
    log.mint()
    assert log.refused("switched", 2, "n1") == "out-of-order"
    assert log.refused("retire", 2) == "not-switched"
    assert log.refused("switch", 2) == "out-of-order", "no majority has endorsed it"
    assert log.refused("trusted", 2, "n1", []) == "malformed", "a voter must endorse"
    assert log.refused("trusted", 2, "n1", [key(2, "n1"), b"s"]) == "pin", "with the key that the manifest before names"
    first = vouch(log.view, "n1")
    log.apply(*first)
    log.apply(*first)
    assert log.refused("trusted", 2, "n9", []) == "no-member"
    assert log.refused("retire", 2) == "not-switched"
    log.switch("n1")
    log.switch("n1")
    log.apply("retire", 2)
    log.apply("retire", 2)
    assert log.refused("switched", 2, "n1") == "not-under-way"


def test_numbers_are_never_used_again() -> None:
    log = grown()
    assert log.apply("rotate", "again", [], True) == 3
    assert not log.pending().joiners


def test_removal_shuts_out_at_once() -> None:
    log = three()
    log.apply("removed", "n3")
    log.apply("removed", "n3")
    assert log.view.members["n3"].pins == [] and list(log.view.live()) == ["n1", "n2"]
    assert log.refused("promoted", "n3") == "no-member"
    assert log.refused("address", "n3", "192.0.2.9", 1) == "no-member"
    assert log.refused("removed", "n7") == "no-member"
    assert founded().refused("removed", "n1") == "last-voter"


def test_who_is_needed_to_endorse_the_generation_without_it_is_removed_by_that_generation() -> None:
    """Two voters: the chain needs both for the next manifest, also for the one that names one of them only."""
    log = grown()
    log.apply("promoted", "n2")
    log.amend()
    assert log.apply("removed", "n1") == 3 and log.apply("removed", "n1") == 3
    assert log.pending().leaving == ["n1"] and log.pending().members == ["n2"]
    assert log.view.members["n1"].pins, "not yet"
    log.apply("csr", 3, "n2", b"csr-n2")
    assert log.refused("csr", 3, "n1", b"csr-n1") == "no-part"
    log.mint()
    log.trust("n2")
    assert log.refused("switch", 3) == "out-of-order", "n1 has not endorsed it"
    log.trust("n1")
    assert log.pending().phase == "trust", "who leaves must not lead then: a leader says when"
    log.apply("switch", 3)
    assert list(log.view.live()) == ["n2"] and log.view.members["n1"].pins == []
    log.switch("n2")
    log.apply("retire", 3)
    assert list(log.head().voters) == ["n2"]


def test_a_removal_that_needs_a_generation_does_not_wait_for_a_learner_that_is_lost() -> None:
    """n3 died before it could become a voter. The generation was given up because of it and begun again, for ever; and n3 could
    not be removed, for n2 was being."""
    log = grown()
    log.apply("promoted", "n2")
    log.amend()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    generation(log, log.apply("begin", "x", joiner("n3", "t3", csr=b"csr-n3")))
    log.apply("leaving", "n2")
    assert log.apply("removed", "n2") == 4 and log.refused("leaving", "n3") == "change-under-way"
    log.apply("csr", 4, "n1", b"csr-4-n1")
    log.time += COLLECT_MS
    assert log.apply("overdue", 4) is True and log.pending().excluded == ["n3"]
    log.mint()
    log.trust("n1", "n2")
    log.apply("switch", 4)
    log.switch("n1")
    log.apply("retire", 4)
    log.apply("leaving", "n3")
    assert log.apply("removed", "n3") is None and list(log.view.live()) == ["n1"]


def test_who_is_left_out_of_a_generation_cannot_endorse_it_in_place_of_who_is_removed() -> None:
    """One administrator leaves n3 out, another one removes n2 meanwhile: n1 alone was to endorse for three, and was waited for by
    all that came after, for ever."""
    log = three()
    log.apply("rotate", "x", ["n3"], True)
    assert log.refused("removed", "n2") == "generation-under-way", "without it one of three could endorse"
    log.apply("abort", 4, "n2 is down")
    assert log.apply("removed", "n2") is None, "then n1 and n3 can"
    log = three()
    log.apply("rotate", "x", ["n3"], True)
    for node in ("n1", "n2"):
        log.apply("csr", 4, node, b"csr-4-" + node.encode())
    log.mint()
    assert log.refused("removed", "n2") == "generation-under-way"
    log.trust("n1", "n2")
    log.switch("n1", "n2")
    log.apply("retire", 4)
    assert log.apply("removed", "n2") == 5 and log.pending().leaving == ["n2"], "of two it endorses, then goes"


def test_removing_who_is_waited_for_lets_the_generation_go_on() -> None:
    log = three()
    log.apply("rotate", "x", [], True)
    for node in ("n1", "n2"):
        log.apply("csr", 4, node, b"a" + node.encode())
    log.apply("removed", "n3")
    log.mint()
    log.trust("n1", "n2")
    assert log.pending().phase == "switch"
    log = three()
    log.apply("rotate", "x", [], True)
    for node in ("n1", "n2", "n3"):
        log.apply("csr", 4, node, b"a" + node.encode())
    log.mint()
    log.trust("n1", "n2")
    assert log.pending().phase == "trust"
    log.apply("removed", "n3")
    assert log.pending().phase == "switch"


def test_the_chains_voters_follow_the_clusters() -> None:
    log = grown()
    assert list(log.head().voters) == ["n1"], "a joiner does not count"
    assert log.apply("amend", "x", "") is None, "nor does a learner"
    log.apply("promoted", "n2")
    assert log.refused("amended", 3, "n1", [key(2, "n1"), b"s"]) == "not-under-way"
    assert log.apply("amend", "x", "") == log.apply("amend", "x", "") == 3, "asking again changes nothing"
    assert log.refused("amended", 3, "n2", [key(2, "n2"), b"s"]) == "no-voter", "only who is one already"
    assert log.refused("amended", 3, "n1", [key(1, "n1"), b"s"]) == "pin"
    log.apply("amended", 3, "n1", [key(2, "n1"), b"s"])
    head = log.view.head
    assert head is not None and head.root == b"" and list(log.head().voters) == ["n1", "n2"]
    assert log.view.amendment is None and log.apply("amend", "x", "") is None
    log.apply("rotate", "x", [], True)
    assert log.pending().sequence == 4, "numbers of manifests are never used again"
    assert log.refused("amend", "x", "") == "generation-under-way"


def test_from_two_voters_to_three_the_chain_is_first() -> None:
    """The majority of three is that of two: whoever dies next, those that can decide can endorse. From one to two it is not."""
    log = grown()
    assert log.refused("amend", "x", "n2") == "out-of-order", "the chain of one names it when it votes"
    log.apply("promoted", "n2")
    log.amend()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    generation(log, log.apply("begin", "x", joiner("n3", "t3", csr=b"csr-n3")))
    log.amend("n3")
    assert list(log.head().voters) == ["n1", "n2", "n3"] and log.view.members["n3"].role == "learner"


def test_an_amendment_that_nobody_needs_any_more_is_dropped() -> None:
    log = three()
    log.apply("invite", "t4", b"k" * 32, "mx4.example.org", 60, [])
    number = log.apply("begin", "x", joiner("n4", "t4", csr=b"csr-n4"))
    generation(log, number)
    log.apply("promoted", "n4")
    first = log.apply("amend", "x", "")
    log.apply("amended", first, "n1", [key(number, "n1"), b"s"])
    log.apply("rotate", "x", [], True)
    assert log.view.amendment is None
    assert log.refused("amended", first, "n2", [key(number, "n2"), b"s"]) == "not-under-way"
    generation(log, number + 1)
    assert sorted(log.head().voters) == ["n1", "n2", "n3", "n4"], "the generation has brought them up to date"


def test_an_amendment_ends_with_a_removal() -> None:
    """It may name the removed one; in the chain, that one would be missing from every majority of two."""
    log = grown()
    log.apply("promoted", "n2")
    number = log.apply("amend", "x", "")
    log.apply("removed", "n2")
    assert log.refused("amended", number, "n1", [key(2, "n1"), b"s"]) == "not-under-way"
    log.apply("rotate", "x", [], False)
    generation(log, 3)
    assert list(log.head().voters) == ["n1"]


def test_a_member_that_is_down_is_excluded_or_the_generation_given_up() -> None:
    log = three()
    log.apply("rotate", "x", [], True)
    for node in ("n1", "n2"):
        log.apply("csr", 4, node, b"a" + node.encode())
    assert log.refused("overdue", 4) == "out-of-order", "it is early"
    log.time += COLLECT_MS
    assert log.apply("overdue", 4) is False
    assert log.view.pending is None and log.view.aborted == log.time
    given_up = tables.generation(log.rows, 4)
    assert given_up is not None and given_up.phase == "aborted" and "mx3.example.org" in given_up.reason
    assert log.apply("rotate", "x", [], False) == 5, "the number is not used again"
    for node in ("n1", "n2"):
        log.apply("csr", 5, node, b"b" + node.encode())
    log.time += COLLECT_MS
    assert log.apply("overdue", 5) is True
    assert log.pending().excluded == ["n3"] and log.refused("csr", 5, "n3", b"late") == "no-part"
    generation(log, 5)
    asleep = log.view.members["n3"]
    assert asleep.role == "learner" and asleep.asleep_since == log.time and asleep.pins == [pin(3, "n3")]
    assert list(log.head().voters) == ["n1", "n2"], "then it is no voter either"


def test_whoever_sleeps_and_has_to_endorse_is_waited_for_before_anything_begins() -> None:
    """n2 had not switched when its generation was in force, and was then removed, or left out of the next one: whose manifest
    needed its endorsement, for the chain still named n1 and n2 alone. It waited for ever, and so did all that came after."""
    log = grown()
    log.apply("promoted", "n2")
    log.amend()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    number = log.apply("begin", "x", joiner("n3", "t3", csr=b"csr-n3"))
    for node in ("n1", "n2"):
        log.apply("csr", number, node, b"csr-" + node.encode())
    log.mint()
    log.trust("n1", "n2")
    log.switch("n1", "n3")
    log.time += RETIRE_MS
    log.apply("promoted", "n3")
    log.apply("retire", number)
    assert log.view.members["n2"].asleep_since and set(log.head().voters) == {"n1", "n2"}
    log.apply("leaving", "n2")
    assert log.refused("removed", "n2") == "endorsement-needed"
    assert log.refused("rotate", "x", [], True) == "endorsement-needed"
    log.apply("invite", "t4", b"k" * 32, "mx4.example.org", 60, [])
    assert log.refused("begin", "y", joiner("n4", "t4", csr=b"csr-n4")) == "endorsement-needed"
    log.apply("awake", "n2")
    number = log.apply("removed", "n2")
    assert log.pending().leaving == ["n2"], "it endorses the generation without it"


def test_a_named_member_is_excluded_from_the_beginning() -> None:
    log = three()
    assert log.refused("rotate", "x", ["n9"], True) == "no-member"
    assert log.refused("rotate", "x", ["n2", "n3"], True) == "no-quorum-left"
    log.apply("rotate", "x", ["n3"], True)
    generation(log, 4)
    assert log.view.members["n3"].asleep_since == log.time
    log.apply("rotate", "y", [], True)
    assert log.pending().members == ["n1", "n2"], "who is asleep is not waited for"


def test_two_nodes_with_one_down_no_rekey_and_no_exclusion() -> None:
    log = grown()
    log.apply("promoted", "n2")
    log.amend()
    assert log.refused("rotate", "x", ["n2"], True) == "no-quorum-left"
    log.apply("rotate", "x", [], False)
    log.apply("csr", 3, "n1", b"a")
    log.time += COLLECT_MS
    assert log.apply("overdue", 3) is False
    given_up = tables.generation(log.rows, 3)
    assert given_up is not None and "1 of 2 voters" in given_up.reason


def test_the_way_back_of_a_member_that_slept() -> None:
    log = three()
    request = b"csr-back"
    assert log.refused("return", "x", "n3", pin(3, "n3"), request) == "not-asleep"
    for number in (4, 5, 6):
        log.apply("rotate", "x", ["n3"] if number == 4 else [], True)
        generation(log, number)
    assert log.refused("return", "x", "n3", pin(4, "n3"), request) == "pin"
    assert log.refused("return", "x", "n9", pin(3, "n3"), request) == "no-member"
    assert log.refused("return", "x", "n3", pin(3, "n3"), b"") == "malformed"
    assert log.apply("return", "x", "n3", pin(3, "n3"), request) == 7
    assert log.apply("return", "x", "n3", pin(3, "n3"), b"csr-again") == 7, (
        "it may ask with another key until it is minted"
    )
    assert log.pending().requests["n3"] == b"csr-again" and log.pending().joiners == {"n3": ""}
    generation(log, 7)
    back = log.view.members["n3"]
    assert back.asleep_since == 0 and back.pins == [pin(7, "n3")] and back.generation == 7
    assert back.role == "learner", "it votes again when its log has caught up"


def test_sleeping_too_long() -> None:
    log = three()
    log.apply("rotate", "x", ["n3"], True)
    generation(log, 4)
    log.time += ASLEEP_MS + 1
    assert log.refused("return", "x", "n3", pin(3, "n3"), b"csr") == "slept-too-long"
    with pytest.raises(Rejected, match="invite it again"):
        log.apply("return", "x", "n3", pin(3, "n3"), b"csr")


def test_who_was_down_when_others_switched_is_not_waited_for_and_keeps_its_certificate() -> None:
    log = three()
    log.apply("rotate", "x", [], True)
    for node in ("n1", "n2", "n3"):
        log.apply("csr", 4, node, b"a" + node.encode())
    log.mint()
    log.trust("n1")
    assert log.refused("switch", 4) == "out-of-order"
    log.trust("n2")
    log.apply("switch", 4)
    assert log.pending().phase == "switch" and sorted(log.view.head.endorsements) == ["n1", "n2"]  # type: ignore[union-attr]
    log.switch("n1", "n2")
    assert log.refused("retire", 4) == "not-switched", "it has a while"
    log.time += RETIRE_MS
    log.apply("retire", 4)
    late = log.view.members["n3"]
    assert late.asleep_since == log.time and late.role == "voter" and late.pins == [pin(3, "n3"), pin(4, "n3")]
    log.apply("awake", "n3")
    assert log.view.members["n3"].asleep_since == 0 and log.view.members["n3"].pins == [pin(4, "n3")]
    log.apply("rotate", "x", ["n3"], True)
    generation(log, 5)
    assert log.refused("awake", "n3") == "no-certificate"


def test_abort_gives_the_tokens_back_until_it_is_minted() -> None:
    log = invited()
    log.apply("begin", "x", joiner())
    assert log.refused("abort", 3, "") == "not-under-way"
    log.apply("abort", 2, "asked for")
    assert list(log.view.members) == ["n1"] and log.view.pending is None
    token = tables.invitation(log.rows, "t2")
    assert token is not None and token.used_by is None
    assert log.apply("begin", "x", joiner()) == 3, "with the same token, under a new number"
    log.apply("csr", 3, "n1", b"csr-n1")
    log.mint()
    assert log.refused("abort", 3, "") == "minted-already"


def test_records_of_generations_are_bounded_and_the_chain_longer() -> None:
    log = founded()
    for number in range(2, 2 + 2 * GENERATIONS):
        log.apply("rotate", "x", [], True)
        generation(log, number)
    kept = tables.generations(log.rows)
    assert len(kept) <= GENERATIONS + 1 and kept[-1].number == 2 * GENERATIONS + 1
    assert len(tables.links(log.rows)) == 2 * GENERATIONS + 1, "a node that slept follows the chain"


def test_a_joiner_that_is_removed_before_it_got_its_certificate() -> None:
    log = invited()
    log.apply("begin", "x", joiner())
    assert log.refused("promoted", "n2") == "no-certificate"
    log.apply("removed", "n2")
    log.apply("csr", 2, "n1", b"a")
    log.mint("n1")
    assert not log.pending().joiners and log.pending().switched == []


def test_a_promotion_waits_while_a_manifest_that_does_not_name_it_is_endorsed() -> None:
    """Else whoever has not endorsed it yet finds another manifest than follows from the members, and never does."""
    log = grown()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    log.apply("begin", "x", joiner("n3", "t3", csr=b"csr-n3"))
    for node in ("n1", "n2"):
        log.apply("csr", 3, node, f"csr-3-{node}".encode())
    log.mint()
    pins = {each: pin(3, each) for each in ("n1", "n2", "n3")}
    known, coming, head = log.view.facts, log.pending(), log.view.head
    assert coming.phase == "trust" and known is not None and head is not None
    assert log.refused("promoted", "n2") == "generation-under-way"
    assert expected_manifest(known, head, log.view.live().values(), coming, pins).pack() == coming.manifest
    log.trust("n1", "n2")
    assert log.pending().phase == "switch"
    log.apply("promoted", "n2")
    assert log.view.members["n2"].role == "voter"


def test_an_address_is_data() -> None:
    log = grown()
    log.apply("address", "n2", "mx2-new.example.org", 9778)
    member = log.view.members["n2"]
    assert (member.host, member.port, len(member.pins)) == ("mx2-new.example.org", 9778, 1)
    assert log.refused("address", "n1", "mx2-new.example.org", 9778) == "address-taken"
    assert log.refused("address", "n1", "", 9778) == "bad-address"


def test_a_full_cluster() -> None:
    log = grown()
    for number in range(3, 10):
        log.apply("invite", f"t{number}", b"k" * 32, f"mx{number}.example.org", 60, [])
        number_ = log.apply("begin", "x", joiner(f"n{number}", f"t{number}"))
        live = list(log.view.live())
        for node in live[:-1]:
            log.apply("csr", number_, node, node.encode())
        log.mint()
        log.trust(*live[:-1])
        log.switch(*live[:-1])
        log.apply("retire", number_)
    assert len(log.view.live()) == 9
    log.apply("invite", "t10", b"k" * 32, "mx10.example.org", 60, [])
    assert log.refused("begin", "x", joiner("n10", "t10")) == "full"


def test_destroy_is_confirmed_and_final() -> None:
    log = grown()
    assert log.refused("recorded", "n1") == "out-of-order"
    assert log.refused("destroy", "e1", "post", True, "", False) == "not-confirmed"
    assert log.refused("destroy", "e1", "mail", False, "", False) == "has-members"
    assert log.apply("destroy", "e1", "mail", True, "moved away", False) == "e1"
    assert log.apply("destroy", "e2", "mail", False, "", False) == "e1", "decided once"
    assert log.refused("destroy", "e2", "post", True, "", False) == "not-confirmed"
    assert log.refused("invite", "t7", b"k" * 32, "mx7.example.org", 60, []) == "destroyed"
    assert log.refused("signed", "n9", b"key", b"signature") == "no-member"
    assert log.refused("signed", "n2", b"", b"signature") == "malformed"
    assert log.refused("signed", "n2", b"key", b"s" * 2_000) == "malformed"
    log.apply("signed", "n2", b"key", b"signature")
    log.apply("signed", "n1", b"key", b"other")
    log.apply("signed", "n1", b"key", b"signature")
    log.apply("recorded", "n2")
    log.apply("recorded", "n2")
    decided = log.view.destruction
    assert decided is not None and (decided.event_id, decided.recorded) == ("e1", ["n2"])
    assert decided.signatures == {each: [b"key", b"signature"] for each in ("n1", "n2")}
    assert founded().apply("destroy", "e1", "mail", False, "", False) == "e1", "alone it needs no more than the name"


@pytest.mark.parametrize(
    "command",
    [None, 7, [], ["nonsense"], [["invite"]], ["invite"], ["invite", 1, 2, 3, 4], ["csr", 1.5, "n1", b""], ["begin", "x", [1]],
     ["csr", 2, "n" * 600, b"x"], ["minted", 2, b"r", b"m", b"s", {"n1": 3}], ["genesis", [], [], []], ["trusted", True, "n1", []]],
)  # fmt: skip
def test_garbage_is_refused_without_a_trace(command: Any) -> None:
    log = invited()
    log.apply("begin", "x", joiner())
    before = dict(log.rows.rows)
    with pytest.raises(Rejected):
        log.replicas[0][0].apply(command, log.rows, log.time)
    assert log.rows.rows == before


def test_nothing_can_be_done_before_genesis() -> None:
    log = Log()
    assert log.refused("invite", "t2", b"k" * 32, "mx2.example.org", 60, []) == "no-cluster"
    assert log.view.facts is None and log.view.active is None and log.view.revision == 0


def test_members_leave_one_at_a_time_and_the_last_voter_stays() -> None:
    log = grown()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    log.apply("begin", "x", joiner("n3", "t3"))
    assert log.refused("leaving", "n1") == "last-voter", "a learner is none"
    assert log.refused("leaving", "n9") == "no-member"
    log = three()
    log.apply("leaving", "n1")
    log.apply("leaving", "n1")
    assert log.view.leaving == "n1" and log.view.members["n1"].role == "voter" and log.view.members["n1"].pins
    assert log.refused("leaving", "n2") in ("change-under-way", "last-voter")
    assert log.refused("leaving", "n3") == "change-under-way"
    log.apply("removed", "n1")
    assert log.view.leaving == "" and log.view.members["n1"].pins == []
    log.apply("leaving", "n1")
    assert log.view.leaving == "", "that is done"
    log.apply("leaving", "n3")
    assert log.view.leaving == "n3"
