"""The files of this checkout, for the house tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIBRARY = ("raftcluster", "storage", "transport", "cli")
UNTRACKED = {"__pycache__", "build", "dist", "node_modules"}


def files() -> list[Path]:
    """The tracked files, relative to `ROOT`; without git, or outside a clone, those that lie there."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        found = [Path(name) for name in listed.split("\0") if name]
    else:
        found = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
    return sorted(path for path in found if _kept(path) and (ROOT / path).is_file() and not (ROOT / path).is_symlink())


def sources(*folders: str) -> dict[str, str]:
    """Text of every Python file below `folders`, by its path relative to `ROOT`."""
    return {str(p): (ROOT / p).read_text() for p in files() if p.parts[0] in folders and p.suffix == ".py"}


def _kept(path: Path) -> bool:
    generated = any(part in UNTRACKED or part.endswith(".egg-info") for part in path.parts)
    return not generated and (not path.parts[0].startswith(".") or path.parts[0] == ".ci")
