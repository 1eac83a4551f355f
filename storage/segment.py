"""The log's format: a sequence of frames in segments, files of a fixed length that are zero where nothing was written yet.

    segment   frames, then zeros
    frame     a mark (1), length of the payload (4), its CRC-32 (4), sequence number (8), CRC-32 of these seventeen bytes (4); the
              payload: records, in order, as one msgpack array of arrays; a mark (1); all numbers big-endian

Frames are numbered through all segments without a gap; a segment is named by the number of its first frame, whose only
record says what holds before it: `["segment", index of the first and of the last entry, term, vote, commit index]`. All other
records are those of `ports.Record`.

A frame is written at once, and the next one when that is durable. So only the last frame may be torn, nothing is behind it, and
where it is torn its part of some sector still is zero: disks write sectors or do not. The marks, which are not zero, see to it that
the first and the last part, however short, tell. A process that ends while the kernel copies leaves a beginning of any length: no
last mark. Whatever else fails its checksum has been damaged later, and that is never repaired (Alagappan et al., Protocol-Aware
Recovery for Consensus-Based Storage, FAST 2018: a log that takes the one for the other loses what was acknowledged). What looks
like a torn frame and is taken for one: the very last frame, when it has a whole sector of zeros in it and decays, or when the
sector in which it begins becomes zeros, with the frames before it in there; heads that become zeros when the last frame is torn,
too; and a segment's end of which nothing but zeros is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

from raftcluster import codec
from raftcluster.errors import FrameError
from raftcluster.storage.ports import Entry, LogImage, Record

SECTOR: Final = 512
"""What a disk writes as a whole, at the least."""

MARK: Final = 0xFF
_HEAD: Final = Struct(">BIIQ")
_CHECK: Final = Struct(">I")
_SEQUENCE: Final = slice(9, 17)
HEAD_BYTES: Final = _HEAD.size + _CHECK.size
_RECORDS: Final[dict[str, tuple[tuple[type, ...], ...]]] = {
    "append": ((bytes, int, int),),
    "truncate": ((int,),),
    "cut": ((int,),),
    "reset": ((),),
    "vote": ((int, str), (int, type(None))),
    "commit": ((int,),),
}
"""Kind -> what the types of its values may be."""
_STARTS: Final = ((int, int, int, str, int), (int, int, int, type(None), int))
START: Final = "segment"
SHORTER: Final = ("truncate", "cut", "reset")
"""The kinds that remove entries."""


class Damage(Exception):
    """What is there is not what was written. The text says what, without a path."""


class Place(NamedTuple):
    """Where the next frame belongs."""

    offset: int
    sequence: int


def frame(sequence: int, records: Sequence[Record | list[Any]]) -> bytes:
    """One frame."""
    payload = codec.pack(records)
    head = _HEAD.pack(MARK, len(payload), crc32(payload), sequence)
    return b"".join((head, _CHECK.pack(crc32(head)), payload, bytes((MARK,))))


def frames(data: bytes, sequence: int) -> Iterator[tuple[Place, list[Any]]]:
    """The whole frames from the beginning of `data`, whose first one is number `sequence`: where each ends, and its records.
    Raises `Damage` for a frame that was written by another program."""
    place = Place(0, sequence)
    while (payload := _payload(data, place)) is not None:
        place = Place(_end(place, len(payload)), place.sequence + 1)
        try:
            records = codec.unpack(payload, limit_bytes=len(payload))
        except FrameError as error:
            raise Damage(f"frame {place.sequence - 1} cannot be read: {error}") from error
        if type(records) is not list or not all(type(record) is list and record for record in records):
            raise Damage(f"frame {place.sequence - 1} holds something else than records")
        yield place, records


def torn(data: bytes, place: Place) -> int:
    """How many bytes of a torn frame there are at `place`, behind the last whole frame: 0 when nothing was written there.
    Raises `Damage` when it is something else than a frame that was not written to its end."""
    rest = data[place.offset :].rstrip(b"\0")
    if not rest:
        return 0
    last = place.offset + len(rest)
    head = data[place.offset : place.offset + HEAD_BYTES]
    whole = _is_head(head, place.sequence)
    end = _end(place, _HEAD.unpack_from(head)[1]) if whole else max(last, _end(place, 0))
    if end > len(data):
        raise Damage(f"frame {place.sequence} is longer than its file")
    boundaries = [place.offset, *range(place.offset - place.offset % SECTOR + SECTOR, end, SECTOR), end]
    written = [(start, any(data[start:stop])) for start, stop in pairwise(boundaries)]
    if data[end - 1] and all(there for _, there in written):
        raise Damage(f"frame {place.sequence} fails its checksum")
    behind = place.offset + HEAD_BYTES
    if not whole and last > behind and all(there for start, there in written if start < behind):
        raise Damage(f"frame {place.sequence} fails its checksum in its head")
    if last > end or (not whole and _others(data, place, last)):
        raise Damage(f"frame {place.sequence} fails its checksum, and others follow")
    return end - place.offset


def _others(data: bytes, place: Place, last: int) -> bool:
    """Whether there are later frames behind the one at `place`, whose length is not known: any with a number that may be reached
    there, as the sector that has taken this one's head may have taken those of the next ones. They go on up to `last`, the end
    of all; what looks like frames in a torn one's command does not."""
    at = data.find(MARK, place.offset + 1)
    while at >= 0:
        number = int.from_bytes(data[at : at + HEAD_BYTES][_SEQUENCE])
        reached = (at - place.offset) // (HEAD_BYTES + 1)
        end = _behind(data, Place(at, number)) if 0 < number - place.sequence <= reached else at
        if end == last:
            return True
        at = data.find(MARK, max(at + 1, end))
    return False


