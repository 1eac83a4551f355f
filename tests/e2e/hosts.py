"""Hosts as network namespaces: mx1, mx2, ... on one bridge that has a namespace of its own.

Nothing is added to the machine's own network: the hosts reach each other and nobody else, and every address is free for
every run. Whatever still runs in a host when it is taken down is ended.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from tests.children import Child
from tests.helpers import eventually

COMMAND_SECONDS = 60.0
LINK = "eth0"
# `destroy` is not known to nftables 1.0.6: to add and to delete does not fail when there was nothing.
HEAL = "add table inet cut; delete table inet cut;"
CUT = (
    f"{HEAL} table inet cut {{"
    f' chain in {{ type filter hook input priority 0; iifname "{LINK}" drop; }};'
    f' chain out {{ type filter hook output priority 0; oifname "{LINK}" drop; }}; }};'
)
_SERIAL = itertools.count(1)


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"


class Hosts:
    """`count` hosts, numbered from 1, with the addresses 10.77.0.1, .2, ... Root only. Not thread-safe."""

    def __init__(self, count: int) -> None:
        assert os.geteuid() == 0, "network namespaces need root: ./run e2e"
        self._tag = f"rc{os.getpid()}-{next(_SERIAL)}-"
        self._switch = f"{self._tag}switch"
        self.numbers = range(1, count + 1)

    def __enter__(self) -> Hosts:
        try:
            self._build()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tear_down()

    def _build(self) -> None:
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "br0", "up")
        for number in self.numbers:
            host, port = self.namespace(number), f"port{number}"
            _run("ip", "netns", "add", host)
            _run("ip", "link", "add", LINK, "netns", host, "type", "veth", "peer", "name", port, "netns", self._switch)
            _run("ip", "-n", self._switch, "link", "set", port, "master", "br0", "up")
            _run("ip", "-n", host, "address", "add", f"{self.address(number)}/24", "dev", LINK)
            _run("ip", "-n", host, "link", "set", LINK, "up")
            _run("ip", "-n", host, "link", "set", "lo", "up")

    def _tear_down(self) -> None:
        existing = {path.name for path in Path("/run/netns").glob(f"{self._tag}*")}
        for namespace in existing:
            listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, timeout=60)
            for pid in listed.stdout.split():
                with suppress(psutil.NoSuchProcess):  # it may have ended by itself since
                    psutil.Process(int(pid)).kill()
        for namespace in existing:
            _run("ip", "netns", "delete", namespace)

    def namespace(self, number: int) -> str:
        """The name of the namespace, as `ip netns` has it."""
        return f"{self._tag}mx{number}"

    def address(self, number: int) -> str:
        """The host's IPv4 address."""
        return f"10.77.0.{number}"

    def command(self, number: int, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` on the host."""
        return ["ip", "netns", "exec", self.namespace(number), *arguments]

    def run(
        self, number: int, *arguments: str, stdin: str | None = None, timeout: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host until it ends; its exit status is the caller's to judge."""
        command = self.command(number, arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, input=stdin or "")

    def start(self, number: int, name: str, arguments: Sequence[str], log: Path) -> Child:
        """Start a program on the host. It ends with the host at the latest."""
        return Child(name, self.command(number, arguments), log)

    def listens(self, number: int, port: int, *, at: str = "", origin: int | None = None) -> bool:
        """Whether a connection to the host's `port` is accepted, seen from the host itself or from `origin`."""
        probe = f"exec 3<>/dev/tcp/{at or self.address(number)}/{port}"
        return self.run(origin or number, "timeout", "1", "bash", "-c", probe).returncode == 0

    def cut(self, number: int) -> None:
        """Drop every packet between this host and the others, both ways; loopback stays. Nobody is told, as in life."""
        done = self.run(number, "nft", CUT)
        assert done.returncode == 0, done.stderr

    def heal(self, number: int) -> None:
        """Undo `cut`; returns when another host answers a ping."""
        done = self.run(number, "nft", HEAL)
        assert done.returncode == 0, done.stderr
        other = next(each for each in self.numbers if each != number)
        eventually(lambda: self.reaches(number, other), what=f"mx{number} reaches mx{other} again")

    def reaches(self, number: int, other: int) -> bool:
        """Whether the other host answers: its kernel refuses a connection to a closed port at once, silence is a cut."""
        probe = f"exec 3<>/dev/tcp/{self.address(other)}/1"
        return self.run(number, "timeout", "1", "bash", "-c", probe).returncode != 124
