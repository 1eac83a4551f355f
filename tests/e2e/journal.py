"""A systemd-journald of the test's own: the real daemon, with sockets and files in a mount namespace that nobody else sees.

It reads no kernel messages and no audit, so it takes nothing away from a journal that the machine may have.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.children import Child
from tests.helpers import eventually

DAEMON: Final = "/lib/systemd/systemd-journald"
SECONDS: Final = 60.0
START: Final = f"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log
mkdir "$1/journal"
ln -s "$1/journal" /run/log/journal
printf '%s\\n' '[Journal]' Storage=volatile ReadKMsg=no Audit=no RateLimitBurst=0 RateLimitIntervalSec=0 \
    ForwardToSyslog=no ForwardToWall=no > /run/systemd/journald.conf.d/test.conf
exec {DAEMON}
"""


class Journal:
    """Runs from entering to leaving. Root only. `folder` gets the journal's files."""

    def __init__(self, folder: Path) -> None:
        assert os.geteuid() == 0, "a mount namespace needs root: ./run e2e"
        self._folder = folder
        self._child: Child | None = None

    def __enter__(self) -> Journal:
        words = ["unshare", "--mount", "bash", "-c", START, "journal", str(self._folder)]
        self._child = Child("systemd-journald", words, self._folder / "journald.log")
        try:
            eventually(self._listens, SECONDS, "the journal listens")
        except BaseException:
            self._child.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._child is not None
        self._child.stop()

    def _listens(self) -> bool:
        assert self._child is not None and self._child.alive()
        return self.run("test", "-S", "/run/systemd/journal/socket").returncode == 0

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` where the journal's socket is."""
        assert self._child is not None
        return ["nsenter", f"--mount=/proc/{self._child.process.pid}/ns/mnt", "--", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command there until it ends."""
        return subprocess.run(self.command(arguments), capture_output=True, text=True, timeout=SECONDS, check=False)

    def kill(self) -> None:
        """End the daemon as a crash would."""
        assert self._child is not None
        self._child.kill()

    def sync(self) -> None:
        """Have it write what it was sent."""
        done = self.run("journalctl", "--sync")
        assert done.returncode == 0, done.stderr

    def records(self, *matches: str) -> list[dict[str, Any]]:
        """What is in its files, read as an administrator would with the daemon gone; `matches` are journalctl's, FIELD=value."""
        (folder,) = (self._folder / "journal").iterdir()
        words = ["journalctl", "--directory", str(folder), "--output", "json", "--all", *matches]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]
