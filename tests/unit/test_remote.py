"""Other hosts through the system's ssh: what it is told, what its complaints mean; and what a host says of itself."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster.discovery.candidate import Candidate
from raftcluster.discovery.checked import Host, check
from raftcluster.errors import MissingPrivilege, Refusal, Unavailable
from raftcluster.preflight.checks import host_rows
from raftcluster.preflight.report import Outcome
from raftcluster.remote import hostkeys, probe
from raftcluster.remote.facts import Python, read, realm_of
from raftcluster.remote.hostkeys import HostKey
from raftcluster.remote.probe import SCRIPT, ask
from raftcluster.remote.shell import Local, Running
from raftcluster.remote.ssh import Failure, Login, Ssh, failure_of, remedy
from tests.helpers import free_ports
from tests.shells import Scripted

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIBkK1x2Hh0p0aWqPTnVYx0tE2kWc6mVnB6u0A1sQyJ1b"


def test_ssh_asks_nobody_and_speaks_to_no_stranger() -> None:
    words = Ssh("mx2", Login("admin", 2222, Path("/keys/id"), Path("/a folder/known"))).words(
        ["sh", "-c", "echo 'a b'; $x"]
    )
    options = {each for before, each in pairwise(words) if before == "-o"}
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null"} <= options
    assert {'UserKnownHostsFile="/a folder/known"', "IdentityFile=/keys/id", "IdentitiesOnly=yes"} <= options
    assert words[words.index("-l") + 1] == "admin" and words[words.index("-p") + 1] == "2222"
    assert words[-3:-1] == ["--", "mx2"], "a host's name is never an option"
    assert shlex.split(words[-1]) == ["sh", "-c", "echo 'a b'; $x"]


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("ssh: Could not resolve hostname mx9: Name or service not known", Failure.UNRESOLVED),
        ("ssh: connect to host mx2 port 22: Connection refused", Failure.UNREACHABLE),
        ("ssh: connect to host mx2 port 22: Connection timed out", Failure.UNREACHABLE),
        ("ssh: connect to host mx2 port 22: No route to host", Failure.UNREACHABLE),
        ("No ED25519 host key is known for mx2 and you have requested strict checking.", Failure.KEY_UNKNOWN),
        ("Host key verification failed.", Failure.KEY_UNKNOWN),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            Failure.KEY_CHANGED,
        ),
        ("root@mx2: Permission denied (publickey).", Failure.ACCOUNT),
        ('Load key "/keys/id": invalid format', Failure.OTHER),
        ("sh: exit 255 of a command there", None),
    ],
)
def test_what_ssh_complains_of(said: str, failure: Failure | None) -> None:
    assert failure_of(said) is failure


@pytest.mark.parametrize("failure", list(Failure))
def test_every_failure_has_a_command_that_mends_it(failure: Failure) -> None:
    text = remedy(failure, "mx2", Login("admin", 2222, known_hosts=Path("/etc/known")))
    assert "mx2" in text
    assert ("2222" in text) == (failure is not Failure.UNRESOLVED)


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unavailable) as failed:
        Ssh("127.0.0.1", Login(port=port)).run(["true"])
    assert failed.value.code == "ssh" and "Connection refused" in failed.value.message


def test_host_keys_are_shown_and_pinned_as_ssh_has_them(tmp_path: Path) -> None:
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    public = file.with_suffix(".pub").read_text()
    (key,) = hostkeys.keys(f"# a comment\nmx2 {public}mx2 ssh-rsa not!base64\nshort line\n")
    said = subprocess.run(["ssh-keygen", "-l", "-f", f"{file}.pub"], check=True, capture_output=True, text=True).stdout
    assert key.fingerprint in said
    known = tmp_path / "state" / "known_hosts"
    hostkeys.pin(known, "mx2", [key])
    hostkeys.pin(known, "mx3", [key], 2222)
    for name in ("mx2", "[mx3]:2222"):
        found = subprocess.run(["ssh-keygen", "-F", name, "-f", str(known)], capture_output=True, text=True)
        assert found.returncode == 0 and key.key in found.stdout
    assert known.stat().st_mode & 0o777 == 0o600


def test_a_known_hosts_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="cannot be written"):
        hostkeys.pin(tmp_path, "mx2", [HostKey("ssh-ed25519", KEY)])


def test_names_for_completion(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(
        f"mx2,192.0.2.2 ssh-ed25519 {KEY}\n[mx3]:2222 ssh-ed25519 {KEY}\n|1|hash= ssh-ed25519 {KEY}\n*.x k v\n"
    )
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.4 mx4.example.org mx4 # mx5\n")
    assert hostkeys.named([known, hosts, tmp_path / "none"]) == ["192.0.2.2", "mx2", "mx3", "mx4", "mx4.example.org"]


def test_a_command_that_does_not_end_is_given_up() -> None:
    with pytest.raises(Unavailable, match="did not end"):
        Local().run(["sleep", "60"], seconds=0.05)
    with pytest.raises(Refusal, match="did not run"):
        Local().run(["/nowhere/at/all"])


def test_what_goes_in_and_out_of_a_command_is_whole_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "one line of many\n" * 40_000
    done = Local().run(["sh", "-c", "tee /dev/stderr"], text)
    assert done.out == text and done.err == text and done.status == 0
    assert Local().run(["true"], text).status == 0, "nobody reads it"
    assert Local().run(["sh", "-c", "exit 7"]).status == 7
    monkeypatch.setattr("raftcluster.remote.shell.OUTPUT_BYTES", 1000)
    with pytest.raises(Unavailable, match="more than 1000 bytes"):
        Local().run(["yes"])


def test_lines_of_a_command_that_runs() -> None:
    running = Running(["sh", "-c", "echo one; echo two; cat >/dev/null; echo three"])
    assert (running.line(60), running.line(60)) == ("one", "two")
    with pytest.raises(Unavailable, match="said nothing"):
        running.line(0.05)
    running.close()
    running.close()
    ended = Running(["true"])
    assert ended.line(60) == ""
    ended.close()


def test_what_this_host_says_of_itself(tmp_path: Path) -> None:
    directory = tmp_path / "it's" / "node"
    before = time.time()
    facts = ask(Local(), str(directory))
    assert facts.place == str(tmp_path) and facts.free_bytes and facts.filesystem
    assert facts.root == (os.geteuid() == 0 or facts.sudo == "free")
    known = Path("/etc/machine-id")
    assert facts.machine == (known.read_text().strip() if known.exists() else "")
    assert facts.clock_off is not None and facts.clock_off[0] <= 0 <= facts.clock_off[1] < time.time() - before + 1
    assert any(each.version[:2] >= (3, 11) for each in facts.pythons)
    assert (facts.node, facts.directory, facts.realm) == (None, "", "standalone")
    directory.mkdir(parents=True)
    (directory / "node.json").write_text('{"cluster_id": "c1",\n "name": "mx1"}\n')
    (directory / "VERSION").write_text("1")
    facts = ask(Local(), str(directory))
    assert facts.node == {"cluster_id": "c1", "name": "mx1"} and facts.directory == "yes"


def test_the_probe_writes_nothing() -> None:
    assert [
        line for line in SCRIPT.splitlines() if ">" in line.replace("2>/dev/null", "").replace(">/dev/null", "")
    ] == [line for line in SCRIPT.splitlines() if "n >= best" in line]


RECORDED = Path(__file__).parent / "recorded"
ENROLLED = """example.org
  type: kerberos
  realm-name: Example.org
  domain-name: example.org
  configured: kerberos-member
  server-software: active-directory
