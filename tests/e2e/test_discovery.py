"""Hosts that real cluster software and a real name server know of: corosync with pacemaker, keepalived, dnsmasq."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts import Hosts
from tests.e2e.machines import Machine
from tests.e2e.node import COMMAND
from tests.helpers import eventually

NUMBERS = (1, 2, 3)
COROSYNC = """
totem {{
    version: 2
    cluster_name: mail
    transport: knet
    crypto_cipher: none
    crypto_hash: none
    token: 3000
}}
nodelist {{
{nodes}
}}
quorum {{
    provider: corosync_votequorum
}}
logging {{
    to_stderr: yes
    to_syslog: no
    to_logfile: no
}}
"""
NODE = "    node {{\n        ring0_addr: 10.77.0.{0}\n        name: mx{0}\n        nodeid: {0}\n    }}"
KEEPALIVED = """
global_defs {
    router_id mail
    vrrp_startup_delay 0
}
$NET=10.77.0
include conf.d/*.conf
"""
VRRP = """
vrrp_instance MX {
    state BACKUP
    interface eth0
    virtual_router_id 51
    advert_int 0.3
    @mx1 priority 150
    @^mx1 priority 100
    @mx1 unicast_src_ip ${NET}.1
    @mx2 unicast_src_ip ${NET}.2
    @mx3 unicast_src_ip ${NET}.3
    unicast_peer {
        @^mx1 ${NET}.1
        @^mx2 ${NET}.2
        @^mx3 ${NET}.3   # not oneself
    }
    virtual_ipaddress {
        10.77.0.100/24
    }
}
"""
DNSMASQ = """
no-resolv
no-hosts
local=/nowhere.test/
port=53
listen-address=10.77.0.2
bind-interfaces
auth-server=ns.example.test
local=/example.test/
host-record=mx1.example.test,10.77.0.1
host-record=mx2.example.test,10.77.0.2
host-record=mx3.example.test,10.77.0.3
mx-host=example.test,mx1.example.test,10
mx-host=example.test,mx2.example.test,20
srv-host=_raftcluster._tcp.example.test,mx3.example.test,9778,0,5
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[int, Machine]]:
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(len(NUMBERS)))
        yield {number: stack.enter_context(Machine(hosts, number, tmp_path)) for number in NUMBERS}


def discovered(machine: Machine, *options: str) -> dict[str, Any]:
    """What `raftcluster discover` says there."""
    return dict(json.loads(machine.said(COMMAND, "discover", "--json", *options)))


def states(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["state"] for each in found["candidates"]}


def corosync_conf(*numbers: int) -> str:
    return COROSYNC.format(nodes="\n".join(NODE.format(number) for number in numbers))


def test_members_of_a_pacemaker_cluster_up_down_and_past(machines: dict[int, Machine]) -> None:
    for machine in machines.values():
        machine.names({f"mx{number}": f"10.77.0.{number}" for number in NUMBERS})
        machine.write("/etc/corosync/corosync.conf", corosync_conf(*NUMBERS))
        machine.said("mkdir", "-p", "/run/corosync", "/var/lib/corosync", "/var/log/corosync", "/var/log/pacemaker")
        machine.said("install", "-d", "-o", "hacluster", "-g", "haclient", "/run/crm")
    first = machines[1]

    # Before anything runs, the file has to do; it knows nobody's state.
    found = discovered(first, "--provider", "pacemaker", "--no-reach")
    assert states(found) == dict.fromkeys(("mx1", "mx2", "mx3"), "listed")
    assert "/etc/corosync/corosync.conf, node 1" in found["candidates"][0]["provenance"][0]
    assert any("crm_node" in said for said in found["remarks"]["pacemaker"]), "and it says why"

    corosync = [machine.start("corosync", ["/usr/sbin/corosync", "-f"]) for machine in machines.values()]
    eventually(lambda: "runtime.members.3.status (str) = joined" in first.run("corosync-cmapctl").stdout)
    pacemaker = [machine.start("pacemakerd", ["/usr/sbin/pacemakerd"]) for machine in machines.values()]
    eventually(lambda: set(first.run("crm_node", "--partition").stdout.split()) == {"mx1", "mx2", "mx3"}, 60)
    assert all(each.alive() for each in (*corosync, *pacemaker))

    found = discovered(first, "--provider", "pacemaker")
    assert states(found) == dict.fromkeys(("mx1", "mx2", "mx3"), "member")
    assert [each["here"] for each in found["candidates"]] == [True, False, False]
    assert found["candidates"][1]["addresses"] == ["10.77.0.2"]
    assert found["candidates"][1]["ssh"] == "refused", "the host answers, and no sshd listens"
    assert found["remarks"] == {}

    machines[3].pull()
    eventually(lambda: first.said("crm_node", "--partition").split() == ["mx1", "mx2"], what="mx3 is missed")
    assert states(discovered(first, "--provider", "pacemaker", "--no-reach"))["mx3"] == "down"

    # It is taken out of the configuration: pacemaker goes on remembering it.
    for number in (1, 2):
        machines[number].write("/etc/corosync/corosync.conf", corosync_conf(1, 2))
    first.said("corosync-cfgtool", "-R")
    eventually(lambda: "mx3" not in first.said("corosync-cmapctl", "nodelist."), what="corosync has read it")
    assert "3 mx3" in first.said("crm_node", "--list")
    found = discovered(first, "--provider", "pacemaker", "--no-reach")
    assert states(found) == {"mx1": "member", "mx2": "member", "mx3": "past"}
    assert found["candidates"][2]["provenance"] == ["pacemaker: crm_node, corosync-cmapctl, node 3, past member"]


def test_peers_of_keepalived(machines: dict[int, Machine]) -> None:
    for machine in machines.values():
        machine.write("/etc/keepalived/keepalived.conf", KEEPALIVED)
        machine.write("/etc/keepalived/conf.d/vrrp.conf", VRRP)
        words = [
            "/usr/sbin/keepalived",
            "--dont-fork",
            "--log-console",
            "--vrrp",
            "-f",
            "/etc/keepalived/keepalived.conf",
        ]
        machine.start("keepalived", words)

    def holders() -> list[int]:
        return [number for number, each in machines.items() if "10.77.0.100" in each.said("ip", "-4", "address")]

    # The real one takes the same peers from the file: one host holds the address, so all hear each other.
    eventually(lambda: holders() == [1], what="mx1 holds the virtual address")
    for number in (1, 3):
        found = discovered(machines[number], "--provider", "keepalived", "--no-reach")
        listed = {each["addresses"][0]: each["here"] for each in found["candidates"]}
        assert listed == {f"10.77.0.{other}": other == number for other in NUMBERS}
        assert all("unicast" in each["provenance"][0] for each in found["candidates"])


def test_mx_and_srv_records_of_a_real_name_server(machines: dict[int, Machine]) -> None:
    first, server = machines[1], machines[2]
    server.write("/etc/dnsmasq-test.conf", DNSMASQ)
    child = server.start(
        "dnsmasq", ["dnsmasq", "--keep-in-foreground", "--conf-file=/etc/dnsmasq-test.conf", "--user=root"]
    )
    first.write("/etc/resolv.conf", "nameserver 10.77.0.2\n")
    eventually(lambda: child.alive() and first.run("getent", "hosts", "mx3.example.test").returncode == 0)

    found = discovered(first, "--provider", "mx", "--provider", "srv", "--domain", "example.test")
    told = {each["name"]: (each["addresses"], each["port"], each["here"]) for each in found["candidates"]}
    assert told == {
        "mx1.example.test": (["10.77.0.1"], 9777, True),
        "mx2.example.test": (["10.77.0.2"], 9777, False),
        "mx3.example.test": (["10.77.0.3"], 9778, False),
    }
    assert "mx: MX of example.test, preference 20" in found["candidates"][1]["provenance"]

    empty = discovered(first, "--provider", "mx", "--domain", "nowhere.test", "--nameserver", "10.77.0.2:53")
    assert empty["candidates"] == [] and "no MX record" in empty["remarks"]["mx"][0]
