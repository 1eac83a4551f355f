"""Hosts that were found and typed, looked at: each once, of one realm, with what keeps it from becoming a node."""

from __future__ import annotations

import json
import time

import pytest

from raftcluster.discovery.candidate import Candidate, Reach
from raftcluster.discovery.checked import Checked, check
from raftcluster.discovery.typed import HOSTS, BadHost, host, hosts, listed
from raftcluster.errors import MixedRealms
from raftcluster.remote.facts import Facts, read
from raftcluster.remote.probe import ask
from raftcluster.remote.ssh import Failure, SshFailed
from tests.shells import Scripted

AD = "example.org\n  type: kerberos\n  realm-name: EXAMPLE.ORG\n  domain-name: example.org\n  configured: kerberos-member\n"
NODE = {"cluster_id": "c1", "cluster": "mail", "product": "raftcluster/0.1", "realm": "standalone"}


@pytest.mark.parametrize(
    ("text", "name", "addresses", "port", "user"),
    [
        ("mx3.example.org", "mx3.example.org", (), None, ""),
        ("MX3.Example.Org.:9778", "mx3.example.org", (), 9778, ""),
        ("admin@mx3", "mx3", (), None, "admin"),
        ("EXAMPLE\\admin@mx3:9778", "mx3", (), 9778, "EXAMPLE\\admin"),
        ("192.0.2.3:9778", "", ("192.0.2.3",), 9778, ""),
        ("2001:db8::3", "", ("2001:db8::3",), None, ""),
        ("root@[2001:db8::3]:9778", "", ("2001:db8::3",), 9778, "root"),
    ],
)
def test_a_host_that_was_typed(text: str, name: str, addresses: tuple[str, ...], port: int | None, user: str) -> None:
    found = host(text)
    assert (found.name, found.addresses, found.port, found.user) == (name, addresses, port, user)


