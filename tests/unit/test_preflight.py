"""Each check of a host has a fixture that fails it, and a command that mends it; and ports are tried for real, on loopback."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

from raftcluster import limits
from raftcluster.discovery.candidate import Candidate
from raftcluster.discovery.checked import Checked, check
from raftcluster.preflight.checks import FREE_BYTES
from raftcluster.preflight.examination import examine
from raftcluster.preflight.meeting import Meetings, Met, Party, meet
from raftcluster.preflight.report import Check, Outcome, Report, Row
from raftcluster.remote.shell import Done, Local, Running
from raftcluster.remote.ssh import Failure, Login, SshFailed, remedy
from tests.helpers import free_ports
from tests.shells import Scripted

FIT = {
    "user": "root",
    "machine": "a",
    "boot": "1",
    "commands": "apt-get\nnft\nchronyc",
    "place": "/var/lib",
    "disk": f"/dev/vda 100 100 {FREE_BYTES // 1024} 1% /",
    "filesystem": "ext2/ext3",
    "mount": "rw,relatime",
    "nft": json.dumps({"nftables": []}),
}
DROPPING = [
    {"metainfo": {"version": "1.0.6"}},
    {"chain": {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": "drop"}},
]
PYTHONS = f"{sys.executable} 3.11.2 "


def candidate(name: str, address: str = "127.0.0.1", **more: object) -> Candidate:
    return Candidate(name, (address,) if address else (), target=name, **more)  # type: ignore[arg-type]


def examined(*shells: Scripted, addresses: bool = True) -> Report:
    """The rows of hosts that say so of themselves; without Python on them no port is tried."""
    by_name = {each.host: each for each in shells}
    found = [candidate(each.host, "127.0.0.1" if addresses else "") for each in shells]
    checked = looked(found, by_name)
    return examine(checked, lambda each: by_name[each.name], None, login=Login("admin"), directory="/d")


def looked(found: list[Candidate], by_name: dict[str, Scripted]) -> Checked:
    return check(found, lambda each: by_name[each.name], None, directory="/d", product="p", strict=False)


def fit(name: str = "mx1", **values: str) -> Scripted:
    return Scripted(name, FIT | {"now": f"{time.time():.9f}"} | values)


def row(report: Report, wanted: Check, host: str = "mx1") -> Row:
    (found,) = [each for each in report.rows if each.host == host and each.check is wanted]
    return found


def lost(failure: Failure) -> SshFailed:
    text = remedy(failure, "mx1", Login("admin"))
    return SshFailed(f"ssh to mx1: {failure}", failure, subject="mx1", remedy=text)


def test_a_fit_host_passes_and_every_check_has_its_row() -> None:
    report = examined(fit(pythons=PYTHONS))
    alone = [each for each in report.rows if each.check not in (Check.INWARD, Check.OUTWARD)]
    assert {each.outcome for each in alone} == {Outcome.PASSED}
    assert [each.check for each in report.rows] == list(Check)


@pytest.mark.parametrize(
    ("wanted", "values", "said", "mends"),
    [
        (
            Check.PRIVILEGE,
            {"uid": "1000", "user": "bob"},
            "there is no sudo",
            "apt-get install -y sudo && echo 'bob ALL",
        ),
        (Check.PRIVILEGE, {"uid": "1000", "user": "bob", "sudo": "password"}, "asks for a password", "/etc/sudoers.d/"),
        (Check.REALM, {"keytab": "unreadable"}, "cannot be told", "--realm"),
        (Check.INSTALLED, {"node": '{"cluster": "lab", "cluster_id": "c9"}'}, "the cluster lab (c9)", "-C /d destroy"),
        (Check.INSTALLED, {"directory": "yes"}, "is begun, and no node's", "mv /d /d.old"),
        (Check.PYTHON, {}, "3.11 or later is needed, there is none", "apt-get install -y python3 python3-venv"),
        (Check.PYTHON, {"pythons": "/usr/bin/python3 3.9.2 "}, "there is 3.9.2", "apt-get install"),
        (
            Check.PYTHON,
            {"pythons": "/usr/bin/python3 3.11.2 no-ensurepip "},
            "lacks ensurepip",
            "apt-get install -y python3-venv",
        ),
        (Check.DISK, {"disk": "/dev/vda 100 100 1000 99% /"}, "0.0 GiB free at /var/lib, 2 GiB", "du -xh"),
        (Check.DISK, {"mount": "ro,relatime"}, "read-only", "mount -o remount,rw /var/lib"),
        (Check.DISK, {"filesystem": "tmpfs"}, "keeps nothing over a restart", "raftcluster -C"),
        (Check.DISK, {"filesystem": "nfs"}, "is no local disk", "raftcluster -C"),
        (Check.CLOCK, {"now": "1000000000.0"}, "off the median", "chronyc makestep"),
        (Check.FIREWALL, {"commands": "dnf"}, "there is no nft", "dnf install -y nftables"),
        (
            Check.FIREWALL,
            {"nft": json.dumps({"nftables": DROPPING})},
            "table inet filter, chain input: its policy is drop",
            "nft insert rule inet filter input tcp dport 9777 accept",
        ),
    ],
)
def test_a_host_that_fails_a_check_is_told_what_mends_it(
    wanted: Check, values: dict[str, str], said: str, mends: str
) -> None:
    found = row(examined(fit(**values)), wanted)
    assert found.outcome is Outcome.FAILED
    assert said in found.said and mends in found.remedy


@pytest.mark.parametrize(
    ("failure", "wanted", "mends"),
    [
        (Failure.UNRESOLVED, Check.RESOLVES, "/etc/hosts"),
        (Failure.UNREACHABLE, Check.SSH, "systemctl enable --now ssh"),
        (Failure.KEY_UNKNOWN, Check.SSH, "ssh-keyscan -t ed25519 mx1 >>"),
        (Failure.KEY_CHANGED, Check.SSH, "ssh-keygen -f ~/.ssh/known_hosts -R mx1"),
        (Failure.ACCOUNT, Check.ACCOUNT, "ssh-copy-id admin@mx1"),
    ],
)
def test_a_host_without_a_way_in_has_one_failed_row_and_the_rest_unknown(
    failure: Failure, wanted: Check, mends: str
) -> None:
    report = examined(Scripted("mx1", error=lost(failure)))
    assert [each.check for each in report.failed] == [wanted]
    assert mends in row(report, wanted).remedy
    after = list(Check)[list(Check).index(wanted) + 1 :]
    assert {row(report, each).outcome for each in after} == {Outcome.UNKNOWN}
    assert report.error is not None and (report.error.code, report.error.exit_code) == ("checks-failed", 16)


def test_a_name_without_an_address_fails_and_nobody_is_asked() -> None:
    shell = fit()
    assert [each.check for each in examined(shell, addresses=False).failed] == [Check.RESOLVES]
    assert shell.given == []


def test_hosts_of_different_realms_each_have_a_row() -> None:
    report = examined(fit(), fit("mx2", machine="b", keytab="EXAMPLE.ORG"))
    assert [row(report, Check.REALM, host).outcome for host in ("mx1", "mx2")] == [Outcome.FAILED] * 2
    assert row(report, Check.REALM, "mx2").said.startswith("EXAMPLE.ORG; these hosts cannot form one cluster")


def test_what_only_root_may_see_is_unknown_not_passed() -> None:
    report = examined(fit(uid="1000", user="bob", nft="", directory="unknown"))
    assert row(report, Check.FIREWALL).outcome is row(report, Check.INSTALLED).outcome is Outcome.UNKNOWN


def test_a_report_is_json() -> None:
    told = json.loads(json.dumps(examined(fit(filesystem="tmpfs")).as_dict()))
    (failed,) = [each for each in told["rows"] if each["outcome"] == "failed" and each["check"] == "disk"]
    assert failed["host"] == "mx1" and failed["remedy"] and told["error"]["code"] == "checks-failed"


def test_the_space_that_is_asked_for_holds_what_it_says() -> None:
    assert FREE_BYTES >= 1 * limits.GIB


def party(name: str, port: int, *others: str, at: str = "127.0.0.1", closed: str = "") -> Party:
    return Party(name, Local(name), sys.executable, port, dict.fromkeys(others, at), closed)


def met(meetings: Meetings) -> dict[str, Met]:
    return {f"{caller}->{other}": each for (caller, other), each in meetings.found.items()}


@pytest.fixture
def foreign() -> Iterator[int]:
    """A port that something has already."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_all_meet_all_and_nobody_listens_afterwards(foreign: int) -> None:
    one, two, nowhere = free_ports(3)
    parties = [
        party("a", one, "b", "c", "d", "e"),
        party("b", two, "a", "c", "d", "e", at="localhost"),
        party("c", foreign, "a", "b", "d", "e"),
        party("d", nowhere, "a", "b", "c", "e", closed="on purpose"),
        party("e", nowhere, "a", "b", "c", "d", at="no-such-name.invalid"),
    ]
    found = meet(parties)
    ways = met(found)
    assert ways["a->b"] is ways["b->a"] is ways["d->a"] is Met.MET
    assert ways["a->c"] is Met.OPEN, "something has the port: that it accepts has to do"
    assert ways["a->d"] is Met.UNTRIED and found.closed == {"d": "on purpose"}
    assert ways["a->e"] is Met.UNRESOLVED
    assert found.troubles == {} and found.taken == {"c"}
    for port in (one, two, nowhere):
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
            pass


