"""Where nodes keep their data: the machine's own disk, a small one that can be filled, or one with faults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.children import Child
from tests.helpers import eventually

ANSWER_SECONDS = 20.0
MOUNT_SECONDS = 20.0
SMALL_MIB = 192
BALLAST = "ballast"


class Volume:
    """A directory on the machine's own disk. `path` is where a node may keep its data."""

    kind = "plain"

    def __init__(self, root: Path) -> None:
        self.path = root
        root.mkdir()

    def lose_power(self) -> int:
        """What was not synced is lost, as far as the disk can; how many writes were. Nobody may use it."""
        return 0

    def close(self) -> None:
        """Whatever uses it must have ended."""


class SmallVolume(Volume):
    """A tmpfs of `SMALL_MIB`. It survives a node's death, not the run: nothing is synced to anywhere."""

    kind = "small"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        mount("-t", "tmpfs", "-o", f"size={SMALL_MIB}m,mode=700", "tmpfs", str(root))

    def fill(self) -> None:
        """Take all the space there is."""
        with (self.path / BALLAST).open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(65536))
            except OSError:  # ENOSPC: as intended
                os.fsync(ballast.fileno())

    def empty(self) -> None:
        """Give it back."""
        (self.path / BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        self.empty()
        shutil.copytree(self.path, self.path.with_name(f"{self.path.name}.backing"))  # for whoever looks into a failure
        umount(self.path)


class FaultyVolume(Volume):
    """See `tests.chaos.disk`."""

    kind = "faulty"

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root)
        backing = root.with_name(f"{root.name}.backing")
        backing.mkdir()
        log = root.with_name(f"{root.name}.disk.log")
        command = [sys.executable, "-m", "tests.chaos.disk", str(root), str(backing), str(seed)]
        self._child = Child(f"disk {root.name}", command, log, pipes=True)
        eventually(lambda: self._child.alive() and root.is_mount(), MOUNT_SECONDS, f"{root} is mounted")

    def command(self, **faults: Any) -> dict[str, int]:
        """Set the faults; the counts so far."""
        self._child.tell(json.dumps(faults))
        counts: dict[str, int] = json.loads(self._child.line(ANSWER_SECONDS))
        return counts

    def lose_power(self) -> int:
        before = self.command().get("writes lost", 0)
        return self.command(power="loss").get("writes lost", 0) - before

    def close(self) -> None:
        umount(self.path)
        self._child.kill()


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=MOUNT_SECONDS)
    assert done.returncode == 0, f"mount {' '.join(arguments)}: {done.stderr}"


def umount(path: Path) -> None:
    """Lazily: a process that is just ending may still hold it."""
    subprocess.run(["umount", "--lazy", str(path)], capture_output=True, timeout=MOUNT_SECONDS)
