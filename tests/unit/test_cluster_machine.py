"""The cluster machine: every transition that is allowed, and every one that is refused, by its code."""

from __future__ import annotations

from typing import Any

import pytest

from raftcluster.cluster import view as tables
from raftcluster.cluster.records import SCHEMA
from raftcluster.cluster.tokens import INVITATION_SECONDS, KEPT_MS
from raftcluster.cluster.view import INVITATIONS
from raftcluster.errors import Rejected
from tests.cluster_log import Log

FACTS = ["c1", "mail", False, "mta/1.0", SCHEMA, "standalone", "n1"]
FOUNDER = ["n1", "mx1.example.org", "192.0.2.1", 9777, "mta/1.0"]
PIN = {"n1": b"1" * 32, "n2": b"2" * 32, "n3": b"3" * 32}


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
    log.apply("genesis", FACTS, FOUNDER, [1, b"root-1", b"cert-1-n1", PIN["n1"]])
    return log


def invited(node: str = "n2", life_s: int = 60) -> Log:
    log = founded()
    log.apply("invite", f"t{node[1:]}", b"k" * 32, f"mx{node[1:]}.example.org", life_s, [])
    return log


def issued(log: Log, *nodes: str) -> dict[str, list[bytes]]:
    number = log.pending().number
    return {
        node: [
            log.pending().requests.get(node, b"?"),
            f"cert-{number}-{node}".encode(),
            node.encode().ljust(32, b"%d" % number),
        ]
        for node in nodes
    }


def minted() -> Log:
    log = invited()
    log.apply("begin", "x", joiner())
    log.apply("csr", 2, "n1", b"csr-n1")
    log.apply("minted", 2, b"root-2", issued(log, "n1", "n2"))
    return log


def grown() -> Log:
    log = minted()
    log.apply("trusted", 2, "n1")
    log.apply("switched", 2, "n1")
    log.apply("retire", 2)
    return log


def test_genesis_makes_a_cluster_of_one_and_is_idempotent() -> None:
    log = founded()
    assert log.apply("genesis", FACTS, FOUNDER, [1, b"root-1", b"cert-1-n1", PIN["n1"]]) == "c1"
    view = log.view
    assert view.facts is not None and view.facts.name == "mail" and view.facts.founder == "n1"
    assert (
        list(view.members) == ["n1"] and view.members["n1"].role == "voter" and view.members["n1"].pins == [PIN["n1"]]
    )
    assert view.active is not None and (view.active.number, view.active.phase) == (1, "active")
    assert view.pending is None and view.revision == 2
    other = ["c2", *FACTS[1:]]
    assert log.refused("genesis", other, FOUNDER, [1, b"r", b"c", PIN["n1"]]) == "has-genesis"


def test_a_join_from_invitation_to_voter() -> None:
    log = invited()
    assert log.apply("begin", "x", joiner()) == 2
    assert log.view.members["n2"].joined_at == log.time and log.view.members["n2"].pins == []
    log.apply("csr", 2, "n1", b"csr-n1")
    log.apply("minted", 2, b"root-2", issued(log, "n1", "n2"))
    generation = log.pending()
    assert generation.phase == "trust" and generation.root == b"root-2"
    assert generation.trusted == ["n2"] and generation.switched == ["n2"], "a joiner has no other generation"
    assert [len(member.pins) for member in log.view.live().values()] == [2, 1]
    log.apply("trusted", 2, "n1")
    assert log.pending().phase == "switch"
    log.apply("switched", 2, "n1")
    log.apply("retire", 2)
    view = log.view
    assert view.pending is None and view.active is not None and (view.active.number, view.active.phase) == (2, "active")
    assert view.members["n1"].pins == [b"n1".ljust(32, b"2")], "only the new pin"
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


def test_one_generation_at_a_time() -> None:
    log = invited()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    log.apply("begin", "x", joiner())
    assert log.refused("begin", "y", joiner("n3", "t3")) == "generation-under-way"
    assert log.refused("begin", "y", None) == "generation-under-way"
    found = tables.invitation(log.rows, "t3")
    assert found is not None and found.used_by is None, "its token is as good as before"


def test_minted_is_accepted_once_and_only_for_all_collected_requests() -> None:
    log = invited()
    log.apply("begin", "x", joiner())
    assert log.refused("minted", 2, b"root-2", issued(log, "n2")) == "incomplete"
    assert log.refused("minted", 2, b"root-2", issued(log, "n1", "n2")) == "other-request", "n1 has sent none"
    log.apply("csr", 2, "n1", b"csr-n1")
    early = issued(log, "n1", "n2")
    log.apply("csr", 2, "n1", b"csr-n1-again")
    assert log.refused("minted", 2, b"root-2", early) == "other-request"
    assert log.refused("minted", 2, b"root-2", issued(log, "n1", "n2", "n3")) == "incomplete"
    assert log.refused("minted", 3, b"root-3", issued(log, "n1", "n2")) == "not-under-way"
    assert log.refused("csr", 2, "n2", b"another") == "joiner-bound"
    assert log.refused("csr", 2, "n9", b"another") == "no-member"
    log.apply("minted", 2, b"root-2", issued(log, "n1", "n2"))
    assert log.refused("minted", 2, b"root-x", issued(log, "n1", "n2")) == "minted-already"
    assert log.refused("csr", 2, "n1", b"late") == "minted-already"


