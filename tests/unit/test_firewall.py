"""The firewall's table as nft's JSON has it, foreign rules in the way, who is let in, and the keeper over a fake nft."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import raftcluster
from raftcluster.errors import MissingPrivilege, Refusal, Unavailable
from raftcluster.firewall import preflight
from raftcluster.firewall.foreign import obstacles
from raftcluster.firewall.keeper import FILE, Keeper, Wanted
from raftcluster.firewall.nft import Nft
from raftcluster.firewall.sources import NAMES_SECONDS, Memory, Names, addresses_of
from raftcluster.firewall.table import Found, Table, plain, table_name, without_ours
from raftcluster.storage.directory import DataDirectory

NAME = "raftcluster_0123456789ab"
TABLE = Table(NAME, 9777, frozenset({"192.0.2.1", "2001:db8::1"}), {"192.0.2.9": 60})


class Kernel(Nft):
    """Tables as the kernel would have them after the commands that the real nft is given."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.objects: list[Any] = []
        self.applied = 0
        self.failure: Refusal | None = None

    def ruleset(self) -> list[Any]:
        if self.failure:
            raise self.failure
        return copy.deepcopy(self.objects)

    def table(self, name: str) -> list[Any]:
        return [
            each for each in self.ruleset() for body in each.values() if name in (body.get("table"), body.get("name"))
        ]

    def apply(self, commands: Sequence[Any]) -> None:
        if self.failure:
            raise self.failure
        self.applied += 1
        for command in commands:
            ((verb, thing),) = command.items()
            ((kind, body),) = copy.deepcopy(thing).items()
            if verb == "delete":
                self.objects = [
                    each
                    for each in self.objects
                    for held in each.values()
                    if body["name"] not in (held.get("table"), held.get("name"))
                ]
            elif kind == "element" or verb == "flush":
                (found,) = [each["set"] for each in self.objects if each.get("set", {}).get("name") == body["name"]]
                found["elem"] = [] if verb == "flush" else [*found.get("elem", []), *body["elem"]]
            elif thing not in [
                {k: {n: v for n, v in b.items() if n != "handle"}} for e in self.objects for k, b in e.items()
            ]:
                self.objects.append({kind: {**body, "handle": len(self.objects)}})


def found(kernel: Kernel) -> Found:
    read = Found.read(kernel.table(NAME), NAME)
    assert read is not None
    return read


def test_what_is_made_is_read_back() -> None:
    kernel = Kernel()
    kernel.apply(TABLE.creation())
    read = found(kernel)
    assert read.members == TABLE.members and read.invited == TABLE.invited and read.lets_in(TABLE)
    assert Found.read([], NAME) is None and Found.read(kernel.ruleset(), "raftcluster_other") is None
    moved = replace(TABLE, members=frozenset({"192.0.2.2"}), invited={})
    assert not read.lets_in(moved)
    kernel.apply(moved.update())
    assert found(kernel).lets_in(moved) and found(kernel).members == moved.members
    kernel.apply(TABLE.removal())
    assert kernel.objects == []
    kernel.apply(TABLE.removal())
    assert kernel.objects == [], "whether there was one or not"


def test_a_time_out_that_runs_is_right_and_one_that_was_changed_is_not() -> None:
    kernel = Kernel()
    kernel.apply(TABLE.creation())
    assert found(kernel).lets_in(replace(TABLE, invited={"192.0.2.9": 57}))
    assert not found(kernel).lets_in(replace(TABLE, invited={"192.0.2.9": 600}))


def test_the_last_rule_drops_and_accepts_are_for_the_port_alone() -> None:
    rules = TABLE.rules()
    assert rules[-1][-1] == {"drop": None} and str(9777) in str(rules[-1])
    assert all("9777" in str(rule) for rule in rules[1:]) and "lo" in str(rules[0])
    chain = next(each["add"]["chain"] for each in TABLE.creation() if "chain" in each.get("add", {}))
    assert chain["policy"] == "accept", "what is not for the port is no business of ours"


@pytest.mark.parametrize(
    ("given", "plain_form"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_addresses_have_one_form(given: str, plain_form: str) -> None:
    assert plain(given) == plain_form


def test_what_lasts_of_a_rule_set() -> None:
    listing = [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "filter", "handle": 3}},
        {"rule": {"family": "inet", "table": "filter", "chain": "c", "handle": 7, "expr": [{"counter": {"packets": 5, "bytes": 9}}]}},
        {"set": {"family": "inet", "table": "filter", "name": "banned", "flags": ["timeout"], "elem": [1]}},
        {"table": {"family": "inet", "name": NAME}},
        {"set": {"family": "inet", "table": NAME, "name": "members4"}},
    ]  # fmt: skip
    assert without_ours(listing, NAME) == [
        {"table": {"family": "inet", "name": "filter"}},
        {"rule": {"family": "inet", "table": "filter", "chain": "c", "expr": [{"counter": {}}]}},
        {"set": {"family": "inet", "table": "filter", "name": "banned", "flags": ["timeout"]}},
    ]


