"""The program on other hosts: `artefact` is what is installed there."""

from __future__ import annotations

import os
from pathlib import Path

from raftcluster.push.artefact import Artefact, read
from raftcluster.push.build import build, installed_from

__all__ = ["Artefact", "artefact", "installed_artefact"]


def artefact(folder: str | os.PathLike[str]) -> Artefact:
    """The wheelhouse in `folder`, read through and compared with its sums; built there, of the versions that run here, when the
    folder is not there or empty. Waits for pip then. Raises `Refusal` when it is none or has changed, or pip cannot build it."""
    place = Path(folder)
    return read(place) if place.exists() and any(place.iterdir()) else build(place)


def installed_artefact() -> Artefact | None:
    """The wheelhouse from which this program was installed by a push or by the Debian package; None: in another way."""
    place = installed_from()
    return read(place) if place is not None else None
