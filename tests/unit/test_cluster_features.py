"""Features are enabled by the entry with which the last live member reports them, and for good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raftcluster.cluster.actions import Propose
from raftcluster.cluster.auditing import attributed, read_newest
from raftcluster.cluster.features import NAMES, Feature, check_understood, checked, lacking, listed
from raftcluster.cluster.lifecycle import decide
from raftcluster.errors import DataVersion, Rejected
from tests.cluster_log import Log
from tests.unit.test_cluster_lifecycle import ALONE
from tests.unit.test_cluster_machine import generation, grown, joiner, three


def says(log: Log, node: str, *names: str, product: str = "mta/1.1") -> Any:
    return log.apply("report", node, product, list(names))


def test_the_last_live_member_enables_a_feature() -> None:
    log = three()
    assert says(log, "n1", "a", "b") == ["mta/1.0", []]
    assert says(log, "n2", "b", "c") == ["mta/1.1", []]
    assert says(log, "n3", "b") == ["mta/1.1", ["b"]]
    assert log.view.enabled == ["b"]
    assert listed(log.view) == [
        Feature("a", False, ["mx2.example.org", "mx3.example.org"]),
        Feature("b", True, []),
        Feature("c", False, ["mx1.example.org", "mx3.example.org"]),
    ]
    assert says(log, "n3", "a", "b", "c") == ["mta/1.1", []]
    assert says(log, "n2", "a", "b", "c") == ["mta/1.1", ["a"]]


def test_what_is_enabled_stays_so() -> None:
    log = three()
    for node in ("n1", "n2", "n3"):
        says(log, node, "b")
    says(log, "n2")
    assert log.view.enabled == ["b"]
    assert listed(log.view) == [Feature("b", True, ["mx2.example.org"])]


def test_a_member_that_has_joined_and_said_nothing_is_waited_for() -> None:
    log = grown()
    log.apply("promoted", "n2")
    log.amend()
    log.apply("invite", "t3", b"k" * 32, "mx3.example.org", 60, [])
    number = log.apply("begin", "x", joiner("n3", "t3", csr=b"csr-n3"))
    assert says(log, "n1", "b")[1] == says(log, "n2", "b")[1] == []
    generation(log, number)
    assert log.view.enabled == []
    assert says(log, "n3", "b")[1] == ["b"]


def test_a_member_that_is_removed_is_waited_for_no_more() -> None:
    log = three()
    says(log, "n1", "b")
    says(log, "n2", "b")
    log.apply("leaving", "n3")
    assert log.view.enabled == []
    if (number := log.apply("removed", "n3")) is not None:
        generation(log, number)
    assert log.view.enabled == ["b"] and "n3" not in log.view.reported


def test_the_record_has_the_version_that_runs_and_the_audit_log_when_it_changed() -> None:
    log = three()
    for node, names in (("n1", ["b"]), ("n1", ["b"]), ("n2", ["b"]), ("n3", ["b"])):
        log.apply(*attributed(["report", node, "mta/1.2", names], "raftcluster", "mx1", ""))
    assert {each.product for each in log.view.members.values()} == {"mta/1.2"}
    told = [(each.action, each.subject) for each in read_newest(log.replicas[0][1], 10) if each.action == "upgrade"]
    assert told == [
        ("upgrade", "mx3.example.org from mta/1.1 to mta/1.2; enabled: b"),
        ("upgrade", "mx2.example.org from mta/1.1 to mta/1.2"),
        ("upgrade", "mx1.example.org from mta/1.0 to mta/1.2"),
    ]


def test_reports_that_are_none() -> None:
    log = three()
    assert log.refused("report", "n1", "gateway/1.0", []) == "incompatible"
    assert log.refused("report", "n9", "mta/1.0", []) == "no-member"
    for names in (["B"], [""], ["a" * 64], [7], [b"a"], [f"f{n}" for n in range(NAMES + 1)]):
        assert log.refused("report", "n1", "mta/1.0", names) == "rejected"
    assert log.view.reported == {}


def test_a_node_reports_once_what_the_record_does_not_have() -> None:
    log = three()
    mine = replace(ALONE, product="mta/1.3", features=["b"])

    def reports() -> list[Any]:
        return [each.command for each in decide(log.view, mine) if isinstance(each, Propose)]

    assert ["report", "n1", "mta/1.3", ["b"]] in reports()
    says(log, "n1", "b", product="mta/1.3")
    assert all(command[0] != "report" for command in reports())
    mine = replace(mine, product="mta/1.2")
    assert ["report", "n1", "mta/1.2", ["b"]] in reports(), (
        "a step back, while nothing is enabled, is a version like any other"
    )


def test_who_lacks_what_is_enabled_is_refused_by_name() -> None:
    assert lacking(["a", "b"], ["a", "b", "c"]) == ""
    assert "enabled b," in lacking(["a", "b"], ["a"])
    with pytest.raises(DataVersion, match="enabled b,") as caught:
        check_understood(["b"], [], "n1")
    assert "install" in caught.value.remedy
    assert checked(["b", "a", "b"]) == ["a", "b"]
    with pytest.raises(Rejected, match="lower case"):
        checked("ab")
