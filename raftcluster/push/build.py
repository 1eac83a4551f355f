"""Where the artefact comes from: the wheelhouse that this program was installed from, or one that is built here with pip.

It is built of the versions that run here: what was tried is what is pushed. A checkout (`pip install --editable`) is built
from a copy of its sources, so that nothing is left in it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from raftcluster.errors import Refusal
from raftcluster.push.artefact import PACKAGE, WHEELS, Artefact, installed_from, read, seal

EXTRAS: Final = "cli"
"""What is pushed beyond what must be there."""
SECONDS: Final = 600.0
EPOCH: Final = "315532800"
"""The time stamps in wheels that are built here: the earliest that a zip file knows."""
_SOURCES: Final = ("pyproject.toml", "README.md", "LICENSE", "raftcluster", "storage", "transport", "cli")


def build(folder: Path) -> Artefact:
    """Build a wheelhouse in `folder`, which must be empty or not be there. Waits for pip. Raises `Refusal`."""
    if folder.exists() and any(folder.iterdir()):
        raise Refusal(f"{folder} is not empty", subject=str(folder), remedy="name a folder that is not there yet")
    try:
        ours = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise Refusal(
            f"{PACKAGE} runs here without being installed: its version cannot be told",
            subject=PACKAGE,
            remedy="install it, or name a wheelhouse",
        ) from error
    with tempfile.TemporaryDirectory(prefix="raftcluster-build-") as place:
        checkout = _checkout(ours)
        if checkout is not None:
            what = f"{_copied(checkout, Path(place) / 'source')}[{EXTRAS}]"
        else:
            what = f"{PACKAGE}[{EXTRAS}]=={ours.version}"
        pins = Path(place) / "pins.txt"
        pins.write_text(_pins())
        folder.mkdir(parents=True, exist_ok=True)
        _pip(["wheel", "--wheel-dir", str(folder / WHEELS), "--constraint", str(pins), what])
    return seal(folder)


def given_or_built(given: Path | None, folder: Path) -> Artefact:
    """The wheelhouse `given`; else the one that this program was installed from; else one that is built in `folder`."""
    place = given or installed_from()
    return read(place) if place is not None else build(folder)


def _checkout(ours: Distribution) -> Path | None:
    """Where the sources lie that run here, when they are a checkout's."""
    url = json.loads(ours.read_text("direct_url.json") or "{}").get("url", "")
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    return path if path is not None and (path / "pyproject.toml").is_file() else None


def _copied(checkout: Path, to: Path) -> Path:
    """What the wheel is made of, and nothing else."""
    to.mkdir()
    for name in _SOURCES:
        source = checkout / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=lambda folder, names: _not_ours(Path(folder), names))
        elif source.exists():
            shutil.copyfile(source, to / name)
    return to


def _not_ours(folder: Path, names: list[str]) -> set[str]:
    return {each for each in names if each == "__pycache__" or (folder / each).is_symlink()}


def _pins() -> str:
    """Every project that is installed here, at its version."""
    found = {each.metadata["Name"]: each.version for each in distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name and name != PACKAGE)


def _pip(words: list[str]) -> None:
    command = [sys.executable, "-m", "pip", *words[:1], "--quiet", "--no-input", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*command, *words[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": "0"},
        )
    except subprocess.TimeoutExpired as error:
        raise Refusal(f"pip did not end in {SECONDS:.0f} s", subject="pip", remedy="name a wheelhouse") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        raise Refusal(f"pip cannot build the wheels: {said}", subject="pip", remedy="name a wheelhouse")