@pytest.mark.parametrize(
    "text",
    "| -oProxyCommand=x|mx 3|mx3:|mx3:0|mx3:65536|mx3:9999999999|@mx3|a b@mx3|-l@mx3|mx_3..de|[mx3]:1|[::1|1.2.3|1.2.3.4.5|mx3;ls|"
    f"{'x' * 64}|{'.'.join(['x' * 60] * 5)}|m\u0445.example".split("|"),
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(BadHost) as refused:
        host(text)
    assert refused.value.code == "bad-host" and refused.value.exit_code == 4


def test_hosts_in_a_file() -> None:
    found = listed("# the old ones\nmx1 mx2:9778 # and\n\nadmin@mx3\n", "hosts.txt")
    assert [(each.name, each.port, each.user) for each in found] == [
        ("mx1", None, ""),
        ("mx2", 9778, ""),
        ("mx3", None, "admin"),
    ]
    assert [each.origin for each in found] == ["hosts.txt, line 2", "hosts.txt, line 2", "hosts.txt, line 4"]
    with pytest.raises(BadHost, match="at most"):
        hosts([f"mx{number}" for number in range(HOSTS + 1)])


def candidate(name: str, address: str = "192.0.2.1", **more: object) -> Candidate:
    return Candidate(name, (address,), target=name, **more)  # type: ignore[arg-type]


def look(*shells: Scripted, here: Facts | None = None, realm: str | None = None, **more: object) -> Checked:
    by_name = {each.host: each for each in shells}
    found = [candidate(each.host, f"192.0.2.{number}", **more) for number, each in enumerate(shells, 1)]
    return check(found, lambda each: by_name[each.name], here, directory="/d", product="raftcluster/0.1", realm=realm)


def facts(**values: str) -> Facts:
    return ask(Scripted("here", values), "/d")


def test_fit_hosts_have_no_problems() -> None:
    checked = look(Scripted("mx1", {"machine": "a"}), Scripted("mx2", {"machine": "b"}))
    assert ([each.name for each in checked.hosts], checked.realm, checked.error) == (["mx1", "mx2"], "standalone", None)


def test_one_machine_under_two_names_is_listed_once() -> None:
    shells = {
        "mx1": Scripted("mx1", {"machine": "a", "boot": "1"}),
        "backup": Scripted("mx1", {"machine": "a", "boot": "1"}),
    }
    found = [candidate("mx1", "192.0.2.1", provenance=("mx",)), candidate("backup", "10.0.0.1", provenance=("typed",))]
    checked = check(found, lambda each: shells[each.name], None, directory="/d", product="p")
    (only,) = checked.hosts
    assert only.candidate.addresses == ("192.0.2.1", "10.0.0.1")
    assert only.candidate.provenance == ("mx", "typed")
    assert only.candidate.conflicts == ("backup is the same machine",)


def test_a_clone_is_another_machine() -> None:
    one, other = Scripted("mx1", {"machine": "a", "boot": "1"}), Scripted("mx2", {"machine": "a", "boot": "2"})
    assert len(look(one, other).hosts) == 2


def test_hosts_of_different_realms_are_refused_by_name() -> None:
    with pytest.raises(MixedRealms) as refused:
        look(Scripted("mx1", {"realmd": AD}), Scripted("mx2"), Scripted("mx3", {"keytab": "EXAMPLE.ORG"}))
    assert "mx1, mx3: EXAMPLE.ORG; mx2: standalone" in str(refused.value)
    assert refused.value.exit_code == 16


def test_hosts_of_another_realm_than_the_clusters_are_refused_by_name() -> None:
    here = facts(node=json.dumps({**NODE, "realm": "EXAMPLE.ORG"}))
    with pytest.raises(MixedRealms) as refused:
        look(Scripted("mx1", {"realmd": AD}), Scripted("mx2"), here=here)
    assert refused.value.subject == "mx2"
    assert "the cluster belongs to the realm EXAMPLE.ORG" in str(refused.value)


def test_a_realm_is_declared_only_where_none_is_detected() -> None:
    assert look(Scripted("mx1"), realm="EXAMPLE.ORG").realm == "EXAMPLE.ORG"
    with pytest.raises(MixedRealms):
        look(Scripted("mx1", {"realmd": AD}), Scripted("mx2"), realm="standalone")
    (host,) = look(Scripted("mx1", {"keytab": "unreadable"})).hosts
    assert host.realm is None and "--realm" in host.problems[0]
    assert look(Scripted("mx1", {"keytab": "unreadable"}), realm="standalone").problems == ()


def test_a_host_that_cannot_be_asked_stays_on_the_list_with_the_reason() -> None:
    lost = SshFailed("ssh to mx2: Permission denied", Failure.ACCOUNT, subject="mx2", remedy="ssh-copy-id mx2")
    checked = look(Scripted("mx1"), Scripted("mx2", error=lost))
    assert checked.problems == (("mx2", "ssh to mx2: Permission denied (ssh-copy-id mx2)"),)
    assert checked.error is not None and checked.error.subject == "mx2"
    assert json.loads(json.dumps(checked.as_dict()))["error"]["code"] == "checks-failed"


def test_members_are_left_out_and_others_clusters_nodes_are_a_problem() -> None:
    here = facts(node=json.dumps(NODE))
    member = Scripted("mx1", {"node": json.dumps(NODE)})
    foreign = Scripted(
        "mx2", {"node": json.dumps({**NODE, "cluster_id": "c2", "cluster": "lab", "product": "other/1"})}
    )
    checked = look(member, foreign, here=here)
    assert checked.left_out == (("mx1", "a member of the cluster"),)
    (host,) = checked.hosts
    assert host.problems == (
        "it belongs to the cluster lab (c2)",
        "it runs the product other/1, this is raftcluster/0.1",
    )


def test_what_listens_at_the_port_already_is_a_problem() -> None:
    assert "port 9777 already" in look(Scripted("mx1"), cluster=Reach.OPEN).problems[0][1]


def test_a_clock_that_is_off_the_median_is_a_problem() -> None:
    now = time.time()
    checked = look(
        *(Scripted(f"mx{number}", {"now": f"{now + off:.9f}"}) for number, off in enumerate((-60, -60, -61, 0), 1))
    )
    assert [host for host, _ in checked.problems] == ["mx4"], "three others agree, this host's own clock is outvoted"
    assert "its clock is +" in checked.problems[0][1]


def test_a_name_that_leads_nowhere_is_refused_before_anybody_is_asked() -> None:
    shell = Scripted("mx1")
    with pytest.raises(BadHost, match="no address is known for mx2"):
        check([candidate("mx1"), Candidate("mx2", ())], lambda each: shell, None, directory="/d", product="p")
    assert shell.given == []


@pytest.mark.parametrize("text", ["", "Welcome!\n", "= hello\n\traftcluster-probe 1\n= now\n\t1"])
def test_an_answer_that_is_cut_short_is_none(text: str) -> None:
    assert read(text, 0, 1) is None
