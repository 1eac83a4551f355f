"""Whether something secret is to be seen: in an argument list or an environment of any process while it runs, or in a file."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.e2e.machines import Machine

TOKEN: Final = r"rc1\.[0-9A-Za-z]{8,}\.[0-9A-Za-z_-]{16,}\."
PAUSE_SECONDS: Final = 0.01
PLACES: Final = ("/etc", "/opt/raftcluster", "/var/lib", "/var/log", "/root", "/home", "/run", "/tmp/raftcluster-*")
"""Below /tmp also lies what other tests of this machine write meanwhile."""


class Watch:
    """Looks at all processes of this machine but its own, those of all namespaces, until it is left; `seen` is what it saw."""

    def __init__(self, *patterns: str) -> None:
        self._pattern = re.compile("|".join(patterns).encode())
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: set[str] = set()
        self.looked = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def _look(self) -> None:
        known: dict[str, int] = {}
        while not self._left.wait(PAUSE_SECONDS):
            for entry in os.listdir("/proc"):
                # The argument list of a process changes with exec, soon after it has begun: look at each some times.
                if entry.isdigit() and int(entry) != os.getpid() and known.get(entry, 0) < 20:
                    known[entry] = known.get(entry, 0) + 1
                    for name in ("cmdline", "environ"):
                        self._read(Path("/proc") / entry / name)
            self.looked += 1

    def _read(self, file: Path) -> None:
        try:
            content = file.read_bytes()
        except OSError:  # it has ended
            return
        if self._pattern.search(content):
            self.seen.add(f"{file.name}: {content[:200]!r}")


def files(machine: Machine, *patterns: str, since: str) -> list[str]:
    """Files of the machine that were written after the file `since` was, and hold one of these."""
    apart = ["(", "-name", ".pyenv", "-o", "-name", ".cache", "-o", "-name", ".npm", ")", "-prune", "-o"]
    found = ["find", *PLACES, "-xdev", *map(repr, apart), "-type", "f", "-cnewer", since, "-print0"]
    grep = ["xargs", "-0", "-r", "grep", "-lEa", "--", "|".join(patterns)]
    script = f'{" ".join(found)} 2>/dev/null | {" ".join(grep[:-1])} "$1" || :'
    return machine.said("sh", "-c", script, "sh", grep[-1]).split()
