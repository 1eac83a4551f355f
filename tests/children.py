"""Child processes of tests and measurements: bounded, and ended by their own pid however their parent ends."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

STOP_SECONDS = 10.0
TAIL_BYTES = 4000


class Child:
    """One started program; its output goes to `log`, but with `pipes` its lines are for `line` and only errors go there.

    The kernel ends it when the parent dies first (`setpriv --pdeathsig`), so that nothing stays behind.
    Start it from a thread that lives as long as the child shall.
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
        self._lines: queue.Queue[str | None] = queue.Queue()  # None: there will be no more
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"output of {name}")
        if pipes:
            self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self, timeout: float) -> str:
        """The next line it printed; AssertionError with the end of its log when none comes within `timeout` seconds."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"{self.name} said nothing within {timeout} s:\n{self.tail()}") from None
        assert line is not None, f"{self.name} will say nothing more:\n{self.tail()}"
        return line

    def rest(self) -> list[str]:
        """The lines that it printed before it ended and that nobody has read. It must have ended."""
        assert self.process.poll() is not None, f"{self.name} still runs"
        return list(iter(self._lines.get, None))

    def tell(self, line: str) -> None:
        """Write one line to its standard input."""
        assert self.process.stdin is not None, f"{self.name} was started without pipes"
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")

    def alive(self) -> bool:
        """True; AssertionError with the end of its log when it has ended."""
        status = self.process.poll()
        assert status is None, f"{self.name} ended with {status}:\n{self.tail()}"
        return True

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """End it politely, after `seconds` not; may be called twice. Returns its exit status (negative: the signal)."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                return self.kill()
        return self._release()

    def kill(self) -> int:
        """End it with SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()
        return self._release()

    def _release(self) -> int:
        if self._reader.is_alive():
            self._reader.join(STOP_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # nobody reads what was not written yet
                    pipe.close()
        return int(self.process.returncode)


class Asks(Protocol):
    """Asks on a thread of its own."""

    def start(self) -> None: ...

    def end(self) -> None:
        """Have it end, and wait until it has."""


def ask_until_told(askers: Iterable[Asks]) -> None:
    """What a child does: all ask until standard input says something, or ends. "begun" is said before."""
    askers = list(askers)
    for asker in askers:
        asker.start()
    print("begun", flush=True)
    sys.stdin.readline()
    for asker in askers:
        asker.end()
