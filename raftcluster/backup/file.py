"""The backup file: how it is laid out, written and read.

    file     = "raftcluster backup 1\\n", block, block ...
    block    = length of the payload (4 bytes, big-endian), sum (32 bytes), payload (msgpack)
    sum      = SHA-256 of the sum before (of the first line, for the first block) and the payload
    payloads = the header, a map; then [table, [[key, value], ...]] as in a snapshot; then the trailer, a map

The sums are a chain: a block that is changed, missing, doubled or out of its place is noticed where it stands, and a file
that was cut short has no trailer. They show damage, they prove no origin: keep backups where only you can write.

Who reads sees nothing of a block before its sum was found right.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from raftcluster import limits
from raftcluster.codec import Value, pack, unpack
from raftcluster.engine.recovery import Anchor
from raftcluster.errors import (
    BackupDamaged,
    BackupForeign,
    FrameError,
    MissingPrivilege,
    RaftclusterError,
    Refusal,
    StorageFailed,
    StorageFull,
)
from raftcluster.snapshots import pack_chunk, unpack_chunk
from raftcluster.storage.directory import open_file
from raftcluster.storage.ports import Chunk, Snapshot
from raftcluster.storage.source import UnusableSource, checked

FORMAT: Final = 1
MAGIC: Final = b"raftcluster backup %d\n" % FORMAT
LENGTH_BYTES: Final = 4
SUM_BYTES: Final = 32
_ANY_FORMAT: Final = re.compile(rb"raftcluster backup ([0-9]+)\n")
_USE_ANOTHER: Final = "use another backup"


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup is of."""

    cluster_id: str
    cluster: str
    product: str
    realm: str
    lab: bool
    node: str
    """Name of the node that wrote it."""
    schema: dict[str, int]
    """machine -> version of its tables."""
    index: int
    """The log index whose state it holds: all of it, and nothing later."""
    anchor: bytes
    written_at: int
    """By the node's wall clock, in seconds since the epoch."""

    @property
    def term(self) -> int:
        """Of the entry at `index`."""
        return Anchor.decode(self.anchor).term

    @property
    def cluster_time_ms(self) -> int:
        """Of the state."""
        return Anchor.decode(self.anchor).stamp

    def payload(self) -> bytes:
        """The header's block."""
        return pack({name: getattr(self, name) for name in _HEADER})

    @classmethod
    def of(cls, payload: bytes, name: str) -> Self:
        """The header in a first block whose sum was right. Raises `BackupDamaged`."""
        try:
            fields = unpack(payload)
            if any(type(fields[field]) is not kind for field, kind in _HEADER.items()):
                raise FrameError("malformed", subject=name)
            header = cls(**{field: fields[field] for field in _HEADER})
            if Anchor.decode(header.anchor).index != header.index:
                raise FrameError("malformed", subject=name)
        except (FrameError, KeyError, TypeError) as error:
            raise damaged(name, "its header is malformed") from error
        return header


_HEADER: Final[dict[str, type]] = {
    "cluster_id": str,
    "cluster": str,
    "product": str,
    "realm": str,
    "lab": bool,
    "node": str,
    "schema": dict,
    "index": int,
    "anchor": bytes,
    "written_at": int,
}


def damaged(name: str, why: str) -> BackupDamaged:
    """The refusal of a file that is not what was written."""
    return BackupDamaged(f"{name} is no whole backup: {why}", subject=name, remedy=_USE_ANOTHER)


# ---- writing


def pieces(header: Header, snapshot: Snapshot) -> Iterator[bytes]:
    """The bytes of the file, in pieces of at most `SNAPSHOT_CHUNK_BYTES`. Consumes and closes the snapshot. Thread: any."""
    last = hashlib.sha256(MAGIC).digest()
    rows: dict[str, int] = {}

    def block(payload: bytes) -> Iterator[bytes]:
        nonlocal last
        last = hashlib.sha256(last + payload).digest()
        whole = len(payload).to_bytes(LENGTH_BYTES, "big") + last + payload
        for start in range(0, len(whole), limits.SNAPSHOT_CHUNK_BYTES):
            yield whole[start : start + limits.SNAPSHOT_CHUNK_BYTES]

    with closing(snapshot.chunks) as chunks:
        yield MAGIC
        yield from block(header.payload())
        for table, chunk in chunks:
            rows[table] = rows.get(table, 0) + len(chunk)
            yield from block(pack_chunk(table, chunk))
        yield from block(pack({"rows": rows}))


