"""The inputs that are kept: which there are, and which of many are worth keeping."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
CORPUS: Final = FOLDER / "corpus"
SURFACES: Final = tuple(sorted(file.stem for file in (FOLDER / "surfaces").glob("[a-z]*.py")))
FILES: Final = 40
FILE_BYTES: Final = 400


def kept(surface: str) -> list[Path]:
    """The inputs in the corpus."""
    return sorted((CORPUS / surface).glob("*"))


def inputs(surface: str) -> list[bytes]:
    """Where to begin: the surface's own seeds, and the corpus."""
    seeds = importlib.import_module(f"tests.fuzz.surfaces.{surface}").seeds()
    return [*seeds, *(file.read_bytes() for file in kept(surface))]


def store(surface: str, found: Path) -> int:
    """Make the corpus the smallest inputs of `found` that cover as much, at most `FILES` of them; how many those are."""
    with tempfile.TemporaryDirectory() as name:
        small = Path(name) / "small"
        small.mkdir()
        for file in found.iterdir():
            if 0 < file.stat().st_size <= FILE_BYTES:
                (small / file.name).write_bytes(file.read_bytes())
        merged = Path(name) / "merged"
        merged.mkdir()
        again = Path(name) / "again"  # libFuzzer starts itself once more, by the name that it was called by
        again.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.fuzz.worker {surface} "$@"\n')
        again.chmod(0o700)
        environment = {**os.environ, "RAFTCLUSTER_FUZZ_AGAIN": str(again)}
        command = [str(again), "-merge=1", str(merged), str(small)]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        chosen = sorted(merged.iterdir(), key=lambda file: (-file.stat().st_size, file.name))
        step = max(1, -(-len(chosen) // FILES))
        data = [file.read_bytes() for file in chosen[::step]]
    folder = CORPUS / surface
    folder.mkdir(parents=True, exist_ok=True)
    for file in kept(surface):
        file.unlink()
    for each in data:
        (folder / hashlib.sha256(each).hexdigest()[:12]).write_bytes(each)
    return len(data)


def main() -> None:
    """Print what the state machines come to with each input: the same in every process."""
    logging.disable(logging.CRITICAL)
    for surface in ("cluster", "config", "greylist", "lease", "lists", "notifications", "quarantine"):
        run = importlib.import_module(f"tests.fuzz.surfaces.{surface}").run
        for data in inputs(surface):
            print(surface, run(data))


if __name__ == "__main__":
    main()
