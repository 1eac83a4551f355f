"""What is installed on hosts: a wheelhouse -- this package and everything it needs, each as a wheel -- under one hash.

    FOLDER/SHA256SUMS       what sha256sum -c reads; its own SHA-256 is the artefact's hash
    FOLDER/wheels/*.whl

Equal hashes are equal programs: a host installs from these files alone, without an index and without looking for
dependencies, and compares both sums before.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftcluster.errors import Refusal

SUMS: Final = "SHA256SUMS"
WHEELS: Final = "wheels"
PACKAGE: Final = "raftcluster"
_NAME: Final = re.compile(
    r"(?P<project>[A-Za-z0-9._]+)-(?P<version>[A-Za-z0-9._+!]+)(-\d[^-]*)?-(?P<tag>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)
_SUM: Final = re.compile(r"([0-9a-f]{64})  (\S+)")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of it."""

    name: str
    sha256: str
    size: int
    """Bytes."""

    @property
    def project(self) -> str:
        """Whose it is, as the index spells it."""
        return _parsed(self.name)["project"].lower().replace("_", "-")

    @property
    def version(self) -> str:
        """Of the project."""
        return _parsed(self.name)["version"]

    def fits(self, python: tuple[int, int]) -> bool:
        """Whether CPython of this version can install it; whether the machine can, only pip knows."""
        parts = _parsed(self.name)
        for tag in parts["tag"].split("."):
            if tag in (f"py{python[0]}", f"py{python[0]}{python[1]}", f"cp{python[0]}{python[1]}"):
                return True
            built = re.fullmatch(rf"cp{python[0]}(\d+)", tag)
            if built is not None and "abi3" in parts["abi"].split(".") and int(built[1]) <= python[1]:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Artefact:
    """A wheelhouse that was read through."""

    folder: Path
    wheels: tuple[Wheel, ...]
    """By name."""

    @property
    def sums(self) -> str:
        """The content of SHA256SUMS."""
        return sums(self.wheels)

    @property
    def hash(self) -> str:
        """One for all of it."""
        return hashlib.sha256(self.sums.encode()).hexdigest()

    @property
    def id(self) -> str:
        """Short, for the names of folders."""
        return self.hash[:16]

    @property
    def version(self) -> str:
        """Of raftcluster."""
        return next(each.version for each in self.wheels if each.project == PACKAGE)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(each.size for each in self.wheels)

    def unfit(self, python: tuple[int, int]) -> list[str]:
        """The wheels that CPython of this version cannot install."""
        return [each.name for each in self.wheels if not each.fits(python)]

    def file(self, wheel: Wheel) -> Path:
        """Where it lies."""
        return self.folder / WHEELS / wheel.name


def sums(wheels: Iterable[Wheel]) -> str:
    """The lines of SHA256SUMS, by name."""
    return "".join(f"{each.sha256}  {each.name}\n" for each in sorted(wheels, key=lambda each: each.name))


def seal(folder: Path) -> Artefact:
    """Write SHA256SUMS for the wheels that lie in `folder`, and read it. Raises `Refusal` as `read`, and `OSError`."""
    wheels = [_wheel(file) for file in sorted((folder / WHEELS).glob("*.whl"))]
    (folder / SUMS).write_text(sums(wheels))
    return read(folder)


def read(folder: Path) -> Artefact:
    """The artefact in `folder`, all of it compared with its sums. Raises `Refusal` when it is none, or not what was sealed."""
    try:
        text = (folder / SUMS).read_text()
        found = [_wheel(file) for file in sorted((folder / WHEELS).iterdir())]
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(folder, f"is no wheelhouse: {error}") from error
    listed = {match[2]: match[1] for line in text.splitlines() if (match := _SUM.fullmatch(line))}
    differing = sorted(set(listed.items()) ^ {(each.name, each.sha256) for each in found})
    if differing:
        raise _refused(folder, f"is not what was sealed: {', '.join(dict(differing))}")
    artefact = Artefact(folder, tuple(found))
    if artefact.sums != text:
        raise _refused(folder, f"has another {SUMS} than the one that is made of its wheels")
    projects = [each.project for each in found]
    if projects.count(PACKAGE) != 1 or len(set(projects)) != len(projects):
        raise _refused(folder, f"has not one wheel of {PACKAGE}, or two of another project")
    return artefact


def installed_from() -> Path | None:
    """The wheelhouse from which this program was installed, by a push or by the package; None: in another way."""
    folder = Path(sys.prefix).parent
    return folder if (folder / SUMS).is_file() and (folder / WHEELS).is_dir() else None


def running() -> str:
    """The hash of that one, without reading its wheels; empty: there is none."""
    folder = installed_from()
    return "" if folder is None else hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()


def _wheel(file: Path) -> Wheel:
    _parsed(file.name)
    data = file.read_bytes()
    return Wheel(file.name, hashlib.sha256(data).hexdigest(), len(data))


def _parsed(name: str) -> dict[str, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise Refusal(f"{name} is no wheel", subject=name, remedy="take it out of the wheelhouse")
    return {key: value for key, value in match.groupdict().items() if value}


def _refused(folder: Path, text: str) -> Refusal:
    return Refusal(f"{folder} {text}", subject=str(folder), remedy="build it anew: raftcluster artefact FOLDER")
