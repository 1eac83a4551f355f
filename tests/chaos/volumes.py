"""Where nodes keep their data: the machine's own disk, or one with faults."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.children import Child
from tests.helpers import eventually

ANSWER_SECONDS = 60.0
MOUNT_SECONDS = 60.0
BALLAST = "ballast"


class Volume:
    """A directory on the machine's own disk. `path` is where a node may keep its data."""

    def __init__(self, root: Path) -> None:
        self.path = root
        root.mkdir()

    def lose_power(self, power: str | int = "loss") -> int:
        """What was not synced is lost, as far as the disk can, in the manner of `power` (see `disk`); how many writes were.
        Nobody may use it."""
        return 0

    def close(self) -> None:
        """Whatever uses it must have ended."""


class FaultyVolume(Volume):
    """See `tests.chaos.disk`. With `size_mib` it is small, and can be filled."""

    def __init__(self, root: Path, seed: int, size_mib: int | None = None) -> None:
        super().__init__(root)
        self.small = size_mib is not None
        self._backing = root.with_name(f"{root.name}.backing")
        self._backing.mkdir()
        if size_mib is not None:
            mount("-t", "tmpfs", "-o", f"size={size_mib}m,mode=700", "tmpfs", str(self._backing))
        log = root.with_name(f"{root.name}.disk.log")
        command = [sys.executable, "-m", "tests.chaos.disk", str(root), str(self._backing), str(seed)]
        self._child = Child(f"disk {root.name}", command, log, pipes=True)
        eventually(lambda: self._child.alive() and root.is_mount(), MOUNT_SECONDS, f"{root} is mounted")

    def command(self, **faults: Any) -> dict[str, int]:
        """Set the faults; the counts so far."""
        self._child.tell(json.dumps(faults))
        counts: dict[str, int] = json.loads(self._child.line(ANSWER_SECONDS))
        return counts

    def fill(self) -> None:
        """Take all the space there is."""
        with (self._backing / BALLAST).open("wb", buffering=0) as ballast, suppress(OSError):  # ENOSPC: as intended
            while True:
                ballast.write(bytes(65536))

    def empty(self) -> None:
        """Give it back."""
        (self._backing / BALLAST).unlink(missing_ok=True)

    def lose_power(self, power: str | int = "loss") -> int:
        before = self.command().get("writes lost", 0)
        return self.command(power=power).get("writes lost", 0) - before

    def close(self) -> None:
        umount(self.path)
        self._child.kill()
        if self.small:
            self.empty()
            shutil.copytree(self._backing, self._backing.with_suffix(".kept"))  # for whoever looks into a failure
            umount(self._backing)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=MOUNT_SECONDS)
    assert done.returncode == 0, f"mount {' '.join(arguments)}: {done.stderr}"


def umount(path: Path) -> None:
    """Lazily: a process that is just ending may still hold it."""
    subprocess.run(["umount", "--lazy", str(path)], capture_output=True, timeout=MOUNT_SECONDS)
