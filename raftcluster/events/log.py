"""The node's own record of events: a file of lines that is only ever appended to, each line with its checksum.

    8f3a12c0 {"sequence":1,"time":...,"event":"node-started",...}

The checksum (CRC-32 of the JSON, hexadecimal) tells a line that was written whole from one that a crash has torn, or a
disk has changed; the others stay readable. A torn end is closed with a line feed before anything is added. What is
written is on the disk before `append` returns. The file is put aside when it is full, and a bounded number of those kept.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raftcluster import limits


class EventLog:
    """One file, one writer. Thread: any; each call is one line. Raises `OSError` when the disk does not take it."""

    def __init__(self, path: Path, *, limit_bytes: int = limits.EVENT_LOG_BYTES, kept: int = limits.EVENT_LOGS) -> None:
        """Nothing is opened or created before the first `append`."""
        self.path = path
        self._limit_bytes, self._kept = limit_bytes, kept
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._sequence = 0
        self._size = 0

    @property
    def sequence(self) -> int:
        """The number of the newest event."""
        with self._lock:
            if self._descriptor is None:
                self._sequence = last_sequence(self.path)
            return self._sequence

    def append(self, record: Mapping[str, Any]) -> int:
        """Write `record` with the next number as its "sequence", durably; the result is that number."""
        with self._lock:
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None
            line = encode({**record, "sequence": self._sequence + 1})
            if self._size and self._size + len(line) > self._limit_bytes:
                self._rotate()
            self._write(line)
            self._sequence += 1
            return self._sequence

    def close(self) -> None:
        """Close the file. Idempotent; `append` opens it again."""
        with self._lock:
            self._shut()

    def _open(self) -> None:
        self._sequence = last_sequence(self.path)
        self._begin()
        if self._size and not _ends_a_line(self.path):
            self._write(b"\n")

    def _begin(self) -> None:
        existed = self.path.exists()
        self._descriptor = os.open(
            self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self._size = os.fstat(self._descriptor).st_size
        if not existed:
            _sync_folder(self.path.parent)

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except OSError:
            self._shut()  # what is there now is looked at before the next line
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        self._shut()
        for number in range(self._kept, 0, -1):
            older = _aside(self.path, number)
            newer = _aside(self.path, number - 1) if number > 1 else self.path
            if newer.exists():
                newer.replace(older)
        _sync_folder(self.path.parent)
        self._begin()

    def _shut(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def encode(record: Mapping[str, Any]) -> bytes:
    """One line. Raises `ValueError` for what JSON does not have."""
    body = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    data = body.encode("utf-8", "replace")
    return b"%08x %s\n" % (zlib.crc32(data), data)


def decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None when it is not whole."""
    checksum, _, data = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(data):
        return None
    record = json.loads(data)
    return record if isinstance(record, dict) else None


def files(path: Path) -> list[Path]:
    """The file and those put aside that exist, the oldest first."""
    aside = [_aside(path, number) for number in range(limits.EVENT_LOGS, 0, -1)]
    return [each for each in (*aside, path) if each.exists()]


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records that are whole, the oldest first. May be called while a node writes. Raises `OSError`."""
    for file in files(path):
        with file.open("rb") as lines:
            yield from (record for line in lines if (record := decode(line)) is not None)


def last_sequence(path: Path) -> int:
    """The greatest number in the files, 0 when there is none."""
    for file in reversed(files(path)):
        with file.open("rb") as lines:
            numbers = [int(record.get("sequence", 0)) for line in lines if (record := decode(line)) is not None]
        if numbers:
            return max(numbers)
    return 0


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
