"""Who has changed members and certificates, from where and why: kept with each decision, for no other command."""

from __future__ import annotations

from typing import Any

import pytest

from raftcluster.cluster import auditing
from raftcluster.cluster.auditing import ITSELF, Change, attributed
from raftcluster.cluster.generations import COLLECT_MS
from raftcluster.cluster.machine import COMMANDS
from raftcluster.cluster.records import SCHEMA
from raftcluster.errors import Rejected
from tests.cluster_log import Log, genesis, pin

FACTS = ["c1", "mail", False, "mta/1.0", SCHEMA, "standalone", "n1"]
FOUNDER = ["n1", "mx1", "192.0.2.1", 9777, "mta/1.0"]
JOINER = ["n2", "mx2", "192.0.2.2", 9777, "mta/1", SCHEMA, "standalone", "t2", b"csr-n2".ljust(32), b"csr-n2"]


class Administered(Log):
    """A log whose commands somebody answers for, and what was told of the newest."""

    def by(self, *command: Any, author: str = "admin", origin: str = "mx1", reason: str = "so it is") -> Any:
        return self.apply(*attributed(list(command), author, origin, reason))

    def told(self) -> list[str]:
        return [f"{each.action} {each.subject}" for each in auditing.read_changes(self.rows, 0, 100)]

    def newest(self) -> Change:
        return auditing.read_newest(self.rows, 1)[0]


def founded() -> Administered:
    log = Administered()
    log.by(*genesis(FACTS, FOUNDER))
    return log


def joined() -> Administered:
    """Two members, of which one has just been let in: nothing is under way."""
    log = founded()
    log.by("invite", "t2", b"k" * 32, "mx2", 60, [])
    log.by("begin", "x", JOINER, author="mx2", origin="192.0.2.2")
    in_force(log, 2)
    return log


def in_force(log: Administered, number: int) -> None:
    """The generation under way, by n1 alone."""
    log.apply("csr", number, "n1", b"csr-n1")
    log.mint()
    log.trust("n1")
    log.switch("n1")
    log.apply("retire", number)


def test_each_decision_is_told_with_who_where_when_and_why() -> None:
    log = joined()
    log.by("invite", "t3", b"k" * 32, "mx3", 60, [])
    log.by("revoke", "t3")
    log.by("address", "n2", "2001:db8::2", 9778)
    log.by("transfer", "")
    log.by("transfer", "n2")
    number = log.by("rotate", "x", ["n2"], True)
    log.by("abort", number, "an administrator")
    log.by("rotate", "x", [], True, author=ITSELF)
    log.time += COLLECT_MS
    assert log.by("overdue", number + 1, author=ITSELF) is False
    log.by("leaving", "n2")
    log.apply("removed", "n2")
    log.time += 1
    log.by("destroy", "e1", "mail", True, "the end", False)
    assert log.told() == [
        "init mail",
        "invite mx2 (token t2)",
        "join mx2 (token t2)",
        "invite mx3 (token t3)",
        "revoke mx3 (token t3)",
        "move mx2 to [2001:db8::2]:9778",
        "transfer to whoever has most",
        "transfer mx2",
        "rotate generation 3 without mx2",
        "abort generation 3",
        "rotate generation 4",
        "abort generation 4: mx1, mx2 did not answer within 10 s",
        "remove mx2",
        "destroy mail",
    ]
    assert log.newest() == Change(14, log.time, "destroy", "mail", "admin", "mx1", "so it is")
    (join,) = [each for each in auditing.read_newest(log.rows, 100) if each.action == "join"]
    assert (join.author, join.origin) == ("mx2", "192.0.2.2")


def test_commands_of_earlier_versions_and_steps_of_a_generation_leave_no_row() -> None:
    log = Administered()
    log.apply(*genesis(FACTS, FOUNDER))
    log.apply("invite", "t2", b"k" * 32, "mx2", 60, [])
    log.apply("begin", "x", JOINER)
    assert log.told() == [] and len(log.view.members) == 2
    log.by("csr", 2, "n1", b"csr-n1")
    assert log.told() == [], "a step is nobody's decision"


