"""The firewall with real nftables on hosts of their own: members pass, strangers do not, other people's rules stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcluster.firewall.foreign import obstacles
from raftcluster.firewall.table import without_ours
from tests.e2e.hosts import Hosts
from tests.e2e.node import PORT, RaftNode
from tests.helpers import eventually

STRANGER, NEWCOMER = 3, 4
FOREIGN = """
table inet filter {
    set banned { type ipv4_addr; flags dynamic,timeout; timeout 1h; }
    counter seen { }
    chain input {
        type filter hook input priority 0; policy drop;
        iifname "lo" accept;
        ct state established,related accept;
        meta l4proto icmp accept;
        tcp dport { 22, 8000-8999 } counter accept;
        counter name "seen";
    }
}
table ip nat {
    chain post { type nat hook postrouting priority 100; ip saddr 10.99.0.0/16 masquerade; }
}
"""
MEND = f"nft insert rule inet filter input tcp dport {PORT} accept"


@pytest.fixture
def four() -> Iterator[Hosts]:
    with Hosts(4) as hosts:
        yield hosts


def ruleset(hosts: Hosts, number: int) -> list[Any]:
    listed = hosts.run(number, "nft", "-j", "list", "ruleset")
    assert listed.returncode == 0, listed.stderr
    return list(json.loads(listed.stdout)["nftables"])


def connects(hosts: Hosts, origin: int, target: int) -> bool:
    return hosts.listens(target, PORT, origin=origin)


def dropped(node: RaftNode) -> int:
    return int(node.asked("status")["firewall"]["dropped"])


def members(node: RaftNode) -> list[str]:
    return sorted(row["name"] for row in node.asked("members"))


def test_members_pass_strangers_do_not_and_foreign_rules_stay(four: Hosts, tmp_path: Path) -> None:
    done = four.run(1, "nft", FOREIGN)
    assert done.returncode == 0, done.stderr
    nodes = {number: RaftNode(four, number, tmp_path) for number in (1, 2, NEWCOMER)}
    first, second, newcomer = nodes.values()

    # The preflight names the foreign rule that keeps the members out, and the command that mends it; it edits nothing.
    before = without_ours(ruleset(four, 1))
    place = ("--node", first.name, "--listen", first.address, "--advertise", first.address)
    begun = first.command("init", "--name", "e2e", "--lab", *place)
    assert begun.returncode == 0 and MEND in begun.stderr, begun.stderr
    assert without_ours(ruleset(four, 1)) == before
    first.serve()
    assert MEND in eventually(lambda: first.asked("status")["alarms"].get("firewall-foreign", ""))
    assert not connects(four, 2, 1)
    assert four.run(1, *MEND.split()).returncode == 0
    eventually(lambda: "firewall-foreign" not in first.asked("status")["alarms"])
    table = first.asked("status")["firewall"]["table"]
    before = without_ours(ruleset(four, 1), table)

    # Nobody is invited: a stranger's packets are dropped and counted.
    assert not connects(four, STRANGER, 1) and not connects(four, 2, 1)
    eventually(lambda: dropped(first) > 0)
    assert first.command("invite", "mx2.nowhere.test").returncode == 4, "a name that leads nowhere needs --address"

    # Who is invited passes from then on; the stranger still does not.
    second.join(first)
    second.serve()
    eventually(lambda: members(second) == ["mx1", "mx2"] and second.leader())
    eventually(lambda: connects(four, 2, 1) and connects(four, 1, 2))
    assert not connects(four, STRANGER, 1) and not connects(four, STRANGER, 2)
    token = first.said("invite", newcomer.name, "--address", four.address(NEWCOMER))
    eventually(lambda: connects(four, NEWCOMER, 1) and connects(four, NEWCOMER, 2), what="both let the invited one in")
    first.said("tokens", "revoke", token.split(".")[1])
    eventually(lambda: not connects(four, NEWCOMER, 1) and not connects(four, NEWCOMER, 2), what="and no more")

    # Whoever flushes the rule set does not open the port for long; foreign tables are not ours to bring back.
    assert four.run(2, "nft", "flush", "ruleset").returncode == 0
    eventually(lambda: not connects(four, STRANGER, 2))
    eventually(lambda: connects(four, 1, 2))

    # A removed member is a stranger.
    first.said("members", "remove", "mx2")
    eventually(lambda: not connects(four, 2, 1))
    ours = without_ours(ruleset(four, 1), table)
    assert ours == before, "foreign tables are as they were, counts aside"
    assert obstacles(ruleset(four, 1), PORT, table) == []
    names = [json.loads(line)["event"] for line in first.said("events", "--json").splitlines()]
    assert names.count("firewall-created") == 1 and "firewall-changed" in names
    assert second.said("events").count("firewall-created") == 2
    for node in (first, second):
        node.stop()


def test_a_member_that_comes_back_elsewhere_is_let_in_once_a_member_is_told(four: Hosts, tmp_path: Path) -> None:
    """Of two, so that there is no quorum without it: the firewall must let it in before the cluster can decide anything."""
    first, second = (RaftNode(four, number, tmp_path) for number in (1, 2))
    first.init()
    first.serve()
    second.join(first)
    second.serve()
    eventually(lambda: len(first.asked("status")["voters"]) == 2)
    eventually(lambda: first.asked("certs")["pending"] is None)
    second.stop()

    elsewhere = "10.77.0.22"
    for change in (("del", four.address(2)), ("add", elsewhere)):
        done = four.run(2, "ip", "address", change[0], f"{change[1]}/24", "dev", "eth0")
        assert done.returncode == 0, done.stderr
    words = second.words("serve", "--listen", f"{elsewhere}:{PORT}", "--advertise", f"{elsewhere}:{PORT}")
    serving = four.start(2, "mx2 elsewhere", words, tmp_path / "elsewhere.log")
    try:
        said = eventually(lambda: alarms(second).get("alone", ""), 60, f"nobody lets it in: {serving.tail()}")
        assert "raftcluster members move NAME HOST:PORT" in said
        assert not four.listens(1, PORT, origin=2), "to the firewall it is a stranger"
        eventually(lambda: "members move" in alarms(first).get("alone", ""), what="and so says the other one")
        moved = first.command("members", "move", "mx2", f"{elsewhere}:{PORT}", "--reason", "a new rack", timeout=60)
        assert moved.returncode == 0, moved.stderr
        eventually(lambda: first.leader() and first.leader() == second.leader(), what="they are linked")
        eventually(lambda: alarms(second) == {} == alarms(first), what="and all is well")
        (row,) = [each for each in first.asked("members") if each["name"] == "mx2"]
        assert row["host"] == elsewhere
        assert elsewhere in first.asked("status")["firewall"]["members"]
        moves = [each for each in second.asked("audit") if each["action"] == "move"]
        assert "a new rack" in [each["reason"] for each in moves]
    finally:
        serving.stop()
        first.stop()


def alarms(node: RaftNode) -> dict[str, str]:
    """Empty also while it does not answer."""
    done = node.command("status", "--json")
    return dict(json.loads(done.stdout)["alarms"]) if done.returncode == 0 else {}


def test_without_privilege_joining_says_what_to_do(four: Hosts, tmp_path: Path) -> None:
    node = RaftNode(four, 1, tmp_path)
    tmp_path.chmod(0o777)
    plain = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    command = (*plain, *node.words("init", "--name", "e2e", "--listen", node.address, "--node", "mx1"))
    refused = four.run(1, *command)
    assert refused.returncode == 10, refused.stderr
    assert "CAP_NET_ADMIN" in refused.stderr and "--no-firewall" in refused.stderr
    assert not node.directory.exists(), "nothing was begun"
    assert four.run(1, *command, "--no-firewall").returncode == 0
