"""A host on which commands are run as root, by sudo where the account is not root: `Sudo`.

sudo reads the password from its standard input, before what is given to the command. Whether it asks at all is found out first: a
password that nobody asks for would be the command's.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from raftcluster.errors import MissingPrivilege
from raftcluster.remote.shell import SECONDS, Done, Running, Shell

_KIND: Final = """
[ "$(id -u)" != 0 ] || { echo root; exit 0; }
command -v sudo >/dev/null || { echo none; exit 0; }
if sudo -n true 2>/dev/null; then echo free; else echo password; fi
"""
_ASKED: Final = ["sudo", "-k", "-S", "-p", "", "--"]
"""-k: whatever it remembers, it reads the password, and only that."""


class Sudo:
    """The host of `shell`, as root. Thread: any, several at once."""

    def __init__(self, shell: Shell, password: str) -> None:
        self._shell, self._password = shell, password
        self._lock = threading.Lock()
        self._kind = ""

    @property
    def host(self) -> str:
        """As `Shell.host`."""
        return self._shell.host

    def run(self, words: Sequence[str], given: str = "", seconds: float = SECONDS) -> Done:
        """As `Shell.run`. Raises `MissingPrivilege` when sudo does not take the password, or is not there."""
        match self._known():
            case "root":
                return self._shell.run(words, given, seconds)
            case "free":
                return self._shell.run(["sudo", "-n", "--", *words], given, seconds)
            case _:
                return self._shell.run([*_ASKED, *words], f"{self._password}\n{given}", seconds)

    def start(self, words: Sequence[str]) -> Running:
        """As `Shell.start`, by the account as it is: what is read while it runs needs no privilege."""
        return self._shell.start(words)

    def _known(self) -> str:
        with self._lock:
            if not self._kind:
                kind = self._shell.run(["sh", "-s"], _KIND).out.strip()
                if kind not in ("root", "free"):
                    self._check(kind)
                self._kind = kind
            return self._kind

    def _check(self, kind: str) -> None:
        done = Done(1, "", "there is no sudo")
        if kind == "password":
            done = self._shell.run([*_ASKED, "true"], f"{self._password}\n")
        if done.status != 0:
            raise MissingPrivilege(
                f"{self.host}: the account does not become root: {done.said}",
                subject=self.host,
                remedy="give the account's own password, let sudo know the account, or take another account",
            )