def test_what_is_refused_is_not_told() -> None:
    log = founded()
    assert log.refused(*attributed(["leaving", "n1"], "admin", "mx1", "")) == "last-voter"
    assert log.refused(*attributed(["transfer", "n9"], "admin", "mx1", "")) == "no-member"
    assert log.told() == ["init mail"]


def test_who_joins_asks_again_and_is_told_once() -> None:
    log = founded()
    log.by("invite", "t2", b"k" * 32, "mx2", 60, [])
    for _ in range(3):
        log.by("begin", "x", JOINER, author="mx2", origin="192.0.2.2")
    assert log.told()[2:] == ["join mx2 (token t2)"]
    log.by("transfer", "n1")
    log.by("transfer", "n1")
    assert log.told()[3:] == ["transfer mx1", "transfer mx1"], "a decision that is taken twice is"


def test_who_joins_or_returns_while_others_decide_is_told_once_each_time() -> None:
    log = founded()
    for number in (2, 3):
        log.by("invite", f"t{number}", b"k" * 32, f"mx{number}", 60, [])
    other = ["n3", "mx3", "192.0.2.3", *JOINER[3:7], "t3", b"csr-n3".ljust(32), b"csr-n3"]
    for _ in range(2):  # the answer is late, and each asks again
        log.by("begin", "x", JOINER, author="mx2", origin="192.0.2.2")
        log.by("begin", "y", other, author="mx3", origin="192.0.2.3")
    assert log.told()[3:] == ["join mx2 (token t2)", "join mx3 (token t3)"]
    log.by("abort", 2, "so it is")
    log.by("begin", "x", JOINER, author="mx2", origin="192.0.2.2")
    assert log.told()[5:] == ["abort generation 2", "join mx2 (token t2)"], "it was given up, and decided again"
    log = joined()
    log.apply("rotate", "x", ["n2"], True)
    in_force(log, 3)
    before = len(log.told())
    for _ in range(2):
        log.by("return", "x", "n2", pin(2, "n2"), b"back", author="mx2", origin="192.0.2.2")
        log.by("transfer", "")
    assert log.told()[before:] == ["return mx2", "transfer to whoever has most", "transfer to whoever has most"]


@pytest.mark.parametrize(
    "note", [None, [], ["a", "b"], ["a", "b", "c", "d"], ["a", "b", 7], ["a", "b", "x" * 1025], ["a", "b", "\udc80"]]
)
def test_an_envelope_that_is_none_is_refused_without_a_trace(note: Any) -> None:
    log = founded()
    machine, rows = log.replicas[0]
    before = dict(rows.rows)
    for command in ([auditing.ATTRIBUTED, note, ["transfer", ""]], [auditing.ATTRIBUTED, note], [auditing.ATTRIBUTED]):
        with pytest.raises(Rejected) as caught:
            machine.apply(command, rows, log.time)
        assert caught.value.code == "malformed" and rows.rows == before


def test_an_envelope_in_an_envelope_is_no_command() -> None:
    inner = attributed(["transfer", ""], "a", "b", "c")
    assert founded().refused(*attributed(inner, "a", "b", "c")) == "malformed"


def test_the_newest_are_kept_and_their_numbers_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "KEPT", 3)
    log = founded()
    for _ in range(5):
        log.by("transfer", "")
    assert [each.number for each in auditing.read_changes(log.rows, 0, 100)] == [4, 5, 6]
    assert [each.number for each in auditing.read_newest(log.rows, 2)] == [6, 5]
    assert auditing.read_count(log.rows) == 6


def test_every_action_is_a_command_and_rows_hold_no_key() -> None:
    assert set(auditing.ACTIONS) <= set(COMMANDS)
    log = joined()
    kept = b"".join(value for (table, _), value in log.rows.rows.items() if table == auditing.AUDIT)
    assert b"mx2" in kept
    assert not any(held in kept for held in (b"kkkk", b"csr-n2", pin(2, "n2")))
