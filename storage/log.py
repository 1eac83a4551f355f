"""The log in files: one writer thread, one synchronous write for all records that wait (group commit).

The format, and what is torn and what damaged, is `segment`'s. A directory holds

    0000000000000001.segment    named by the number of its first frame, in hexadecimal; the last one is written to
    next                        the next segment, being filled with zeros; not there after a crash

Writing into a file whose blocks exist already needs no change of the file system's own records: one flush of the disk, where a
tree that copies its pages needs two, and a tenth of the bytes. So a segment is filled with zeros ahead, by a thread of its own.

Full: the records stay queued in order, and all that waits is tried again until there is space. Records that cut the log may use
the reserve of the disk that appends may not: otherwise a full log could never be cut. Failed: latched; no ticket becomes durable
any more, and queued records are dropped.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from raftcluster import failpoints, limits
from raftcluster.errors import RaftclusterError, StorageFailed, StorageFull, Unavailable
from raftcluster.storage import disk, segment
from raftcluster.storage.directory import read_file, sync_directory
from raftcluster.storage.ports import Health, LogImage, Record
from raftcluster.storage.segment import Damage, Place, Replay, State

RETRY_SECONDS: Final = 0.1  # while full
SUFFIX: Final = ".segment"
NEXT: Final = "next"

_NAME: Final = re.compile(r"[0-9a-f]{16}\.segment")
_FREEING: Final = {"cut", "reset"}
"""Records after which segments may go."""
_ZEROS: Final = bytes(256 * limits.KIB)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Segment:
    path: Path
    number: int
    """Of its first frame."""
    length: int
    """Of the file, in bytes."""
    last: int = 0
    """The greatest index of an entry that was appended in it."""


class LogStore:
    """`Log` in the directory `path`.

    Thread: see `Log`. `on_durable` and `on_health` are called on the writer thread and must only signal; before `block`
    returns, `on_durable` was called for its ticket.
    """

    def __init__(self, path: Path, *, most_bytes: int = limits.LOG_BYTES) -> None:
        """Open or create. Raises `StorageFailed` for a log that is damaged or cannot be read, `StorageFull` when there is no room
        for its first segment, `MissingPrivilege` when this user may not."""
        self.health: Health = "ok"
        self.on_durable: Callable[[int], None] = lambda ticket: None
        self.on_health: Callable[[Health, str], None] = lambda health, reason: None
        self._path = path
        self._most_bytes = most_bytes
        self._ticket = 0
        self._durable = 0
        self._refused: RaftclusterError | None = None
        """Why it is full or failed."""
        self._settled = threading.Condition()  # `block` waits for _durable or health
        self._queue: SimpleQueue[tuple[int, Sequence[Record]] | None] = SimpleQueue()
        self._closed = False
        self._closing = threading.Event()
        self._segments: list[_Segment] = []
        """Oldest first, the last one is written to. Replaced, never changed, under `_reading`."""
        self._place = Place(0, 1)
        """Where the next frame goes, in the last segment; all before it is durable. Changed under `_reading`."""
        self._reading = threading.Lock()
        """Held while readers open files and while the writer changes which there are, or how far they are durable."""
        self._state = State()
        """After all that is durable. The writer's."""
        self._file = -1
        self._left = 0
        """How long a frame is that the disk may have taken in part when it was full. Nothing may be written before that is gone."""
        self._begun = time.monotonic()
        """When the last segment was begun."""
        self._ahead: threading.Thread | None = None
        """Fills the next segment with zeros."""
        self._ready: _Segment | None = None
        """That segment, once it is done; its name and number come when it is used."""
        try:
            if not path.exists():
                path.mkdir(mode=0o700)
                sync_directory(path.parent)
            self._image: LogImage | None = self._opened()
        except OSError as error:
            self._release()
            raise self._refusal(error) from error
        except BaseException:
            self._release()
            raise
        self._writer = threading.Thread(target=self._run, name="raftcluster-log", daemon=True)
        self._writer.start()

    def load(self) -> LogImage:
        """What is durable. Raises `StorageFailed` for what is damaged."""
        image, self._image = self._image, None
        return image if image is not None and not self._ticket else self._read()

    def scrub(self) -> int:
        """What `load` checks, of what is durable now; how many entries. Thread: any."""
        if self._closed:
            raise Unavailable("the log is closed", subject=str(self._path))
        return len(self._read().entries)

    @property
    def written(self) -> int:
        """How many frames are durable, all that there ever were counted: no restart makes it less. Thread: any."""
        return self._place.sequence - 1

    def check_end(self, frames: int) -> None:
        """Raises `StorageFailed` when so many were durable once and it has fewer."""
        if self.written < frames:
            raise disk.corrupt(self._path, f"its end is missing: it has {self.written} frames, and had {frames}")

    def submit(self, records: Sequence[Record]) -> int:
        """Queue `records` and return their ticket. Never waits."""
        self._ticket += 1
        if self.health != "failed" and not self._closed:
            self._queue.put((self._ticket, records))
        return self._ticket

    def block(self) -> int:
        """Wait until all that was submitted is durable and return the last ticket."""
        with self._settled:
            self._settled.wait_for(lambda: self._durable >= self._ticket or self.health != "ok" or self._closed)
            if self._durable >= self._ticket:
                return self._ticket
            refused = self._refused or disk.failed(self._path, "the log is closed")
            kind = StorageFull if self.health == "full" else StorageFailed
            raise kind(refused.message, subject=refused.subject, remedy=refused.remedy)

    def close(self) -> None:
        """Write what is queued, then close. What a full or failed disk does not take is not written, and its tickets never
        become durable. Idempotent."""
        if not self._closed:
            self._closed = True
            self._closing.set()
            self._queue.put(None)
            self._writer.join()
            self._release()

    # --- the writer thread

    def _run(self) -> None:
        waiting: list[tuple[int, Sequence[Record]]] = []
        try:
            more = True
            while more and self.health != "failed":
                more = self._gather(waiting)
                if waiting:
                    self._attempt(waiting)
        except Exception as error:
            logger.exception("the log writer stopped")
            self._become("failed", disk.failed(self._path, f"the log writer stopped: {error!r}"))

    def _gather(self, waiting: list[tuple[int, Sequence[Record]]]) -> bool:
        """Add all that is queued to `waiting`; waits for something, or a while when the disk is full. False: close."""
        if waiting:
            self._closing.wait(RETRY_SECONDS)
        try:
            submitted = self._queue.get(block=not waiting)
            while submitted is not None:
                waiting.append(submitted)
                submitted = self._queue.get_nowait()
        except Empty:
            return True
        return False

    def _attempt(self, waiting: list[tuple[int, Sequence[Record]]]) -> None:
        """Write all of `waiting` in one frame; it is empty afterwards unless there is no space."""
        try:
            self._write([record for _, records in waiting for record in records])
        except OSError as error:
            refusal = self._refusal(error)
            self._become("full" if isinstance(refusal, StorageFull) else "failed", refusal)
            return
        except RaftclusterError as error:
            self._become("full" if isinstance(error, StorageFull) else "failed", error)
            return
        failpoints.reach("log.commit.after")
        ticket = waiting[-1][0]
        waiting.clear()
        self._durable = ticket
        self.on_durable(ticket)
        if self.health == "full":
            self._become("ok", None)
        with self._settled:
            self._settled.notify_all()

    def _write(self, records: Sequence[Record]) -> None:
        """One durable frame. Raises what the disk does, then nothing has changed."""
        if not records:
            return
        state, most = replace(self._state), 0
        shorter: set[str] = set()
        for record in records:
            try:
                state.take(record)
            except Damage as error:
                raise StorageFailed(f"{self._path}: {error}", subject=str(self._path)) from error
            if record[0] == "append":
                most = max(most, record[2])
            elif record[0] in segment.SHORTER:
                shorter.add(record[0])
        if not shorter & _FREEING and not disk.has_space(self._path):
            raise disk.full(self._path, "the file system is nearly full")
        self._clean()
        data = segment.frame(self._place.sequence, records)
        if self._place.offset + len(data) > self._segments[-1].length:
            self._begin(len(data), bounded=not shorter & _FREEING)
            data = segment.frame(self._place.sequence, records)
        failpoints.reach("log.commit.before")
        self._put(data)
        self._state = state
        newest = self._segments[-1]
        newest.last = max(newest.last, most)
        if shorter:
            self._retire(shorter)
        if 2 * self._place.offset > newest.length and self._ready is None and self._ahead is None:
            ahead = threading.Thread(target=self._fill_ahead, name="raftcluster-log-ahead", daemon=True)
            try:
                ahead.start()
            except RuntimeError as error:  # no more threads: it is made when it is needed
                logger.info("the next segment of the log is not there yet: %s", error)
            else:
                self._ahead = ahead

    def _clean(self) -> None:
        """Remove what a full disk has left of a frame: the next one may be another, and may stand in the next segment."""
        if self._left:
            _erase(self._file, self._place.offset, self._place.offset + self._left)
            self._left = 0

    def _put(self, data: bytes) -> None:
        """Write a frame at its place; durable when this returns."""
        self._left = len(data)
        _write_at(self._file, data, self._place.offset)
        self._left = 0
        with self._reading:
            self._place = Place(self._place.offset + len(data), self._place.sequence + 1)

    def _begin(self, needed: int, *, bounded: bool) -> None:
        """A new segment, with room for `needed` bytes. What it begins with holds before the frame that did not fit."""
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None
        data = segment.frame(self._place.sequence, [self._state.start()])
        new, self._ready = self._ready, None
        length = max(new.length if new else self._following(time.monotonic() - self._begun), needed + len(data))
        if bounded and sum(each.length for each in self._segments) + length > self._most_bytes:
            self._ready = new
            raise disk.full(self._path, f"the log has {self._most_bytes} bytes")
        if new is None or new.length < length:
            self._fill(length)
        path = self._path / f"{self._place.sequence:016x}{SUFFIX}"
        file = self._open(self._path / NEXT)
        try:
            _write_at(file, data, 0)
            failpoints.reach("log.segment.before")
            (self._path / NEXT).rename(path)
            failpoints.reach("log.segment.after")
            sync_directory(self._path)
        except BaseException:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        with self._reading:
            self._segments = [*self._segments, _Segment(path, self._place.sequence, length)]
            self._place = Place(len(data), self._place.sequence + 1)
        self._begun = time.monotonic()

    def _following(self, full_after: float) -> int:
        """The length of the next segment: a log that is written to fast has long ones."""
        if not self._segments:
            return limits.FIRST_SEGMENT_BYTES
        length = min(self._segments[-1].length, limits.SEGMENT_BYTES)
        if full_after < limits.SEGMENT_SECONDS:
            return min(2 * length, limits.SEGMENT_BYTES)
        return max(length // 2, limits.FIRST_SEGMENT_BYTES)

    def _retire(self, shorter: set[str]) -> None:
        """Remove the oldest segments as far as none of their entries is left. Whether that is durable does not matter."""
        if "reset" in shorter:
            failpoints.reach("log.reset")
            for each in self._segments[:-1]:
                each.last = 0
        if "cut" in shorter:
            failpoints.reach("log.cut")
        with self._reading:
            while len(self._segments) > 1 and (self._segments[0].last < self._state.first or not self._state.last):
                try:
                    self._segments[0].path.unlink(missing_ok=True)
                except OSError as error:  # what was written is durable, whatever becomes of this
                    logger.warning("%s stays until the log is cut again: %s", self._segments[0].path, error)
                    break
                self._segments = self._segments[1:]

    def _fill_ahead(self) -> None:
        """On a thread of its own: have the next segment ready when this one is full. What fails here is met again there."""
        try:
            if disk.has_space(self._path):
                half = time.monotonic() - self._begun
                self._ready = self._fill(self._following(2 * half))
        except (OSError, StorageFull) as error:
            logger.info("the next segment of the log is not there yet: %s", error)

    def _fill(self, length: int) -> _Segment:
        """A durable file of zeros under the name `NEXT`."""
        path = self._path / NEXT
        path.unlink(missing_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            written = 0
            while written < length:
                written += os.write(file, _ZEROS[: length - written])
            os.fsync(file)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(file)
        return _Segment(path, 0, length)

    def _become(self, health: Health, refused: RaftclusterError | None) -> None:
        if self.health != health:
            with self._settled:
                self.health = health
                self._refused = refused
                self._settled.notify_all()
            self.on_health(health, "" if refused is None else str(refused))

    # --- opening and reading

    def _opened(self) -> LogImage:
        """Find what there is, and make sure that it is durable: what a restarted process reads may be in memory alone, also after
        a sync that failed (Rebello et al., Can Applications Recover from fsync Failures?, ATC 2020)."""
        (self._path / NEXT).unlink(missing_ok=True)
        replay = Replay()
        found = sorted(each for each in self._path.iterdir() if each.suffix == SUFFIX)  # `glob` passes over what fails
        if not found:
            self._begin(0, bounded=True)
            return replay.image()
        data, left = b"", 0
        try:
            for path in found:
                if not _NAME.fullmatch(path.name):
                    raise Damage(f"{path.name} is no name of a segment")
                data = read_file(path)
                each = _Segment(path, int(path.stem, 16), len(data))
                self._place = replay.take(data, each.number)
                each.last = replay.most
                left = segment.torn(data, self._place)
                if left and path != found[-1]:
                    raise Damage(f"frame {self._place.sequence} fails its checksum, and others follow")
                self._segments.append(each)
            image = replay.image()
        except Damage as error:
            raise disk.corrupt(self._path, str(error)) from error
        self._state = replay.state
        self._file = self._open(self._segments[-1].path)
        if left:
            logger.info("%d bytes that were torn when this node ended are removed from its log", left)
        _erase(self._file, self._place.offset, len(data))
        _write_at(self._file, data[replay.newest : self._place.offset], replay.newest)
        sync_directory(self._path)
        return image

    def _read(self) -> LogImage:
        """What is durable, from the disk. Thread: any."""
        replay, place = Replay(), Place(0, 0)
        try:
            with ExitStack() as files:
                with self._reading:
                    found = [(each.number, files.enter_context(each.path.open("rb"))) for each in self._segments]
                    end = self._place.offset
                for number, file in found:
                    if self._closed:
                        raise Unavailable("the log is closed", subject=str(self._path))
                    data = file.read(end if file is found[-1][1] else -1)
                    place = replay.take(data, number)
                    if data[place.offset :].strip(b"\0"):
                        raise Damage(f"frame {place.sequence} fails its checksum")
                if place.offset != end:
                    raise Damage(f"frame {place.sequence} fails its checksum")
                return replay.image()
        except Damage as error:
            raise disk.corrupt(self._path, str(error)) from error
        except OSError as error:
            raise disk.failed(self._path, f"reading {self._path} failed: {error.strerror or error}") from error

    # --- parts

    def _open(self, path: Path) -> int:
        """For writes that are durable when they return: one call of the system, during which others may run, for both."""
        return os.open(path, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)

    def _release(self) -> None:
        if self._ahead is not None:
            self._ahead.join()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _refusal(self, error: OSError) -> RaftclusterError:
        """What an error of the operating system means: see `environment`."""
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return disk.full(self._path, reason)
        if error.errno in (errno.EMFILE, errno.ENFILE):  # that passes, too, and nothing has been written
            told = f"cannot open a segment in {self._path}: {reason}"
            return StorageFull(told, subject=str(self._path), remedy="allow this process more open files")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return disk.forbidden(self._path, reason)
        return disk.failed(self._path, f"writing {self._path} failed: {reason}")


def _write_at(file: int, data: bytes, offset: int) -> None:
    """All of `data`. A disk takes less than all of it where it becomes full -- the next call says so -- or of gigabytes."""
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:] if written else data, offset + written)


def _erase(file: int, start: int, stop: int) -> None:
    """Zeros, durably; in an order in which also a part of them leaves no frame at `start`, or one that is torn."""
    middle = min(start + segment.HEAD_BYTES, stop)
    for first, last in ((max(start, stop - 1), stop), (middle, stop), (start, middle)):
        _write_at(file, bytes(last - first), first)
