"""What the program that runs here is on this host, and what of it goes with a cluster's end: what a push has put here, and
nothing else. A Debian package is dpkg's to remove.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftcluster.errors import Refusal
from raftcluster.push.artefact import installed_from
from raftcluster.push.place import COMMAND, LOG, UNIT
from raftcluster.push.unit import OPTIONS, USER

PACKAGE_FILES: Final = Path("/var/lib/dpkg/info/raftcluster.list")
SECONDS: Final = 330.0
"""More than the script waits for a push that is at work."""
BEFORE: Final = "before"
DIRECTORY: Final = "directory"
"""The file with the data directory of the node that the push was for."""
_NAMED: Final = {"unit": UNIT, "options": OPTIONS, "command": COMMAND, "log": LOG, "user": f"the user {USER}"}


@dataclass(frozen=True, slots=True)
class Software:
    """How this program came here."""

    prefix: Path | None = None
    """Where a push has put it; None: it did not."""
    directory: str = ""
    """Of the node that it was pushed for."""
    made: Sequence[str] = ()
    """What of a push's was not there before: see `script`."""
    package: bool = False
    """dpkg has installed it."""


def here() -> Software:
    """Of the program that runs."""
    release = installed_from()
    return Software() if release is None else found(release)


def found(release: Path, package_files: Path = PACKAGE_FILES) -> Software:
    """Of a program that was installed in `release` from the wheelhouse there."""
    prefix = release.parent.parent
    if package_files.is_file() and str(release) in package_files.read_text().splitlines():
        return Software(package=True)
    if not (prefix / BEFORE).is_file() or not (prefix / DIRECTORY).is_file():
        return Software()
    made = (prefix / BEFORE).read_text().splitlines()
    return Software(prefix, (prefix / DIRECTORY).read_text().strip(), made)


def of(directory: str | os.PathLike[str]) -> str:
    """Where the program lies that was pushed for the node in `directory`, and runs; empty: there is none."""
    known = here()
    return str(known.prefix) if _is_for(known, directory) else ""


def remove(prefix: str) -> None:
    """Have the push's own script in `prefix` remove all of it, once the node's marker asks for that. Root only. Raises `Refusal`."""
    words = [f"{prefix}/uninstall", "destroyed"]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-300:] or f"exit {done.returncode}"
        raise Refusal(
            f"{prefix} is not removed: {said}", subject=prefix, remedy=f"mend it, then run {prefix}/uninstall"
        )


def steps(known: Software, directory: str | os.PathLike[str], keep: bool) -> list[str]:
    """What the end of the node in `directory` means for it, for people."""
    if known.package:
        return [
            "leave the program: it is the Debian package raftcluster, which dpkg removes (apt-get purge raftcluster)"
        ]
    if not _is_for(known, directory):
        return ["leave the program: no push has installed it for this node"]
    if keep:
        return [f"leave the program in {known.prefix}, as asked"]
    gone = [str(known.prefix), *(name for each, name in _NAMED.items() if each in known.made)]
    left = [name for each, name in _NAMED.items() if each not in known.made]
    told = [f"remove what a push has put here: {', '.join(gone)}"]
    return [*told, f"leave what was there before the push: {', '.join(left)}"] if left else told


def _is_for(known: Software, directory: str | os.PathLike[str]) -> bool:
    return known.prefix is not None and os.path.realpath(known.directory) == os.path.realpath(directory)
