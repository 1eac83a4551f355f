"""Real sshd on machines, with throw-away keys; who may log in to which is the test's to say."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.children import Child
from tests.e2e.machines import Machine
from tests.helpers import eventually

SECONDS: Final = 20.0
CONFIG: Final = """
HostKey /etc/ssh/test_host_key
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
UseDNS no
PermitUserEnvironment yes
"""


def key(file: Path) -> str:
    """A new key pair in `file`; returns the public one."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(file)]
    subprocess.run(words, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    return file.with_suffix(".pub").read_text()


def serve(machine: Machine, folder: Path, *, passwords: bool = False) -> tuple[Child, str]:
    """Start sshd with a host key of its own; returns it and the public key, `KIND BASE64`, once it listens."""
    public = key(folder / f"{machine.name}-host-key")
    machine.write("/etc/ssh/test_host_key", (folder / f"{machine.name}-host-key").read_text(), "600")
    config = CONFIG.replace("PasswordAuthentication no", "PasswordAuthentication yes") if passwords else CONFIG
    machine.write("/etc/ssh/test_sshd_config", config)
    machine.said("mkdir", "-p", "/run/sshd")
    child = machine.start("sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/test_sshd_config"])
    eventually(lambda: child.alive() and machine.listens(22), SECONDS, f"sshd on {machine.name} listens")
    return child, " ".join(public.split()[:2])


def admit(machine: Machine, public: str, user: str = "root") -> None:
    """Let the key in as `user`, who is made when there is none."""
    if user != "root":
        machine.said("useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", user)
    home = machine.said("sh", "-c", f"echo ~{user}").strip()
    machine.write(f"{home}/.ssh/authorized_keys", public, "644")


def known(keys: Mapping[str, str]) -> str:
    """The text of a known_hosts file: public key by name."""
    return "".join(f"{name} {key}\n" for name, key in keys.items())