def _behind(data: bytes, place: Place) -> int:
    """Where the whole frames end that begin at `place`."""
    while (payload := _payload(data, place)) is not None:
        place = Place(_end(place, len(payload)), place.sequence + 1)
    return place.offset


def _payload(data: bytes, place: Place) -> bytes | None:
    """What the frame at `place` holds, None when there is no such frame."""
    head = data[place.offset : place.offset + HEAD_BYTES]
    if not _is_head(head, place.sequence):
        return None
    _, length, checksum, _ = _HEAD.unpack_from(head)
    end = _end(place, length)
    payload = data[place.offset + HEAD_BYTES : end - 1]
    return payload if data[end - 1 : end] == bytes((MARK,)) and crc32(payload) == checksum else None


def _end(place: Place, length: int) -> int:
    """Where a frame ends whose payload is so long."""
    return place.offset + HEAD_BYTES + length + 1


def _is_head(head: bytes, sequence: int) -> bool:
    checked, check = head[: _HEAD.size], head[_HEAD.size :]
    return (
        head[:1] == bytes((MARK,)) and head[_SEQUENCE] == _sequence(sequence) and check == _CHECK.pack(crc32(checked))
    )


def _sequence(number: int) -> bytes:
    return number.to_bytes(8)


@dataclass(slots=True)
class State:
    """What the records of a log come to, but for its entries."""

    first: int = 0
    """Index of the first entry, 0 for none."""
    last: int = 0
    """Index of the last entry, 0 for none."""
    term: int = 0
    vote: str | None = None
    commit: int = 0

    def start(self) -> list[Any]:
        """The first record of a segment that begins here."""
        return [START, self.first, self.last, self.term, self.vote, self.commit]

    def take(self, record: Sequence[Any]) -> None:
        """Carry out a record. Raises `Damage` for what does not follow, or is no record."""
        kind, *values = record or (None,)
        if type(kind) is not str or tuple(map(type, values)) not in _RECORDS.get(kind, ()):
            raise Damage(f"a record of an unknown kind: {kind!r}")
        if kind == "append":
            index = values[1]
            if index < 1 or (self.last and index != self.last + 1):
                raise Damage(f"entry {index} does not follow {self.last}")
            self.first, self.last = self.first or index, index
        elif kind == "vote":
            self.term, self.vote = values
        elif kind == "commit":
            (self.commit,) = values
        else:
            if kind == "truncate":
                self.last = min(self.last, values[0] - 1)
            elif kind == "cut":
                self.first = max(self.first, values[0])
            if kind == "reset" or self.last < self.first:
                self.first = self.last = 0


class Replay:
    """A log as its segments tell of it, oldest first."""

    def __init__(self) -> None:
        self.state = State()
        self.newest = 0
        """Where the last frame begins, in the last segment."""
        self.most = 0
        """The greatest index of an entry that was appended in the last segment."""
        self._next = 0
        """The number of the frame that follows."""
        self._entries: list[Entry] = []
        """Invariant: the last ones of those that `state` speaks of; all of them, when no segment is missing."""

    def image(self) -> LogImage:
        """Raises `Damage` when entries were in a segment that is not there."""
        state = self.state
        if state.last and len(self._entries) != state.last - state.first + 1:
            raise Damage(f"the segment that holds entry {state.first} is missing")
        return LogImage(self._entries, state.term, state.vote, state.commit)

    def take(self, data: bytes, number: int) -> Place:
        """All whole frames of the segment whose first one has this number; where the next one belongs. Raises `Damage` for what
        no log of ours holds."""
        end = Place(0, number)
        self.most = 0
        for place, records in frames(data, number):
            if end.offset:
                self._take(records)
            else:
                self._begin(records, follows=number == self._next)
            self.newest, end = end.offset, place
        if not end.offset:
            raise Damage(f"frame {number}, a segment's first, fails its checksum")
        self._next = end.sequence
        return end

    def _begin(self, records: list[Any], *, follows: bool) -> None:
        """A segment's first frame; `follows`: the segment before it was there."""
        if len(records) != 1 or records[0][:1] != [START] or tuple(map(type, records[0][1:])) not in _STARTS:
            raise Damage("a segment begins with something else than what holds before it")
        state = State(*records[0][1:])
        if not follows:
            self.state, self._entries = state, []
        elif state != self.state:
            raise Damage(f"a segment begins with {state} and should with {self.state}")

    def _take(self, records: list[Any]) -> None:
        for record in records:
            self.state.take(record)
            if record[0] == "append":
                self._entries.append((record[1], record[2], record[3]))
                self.most = max(self.most, record[2])
            elif record[0] in SHORTER:
                first, last = self.state.first, self.state.last
                self._entries = [entry for entry in self._entries if first <= entry[1] <= last]
                if record[0] == "reset":
                    self.most = 0
