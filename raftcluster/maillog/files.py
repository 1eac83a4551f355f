"""The files of a node's mail log: only appended to, each named by the number of its first entry.

    maillog/00000000000000000001.jsonl     entries 1 to 52,000, never changed any more
    maillog/00000000000000052001.jsonl     from 52,001 on; the one that is written

So a number is enough to say where a reader is, whatever was rotated meanwhile: a file is found by its name, a line in it by
halving. What a crash has torn is not a line (it has no end) and is cut off before anything is added. Nothing is renamed; what
is too old or too much is removed, the oldest file first, whoever still reads it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

from raftcluster import limits
from raftcluster.maillog.entry import Entry, parse, sequence_of
from raftcluster.maillog.settings import Settings

DAY_SECONDS: Final = 86_400.0
POSITION: Final = "position.json"
_SUFFIX: Final = ".jsonl"
_DIGITS: Final = 20
_BLOCK_BYTES: Final = 64 * limits.KIB


class LogFile(NamedTuple):
    """One file, and the number that its first entry has."""

    first: int
    path: Path


class Line(Protocol):
    """What becomes a line: an `Entry`, a `Decision`."""

    def line(self, sequence: int) -> bytes: ...


class Page(NamedTuple):
    """Some lines, and where to go on."""

    lines: list[bytes]
    last: int
    """The number after which the next page begins."""
    end: bool
    """There is no more now."""
    oldest: int
    """The least number that is kept: of a reader that is behind it something is lost."""


def files(folder: Path) -> list[LogFile]:
    """The files, the oldest first; none when there is no folder. Raises `OSError`."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    stems = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
    return sorted(LogFile(int(stem), folder / f"{stem}{_SUFFIX}") for stem in stems if stem.isdigit())


def page(
    folder: Path,
    after: int,
    since: float = 0.0,
    limit_bytes: int = limits.MAILLOG_PAGE_BYTES,
    upto: int | None = None,
) -> Page:
    """The lines behind number `after`, up to `upto`, that are not older than `since`. May be called while a node writes. Raises `OSError`."""
    found = files(folder)
    oldest = found[0].first if found else 0
    lines: list[bytes] = []
    size = scanned = 0
    last = after
    for number, (_, path) in enumerate(found):
        following = found[number + 1].first if number + 1 < len(found) else None
        if following is not None and following <= after + 1:
            continue
        try:
            if path.stat().st_mtime < since:
                last = max(last, following - 1) if following is not None else last
                continue
            with path.open("rb") as file:
                file.seek(_locate(file.fileno(), after))
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    scanned += len(line)
                    sequence = sequence_of(line)
                    if sequence is None or sequence <= after:
                        continue
                    if upto is not None and sequence > upto:
                        return Page(lines, last, True, oldest)
                    last = max(last, sequence)
                    if not since or ((entry := parse(line)) is not None and entry.time >= since):
                        lines.append(line)
                        size += len(line)
                    if size >= limit_bytes or scanned >= limits.MAILLOG_SCAN_BYTES:
                        return Page(lines, last, False, oldest)
        except FileNotFoundError:  # removed meanwhile: what was found is not so any more
            return page(folder, after, since, limit_bytes, upto)
    return Page(lines, last, True, oldest)


def entries(folder: Path, since: float = 0.0, after: int = 0) -> Iterator[Entry]:
    """All that is kept, the oldest first. Raises `OSError`."""
    while True:
        lines, after, end, _ = page(folder, after, since)
        yield from (entry for line in lines if (entry := parse(line)) is not None)
        if end:
            return


