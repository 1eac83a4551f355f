"""A directory on a disk that forgets: what a process sees in it, what would be left of it, and the moment at which all ends.

The functions of `os` are replaced for one directory and its descriptors; the files are real, and hold what a process sees. Beside
them is kept what is durable, as POSIX promises no more: pages that were written since a file's last sync may reach the disk, each
part of one for itself; names since the directory's last sync, too. Everything is decided by a seed. Thread: one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import pytest

PAGE = 4096
SECTOR = 512

Mood = Literal["well", "full", "broken", "crowded"]


FAULTY = ("full", "broken")


class Ended(BaseException):
    """The process is no more: nothing that it does from now on has an effect."""


@dataclass(eq=False)
class _File:
    """An inode."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)
    """Numbers of the pages whose content may not be durable. After a sync that failed: none, whatever is durable."""

    def flush(self, start: int, stop: int) -> None:
        """These bytes reach the disk."""
        stop = min(stop, len(self.seen))
        if len(self.durable) < stop:
            self.durable.extend(bytes(stop - len(self.durable)))
        self.durable[start:stop] = self.seen[start:stop]


class _Named(NamedTuple):
    """A change of names: `new` is made, `old` removed, or both."""

    file: _File
    old: str | None
    new: str | None

    def apply(self, names: dict[str, _File]) -> None:
        if self.old is not None and names.get(self.old) is self.file:
            del names[self.old]
        if self.new is not None:
            names[self.new] = self.file


