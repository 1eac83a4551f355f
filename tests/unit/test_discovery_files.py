"""Configuration files of cluster software: corosync.conf, keepalived.conf with what it includes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster.discovery import corosync_conf, keepalived_conf
from raftcluster.discovery.candidate import Found, State
from raftcluster.discovery.inquiry import Inquiry, Provider
from raftcluster.discovery.keepalived import Keepalived
from raftcluster.discovery.pacemaker import Pacemaker
from raftcluster.discovery.site import FILE_BYTES, Site
from raftcluster.errors import Refusal

COROSYNC = """
# three hosts, the second with two links
totem {
    version: 2
    interface {
        linknumber: 0
    }
}
nodelist {
    node {
        ring0_addr: 10.77.0.1
        name: mx1
        nodeid: 1
    }
    node {
        ring0_addr: 10.77.0.2
        ring1_addr: 2001:db8::2
        name: mx2
        nodeid: 2
    }
    node {
        ring0_addr: mx3.example.org
    }
}
"""
KEEPALIVED = """
! what all hosts have in common
global_defs {
    router_id mail
}
$NET=10.77.0
include conf.d/*.conf
vrrp_instance OUT {
    interface eth1
    virtual_ipaddress { 192.0.2.10/24 }
}
"""
KEEPALIVED_IN = """
vrrp_instance IN
{
    state BACKUP
    interface eth0
    @mx1 unicast_src_ip ${NET}.1
    @mx2 unicast_src_ip ${NET}.2
    @^mx1 priority 90
    unicast_peer {
        @^mx1 $NET.1   # the others
        @^mx2 $NET.2
        10.77.0.3 min_ttl 250 max_ttl 255
        2001:db8::4
    }
    authentication { auth_type PASS
        auth_pass "not { a brace" }
}
"""


def at(folder: Path, files: dict[str, str]) -> Inquiry:
    """A host that has these files and no commands."""
    for path, text in files.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Inquiry(Site(folder, str(folder / "bin")))


def found(provider: Provider, folder: Path, files: dict[str, str]) -> Found:
    return provider.find(at(folder, files))


def test_nodes_of_corosync_conf(tmp_path: Path) -> None:
    said = found(Pacemaker(), tmp_path, {"/etc/corosync/corosync.conf": COROSYNC})
    assert [(each.name, each.addresses, each.state) for each in said.sightings] == [
        ("mx1", ("10.77.0.1",), State.LISTED),
        ("mx2", ("10.77.0.2", "2001:db8::2"), State.LISTED),
        ("", ("mx3.example.org",), State.LISTED),
    ]
    assert [each.origin for each in said.sightings] == [
        "/etc/corosync/corosync.conf, node 1",
        "/etc/corosync/corosync.conf, node 2",
        "/etc/corosync/corosync.conf, node 3",
    ]
    assert said.remarks == ()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nodelist {\n node {\n }\n", "line 3: section 'nodelist' is not closed"),
        ("}\n", "line 1: a } too many"),
        ("totem {\n  version 2\n}\n", "line 2: 'version 2' is neither"),
    ],
)
def test_a_corosync_conf_that_is_none(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(Refusal, match=what):
        found(Pacemaker(), tmp_path, {"/etc/corosync/corosync.conf": text})


def test_without_a_cluster_stack_that_is_said(tmp_path: Path) -> None:
    assert "there is no /etc/corosync/corosync.conf" in found(Pacemaker(), tmp_path, {}).remarks[0]
    assert "lists no nodes" in found(Pacemaker(), tmp_path, {"/etc/corosync/corosync.conf": "totem {\n}\n"}).remarks[0]
    assert found(Keepalived(), tmp_path, {}).remarks == ("there is no /etc/keepalived/keepalived.conf",)


def test_peers_of_keepalived_as_on_this_host() -> None:
    files = {
        "/etc/keepalived/keepalived.conf": [("/etc/keepalived/keepalived.conf", KEEPALIVED)],
        "/etc/keepalived/conf.d/*.conf": [("/etc/keepalived/conf.d/in.conf", KEEPALIVED_IN)],
    }
    for host, source, peers in (
        ("mx1", "10.77.0.1", ["10.77.0.2", "10.77.0.3", "2001:db8::4"]),
        ("mx2", "10.77.0.2", ["10.77.0.1", "10.77.0.3", "2001:db8::4"]),
        ("mx9", "", ["10.77.0.1", "10.77.0.2", "10.77.0.3", "2001:db8::4"]),
    ):
        inner, outer = keepalived_conf.instances("/etc/keepalived/keepalived.conf", files.__getitem__, host)
        assert (inner.name, inner.origin) == ("IN", "/etc/keepalived/conf.d/in.conf")
        assert (inner.source, inner.peers) == (source, peers), host
        assert (outer.name, outer.peers) == ("OUT", [])


def test_keepalived_with_its_files(tmp_path: Path) -> None:
    files = {"/etc/keepalived/keepalived.conf": KEEPALIVED, "/etc/keepalived/conf.d/in.conf": KEEPALIVED_IN}
    said = found(Keepalived(), tmp_path, files)
    assert ("10.77.0.3",) in [each.addresses for each in said.sightings]
    assert {each.origin for each in said.sightings} == {"/etc/keepalived/conf.d/in.conf, unicast_peer of IN"}
    assert said.remarks == ("vrrp_instance OUT has no unicast_peer: by multicast nobody is listed",)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("vrrp_instance A {\n", "'vrrp_instance A' is not closed"),
        ("}\n", "a } too many"),
        ("include k*.conf", "itself"),
    ],
)
def test_a_keepalived_conf_that_is_none(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(Refusal, match=what):
        found(Keepalived(), tmp_path, {"/etc/keepalived/keepalived.conf": text})


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="longer than"):
        found(Keepalived(), tmp_path, {"/etc/keepalived/keepalived.conf": "#" * (FILE_BYTES + 1)})


TEXTS = st.lists(
    st.sampled_from(
        ["node {", "nodelist {", "vrrp_instance a {", "unicast_peer {", "}", "{", '"', "a: b", "@x", "$a=b"]
    )
    | st.text(max_size=12),
    max_size=12,
).map("\n".join)


@given(TEXTS)
def test_any_text_is_understood_or_refused(text: str) -> None:
    for read in (
        corosync_conf.nodes,
        lambda text: keepalived_conf.instances("/k", lambda path: [(path, text)], "mx1"),
    ):
        with suppress(Refusal):
            read(text)