def save(path: str | os.PathLike[str], content: Iterable[bytes]) -> None:
    """Write `content` to the new file `path`, mode 0600, durably and all or nothing.

    The name is taken first, by an empty file, so that nothing is ever written over; the content replaces that when it is
    whole. Raises `Refusal` when there is something of that name, `StorageFull` (also when the file system's reserve would
    be touched: the node may live on it), `StorageFailed`, `MissingPrivilege`; whatever `content` raises. Then nothing is left.
    """
    target = Path(os.path.abspath(path))
    part = target.with_name(f".{target.name}.part")
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _refusal(target, error) from error
    try:
        with suppress(FileNotFoundError):
            part.unlink()  # of an attempt that was killed
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in content:
                _check_space(target)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        _sync(target.parent)
    except BaseException as error:
        for each in (part, target):
            with suppress(OSError):
                each.unlink()
        if isinstance(error, OSError):
            raise _refusal(target, error) from error
        raise


def _check_space(target: Path) -> None:
    status = os.statvfs(target.parent)
    if status.f_bavail * status.f_frsize <= limits.DISK_RESERVE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(path: Path, error: OSError) -> RaftclusterError:
    """The operating system's errors as ours, naming the file."""
    text = f"{path}: {error.strerror}"
    if error.errno == errno.EEXIST:
        return Refusal(f"{path} exists already", subject=str(path), remedy="name another file, or remove it")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MissingPrivilege(text, subject=str(path), remedy="name a file that this user may use")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(text, subject=str(path), remedy="free disk space, or name a file on another disk")
    if error.errno == errno.EIO:
        return StorageFailed(text, subject=str(path), remedy="check the disk")
    return Refusal(text, subject=str(path), remedy="name a file that can be used")


# ---- reading


class Reader:
    """A backup file that is read from its beginning to its end. Use as a context manager. Thread: one at a time.

    Raises `BackupDamaged`, `BackupForeign` for a newer format, `Refusal` and its kinds when the file cannot be read.
    """

    header: Header

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = os.fspath(path)
        self.rows: dict[str, int] = {}
        """table -> rows that were read."""
        self.sum = b""
        """Of the last block: of the whole file, once all of it was read."""
        try:
            self._file = open_file(path)
            self.bytes = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise _refusal(Path(path), error) from error
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self) -> Iterator[Chunk]:
        """The rows, checked: tables one after the other, each in key order. At the end the trailer has been compared."""
        try:
            for table, rows in checked(self._chunks()):
                self.rows[table] = self.rows.get(table, 0) + len(rows)
                yield table, rows
        except UnusableSource as error:
            if isinstance(error.__cause__, (Refusal, OSError)):
                raise error.__cause__ from None
            raise self._damaged(str(error)) from error
        if self._trailer != {"rows": self.rows}:
            raise self._damaged("its trailer counts other rows")

    def _begin(self) -> None:
        begin = self._read(len(MAGIC))
        if begin != MAGIC:
            if newer := _ANY_FORMAT.match(begin):
                raise BackupForeign(
                    f"{self._name} has backup format {newer[1].decode()}, this program reads {FORMAT}",
                    subject=self._name,
                    remedy="restore it with the version that wrote it",
                )
            raise self._damaged("it does not begin as one" if begin else "it is empty")
        self.sum = hashlib.sha256(MAGIC).digest()
        self.header = Header.of(self._block(), self._name)

    def _chunks(self) -> Iterator[Chunk]:
        while True:
            payload = self._block()
            try:
                value: Value = unpack_chunk(payload) if payload[:1] == b"\x92" else unpack(payload)
            except (FrameError, ValueError, TypeError) as error:
                raise self._damaged("a block is malformed") from error
            if isinstance(value, dict):
                if self._file.read(1):
                    raise self._damaged("there is something behind its end")
                self._trailer: dict[str, Any] = value
                return
            yield value

    def _block(self) -> bytes:
        head = self._read(LENGTH_BYTES + SUM_BYTES)
        if len(head) < LENGTH_BYTES + SUM_BYTES:
            raise self._damaged(f"it is cut short at {self.bytes} bytes")
        length = int.from_bytes(head[:LENGTH_BYTES], "big")
        if length > self.bytes - self._file.tell():
            raise self._damaged(f"a block at byte {self._file.tell()} ends beyond it: cut short at {self.bytes} bytes")
        payload = self._read(length)
        found = hashlib.sha256(self.sum + payload).digest()
        if found != head[LENGTH_BYTES:]:
            raise self._damaged(f"the block that ends at byte {self._file.tell()} has another checksum")
        self.sum = found
        return payload

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise _refusal(Path(self._name), error) from error

    def _damaged(self, why: str) -> BackupDamaged:
        return damaged(self._name, why)
