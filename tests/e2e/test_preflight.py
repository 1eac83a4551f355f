"""Hosts with real sshd, named, looked at and checked; each with something wrong, mended by the command that is printed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import ssh
from tests.e2e.hosts import Hosts
from tests.e2e.machines import Machine
from tests.e2e.node import COMMAND
from tests.helpers import eventually

NUMBERS = (1, 2, 3, 4)
FIREWALL = (
    "table inet filter { chain input { type filter hook input priority 0; policy accept; tcp dport 9000-9999 drop; }; }"
)
KEYS = "/root/keys"
AGENT = "/run/agent"
KEYTAB = (  # as ktutil of MIT Kerberos 1.20.1 has written it, for host/mx3.example.org@EXAMPLE.ORG, of a password that is none
    "BQIAAABHAAIAC0VYQU1QTEUuT1JHAARob3N0AA9teDMuZXhhbXBsZS5vcmcAAAABawvQogEAEQAQNJreiGaR/ikNSOBBBt9NtQAAAAE="
)


@dataclass
class Site:
    """Four machines: commands are run on the first, as an administrator does; the others have sshd."""

    machines: dict[int, Machine]
    keys: dict[str, str]

    def command(
        self, verb: str, *arguments: str, user: str = "root", agent: str = ""
    ) -> tuple[int, dict[str, Any], str]:
        """(exit code, JSON, standard error) of a command of `raftcluster` on the first machine; with the key in a file, or with
        the `agent` at that socket."""
        login = ["--user", user, "--known-hosts", f"{KEYS}/known_hosts", "--json"]
        login += [] if agent else ["--identity", f"{KEYS}/id"]
        environment = ["env", f"SSH_AUTH_SOCK={agent}"] if agent else []
        done = self.machines[1].run(*environment, COMMAND, verb, *login, *arguments, timeout=250)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(len(NUMBERS)))
        machines = {number: stack.enter_context(Machine(hosts, number, tmp_path)) for number in NUMBERS}
        public = ssh.key(tmp_path / "id")
        keys = {}
        for number, machine in machines.items():
            machine.names({f"mx{other}.test": f"10.77.0.{other}" for other in NUMBERS})
            machine.write("/etc/machine-id", f"{number:032x}\n", "444")
            if number > 1:
                _, keys[f"mx{number}.test"] = ssh.serve(machine, tmp_path)
                ssh.admit(machine, public)
                ssh.admit(machine, public, "admin")
        machines[1].write(f"{KEYS}/id", (tmp_path / "id").read_text(), "600")
        machines[1].write(f"{KEYS}/known_hosts", ssh.known(keys))
        yield Site(machines, keys)


def failed(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, str]]:
    return {(each["host"], each["check"]): each for each in report["rows"] if each["outcome"] == "failed"}


def show(found: dict[tuple[str, str], dict[str, str]]) -> None:
    """The rows that failed, with the command that mends each: `./run e2e -k mended -s` prints the transcript."""
    for (host, check), row in found.items():
        print(f"{host}: {check}: {row['said']}\n    {row['remedy']}")


def faketime() -> Path:
    found = importlib.util.find_spec("libfaketime")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


def test_hosts_are_checked_and_mended_by_what_is_printed(site: Site) -> None:
    _, two, three, four = site.machines.values()
    hosts = ("mx2.test", "mx3.test", "mx4.test")
    code, report, said = site.command("preflight", *hosts)
    assert failed(report) == {}, said
    assert code == 0 and {each["outcome"] for each in report["rows"]} == {"passed"}
    assert len(report["rows"]) == 3 * 12

    # Something is wrong with each of them.
    assert two.run("nft", FIREWALL).returncode == 0
    two.write("/etc/hosts", "127.0.0.1 localhost\n")
    three.write("/root/.ssh/environment", f"LD_PRELOAD={faketime()}\nFAKETIME=+90s\nFAKETIME_DONT_FAKE_MONOTONIC=1\n")
    three.said("mount", "-t", "tmpfs", "tmpfs", "/var/lib")
    four.said("sh", "-c", "rm -rf /usr/bin/python3*")
    four.said("rm", "/root/.ssh/authorized_keys")
    code, report, said = site.command("preflight", *hosts)
    assert code == 16
    found = failed(report)
    told = {
        ("mx2.test", "firewall"): "table inet filter, chain input: a rule there says drop for tcp port 9777",
        ("mx2.test", "others reach its port"): "mx3.test: no answer",
        ("mx2.test", "it reaches others' ports"): "mx3.test: the name is not known there",
        ("mx3.test", "others reach its port"): "mx2.test: the name is not known there",
        ("mx3.test", "it reaches others' ports"): "mx2.test: no answer",
        ("mx3.test", "clock"): "s off the median of all",
        ("mx3.test", "disk"): "/var/lib is on tmpfs",
        ("mx4.test", "this account works"): "root is not let in",
    }
    show(found)
    assert found.keys() == told.keys(), said
    assert {each: found[each]["said"] for each in found if told[each] not in found[each]["said"]} == {}
    assert found["mx4.test", "this account works"]["remedy"].startswith(f"ssh-copy-id -i {KEYS}/id.pub root@mx4.test")

    # The printed commands mend it; an account that is not root is told so, and what else is left.
    mend = found["mx2.test", "firewall"]["remedy"]
    assert found["mx3.test", "it reaches others' ports"]["remedy"] == f"at mx2.test: {mend}"
    assert mend == "nft insert rule inet filter input tcp dport 9777 accept"
    two.said("sh", "-c", mend)
    assert (
        found["mx3.test", "others reach its port"]["remedy"] == "echo '10.77.0.3 mx3.test' >> /etc/hosts, at mx2.test"
    )
    entry = found["mx2.test", "it reaches others' ports"]["remedy"]
    assert entry == "echo '10.77.0.3 mx3.test' >> /etc/hosts"
    two.said("sh", "-c", entry)
    three.said("umount", "/var/lib")
    three.said("rm", "/root/.ssh/environment")
    code, report, said = site.command("preflight", "root@mx2.test", "mx3.test", "mx4.test", user="admin")
    found = failed(report)
    show(found)
    assert set(found) == {("mx3.test", "privilege"), ("mx4.test", "privilege"), ("mx4.test", "Python")}, said
    assert found["mx4.test", "Python"]["remedy"] == "apt-get install -y python3 python3-venv"
    three.said("sh", "-c", found["mx3.test", "privilege"]["remedy"])

    # The key may be an agent's: the file is nowhere but there.
    one = site.machines[1]
    one.start("ssh-agent", ["ssh-agent", "-D", "-a", AGENT])
    eventually(
        lambda: one.run("env", f"SSH_AUTH_SOCK={AGENT}", "ssh-add", f"{KEYS}/id").returncode == 0, what="an agent"
    )
    one.said("rm", f"{KEYS}/id")
    code, report, said = site.command("preflight", "admin@mx3.test", agent=AGENT)
    assert code == 0, said
    assert {each["said"] for each in report["rows"] if each["check"] == "privilege"} == {"sudo without a password"}


def test_typed_and_detected_hosts_become_one_list(site: Site) -> None:
    one, two, three, _ = site.machines.values()
    conf = "nodelist {\n node {\n ring0_addr: 10.77.0.2\n name: mx2\n }\n node {\n ring0_addr: 10.77.0.3\n name: mx3\n }\n}\n"
    one.write("/etc/corosync/corosync.conf", conf)
    one.write("/root/hosts.txt", "# the third\nadmin@mx3.test:9778\n10.77.0.2\n")
    code, listed, said = site.command("add", "--autodetect", "--yes", "--from", "/root/hosts.txt", "mx2.test")
    assert code == 0, said
    told = {each["name"]: (each["addresses"], each["port"], each["user"], each["realm"]) for each in listed["hosts"]}
    assert told == {
        "mx3.test": (["10.77.0.3"], 9778, "admin", "standalone"),
        "mx2.test": (["10.77.0.2"], 9777, "", "standalone"),
    }
    sources = {each["name"]: each["provenance"] for each in listed["hosts"]}
    assert len(sources["mx2.test"]) == 3 and any("corosync.conf" in each for each in sources["mx2.test"])

    # Nothing is taken unasked.
    code, listed, said = site.command("add", "--autodetect")
    assert (code, listed["hosts"]) == (0, []) and "to take mx2.test, mx3.test, say --yes" in said

    # A machine under a second name is found to be the same. A host whose key is not known is not spoken to; it is shown.
    one.write(
        f"{KEYS}/known_hosts", ssh.known({"mx3.test": site.keys["mx3.test"], "other.test": site.keys["mx3.test"]})
    )
    three.said("ip", "address", "add", "10.77.0.34/24", "dev", "eth0")
    one.names({**{f"mx{number}.test": f"10.77.0.{number}" for number in NUMBERS}, "other.test": "10.77.0.34"})
    code, report, said = site.command("preflight", "mx3.test", "other.test", "mx4.test")
    assert {each["host"] for each in report["rows"]} == {"mx3.test", "mx4.test"}
    unknown = failed(report)["mx4.test", "SSH reachable"]
    fingerprint = one.said("ssh-keygen", "-l", "-f", "-", stdin=f"{site.keys['mx4.test']}\n").split()[1]
    assert fingerprint in unknown["said"], "to be compared"
    one.said("sh", "-c", unknown["remedy"].partition(",")[0])
    assert site.keys["mx4.test"] in one.said("cat", f"{KEYS}/known_hosts")
    one.write(f"{KEYS}/known_hosts", ssh.known(site.keys))

    # Hosts of another realm are refused by name.
    three.said("sh", "-c", "base64 -d > /etc/krb5.keytab", stdin=KEYTAB)
    code, listed, said = site.command("add", "mx2.test", "mx3.test")
    assert (code, listed["error"]["code"]) == (16, "mixed-realms")
    assert "mx3.test: EXAMPLE.ORG; mx2.test: standalone" in said

    # Who belongs to another cluster is told so; this host is left out. Each of that is a row of the checks, too.
    two.said(COMMAND, "init", "--name", "lab", "--node", "mx2.test", "--no-firewall", "--lab")
    one.write(f"{KEYS}/known_hosts", ssh.known({name: site.keys[name] for name in ("mx2.test", "mx3.test")}))
    code, report, said = site.command("preflight", "mx2.test", "mx3.test", "mx4.test", "nowhere.test")
    found = failed(report)
    show(found)
    others = {("mx4.test", "SSH reachable"), ("nowhere.test", "name resolves"), ("mx2.test", "existing installation")}
    assert set(found) == others | {(name, "trust realm") for name in ("mx2.test", "mx3.test")}, said
    assert all(each["remedy"] for each in found.values())
    code, listed, said = site.command("add", "mx2.test", "10.77.0.1")
    assert code == 16
    assert listed["left_out"] == {"mx1.test": "this host"}
    assert "it belongs to the cluster lab" in listed["hosts"][0]["problems"][0]
