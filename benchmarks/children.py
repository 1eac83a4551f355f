"""Child processes of the suite: they end with it, by their own pid, however it ends."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

STOP_SECONDS = 10.0


class Child:
    """One started program with its output in a file.

    The kernel ends it when the suite dies first (`setpriv --pdeathsig`), so that no run leaves anything behind.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.process: subprocess.Popen[str] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *arguments],
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                text=True,
                env=env,
            )
        self.counters = psutil.Process(self.process.pid)
        self._lines: queue.Queue[str] = queue.Queue()
        if pipes:
            threading.Thread(target=self._read, daemon=True, name=f"output of {name}").start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def line(self, timeout: float) -> str:
        """The next line it printed; AssertionError with the end of its log when none comes within `timeout` seconds."""
        try:
            return self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"{self.name} said nothing within {timeout} s:\n{self._tail()}") from None

    def tell(self, line: str) -> None:
        """Write one line to its standard input."""
        assert self.process.stdin is not None, f"{self.name} was started without pipes"
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def check(self) -> None:
        """AssertionError with the end of its log when it has ended."""
        status = self.process.poll()
        assert status is None, f"{self.name} ended with {status}:\n{self._tail()}"

    def stop(self) -> None:
        """End it: politely, then not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
