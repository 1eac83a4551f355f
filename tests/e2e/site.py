"""Hosts with sshd and nothing else, and one at which the administrator gives the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from raftcluster.push.artefact import seal
from tests.e2e import ssh
from tests.e2e.hosts import Hosts
from tests.e2e.machines import Machine
from tests.e2e.node import COMMAND
from tests.helpers import eventually

KEYS: Final = "/root/keys"
MARK: Final = "/root/begun"
"""Written before anything is done."""
PASSWORD: Final = "wachtwoord-met-zout-7391"
USER: Final = "keeper"
SECONDS: Final = 150.0
TRACES: Final = r"""
find /opt /usr/local /etc/systemd /etc/default /var/lib/raftcluster* /var/log/raftcluster* -xdev \
    -printf '%p %y %u:%g %m %l\n' 2>/dev/null | sort
sha256sum /etc/default/* /etc/systemd/system/*.service 2>/dev/null
cat /etc/passwd /etc/group
grep -c . /etc/shadow
nft list tables
[ ! -d /run/systemd/system ] || systemctl list-unit-files --no-pager 'raft*' || :
"""
PREFIX: Final = "/opt/raftcluster"


@dataclass
class Site:
    """Hosts with sshd, and the last one, where the administrator is; it becomes no node."""

    hosts: Hosts
    machines: list[Machine]
    admin: Machine
    folder: Path
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.keys)

    def status(self) -> Any:
        """What the first node says."""
        return json.loads(self.machines[0].said(f"{PREFIX}/bin/raftcluster", "status", "--json"))

    def leader(self) -> str:
        """Its name."""

        def said() -> str:
            status = self.status()
            return next((each["name"] for each in status["members"] if each["id"] == status["leader"]), "")

        return eventually(said, what="somebody leads")

    def words(self, verb: str, *arguments: str) -> list[str]:
        return [COMMAND, verb, "--known-hosts", f"{KEYS}/known_hosts", *arguments]

    def command(self, verb: str, *arguments: str, given: str = "") -> tuple[int, dict[str, Any], str]:
        """(exit code, JSON, standard error) at the administrator's."""
        return self.at(self.admin, verb, *arguments, given=given)

    def at(self, machine: Machine, verb: str, *arguments: str, given: str = "") -> tuple[int, dict[str, Any], str]:
        """The same elsewhere."""
        done = machine.run(*self.words(verb, *arguments, "--json"), stdin=given, timeout=SECONDS)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr

    def until(self, line: str, verb: str, *arguments: str, given: str) -> bool:
        """The same, ended by SIGKILL as soon as it prints a line with these words; False when it ended before."""
        script = 'echo $$ >/run/pid; exec "$@"'
        words = self.admin.command(["sh", "-c", script, "sh", *self.words(verb, *arguments)])
        with (self.folder / "killed.log").open("ab") as log:
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.PIPE, text=True)
            assert process.stdin is not None and process.stderr is not None
            process.stdin.write(given)
            process.stdin.close()
            found = False
            for each in process.stderr:
                print(each, end="")
                if found := line in each:
                    self.admin.run("sh", "-c", "kill -9 $(cat /run/pid)")
                    break
            process.stderr.close()
            process.wait(SECONDS)
        return found


def traces(machine: Machine) -> str:
    """What a push leaves on a host, name by name, with owner and mode; who is there; what systemd knows; the firewall's tables."""
    return machine.said("sh", "-c", TRACES)


def changed(artefact: Path, to: Path, file: str, old: str, new: str) -> Path:
    """Another release: one file of ours differs."""
    shutil.copytree(artefact, to)
    (wheel,) = (to / "wheels").glob("raftcluster-*.whl")
    before = zipfile.ZipFile(wheel)
    content = {each.filename: before.read(each) for each in before.infolist()}
    assert old.encode() in content[file]
    content[file] = content[file].replace(old.encode(), new.encode(), 1)
    with zipfile.ZipFile(wheel, "w") as after:
        for name, data in content.items():
            after.writestr(name, data)
    seal(to)
    return to


@contextmanager
def bare(folder: Path, count: int, known: int, *, systemd: int = 0) -> Iterator[Site]:
    """`count` hosts, `known` of whose keys are known to the administrator, on the last `systemd` of which systemd runs; keys and a
    password let in."""
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(count + 1))
        with_systemd = range(count + 1 - systemd, count + 1)
        machines = [
            stack.enter_context(Machine(hosts, number, folder, systemd=number in with_systemd))
            for number in hosts.numbers
        ]
        found = Site(hosts, machines[:-1], machines[-1], folder)
        public = ssh.key(folder / "id")
        for number, machine in enumerate(machines, 1):
            machine.names({f"mx{other}.test": f"10.77.0.{other}" for other in hosts.numbers})
            machine.write("/etc/machine-id", f"{number:032x}\n", "444")
            machine.write(MARK, "")
            if machine is not found.admin:
                _, found.keys[f"mx{number}.test"] = ssh.serve(machine, folder, passwords=True)
                ssh.admit(machine, public)
                machine.said("useradd", "--create-home", "--shell", "/bin/sh", "--groups", "sudo", USER)
                machine.said("chpasswd", stdin=f"{USER}:{PASSWORD}\n")
        found.admin.write(f"{KEYS}/id", (folder / "id").read_text(), "600")
        shown = {name: found.keys[name] for name in found.names[:known]}
        found.admin.write(f"{KEYS}/known_hosts", ssh.known(shown), "600")
        yield found
