"""A node's process as the run sees it: started, asked, killed, stopped, with a clock and a volume of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.network import Network
from tests.chaos.volumes import Volume
from tests.checkout import ROOT
from tests.children import Child
from tests.helpers import eventually

PORT = 9777
ANSWER_SECONDS = 60.0
STATE_SECONDS = 30.0


class Refused(Exception):
    """The driver answered with an error of the library; `code` is its code."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Silent(AssertionError):
    """The driver has not answered in time. It may be the machine that is slow, so whoever can asks again."""


class NodeProcess:
    """Node `number`. Its histories and log go to `directory`. Not thread-safe."""

    def __init__(self, network: Network, number: int, volume: Volume, directory: Path) -> None:
        self.number, self.volume = number, volume
        self.name = f"mx{number}"
        self.address = network.address(number)
        self.id = ""
        self.running = False
        """Between `start` and `kill`; a stopped process runs."""
        self.paused = False
        self._network, self._directory = network, directory
        self._generation = 0
        """How often it was wiped: a removed member comes back as another one, in another directory."""
        self._incarnation = 0
        self._numbers = count(1)
        self._child: Child | None = None
        self._clock = directory / f"{self.name}.clock"
        self.set_clock("+0")

    @property
    def data(self) -> Path:
        """The node's data directory."""
        return self.volume.path / f"data{self._generation}"

    def launch(self) -> None:
        """Start the process; no node is open in it yet."""
        self._incarnation += 1
        history = self._directory / f"{self.name}-{self._incarnation:03d}.history"
        driver = [sys.executable, "-m", "tests.chaos.driver"]
        driver += [str(self.data), self.name, str(self._incarnation), str(history)]
        faked = ["env", *(f"{name}={value}" for name, value in self._environment().items()), *driver]
        log = self._directory / f"{self.name}.log"
        self._child = Child(self.name, self._network.command(self.number, faked), log, pipes=True)
        self.running, self.paused = True, False

    def _environment(self) -> dict[str, str]:
        found = importlib.util.find_spec("libfaketime")
        assert found is not None and found.origin is not None, "libfaketime is installed"
        library = Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        assert library.exists(), library
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": str(ROOT),
        }

    def open(self, seed: int | None = None) -> None:
        """Open the node in the launched process and, with a seed, let its clients begin."""
        self.id = self.ask("open")
        if seed is not None:
            self.ask("load", seed)

    def start(self, seed: int) -> None:
        self.launch()
        self.open(seed)

    def ask(self, command: str, *arguments: Any, timeout: float = ANSWER_SECONDS) -> Any:
        """The result of a driver's command. Raises `Refused`; `Silent` when it does not answer in time; AssertionError when
        it has ended."""
        assert self._child is not None and self.running, f"{self.name} does not run"
        number = next(self._numbers)
        self._child.tell(json.dumps([number, command, *arguments]))
        while True:
            try:
                line = self._child.line(timeout)
            except AssertionError as error:
                self._child.alive()
                raise Silent(str(error)) from error
            answered, kind, *rest = json.loads(line)
            if answered != number:
                continue  # the answer to a question that was given up
            if kind == "error":
                raise Refused(*rest)
            return rest[0]

    def kill(self) -> None:
        """SIGKILL to the node, and then to everything else on the host."""
        assert self._child is not None
        self._child.kill()
        self._network.kill_all(self.number)
        self.running = self.paused = False

    def strike(self) -> None:
        """SIGKILL to the node alone, from any thread; whoever asks it next finds out, and must `kill` it."""
        assert self._child is not None
        with suppress(ProcessLookupError):
            os.kill(self._child.process.pid, signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP; returns when the kernel says that it stands still."""
        self._signal(signal.SIGSTOP, psutil.STATUS_STOPPED, True)
        self.paused = True

    def resume(self) -> None:
        self._signal(signal.SIGCONT, psutil.STATUS_STOPPED, False)
        self.paused = False

    def _signal(self, number: signal.Signals, status: str, wanted: bool) -> None:
        assert self._child is not None
        process = psutil.Process(self._child.process.pid)
        os.kill(process.pid, number)
        eventually(lambda: (process.status() == status) is wanted, STATE_SECONDS, f"{self.name} got {number.name}")

    def set_clock(self, offset: str) -> None:
        """The process's wall clock is off by that ("+1d", "-1h") within about a second."""
        temporary = self._clock.with_suffix(".new")
        temporary.write_text(offset + "\n")
        temporary.replace(self._clock)

    def forget(self) -> None:
        """It was removed: the next one is a new node."""
        assert not self.running
        self._generation += 1

    def close(self) -> None:
        """However it is now, it ends."""
        if self.running:
            with suppress(AssertionError):
                self.kill()
        self.volume.close()
