"""One node's part: to take an image of its tables at the entry that carries a mark, then to digest and inspect it.

    arm -> (the entry is applied, tick thread: the image is taken, in the time of copying a dictionary)
        -> digests, or rows of wanted ranges; every row inspected by its machine; the store's counts; the log's checksums

All but the image is done on the thread of whoever asks, a small piece at a time, with a rest after each: the tick thread
waits for no more than a piece, and at most `VERIFY_SHARE` of a core goes into it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import RaftclusterError, StorageFailed, Unavailable
from raftcluster.storage.digest import Ranges
from raftcluster.storage.image import Image
from raftcluster.storage.ports import Entry, Log, Row
from raftcluster.verify.answer import LOG, ROW_DIGEST_BYTES, TABLES, Trouble, Wanted

Inspect = Callable[[str, bytes, bytes], None]
"""(table without its machine's name, key, value): raises when this is no sound row."""

MARK_BYTES: Final = 16
MARK_SECONDS: Final = 30.0  # a node that is behind has so long to get to the mark
PIECE_SECONDS: Final = 1.0  # a piece of an answer is sent at least so often: whoever waits sees that it goes on
PIECE_RANGES: Final = 1_024
_TEXT_CHARACTERS: Final = 200


class Examiner:
    """One node's. Thread: `applied` on the tick thread; everything else on any, one thread per examination."""

    def __init__(
        self,
        entry: Callable[[int], Entry | None],
        image: Callable[[int], Image],
        log: Log,
        inspectors: Mapping[str, Inspect],
        rest: Callable[[float], None],
    ) -> None:
        """`entry(index)` and `image(index)` are called on the tick thread; `rest(seconds)` raises `Unavailable` when the node
        is closed. `inspectors` by machine."""
        self._entry, self._image, self._log = entry, image, log
        self._inspectors, self._rest = inspectors, rest
        self._armed: dict[bytes, SimpleQueue[Image | RaftclusterError]] = {}

    def applied(self, index: int) -> None:
        """Tick thread, between two entries: this one was applied just now, and had a command that `marks` may be in."""
        if not self._armed:
            return
        entry = self._entry(index)
        for mark in list(self._armed):
            if entry is not None and mark in entry[0]:  # nobody else knows these 16 random bytes
                box = self._armed.pop(mark, None)
                if box is None:  # its thread has left meanwhile
                    continue
                try:
                    box.put(self._image(index))
                except RaftclusterError as error:
                    box.put(error)

    def examine(
        self, mark: bytes, wanted: Sequence[Wanted] | None, seconds: float = MARK_SECONDS
    ) -> Generator[Value, None, None]:
        """The frames of an answer (`answer.py`). The first comes at once: from then on the mark may be proposed.

        Without `wanted` it is a whole examination; with it only the rows of those ranges. Raises `Unavailable` when the mark
        is not applied within `seconds`, or when the node is closed.
        """
        box: SimpleQueue[Image | RaftclusterError] = SimpleQueue()
        self._armed[mark] = box
        try:
            yield {"armed": True}
            image = self._taken(box, time.monotonic() + seconds)
        finally:
            self._armed.pop(mark, None)  # an image that comes all the same is freed with its box
        try:
            yield {"index": image.index}
            if wanted is None:
                yield from examine(image, self._log, self._inspectors, self._rest)
            else:
                yield from _look_into(image, wanted, self._rest)
        finally:
            image.close()

    def _taken(self, box: SimpleQueue[Image | RaftclusterError], end: float) -> Image:
        while (left := end - time.monotonic()) > 0:
            self._rest(0.0)
            try:
                found = box.get(timeout=min(left, PIECE_SECONDS))
            except Empty:
                continue
            if isinstance(found, RaftclusterError):
                raise found
            return found
        raise Unavailable(
            "it did not apply the entry to compare at", remedy="see how far it trails: raftcluster status"
        )


def examine(
    image: Image, log: Log, inspectors: Mapping[str, Inspect], rest: Callable[[float], None]
) -> Iterator[Value]:
    """The frames that follow the index: the digests of all tables, then what is damaged. Consumes the image."""
    found = _Troubles()
    pieces = _Pieces()
    current, last, ranges = "", b"", Ranges()
    try:
        for table, rows in _paced(image, rest):
            if table != current:
                if current:
                    yield from pieces.add(current, [ranges.end()])
                current, ranges = table, Ranges()
            last = rows[-1][0]
            yield from pieces.add(table, ranges.add(rows))
            _inspect(table, rows, inspectors, found)
        if current:
            yield from pieces.add(current, [ranges.end()])
        yield from pieces.end()
    except StorageFailed as error:
        yield from pieces.end()  # without the range that ends the table: it was not read to its end
        found.note(TABLES, last or None, f"unreadable behind this row of {current or 'none'}: {error.message}")
    else:
        for table, count in image.counts.items():
            if image.read[table] != count:
                found.note(table, None, f"{image.read[table]} rows can be read of {count} that are counted")
    entries = 0
    try:
        entries = log.scrub()
    except StorageFailed as error:
        found.note(LOG, None, error.message)
    yield {"entries": entries, "troubles": [list(each) for each in found.named], "more": found.more}


def _look_into(image: Image, wanted: Sequence[Wanted], rest: Callable[[float], None]) -> Iterator[Value]:
    """The rows of the wanted ranges, the first `VERIFY_ROWS` of each."""
    by_table: dict[str, list[int]] = {}
    for number, each in enumerate(wanted):
        by_table.setdefault(each.table, []).append(number)
    found: list[list[Value]] = [[] for _ in wanted]
    sent = time.monotonic()
    for table, rows in _paced(image, rest):
        for number in by_table.get(table, ()):
            room = limits.VERIFY_ROWS - len(found[number])
            holds = wanted[number].holds
            found[number] += [[key, row_digest(value)] for key, value in rows if holds(key)][:room]
        if time.monotonic() > sent + PIECE_SECONDS:
            yield {"range": 0, "rows": []}  # it goes on
            sent = time.monotonic()
    for number, rows_found in enumerate(found):
        yield {"range": number, "rows": rows_found}
    yield {"entries": 0, "troubles": [], "more": 0}


def row_digest(value: bytes) -> bytes:
    """What stands for a value when nodes compare their rows."""
    return hashlib.sha256(value).digest()[:ROW_DIGEST_BYTES]


def _paced(image: Image, rest: Callable[[float], None]) -> Iterator[tuple[str, list[Row]]]:
    """The image's pieces, with a rest behind each that is as long as the work with it was."""
    chunks = image.chunks()
    while True:
        began = time.perf_counter()
        chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk
        rest((time.perf_counter() - began) * (1 / limits.VERIFY_SHARE - 1))


def _inspect(table: str, rows: Sequence[Row], inspectors: Mapping[str, Inspect], found: _Troubles) -> None:
    machine, _, name = table.partition(".")
    inspect = inspectors.get(machine)
    if inspect is None:
        return
    for key, value in rows:
        try:
            inspect(name, key, value)
        except Exception as error:  # noqa: BLE001 - whatever a machine says of what it does not know
            found.note(table, key, f"no sound row: {error}")


class _Troubles:
    """What was found, the first ones by name."""

    def __init__(self) -> None:
        self.named: list[Trouble] = []
        self.more = 0

    def note(self, where: str, key: bytes | None, text: str) -> None:
        if len(self.named) < limits.VERIFY_TROUBLES:
            self.named.append(Trouble(where, key, text[:_TEXT_CHARACTERS].encode("utf-8", "replace").decode()))
        else:
            self.more += 1


class _Pieces:
    """Ranges on their way, gathered to frames."""

    def __init__(self) -> None:
        self._table = ""
        self._ranges: list[Value] = []
        self._sent = time.monotonic()

    def add(self, table: str, ranges: Sequence[Value]) -> Iterator[Value]:
        if table != self._table:
            yield from self.end()
            self._table = table
        self._ranges += [list(each) for each in ranges]
        if len(self._ranges) >= PIECE_RANGES or time.monotonic() > self._sent + PIECE_SECONDS:
            yield self._frame()

    def end(self) -> Iterator[Value]:
        if self._ranges:
            yield self._frame()

    def _frame(self) -> Value:
        frame = {"table": self._table, "ranges": self._ranges}
        self._ranges, self._sent = [], time.monotonic()
        return frame