class Disk:
    """The directory `folder`, which is empty."""

    def __init__(self, folder: Path, chance: Random) -> None:
        self.folder, self._chance = folder, chance
        self.mood: Mood = "well"
        """What becomes of each write and sync, by the throw of a coin, when it is full or broken; crowded: there are no descriptors."""
        self.left = -1
        """So many calls until the process ends in the middle of one; negative: it does not."""
        self.ends = 0
        self.grains: tuple[int, ...] = (SECTOR, PAGE)
        """Where a write may have been cut when the process ended."""
        self._names: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._changes: list[_Named] = []
        self._open: dict[int, tuple[_File | None, bool]] = {}
        """Descriptor -> file, None for the directory; whether each write is synced."""
        self._dead = False
        self._real: dict[str, Callable[..., Any]] = {}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the functions of `os`."""
        for name in ("open", "close", "write", "pwrite", "fsync", "rename", "unlink", "statvfs"):
            self._replace(patch, name, getattr(self, f"_{name}_"))

    def _replace(self, patch: pytest.MonkeyPatch, name: str, function: Callable[..., Any]) -> None:
        real = self._real[name] = getattr(os, name)
        patch.setattr(os, name, lambda *args, **kwargs: function(real, *args, **kwargs))

    # --- the end

    def end(self, *, power: bool) -> None:
        """The process ends, if it has not yet; `power`: all of the machine. The next one may begin."""
        for descriptor in list(self._open):
            os.close(descriptor)
        self._dead, self.left, self.mood = False, -1, "well"
        if power:
            self._lose_names()
            self._lose_pages()

    def _lose_names(self) -> None:
        chance = self._chance
        names = dict(self._durable)
        manner = chance.choice(("none", "all", "first", "any"))
        count = chance.randint(0, len(self._changes))
        for number, change in enumerate(self._changes):
            if (
                manner == "none"
                or (manner == "first" and number < count)
                or (manner == "any" and chance.random() < 0.5)
            ):
                change.apply(names)
        self._changes.clear()
        self._names, self._durable = names, dict(names)

    def _lose_pages(self) -> None:
        chance = self._chance
        for each in list(self.folder.iterdir()):
            self._real["unlink"](each)
        for name, file in self._names.items():
            part = chance.choice((SECTOR, PAGE))
            share = chance.choice((0.0, 0.2, 0.5, 0.8, 1.0))
            for page in sorted(file.dirty):
                for start in range(page * PAGE, page * PAGE + PAGE, part):
                    if start < len(file.seen) and chance.random() < share:
                        file.flush(start, start + part)
            file.dirty.clear()
            file.seen[:] = file.durable
            (self.folder / name).write_bytes(file.seen)

    def _reached(self) -> bool:
        """Whether the process ends in this call."""
        if self._dead:
            raise Ended
        self.left -= 1
        self._dead = self.left == 0
        self.ends += self._dead
        return self._dead

    def _name(self, path: Any) -> str | None:
        path = Path(path)
        return path.name if path.parent == self.folder else None

    # --- what is called

    def _open_(self, real: Any, path: Any, flags: int, mode: int = 0o777, **kwargs: Any) -> int:
        name = self._name(path)
        reads = flags & os.O_ACCMODE == os.O_RDONLY
        if Path(path) != self.folder and (name is None or reads):  # who reads changes nothing
            return real(path, flags, mode, **kwargs)  # type: ignore[no-any-return]
        if self._dead:
            raise Ended
        if flags & os.O_CREAT and self._reached():
            raise Ended
        if self.mood == "crowded" and self._chance.random() < 0.5:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        descriptor: int = real(path, flags & ~os.O_DSYNC, mode)
        if name is None:
            self._open[descriptor] = None, False
            return descriptor
        if name not in self._names:
            self._names[name] = _File()
            self._changes.append(_Named(self._names[name], None, name))
        self._open[descriptor] = self._names[name], bool(flags & os.O_DSYNC)
        return descriptor

    def _close_(self, real: Any, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        real(descriptor)

    def _write_(self, real: Any, descriptor: int, data: bytes) -> int:
        if descriptor not in self._open:
            return real(descriptor, data)  # type: ignore[no-any-return]
        file, _ = self._open[descriptor]
        assert file is not None
        return self._pwrite_(None, descriptor, data, len(file.seen))

    def _pwrite_(self, real: Any, descriptor: int, data: bytes, offset: int) -> int:
        if descriptor not in self._open:
            return real(descriptor, data, offset)  # type: ignore[no-any-return]
        file, synchronous = self._open[descriptor]
        assert file is not None
        ends = self._reached()
        failing = not ends and self.mood in FAULTY and self._chance.random() < 0.5
        taken = self._cut(len(data), offset) if ends or failing else len(data)
        if taken:
            file.seen.extend(bytes(max(0, offset + taken - len(file.seen))))
            file.seen[offset : offset + taken] = data[:taken]
            file.dirty.update(range(offset // PAGE, (offset + taken - 1) // PAGE + 1))
            with open(descriptor, "r+b", closefd=False, buffering=0) as writing:
                writing.seek(offset)
                writing.write(data[:taken])
        if ends:
            raise Ended
        if failing and not taken:
            raise self._error()
        if synchronous and taken:
            self._sync(file, offset // PAGE, (offset + taken - 1) // PAGE + 1, failing=failing and taken == len(data))
        return taken

    def _cut(self, length: int, offset: int) -> int:
        """How much of a write is taken that is not taken as a whole, or not for good."""
        grain = self._chance.choice(self.grains)
        if self._chance.random() < 0.4:
            return self._chance.choice((0, length))
        end = self._chance.randint(offset, offset + length) // grain * grain
        return max(0, end - offset)

    def _error(self) -> OSError:
        number = errno.ENOSPC if self.mood == "full" else errno.EIO
        return OSError(number, os.strerror(number))

    def _sync(self, file: _File, first: int, last: int, *, failing: bool) -> None:
        for page in sorted(file.dirty & set(range(first, last))):
            for start in range(page * PAGE, page * PAGE + PAGE, SECTOR):
                if start < len(file.seen) and (not failing or self._chance.random() < 0.5):
                    file.flush(start, start + SECTOR)
            file.dirty.discard(page)
        if failing:
            raise self._error()

    def _fsync_(self, real: Any, descriptor: int) -> None:
        if descriptor not in self._open:
            real(descriptor)
            return
        if self._reached():
            raise Ended
        failing = self.mood in FAULTY and self._chance.random() < 0.3
        file, _ = self._open[descriptor]
        if file is not None:
            self._sync(file, 0, len(file.seen) // PAGE + 1, failing=failing)
        elif failing:
            raise self._error()
        else:
            self._durable = dict(self._names)
            self._changes.clear()

    def _rename_(self, real: Any, old: Any, new: Any, **kwargs: Any) -> None:
        before, after = self._name(old), self._name(new)
        if before is None or after is None:
            real(old, new, **kwargs)
            return
        if self._reached():
            raise Ended
        real(old, new)
        file = self._names.pop(before)
        self._names[after] = file
        self._changes.append(_Named(file, before, after))

    def _unlink_(self, real: Any, path: Any, **kwargs: Any) -> None:
        name = self._name(path)
        if name is None:
            real(path, **kwargs)
            return
        if self._dead:
            raise Ended
        real(path)
        file = self._names.pop(name)
        self._changes.append(_Named(file, name, None))
        if self._reached():
            raise Ended

    def _statvfs_(self, real: Any, path: Any) -> Any:
        if Path(path) == self.folder and self._dead:
            raise Ended
        return real(path)
