"""Where commands are run: `Shell`, and `Local`, this host."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from raftcluster.errors import Refusal, Unavailable

SECONDS: Final = 30.0
"""For a command, unless the caller says otherwise."""
CLOSE_SECONDS: Final = 5.0
OUTPUT_BYTES: Final = 16 * 1024 * 1024
"""Of a command, on either way out: another host does not fill this one's memory."""
LINE_BYTES: Final = 64 * 1024
"""Of a command that is read while it runs."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """What it complained of, on one line."""
        return " ".join((self.err or self.out).split())[:300] or f"exit {self.status}"


class Shell(Protocol):
    """A host on which commands can be run. Thread: any, several at once."""

    @property
    def host(self) -> str:
        """Which one, for people."""
        ...

    def run(self, words: Sequence[str], given: str = "", seconds: float = SECONDS) -> Done:
        """Run a command there until it ends; `given` is its standard input, the only way for what is long or secret.

        Its exit status is the caller's to judge. Raises `Unavailable` when the host cannot be reached or does not end in time:
        then the command may have run.
        """
        ...

    def start(self, words: Sequence[str]) -> Running:
        """Start a command there. It must end when its standard input does. Raises `Refusal`."""
        ...


class Running:
    """A command that has not ended: its lines are read as they come, and it ends at the latest when it is let go. Thread: one."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Raises `Refusal` when it cannot be started."""
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
            )
        except OSError as error:
            raise _not_started(words[0], error) from error
        self._name, self._held = words[0], b""

    def line(self, seconds: float) -> str:
        """Its next line; empty when it has ended. Raises `Unavailable` when none comes in time."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._held:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise Unavailable(f"{self._name} said nothing in {seconds:.0f} s", subject=self._name)
                read = os.read(self._process.stdout.fileno(), 4096)
                if not read or len(self._held) > LINE_BYTES:
                    return ""
                self._held += read
        line, _, self._held = self._held.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        """Its standard input ends, and so should it; after some seconds it is ended. Idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Local:
    """This host, as the user that calls."""

    host: str = "this host"

    def run(self, words: Sequence[str], given: str = "", seconds: float = SECONDS) -> Done:
        """As `Shell.run`. Raises `Refusal` when there is no such command, `Unavailable`."""
        return ended(words, given, seconds)

    def start(self, words: Sequence[str]) -> Running:
        """As `Shell.start`."""
        return Running(words)


def ended(words: Sequence[str], given: str, seconds: float, env: Mapping[str, str] | None = None) -> Done:
    """The command once it has ended. Raises `Refusal` when it cannot be started, `Unavailable` when it takes too long."""
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
    except OSError as error:
        raise _not_started(words[0], error) from error
    with process:
        try:
            out, err = _exchanged(process, words[0], given.encode(), time.monotonic() + seconds)
            return Done(process.wait(seconds), out.decode(errors="replace"), err.decode(errors="replace"))
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{words[0]} did not end in {seconds:.0f} s", subject=words[0]) from error
        finally:
            process.kill()


def _exchanged(process: subprocess.Popen[bytes], name: str, given: bytes, end: float) -> tuple[bytes, bytes]:
    """What a process says on its two ways out while it is given its input. Raises `Unavailable`: too late, or too much."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    said = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    out, err = said
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        for each in said:
            selector.register(each, selectors.EVENT_READ)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        left = memoryview(given)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(name, 0)
            for key, _ in ready:
                if key.fd in said:
                    read = os.read(key.fd, 64 * 1024)
                    said[key.fd] += read
                    if len(said[key.fd]) > OUTPUT_BYTES:
                        raise Unavailable(f"{name} says more than {OUTPUT_BYTES} bytes", subject=name)
                    if not read:
                        selector.unregister(key.fd)
                    continue
                try:
                    left = left[os.write(key.fd, left[: 64 * 1024]) :] if left else left
                except BrokenPipeError:  # it does not want all of it
                    left = left[:0]
                if not left:
                    selector.unregister(process.stdin)
                    process.stdin.close()
    return bytes(said[out]), bytes(said[err])


def _not_started(command: str, error: OSError) -> Refusal:
    return Refusal(f"{command} did not run: {error}", subject=command, remedy=f"install {command}")
