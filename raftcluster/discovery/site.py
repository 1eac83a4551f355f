"""This host as the providers look at it: its files and the commands of its cluster software."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftcluster.errors import MissingPrivilege, Refusal
from raftcluster.remote.shell import ended

SECONDS: Final = 10.0
"""For one command: a cluster stack that hangs does not hold up who asks."""
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
FILE_BYTES: Final = 4 * 1024 * 1024
"""Configuration that is longer is none."""


@dataclass(frozen=True, slots=True)
class Site:
    """Thread: any. `root` is where its files begin, `path` where its commands are; tests give others."""

    root: Path = Path("/")
    path: str = PATH

    @property
    def host_name(self) -> str:
        """As the kernel has it, short or whole."""
        return platform.node()

    @property
    def domain(self) -> str:
        """What follows the host's own name in its whole one; empty when nothing does."""
        if "." not in self.host_name and self.has("hostname"):
            try:
                return self.run("hostname", "--fqdn").strip().partition(".")[2]
            except Refusal:  # its name leads nowhere
                return ""
        return self.host_name.partition(".")[2]

    def has(self, command: str) -> bool:
        """Whether the command is installed."""
        return shutil.which(command, path=self.path) is not None

    def run(self, *words: str) -> str:
        """The standard output of a command that succeeds. Raises `Refusal`, with what it said, when it does not,
        `Unavailable` when it does not end."""
        command = shutil.which(words[0], path=self.path)
        if command is None:
            raise Refusal(f"there is no {words[0]} here", subject=words[0])
        done = ended([command, *words[1:]], "", SECONDS, {"PATH": PATH, "LC_ALL": "C"})
        if done.status != 0:
            raise Refusal(f"{' '.join(words)}: {done.said}", subject=words[0])
        return done.out

    def read(self, path: str) -> str | None:
        """The text of the file, None when there is none. Raises `MissingPrivilege`, `Refusal`."""
        try:
            with (self.root / path.lstrip("/")).open(encoding="utf-8", errors="replace") as file:
                text = file.read(FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise MissingPrivilege(f"{path} cannot be read by this user", subject=path, remedy="run as root") from error
        except OSError as error:
            raise Refusal(f"{path} cannot be read: {error.strerror}", subject=path) from error
        if len(text) > FILE_BYTES:
            raise Refusal(f"{path} is longer than {FILE_BYTES} bytes", subject=path)
        return text

    def matching(self, pattern: str) -> list[str]:
        """The paths that a shell's pattern stands for, sorted."""
        found = glob.glob(str(self.root / pattern.lstrip("/")))
        return sorted("/" + os.path.relpath(each, self.root) for each in found)