class Appender:
    """The one writer of a folder. Not thread-safe. Raises `OSError` when the disk does not take it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Nothing is kept open, or created, before the first `append`. What an earlier process has left is on the disk then."""
        self.folder, self.settings = folder, settings
        _settle(folder)
        self.last = last_sequence(folder)
        """The number of the newest entry."""
        self.unsure = 0
        """How many entries may be lost, because the disk was to have them and failed."""
        self._path = folder
        self._descriptor: int | None = None
        self._size = 0
        self._began = 0.0
        self._sure = self.last
        """Up to which number all is on the disk."""
        self._spoilt = False
        """The newest file is not to be gone on with."""

    def append(self, entries: Sequence[Line], missing: int = 0) -> None:
        """Write these with the next numbers but `missing`, in one piece. Readers see them; on the disk they are after `sync`."""
        if (
            self._descriptor is None
            or self._size >= self.settings.file_bytes
            or time.time() > self._began + DAY_SECONDS
        ):
            self._turn()
        assert self._descriptor is not None
        data = b"".join([each.line(number) for number, each in enumerate(entries, self.last + missing + 1)])
        whole = self._size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            try:
                os.ftruncate(self._descriptor, whole)
            except OSError:  # a part stays: what came behind it would be on its line
                self._spoil()
            raise
        self._size += len(data)
        self.last += missing + len(entries)

    def sync(self) -> bool:
        """Have it on the disk; whether there was anything to do.

        What a disk has failed to take the kernel may drop and call written, so a second attempt would prove nothing: those
        entries are `unsure`, and it goes on in another file, whose name keeps their numbers from being given again.
        """
        if self._spoilt:
            self._turn()
        if self._sure == self.last:
            return False
        if self._descriptor is not None:
            try:
                os.fdatasync(self._descriptor)
            except OSError:
                self._spoil()
                raise
            if not _leads_to(self._path, self._descriptor):  # nobody would read what came into it
                self.close()
        self._sure = self.last
        return True

    def retain(self) -> None:
        """Remove what is too old or too much. One file stays, if only for its name: the next number is known by it."""
        found = [(each.path, each.path.stat()) for each in files(self.folder)]
        least = time.time() - self.settings.keep_days * DAY_SECONDS
        if found and found[-1][1].st_size and found[-1][1].st_mtime < least and found[-1][0] != (path := self._next()):
            self.close()
            self._open(path)
            found.append((path, os.stat(path)))
        total = sum(size.st_size for _, size in found)
        for path, size in found[:-1]:
            if total <= self.settings.keep_bytes and size.st_mtime >= least:
                break
            path.unlink(missing_ok=True)
            total -= size.st_size

    def close(self) -> None:
        """Idempotent; `append` opens the file again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _spoil(self) -> None:
        """The disk has failed: what it was to have of this file is unsure, and nothing more comes into it."""
        self.unsure += self.last - self._sure
        self._sure, self._spoilt = self.last, True
        self.close()

    def _turn(self) -> None:
        """Go on in the newest file when it has room, else in a new one."""
        found = files(self.folder)
        newest = found[-1] if found and self._descriptor is None and not self._spoilt else None
        if self._descriptor is not None:
            self.sync()
            self.close()
        else:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        path = self._next()
        if newest is not None and newest.path.stat().st_size < self.settings.file_bytes:
            path = newest.path
        if path.exists():
            _mend(path)
        self._open(path)
        self._spoilt = False
        self.retain()

    def _next(self) -> Path:
        return self.folder / f"{self.last + 1:0{_DIGITS}}{_SUFFIX}"

    def _open(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._path, self._descriptor = path, os.open(path, flags, 0o600)
        try:
            self._size = os.fstat(self._descriptor).st_size
            _sync_folder(self.folder)
        except OSError:  # a name that is not on the disk keeps no number
            self.close()
            raise
        self._began = time.time()


def exported(folder: Path) -> int | None:
    """Up to which number all has left the node, as the exporter has kept it; None when it has not. Raises `OSError`."""
    try:
        kept: Any = json.loads((folder / POSITION).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    position = kept.get("position") if isinstance(kept, dict) else None
    return position if type(position) is int and position >= 0 else None


def last_sequence(folder: Path) -> int:
    """The greatest number that was given, 0 when there is none: in the files, or of what was exported, when somebody has removed
    them. Raises `OSError`."""
    return max(_last_written(folder), exported(folder) or 0)


def _last_written(folder: Path) -> int:
    for first, path in reversed(files(folder)):
        with path.open("rb") as file:
            for _, piece in _backwards(file):
                numbers = [sequence_of(line) for line in piece.splitlines(keepends=True) if line.endswith(b"\n")]
                if known := [number for number in numbers if number is not None]:
                    return max(known)
        return first - 1
    return 0


def _locate(descriptor: int, after: int) -> int:
    """Where in a file the first line with a number greater than `after` begins; by halving, some blocks earlier at most."""
    low, high = 0, os.fstat(descriptor).st_size
    while high - low > _BLOCK_BYTES:
        middle = (low + high) // 2
        block = os.pread(descriptor, _BLOCK_BYTES // 2, middle)
        start = block.find(b"\n") + 1
        number = sequence_of(block[start : start + _DIGITS + 20]) if start else None
        if number is None or number > after:
            high = middle
        else:
            low = middle + start
    return low


def _mend(path: Path) -> None:
    """Cut off a line that has no end."""
    with path.open("r+b") as file:
        ends = (begin + piece.rfind(b"\n") + 1 for begin, piece in _backwards(file) if b"\n" in piece)
        whole = next(ends, 0)
        if whole < file.seek(0, os.SEEK_END):
            file.truncate(whole)


def _backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """A file from its end in pieces, and where each begins; every line is whole in one of them. A power cut may leave more than one
    of zeros."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - limits.MAILLOG_LINE_BYTES * 2)
        file.seek(begin)
        yield begin, file.read(end - begin)
        end = begin and begin + limits.MAILLOG_LINE_BYTES


def _settle(folder: Path) -> None:
    """Have the newest file on the disk: a process that was killed has synced its last lines no more."""
    if found := files(folder):
        descriptor = os.open(found[-1].path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _leads_to(path: Path, descriptor: int) -> bool:
    """Whether the file is there yet: somebody may have removed or renamed it."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
