"""The hosts' network: one namespace each, and between them the switch that can cut, lose and delay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.switch import DEVICE
from tests.children import Child

COMMAND_SECONDS = 60.0
ANSWER_SECONDS = 60.0
TAG = "rcchaos"

Rule = Mapping[str, Any]


class Network:
    """Hosts 1 to `count` at 10.77.0.1, .2, ... Root only. Use as a context manager, in a mount namespace of its own: what
    `ip netns` mounts goes with it. Not thread-safe."""

    def __init__(self, count: int, directory: Path, seed: int) -> None:
        self.numbers = range(1, count + 1)
        self._log = directory / "switch.log"
        self._seed = seed
        self._switch: Child | None = None

    def __enter__(self) -> Network:
        sweep()
        try:
            for number in self.numbers:
                ip("netns", "add", self.namespace(number))
            hosts = [f"{self.namespace(number)}={self.address(number)}" for number in self.numbers]
            command = [sys.executable, "-m", "tests.chaos.switch", str(self._seed), *hosts]
            self._switch = Child("switch", command, self._log, pipes=True)
            assert json.loads(self._switch.line(COMMAND_SECONDS)) == "ready"
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for number in self.numbers:
            self.kill_all(number)
        if self._switch is not None:
            self._switch.kill()
        for number in self.numbers:
            subprocess.run(
                ["ip", "netns", "delete", self.namespace(number)], capture_output=True, timeout=COMMAND_SECONDS
            )

    def namespace(self, number: int) -> str:
        return f"{TAG}{os.getpid()}-{number}"

    def address(self, number: int) -> str:
        return f"10.77.0.{number}"

    def command(self, number: int, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` on the host."""
        return ["ip", "netns", "exec", self.namespace(number), *arguments]

    def kill_all(self, number: int) -> None:
        """SIGKILL to everything on the host."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace(number)], capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        for pid in listed.stdout.split():
            with suppress(psutil.NoSuchProcess):  # it may have ended by itself since
                psutil.Process(int(pid)).kill()

    def plug(self, number: int, state: str) -> None:
        """The host's device is put "up" or "down"."""
        ip("-n", self.namespace(number), "link", "set", DEVICE, state)

    def rules(self, links: Mapping[tuple[int, int], Rule]) -> dict[str, int]:
        """From now on these (from, to) -> rule hold, and no others; the counts of packets so far. See `switch`."""
        assert self._switch is not None
        named = {f"{self.address(one)}>{self.address(other)}": rule for (one, other), rule in links.items()}
        self._switch.tell(json.dumps(named))
        counts: dict[str, int] = json.loads(self._switch.line(ANSWER_SECONDS))
        return counts

    def alive(self) -> bool:
        """True; AssertionError when the switch has ended."""
        return self._switch is not None and self._switch.alive()


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_SECONDS)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def sweep() -> None:
    """Remove the names that a killed run has left; its namespaces went with its mount namespace and its processes."""
    for path in Path("/run/netns").glob(f"{TAG}*-*"):
        if not psutil.pid_exists(int(path.name.removeprefix(TAG).partition("-")[0])):
            path.unlink()