def dport(right: Any, op: str = "==", protocol: str = "tcp") -> Any:
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": right}}


def state(*names: str) -> Any:
    return {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": list(names)}}


SOURCE = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "192.0.2.1"}}
DROP, ACCEPT, RETURN = {"drop": None}, {"accept": None}, {"return": None}


@pytest.mark.parametrize(
    ("policy", "rules", "blocked"),
    [
        ("accept", [], False),
        ("drop", [], True),
        ("drop", [[state("established", "related"), ACCEPT], [dport(22), ACCEPT]], True),
        ("drop", [[dport({"set": [22, 25, 9777]}), ACCEPT]], False),
        ("drop", [[dport({"range": [9000, 9999]}), ACCEPT]], False),
        ("drop", [[dport({"set": [22, {"range": [1, 9776]}]}), ACCEPT]], True),
        ("drop", [[SOURCE, dport(9777), ACCEPT]], False),
        ("drop", [[dport("@ports"), ACCEPT]], False),
        ("drop", [[state("new"), {"counter": {"packets": 1}}, ACCEPT]], False),
        ("accept", [[dport(9777), DROP]], True),
        ("accept", [[dport(9777), {"reject": {"type": "tcp reset"}}]], True),
        ("accept", [[dport(9777, protocol="udp"), DROP]], False),
        ("accept", [[dport(22, "!="), DROP]], True),
        ("accept", [[SOURCE, DROP]], False),
        ("accept", [[dport(9777), ACCEPT], [DROP]], False),
        ("drop", [[{"jump": {"target": "more"}}]], False),
        ("accept", [[RETURN], [DROP]], False),
        (
            "accept",
            [[{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, ACCEPT], [DROP]],
            True,
        ),
        ("accept", [[{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, DROP]], True),
        (
            "accept",
            [[{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": [6, 17]}}}, DROP]],
            True,
        ),
    ],
)
def test_foreign_rules_that_keep_members_out(policy: str, rules: list[Any], blocked: bool) -> None:
    listing: list[Any] = [
        {"chain": {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": policy}},
        {"chain": {"family": "inet", "table": "filter", "name": "more"}},
        {"rule": {"family": "inet", "table": "filter", "chain": "more", "expr": [dport(9777), ACCEPT]}},
        {"chain": {"family": "inet", "table": "filter", "name": "out", "hook": "output", "policy": "drop"}},
        {"chain": {"family": "arp", "table": "filter", "name": "input", "hook": "input", "policy": "drop"}},
    ]
    listing += [{"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": each}} for each in rules]
    found = obstacles(listing, 9777)
    assert bool(found) == blocked
    for each in found:
        assert "nft insert rule inet filter input tcp dport 9777 accept" in str(each)
    assert obstacles(listing, 9777, but="filter") == []


def test_our_own_table_is_no_obstacle_only_when_it_is_ours() -> None:
    kernel = Kernel()
    kernel.apply(TABLE.creation())
    assert obstacles(kernel.ruleset(), 9777, NAME) == []
    assert obstacles(kernel.ruleset(), 9777), "another node's table at the same port is"
    assert obstacles(kernel.ruleset(), 9778) == []


def test_where_members_come_from_is_remembered() -> None:
    names = {"mx2": ["192.0.2.2"], "mx3": ["2001:db8::3"]}
    memory = Memory()
    members = {"n2": "mx2", "n3": "mx3", "n4": "192.0.2.4"}
    assert memory.learn(members, {}, lambda name: names.get(name, []))
    assert memory.addresses() == {"192.0.2.2", "2001:db8::3", "192.0.2.4"}
    assert not memory.learn(members, {"n2": "192.0.2.2"}, lambda name: ()), (
        "a name server that is silent locks nobody out"
    )
    assert memory.addresses() == {"192.0.2.2", "2001:db8::3", "192.0.2.4"}
    assert memory.learn(members, {"n2": "198.51.100.7", "n9": "203.0.113.1"}, lambda name: ())
    assert "198.51.100.7" in memory.addresses() and "203.0.113.1" not in memory.addresses()
    for last in range(20):
        memory.learn(members, {"n2": f"198.51.100.{last}"}, lambda name: ())
    assert len(memory.seen["n2"]) == 4
    memory.learn({"n3": "mx3"}, {}, lambda name: names.get(name, []))
    assert memory.addresses() == {"2001:db8::3"}, "removed members are forgotten"


def test_names_are_asked_for_once_in_a_while() -> None:
    asked: list[str] = []
    now = [0.0]

    def resolve(name: str) -> list[str]:
        asked.append(name)
        return [f"192.0.2.{len(asked)}"]

    names = Names(resolve, lambda: now[0])
    assert addresses_of("mx2", names) == addresses_of("mx2", names) == ["192.0.2.1"]
    now[0] = NAMES_SECONDS
    assert addresses_of("mx2", names) == ["192.0.2.2"] and asked == ["mx2", "mx2"]


class Kept:
    """A keeper, stepped by hand."""

    def __init__(self, folder: Path, kernel: Kernel) -> None:
        self.directory = DataDirectory.create(folder)
        self.kernel = kernel
        self.wanted: Wanted | None = Wanted({"n2": "192.0.2.2"})
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.names: dict[str, list[str]] = {}
        self.keeper = self.again()

    def again(self) -> Keeper:
        self.keeper = Keeper(
            self.directory, NAME, 9777, self.look, self.note, lambda name: self.names.get(name, []), nft=self.kernel
        )
        return self.keeper

    def look(self) -> Wanted:
        if self.wanted is None:
            raise Unavailable("starting")
        return self.wanted

    def note(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))

    def news(self) -> list[str]:
        told, self.events = [name for name, _ in self.events], []
        return told


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "node", Kernel())


def test_the_keeper_follows_the_cluster_and_does_nothing_twice(kept: Kept) -> None:
    kept.keeper.step()
    assert kept.news() == ["firewall-created"]
    applied = kept.kernel.applied
    kept.keeper.step()
    assert kept.kernel.applied == applied and kept.news() == []
    kept.names["mx3"] = ["192.0.2.3"]
    kept.wanted = Wanted({"n2": "192.0.2.2"}, {"n2": "198.51.100.7"}, {"mx3": 60, "nowhere": 60})
    kept.keeper.step()
    assert kept.events == [("firewall-changed", {"table": NAME, "added": ["192.0.2.3", "198.51.100.7"], "removed": []})]
    assert found(kept.kernel).invited == {"192.0.2.3": 60}
    kept.wanted = Wanted({"n2": "192.0.2.2", "n3": "mx3"})
    kept.news()
    kept.keeper.step()
    assert kept.news() == [], "the host is the same, as a member now"
    assert found(kept.kernel).members == {"192.0.2.2", "192.0.2.3", "198.51.100.7"}
    kept.wanted = Wanted({"n3": "mx3"}, former=frozenset({"203.0.113.1"}))
    kept.keeper.step()
    assert found(kept.kernel).members == {"192.0.2.3", "203.0.113.1"}
    kept.wanted = Wanted({"n3": "mx3"}, moved=frozenset({"203.0.113.1"}))
    kept.keeper.step()
    assert found(kept.kernel).members == {"192.0.2.3", "203.0.113.1"}, "a member is looked for there"
    shown = kept.keeper.state()
    assert shown["table"] == NAME and shown["members"] == ["192.0.2.3", "203.0.113.1"] and shown["dropped"] == 0


def test_what_others_have_done_to_the_table_is_mended(kept: Kept) -> None:
    kept.keeper.step()
    kept.news()
    harms: list[Callable[[], None]] = [
        lambda: kept.kernel.objects.clear(),
        lambda: kept.kernel.objects.pop(),
        lambda: kept.kernel.objects[-1]["rule"]["expr"].pop(),
        lambda: kept.kernel.objects[-2].update(kept.kernel.objects[-1]),
    ]
    for harm in harms:
        harm()
        kept.keeper.step()
        assert kept.news() == ["firewall-created"] and found(kept.kernel).members == {"192.0.2.2"}


@pytest.mark.parametrize(
    "theirs",
    [
        {"type": "inet_service", "elem": [22, {"range": [8000, 8080]}]},
        {"type": "ipv4_addr", "flags": ["interval"], "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]},
        {"type": "ipv4_addr", "elem": [{"elem": {"val": {"concat": ["192.0.2.7", 25]}, "timeout": 60}}]},
    ],
)
def test_sets_that_others_have_added_to_the_table_are_mended_too(kept: Kept, theirs: dict[str, Any]) -> None:
    """What is in them is no address: reading it ended the keeper's thread, and the table followed nobody any more."""
    kept.keeper.step()
    kept.news()
    kept.kernel.objects.append({"set": {"family": "inet", "table": NAME, "name": "blocked", **theirs}})
    kept.keeper.step()
    assert kept.news() == ["firewall-created"] and found(kept.kernel).members == {"192.0.2.2"}
    ours = next(each["set"] for each in kept.kernel.objects if each.get("set", {}).get("name") == "members4")
    ours.update(flags=["interval"], elem=[*ours["elem"], *theirs["elem"]])
    kept.keeper.step()
    assert kept.news() == ["firewall-created"] and found(kept.kernel).members == {"192.0.2.2"}


def test_a_keeper_that_was_closed_makes_no_table_any_more(kept: Kept) -> None:
    kept.keeper.close()
    kept.keeper.step()
    assert kept.kernel.applied == 0 and kept.news() == []


def test_foreign_tables_are_told_and_left_alone(kept: Kept) -> None:
    foreign = {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}}
    kept.kernel.objects.append(foreign)
    kept.keeper.step()
    assert "nft insert rule ip filter INPUT tcp dport 9777 accept" in kept.keeper.troubles()["firewall-foreign"]
    assert foreign in kept.kernel.objects


def test_a_firewall_that_fails_is_told_once_and_comes_back(kept: Kept) -> None:
    kept.kernel.failure = MissingPrivilege("nft is not permitted to this user")
    kept.keeper.prepare({"n2": "192.0.2.2"})
    kept.keeper.step()
    kept.keeper.step()
    assert kept.news() == ["firewall-failed"] and "not permitted" in kept.keeper.troubles()["firewall"]
    kept.kernel.failure = None
    kept.keeper.step()
    assert kept.news() == ["firewall-created"] and kept.keeper.troubles() == {}


def test_the_port_is_closed_before_anybody_can_be_asked(kept: Kept) -> None:
    kept.names["mx3"] = ["192.0.2.3"]
    kept.wanted = Wanted({"n2": "192.0.2.2", "n3": "mx3"}, {"n2": "198.51.100.7"})
    kept.keeper.step()
    assert (kept.directory.path / FILE).exists()
    kept.kernel.objects.clear()
    kept.names.clear()
    kept.wanted = None
    again = kept.again()
    again.prepare({"n2": "192.0.2.2", "n3": "mx3"})
    assert found(kept.kernel).members == {"192.0.2.2", "192.0.2.3", "198.51.100.7"}
    with pytest.raises(Unavailable):
        again.step()


def test_a_node_that_has_just_joined_lets_in_members_by_name_before_it_hears_of_the_cluster(kept: Kept) -> None:
    """Else nobody could link to it, and so it would never hear of it: of two nodes one dials."""
    kept.wanted = None
    kept.keeper.prepare({"n2": "mx2", "n3": "192.0.2.3"})
    assert found(kept.kernel).members == {"192.0.2.3"}, "the start does not wait for name servers"
    with pytest.raises(Unavailable):
        kept.keeper.step()
    assert found(kept.kernel).members == {"192.0.2.3"}, "they do not answer yet"
    kept.names["mx2"] = ["192.0.2.2"]
    with pytest.raises(Unavailable):
        kept.keeper.step()
    assert found(kept.kernel).members == {"192.0.2.2", "192.0.2.3"}
    kept.wanted = Wanted({"n3": "192.0.2.3"})
    kept.keeper.step()
    kept.wanted = None
    with pytest.raises(Unavailable):
        kept.keeper.step()
    assert found(kept.kernel).members == {"192.0.2.3"}, "once the cluster has been heard, it says who is in"


@pytest.mark.parametrize(
    ("host", "needed"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("192.0.2.1", True), ("mx1", True)],
)
def test_a_node_on_loopback_needs_no_firewall(host: str, needed: bool) -> None:
    assert preflight.is_needed(host) == needed


def test_without_nft_nothing_begins_until_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftcluster.firewall.nft.shutil.which", lambda *_, **__: None)
    where: dict[str, Any] = {"cluster": "mail", "node": "mx1", "listen": ("0.0.0.0", 9777)}
    with pytest.raises(Refusal, match=r"apt-get install nftables.*--no-firewall"):
        raftcluster.init(tmp_path / "mx1", **where)
    assert not (tmp_path / "mx1").exists()
    raftcluster.init(tmp_path / "mx1", **where, firewall=False)
    with DataDirectory.open(tmp_path / "mx1") as directory:
        assert directory.read_node()["firewall"] is False


def test_what_nft_says_becomes_an_error_with_a_remedy(tmp_path: Path) -> None:
    def saying(text: str, status: int = 1) -> Nft:
        command = tmp_path / f"nft{len(list(tmp_path.iterdir()))}"
        command.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {status}\n")
        command.chmod(0o755)
        return Nft(str(command))

    with pytest.raises(MissingPrivilege, match="CAP_NET_ADMIN"):
        saying("Operation not permitted (you must be root)").ruleset()
    with pytest.raises(Refusal, match="syntax error"):
        saying("internal:0:0-0: syntax error").apply([])
    assert saying("Error: No such file or directory").table(NAME) == []
    with pytest.raises(Refusal, match="no JSON"):
        saying("", 0).ruleset()
    with pytest.raises(Refusal, match="did not run"):
        Nft("/nonexistent/nft").ruleset()


def test_two_nodes_have_two_tables() -> None:
    assert table_name("01234567-89ab-cdef-0123-456789abcdef") == NAME