other.example
  type: kerberos
  realm-name: OTHER.EXAMPLE
  configured: no
"""


@pytest.mark.parametrize(
    ("listing", "realm"),
    [
        # What `realm list` of realmd 0.17.1 has printed on a host that sssd says is enrolled; on any other it prints nothing.
        ((RECORDED / "realmd-0.17.1" / "list").read_text(), "EXAMPLE.ORG"),
        (ENROLLED, "EXAMPLE.ORG"),
        (ENROLLED.replace("kerberos-member", "no"), None),
        ("", None),
    ],
)
def test_the_realm_that_realmd_tells(listing: str, realm: str | None) -> None:
    assert realm_of(listing) == realm


@pytest.mark.parametrize(
    ("values", "realm"),
    [
        (
            "= realmd\n\tx\n\t  realm-name: A.EXAMPLE\n\t  configured: kerberos-member\n= keytab\n\tB.EXAMPLE",
            "A.EXAMPLE",
        ),
        ("= keytab\n\tb.example", "B.EXAMPLE"),
        ("= keytab\n\tunreadable", None),
        ("", "standalone"),
    ],
)
def test_the_realm_of_a_host(values: str, realm: str | None) -> None:
    facts = read(f"= hello\n\tx\n{values}\n= end\n", 0, 1)
    assert facts is not None and facts.realm == realm


def test_the_realm_alone_is_asked_without_the_rest() -> None:
    assert probe.realm_of(Local()) == "standalone"
    assert probe.realm_of(Scripted("mx1", {"realmd": ENROLLED})) == "EXAMPLE.ORG"
    with pytest.raises(MissingPrivilege, match="--realm"):
        probe.realm_of(Scripted("mx1", {"keytab": "unreadable"}))


def test_interpreters_and_what_they_lack() -> None:
    text = "= hello\n\tx\n= pythons\n\t/usr/bin/python3 3.9.2 \n\t/usr/bin/python3.12 3.12.1 no-ensurepip \n\tnonsense\n= end\n"
    facts = read(text, 0, 1)
    assert facts is not None
    assert facts.pythons == (
        Python("/usr/bin/python3", (3, 9, 2), ()),
        Python("/usr/bin/python3.12", (3, 12, 1), ("ensurepip",)),
    )


NAMES = [line.rpartition("tell ")[2] for line in SCRIPT.splitlines() if "| tell " in line and "tell()" not in line]
ODD = (
    *("1" * 5000, "nan", "1e999", "[" * 5000, "yes", "free", "  configured: x", "/x 3.99999999.1 "),
    *('{"nftables": [1, {}, {"chain": {}}]}', '{"nftables": [{"rule": 1}]}', '{"cluster_id": []}'),
    f"/dev/vda 1 1 {'9' * 5000} 1% /",
)
VALUES = st.text(max_size=30) | st.sampled_from(ODD)


def test_the_names_that_the_probe_tells_are_found() -> None:
    assert {"now", "nft", "pythons", "node", "keytab"} <= {name.split(";")[0].strip() for name in NAMES}


@given(st.dictionaries(st.sampled_from([name.split(";")[0].strip() for name in NAMES]), VALUES))
def test_whatever_a_host_says_is_judged(values: dict[str, str]) -> None:
    facts = ask(Scripted("mx1", values), "/d")
    host = Host(Candidate("mx1", ("192.0.2.1",)), facts, realm=facts.realm)
    rows = host_rows(host, 9777, "/d", "")
    assert all(each.said and (each.remedy or each.outcome is not Outcome.FAILED) for each in rows)
    check([host.candidate], lambda each: Scripted("mx1", values), facts, directory="/d", product="p", strict=False)