def test_reports_out_of_order_are_refused_and_doubled_ones_change_nothing() -> None:
    log = invited()
    assert log.refused("trusted", 2, "n1") == "not-under-way"
    log.apply("begin", "x", joiner())
    log.apply("csr", 2, "n1", b"csr-n1")
    log.apply("csr", 2, "n1", b"csr-n1")
    assert log.refused("trusted", 2, "n1") == "out-of-order"
    log.apply("minted", 2, b"root-2", issued(log, "n1", "n2"))
    assert log.refused("switched", 2, "n1") == "out-of-order"
    assert log.refused("retire", 2) == "not-switched"
    log.apply("trusted", 2, "n1")
    log.apply("trusted", 2, "n1")
    assert log.refused("trusted", 2, "n9") == "no-member"
    assert log.refused("retire", 2) == "not-switched"
    log.apply("switched", 2, "n1")
    log.apply("switched", 2, "n1")
    log.apply("retire", 2)
    log.apply("retire", 2)
    assert log.refused("switched", 2, "n1") == "not-under-way"


def test_numbers_are_never_used_again() -> None:
    log = grown()
    assert log.apply("begin", "again", None) == 3
    assert log.pending().joiners == []


def test_removal_shuts_out_at_once() -> None:
    log = grown()
    assert log.refused("removed", "n1") == "last-voter"
    log.apply("promoted", "n2")
    log.apply("removed", "n1")
    log.apply("removed", "n1")
    assert log.view.members["n1"].pins == [] and list(log.view.live()) == ["n2"]
    assert log.refused("promoted", "n1") == "no-member"
    assert log.refused("address", "n1", "192.0.2.9", 1) == "no-member"
    assert log.refused("removed", "n7") == "no-member"


def test_removing_who_is_waited_for_lets_the_generation_go_on() -> None:
    log = grown()
    log.apply("promoted", "n2")
    log.apply("begin", "x", None)
    log.apply("csr", 3, "n1", b"a")
    log.apply("removed", "n2")
    log.apply("minted", 3, b"root-3", issued(log, "n1"))
    log.apply("trusted", 3, "n1")
    assert log.pending().phase == "switch"
    log = grown()
    log.apply("promoted", "n2")
    log.apply("begin", "x", None)
    log.apply("csr", 3, "n1", b"a")
    log.apply("csr", 3, "n2", b"b")
    log.apply("minted", 3, b"root-3", issued(log, "n1", "n2"))
    log.apply("trusted", 3, "n1")
    assert log.pending().phase == "trust"
    log.apply("removed", "n2")
    assert log.pending().phase == "switch"


def test_a_joiner_that_is_removed_before_it_got_its_certificate() -> None:
    log = invited()
    log.apply("begin", "x", joiner())
    assert log.refused("promoted", "n2") == "no-certificate"
    log.apply("removed", "n2")
    log.apply("csr", 2, "n1", b"a")
    log.apply("minted", 2, b"root-2", issued(log, "n1"))
    assert log.pending().joiners == [] and log.pending().switched == []


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
        generation = log.apply("begin", "x", joiner(f"n{number}", f"t{number}"))
        live = list(log.view.live())
        for node in live[:-1]:
            log.apply("csr", generation, node, node.encode())
        log.apply("minted", generation, b"root", issued(log, *live))
        for verb in ("trusted", "switched"):
            for node in live:
                log.apply(verb, generation, node)
        log.apply("retire", generation)
    assert len(log.view.live()) == 9
    log.apply("invite", "t10", b"k" * 32, "mx10.example.org", 60, [])
    assert log.refused("begin", "x", joiner("n10", "t10")) == "full"


def test_destroy_is_confirmed_and_final() -> None:
    log = grown()
    assert log.refused("recorded", "n1") == "out-of-order"
    assert log.refused("destroy", "e1", "post", True, "") == "not-confirmed"
    assert log.refused("destroy", "e1", "mail", False, "") == "has-members"
    assert log.apply("destroy", "e1", "mail", True, "moved away") == "e1"
    assert log.refused("destroy", "e2", "mail", True, "") == "destroyed"
    assert log.refused("invite", "t7", b"k" * 32, "mx7.example.org", 60, []) == "destroyed"
    log.apply("recorded", "n2")
    log.apply("recorded", "n2")
    decided = log.view.destruction
    assert decided is not None and (decided.event_id, decided.recorded) == ("e1", ["n2"])
    assert founded().apply("destroy", "e1", "mail", False, "") == "e1", "alone it needs no more than the name"


@pytest.mark.parametrize(
    "command",
    [None, 7, [], ["nonsense"], [["invite"]], ["invite"], ["invite", 1, 2, 3, 4], ["csr", 1.5, "n1", b""], ["begin", "x", [1]],
     ["csr", 2, "n" * 600, b"x"], ["minted", 2, b"r", {"n1": 3}], ["genesis", [], [], []], ["trusted", True, "n1"]],
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
    log.apply("promoted", "n2")
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