@pytest.mark.parametrize("name", ["mx..example.org", f"{'x' * 64}.example.org"])
def test_a_name_that_can_be_none_is_not_known(name: str) -> None:
    """It ended the thread that tried it: the host was taken for untried, and what Python said of the thread for the reason."""
    one, two = free_ports(2)
    found = meet([party("a", one, "b"), party("b", two, "a", at=name)])
    assert met(found) == {"a->b": Met.UNRESOLVED, "b->a": Met.MET} and found.troubles == {}


class Elsewhere(Local):
    """A host that is not at the address that it is said to be at."""

    def start(self, words: Sequence[str]) -> Running:
        (port,) = free_ports(1)
        return super().start([*words[:3], str(port), words[4]])


def test_who_answers_for_another_host_is_noticed(foreign: int) -> None:
    (port,) = free_ports(1)
    impostor = Party("b", Elsewhere("b"), sys.executable, foreign, {"a": "127.0.0.1"})
    ways = met(meet([party("a", port, "b"), impostor]))
    assert ways == {"a->b": Met.ANOTHER, "b->a": Met.MET}


def test_a_port_that_something_else_has_is_a_failed_row(foreign: int) -> None:
    shell = Playing("mx1", FIT | {"now": f"{time.time():.9f}", "pythons": PYTHONS})
    checked = check([candidate("mx1", port=foreign)], lambda each: shell, None, directory="/d", product="p")
    report = examine(checked, lambda each: shell, None, login=Login(), directory="/d")
    found = row(report, Check.INWARD)
    assert found.outcome is Outcome.FAILED and f"listens at TCP port {foreign} already" in found.said
    assert f"ss -ltnp 'sport = :{foreign}'" in found.remedy


class Playing(Scripted):
    """A scripted host on which the commands that try ports are run for real, here."""

    def run(self, words: Sequence[str], given: str = "", seconds: float = 30) -> Done:
        return super().run(words, given) if words[0] == "sh" else Local().run(words, given, seconds)

    def start(self, words: Sequence[str]) -> Running:
        return Local().start(words)


def test_a_host_that_cannot_listen_says_why() -> None:
    (port,) = free_ports(1)
    broken = Party("b", Local("b"), "/nowhere/python3", port, {"a": "127.0.0.1"})
    found = meet([party("a", port, "b"), broken])
    assert "did not run" in found.troubles["b"]
    assert met(found) == {"a->b": Met.UNTRIED, "b->a": Met.UNTRIED}
