"""`python -m tests.chaos.disk MOUNT BACKING SEED`: a file system (FUSE) that can be slow, fail to sync, and lose power.

Driven by JSON lines on standard input: {"delay": seconds of each sync, "error": true (every sync fails with EIO)} sets the
faults; {"power": "loss"} undoes what was written and not synced -- each write by the throw of a coin, as a torn disk
would. Each line is answered with the counts so far. Nobody may have a file open when the power goes.

Only what is in files is lost; names are kept.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import mfusepy

STAT = ("st_gid", "st_mode", "st_nlink", "st_size", "st_uid", "st_ino", "st_blocks")


class _Unsynced(NamedTuple):
    """What a write or a truncation has replaced."""

    offset: int
    old: bytes
    size: int


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
        self._synchronous: set[int] = set()
        """Descriptors opened with O_DSYNC: LMDB's for its root pages."""

    def command(self, command: dict[str, Any]) -> dict[str, int]:
        with self._lock:
            if command.get("power") == "loss":
                self._lose()
            else:
                self._faults = command
            return dict(self._counts)

    def _lose(self) -> None:
        for path, writes in self._unsynced.items():
            if not os.path.exists(path):
                continue
            with open(path, "r+b") as file:
                for write in reversed(writes):
                    if self._random.random() < 0.5:
                        continue
                    self._counts["writes lost"] += 1
                    file.seek(write.offset)
                    file.write(write.old)
                    file.truncate(max(write.size, file.tell()))
        self._unsynced.clear()

    def _replacing(self, path: str, descriptor: int, offset: int, length: int) -> None:
        size = os.fstat(descriptor).st_size
        old = os.pread(descriptor, length, offset)
        with self._lock:
            self._unsynced.setdefault(path, []).append(_Unsynced(offset, old, size))

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
            self._unsynced.pop(path, None)

    def _real(self, path: str) -> str:
        return f"{self._backing}{path}"

    # ---- what the kernel asks

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        status = os.lstat(self._real(path))
        times = {f"st_{kind}time": getattr(status, f"st_{kind}time_ns") for kind in "amc"}
        return {name: getattr(status, name) for name in STAT} | times

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        yield from (".", "..", *os.listdir(self._real(path)))

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

    def rmdir(self, path: str) -> None:
        os.rmdir(self._real(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._real(path))
        self._unsynced.pop(self._real(path), None)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._real(old), self._real(new))
        with self._lock:
            self._unsynced.pop(self._real(new), None)
            if (writes := self._unsynced.pop(self._real(old), None)) is not None:
                self._unsynced[self._real(new)] = writes

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
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._replacing(self._real(path), fh, offset, len(data))
        written = os.pwrite(fh, data, offset)
        if fh in self._synchronous:
            self._sync(self._real(path))
        return written

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        descriptor = os.open(self._real(path), os.O_RDWR)
        try:
            self._replacing(self._real(path), descriptor, length, max(0, os.fstat(descriptor).st_size - length))
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
    mfusepy.FUSE(disk, mount, foreground=True, nothreads=True, default_permissions=True, fsname="rcchaos")


if __name__ == "__main__":
    main()
