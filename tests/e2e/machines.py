"""Hosts with a root of their own: /etc, /var, /run, processes and name are the machine's, everything else is as it is here.

What is written there is in memory and gone afterwards. Programs are started in the foreground, as children of the test; they
end with their machine, which is pulled like a plug.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

from tests.checkout import ROOT
from tests.children import Child
from tests.e2e.hosts import COMMAND_SECONDS, Hosts
from tests.helpers import eventually

BOOT: Final = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" "$1/root"
root=$1/root
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
[ -d "$root$3" ] && mount --bind "$3" "$root$3"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
hostname "$2"
[ "$4" = systemd ] || exec chroot "$root" sleep infinity
mount -t tmpfs -o mode=755 tmpfs "$root/dev" # systemd makes links there, which must not be this host's
for each in null zero full random urandom tty; do
    : >"$root/dev/$each"
    mount --bind "/dev/$each" "$root/dev/$each"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/sys"
mkdir -p "$root/sys/fs/cgroup"
mount -t cgroup2 none "$root/sys/fs/cgroup"
for each in timers.target systemd-tmpfiles-setup.service systemd-tmpfiles-clean.service systemd-timesyncd.service \
    systemd-pcrphase-sysinit.service systemd-pcrphase.service systemd-update-utmp.service systemd-tmpfiles-setup-dev.service \
    systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service systemd-remount-fs.service \
    systemd-journald-audit.socket dbus.socket; do
    ln -sfn /dev/null "$root/etc/systemd/system/$each" # what looks after the kernel, or after all of /tmp
done
exec chroot "$root" env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target --show-status=no
"""
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """The host `number` of `hosts`, with a root of its own from entering to leaving; with `systemd` that runs there, without the
    units of this host. Root only. Not thread-safe."""

    def __init__(self, hosts: Hosts, number: int, folder: Path, *, name: str = "", systemd: bool = False) -> None:
        self._hosts, self._number = hosts, number
        self.name = name or f"mx{number}"
        self.address = hosts.address(number)
        self._folder = folder / f"machine-{self.name}"
        self._plug: Child | None = None
        self._init_name = "systemd" if systemd else "sleep"
        self._init = 0
        self._started: list[Child] = []

    def __enter__(self) -> Machine:
        assert os.geteuid() == 0, "a root of its own needs root: ./run e2e"
        self._folder.mkdir()
        unshare = ["unshare", "-m", "-p", "-u", "-i", "-C", "-f", "--kill-child", "--propagation", "private"]
        words = self._hosts.command(
            self._number,
            [*unshare, "bash", "-c", BOOT, "boot", str(self._folder), self.name, str(ROOT), self._init_name],
        )
        self._plug = Child(self.name, words, self._folder.with_suffix(".log"))
        try:
            self._init = eventually(self._booted, what=f"{self.name} has booted")
            if self._init_name == "systemd":
                eventually(self._settled, what=f"systemd on {self.name} has started what it should")
        except BaseException:
            self._plug.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pull()

    def _booted(self) -> int:
        assert self._plug is not None and self._plug.alive()
        for child in psutil.Process(self._plug.process.pid).children():
            if child.name() == self._init_name:
                return child.pid
        return 0

    def _settled(self) -> bool:
        return self.run("systemctl", "is-active", "basic.target").stdout.strip() == "active"

    def pull(self) -> None:
        """The plug: everything on it ends at once. May be called twice."""
        if self._plug is not None:
            self._plug.kill()
            self._plug = None
        for child in self._started:
            child.kill()
        self._started.clear()

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` on the machine, as root."""
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--root", "--wd"]
        return ["nsenter", f"--target={self._init}", *spaces, "--", "env", f"PATH={PATH}", *arguments]

    def run(
        self, *arguments: str, stdin: str | None = None, timeout: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine until it ends; its exit status is the caller's to judge."""
        command = self.command(arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, input=stdin or "")

    def said(self, *arguments: str, stdin: str | None = None, timeout: float = COMMAND_SECONDS) -> str:
        """The standard output of a command that succeeds."""
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"{self.name}: {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def listens(self, port: int) -> bool:
        """Whether a connection to the machine's `port` is accepted."""
        return self._hosts.listens(self._number, port)

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start a program in the foreground. It ends with the machine, and not before: the child is nsenter, not the program."""
        log = self._folder.parent / f"{self.name}-{name}.log"
        child = Child(f"{name} on {self.name}", self.command(arguments), log)
        self._started.append(child)
        return child

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """A file of the machine, folders included."""
        self.said("install", "-D", "-m", mode, "/dev/stdin", path, stdin=text)

    def names(self, known: Mapping[str, str]) -> None:
        """/etc/hosts: address by name, beside localhost."""
        lines = [f"{address} {name}" for name, address in known.items()]
        self.write("/etc/hosts", "\n".join(["127.0.0.1 localhost", *lines, ""]))
