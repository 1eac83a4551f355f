"""`python -m tests.chaos.disk MOUNT BACKING SEED`: a file system (FUSE) that can be slow, fail to sync, lie, and lose power.

Driven by JSON lines on standard input: {"delay": seconds of each sync, "error": true (every sync fails with EIO), "lie":
true (every sync succeeds, and keeps nothing)} sets the faults. {"power": part} undoes what was written and not synced:
every write for "all", each by the throw of a coin for "loss", and for a number each part of so many bytes, aligned as
sectors and pages are, by a coin of its own, so that writes are torn. Each line is answered with the counts so far. Nobody may have a
file open when the power goes.

Names are lost, too: of each directory's changes (a file that is made, renamed or removed) those since its last sync are
undone, for "all", or the newest of them, some or none. Syncing a file syncs its content, not its name.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, NamedTuple

import mfusepy

STAT = ("st_gid", "st_mode", "st_nlink", "st_size", "st_uid", "st_ino", "st_blocks")

GRAVES = ".removed"
"""In the backing directory, on the same file system as all else."""


class _Unsynced(NamedTuple):
    """What a write or a truncation has replaced."""

    offset: int
    old: bytes
    size: int
    length: int
    """Of what was written."""


class _Named(NamedTuple):
    """A change of names that can be undone. Paths are real ones."""

    kind: str
    """`make` (a file or a directory), `move` (to `other`), or `remove` (it is kept as `other`)."""
    path: str
    other: str = ""
    replaced: str = ""
    """Where what had the new name is kept."""


class Disk(mfusepy.Operations):  # type: ignore[misc]
    """The directory `backing`, with faults. The kernel calls one method at a time, so nobody writes during a sync; `command` comes from a thread of its own."""

    use_ns = True

    def __init__(self, backing: Path, random: Random) -> None:
        self._backing, self._random = backing, random
        self._lock = threading.Lock()
        self._never = threading.Event()
        self._faults: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._unsynced: dict[str, list[_Unsynced]] = {}
        self._named: list[_Named] = []
        """Changes of names that are not durable, in order."""
        self._graves = backing / GRAVES
        """What was removed, until that is durable."""
        self._graves.mkdir(exist_ok=True)
        self._buried = count()
        self._synchronous: set[int] = set()
        """Descriptors opened with O_DSYNC: LMDB's for its root pages."""

    def command(self, command: dict[str, Any]) -> dict[str, int]:
        with self._lock:
            if "power" in command:
                self._lose(command["power"])
            else:
                self._faults = command
            return dict(self._counts)

    def _lose(self, power: str | int) -> None:
        for path, writes in self._unsynced.items():
            if os.path.exists(path):
                with open(path, "r+b") as file:
                    for write in reversed(writes):
                        self._undo_write(file, write, power)
        self._unsynced.clear()
        folders = sorted({os.path.dirname(change.path) for change in self._named})
        sizes = Counter(os.path.dirname(change.path) for change in self._named)
        kept = {folder: 0 if power == "all" else self._random.randint(0, sizes[folder]) for folder in folders}
        for change in reversed(self._named):
            folder = os.path.dirname(change.path)
            sizes[folder] -= 1
            if sizes[folder] >= kept[folder]:
                self._counts["names lost"] += 1
                self._undo_name(change)
        self._named.clear()
        for hidden in self._backing.rglob(".fuse_hidden*"):  # files that were removed while somebody had them open
            hidden.unlink()

    def _undo_write(self, file: BinaryIO, write: _Unsynced, power: str | int) -> None:
        end = write.offset + max(write.length, len(write.old))
        part = power if isinstance(power, int) else max(1, end)
        lost = torn = 0
        for start in range(write.offset - write.offset % part, end, part):
            if power != "all" and self._random.random() < 0.5:
                torn += 1
                continue
            lost += 1
            first, last = max(start, write.offset) - write.offset, start + part - write.offset
            if old := write.old[first:last]:
                file.seek(write.offset + first)
                file.write(old)
        self._counts["writes lost"] += bool(lost)
        self._counts["writes torn"] += bool(lost and torn)
        if lost and not torn:
            file.truncate(write.size)
        elif lost:
            file.flush()
            file.truncate(max(write.size, os.fstat(file.fileno()).st_size))

    def _undo_name(self, change: _Named) -> None:
        if not os.path.isdir(os.path.dirname(change.path)):
            return  # the directory was removed as well, and stays so
        if change.kind == "move":
            os.rename(change.other, change.path)
            if change.replaced:
                os.rename(change.replaced, change.other)
        elif change.kind == "remove":
            os.rename(change.other, change.path)
        elif os.path.isdir(change.path):
            shutil.rmtree(change.path)
        else:
            os.unlink(change.path)

    def _named_durable(self, folder: str) -> None:
        """What happened in this directory is durable; what was removed in it is gone for good."""
        kept = []
        for change in self._named:
            if os.path.dirname(change.path) != folder:
                kept.append(change)
            else:
                grave = change.replaced or (change.other if change.kind == "remove" else "")
                if os.path.isdir(grave):
                    shutil.rmtree(grave)
                elif grave:
                    os.unlink(grave)
                self._unsynced.pop(grave, None)
        self._named = kept

    def _bury(self, path: str) -> str:
        """Keep what is about to be removed; where."""
        grave = str(self._graves / str(next(self._buried)))
        os.rename(path, grave)
        self._follow(path, grave)
        return grave

    def _follow(self, old: str, new: str) -> None:
        """What is not synced goes with its file."""
        if (writes := self._unsynced.pop(old, None)) is not None:
            self._unsynced[new] = writes

    def _replacing(self, path: str, descriptor: int, offset: int, length: int, written: int) -> None:
        size = os.fstat(descriptor).st_size
        old = os.pread(descriptor, length, offset)
        with self._lock:
            self._unsynced.setdefault(path, []).append(_Unsynced(offset, old, size, written))

    def _sync(self, path: str) -> None:
        with self._lock:
            delay, error = self._faults.get("delay", 0), self._faults.get("error", False)
            self._counts["syncs"] += 1
            if error:
                self._counts["syncs failed"] += 1
                raise mfusepy.FuseOSError(errno.EIO)
            self._counts["syncs delayed"] += bool(delay)
        self._never.wait(delay)  # the power may go meanwhile
        with self._lock:
            if self._faults.get("lie"):
                self._counts["syncs that lied"] += 1
            elif os.path.isdir(path):
                self._named_durable(path.rstrip("/"))
            else:
                self._unsynced.pop(path, None)

    def _real(self, path: str) -> str:
        return f"{self._backing}{path}"

    # ---- what the kernel asks

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        status = os.lstat(self._real(path))
        times = {f"st_{kind}time": getattr(status, f"st_{kind}time_ns") for kind in "amc"}
        return {name: getattr(status, name) for name in STAT} | times

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        yield from (".", "..", *(name for name in os.listdir(self._real(path)) if name != GRAVES))

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._real(path))
        names = (
            "f_bavail",
            "f_bfree",
            "f_blocks",
            "f_bsize",
            "f_favail",
            "f_ffree",
            "f_files",
            "f_frsize",
            "f_namemax",
        )
        return {name: getattr(status, name) for name in names}

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._real(path), mode)
        self._change("make", path)

    def rmdir(self, path: str) -> None:
        with os.scandir(self._real(path)) as entries:
            if any(entries):
                raise mfusepy.FuseOSError(errno.ENOTEMPTY)
        self.unlink(path)

    def unlink(self, path: str) -> None:
        with self._lock:
            grave = self._bury(self._real(path))
            self._named.append(_Named("remove", self._real(path), grave))

    def rename(self, old: str, new: str) -> None:
        real, other = self._real(old), self._real(new)
        with self._lock:
            replaced = self._bury(other) if os.path.exists(other) else ""
            os.rename(real, other)
            self._follow(real, other)
            self._named.append(_Named("move", real, other, replaced))

    def _change(self, kind: str, path: str) -> None:
        with self._lock:
            self._named.append(_Named(kind, self._real(path)))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._real(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._real(path), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._real(path), ns=times or (time.time_ns(), time.time_ns()))

    def open(self, path: str, flags: int) -> int:
        mode = os.O_RDWR if flags & os.O_ACCMODE else os.O_RDONLY  # what is replaced must be read
        descriptor = os.open(self._real(path), mode | flags & os.O_TRUNC)
        if flags & os.O_DSYNC:
            self._synchronous.add(descriptor)
        return descriptor

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        descriptor = os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)
        self._change("make", path)
        return descriptor

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._replacing(self._real(path), fh, offset, len(data), len(data))
        written = os.pwrite(fh, data, offset)
        if fh in self._synchronous:
            self._sync(self._real(path))
        return written

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        descriptor = os.open(self._real(path), os.O_RDWR)
        try:
            self._replacing(self._real(path), descriptor, length, max(0, os.fstat(descriptor).st_size - length), 0)
            os.ftruncate(descriptor, length)
        finally:
            os.close(descriptor)

    def flush(self, path: str, fh: int) -> None:
        """Closing a file syncs nothing."""

    def release(self, path: str, fh: int) -> None:
        self._synchronous.discard(fh)
        os.close(fh)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self._sync(self._real(path))

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        self._sync(self._real(path))


def main() -> None:
    mount, backing, seed = sys.argv[1:]
    disk = Disk(Path(backing), Random(int(seed)))

    def listen() -> None:
        for line in sys.stdin:
            print(json.dumps(disk.command(json.loads(line))), flush=True)

    threading.Thread(target=listen, daemon=True).start()
    mfusepy.FUSE(
        disk,
        mount,
        foreground=True,
        nothreads=True,
        default_permissions=True,
        fsname="rcchaos",
        entry_timeout=0,
        attr_timeout=0,
    )  # fmt: skip - the kernel caches no names and sizes: power loss changes them behind its back


if __name__ == "__main__":
    main()
