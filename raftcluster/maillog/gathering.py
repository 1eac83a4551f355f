"""The logs of several nodes as one, merged by time while they are read.

Each node is read page by page on a thread of its own, a few pages ahead at most. What is kept is merged in the order of the
entries' times, which are each node's own clock's; then, when it is followed, what comes is put in order as far as it comes
within `HOLD_SECONDS`. A node that does not answer is named, once, and so is its return; the others are not held up by it.

Wire: a member is asked {"after", "since", "wait"} and answers {"lines", "last", "end", "oldest"} or {"error"}, as often as it is
asked on one connection of the kind `logs`. `after` is the number of the last entry that was read: so nothing is lost or comes
twice when a connection breaks, or the node is started again.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, Full, Queue
from typing import Final, NamedTuple, Protocol

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import FrameError, RaftclusterError, Unavailable
from raftcluster.maillog.entry import Entry, parse
from raftcluster.maillog.files import Page

log = logging.getLogger("raftcluster.maillog")

FROM_THE_END: Final = -1
"""As `after`: what comes from now on."""
WAIT_SECONDS: Final = 5.0  # for something new, at the node that is read
RETRY_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 10.0  # beyond that
HOLD_SECONDS: Final = 0.5
PAGES: Final = 2  # of one node that are read ahead
BATCH: Final = 256  # entries that are handed out together

Source = Callable[[int, float, float], Page]
"""`(after, since, wait)`: the next page of one node. Raises `RaftclusterError` when it does not answer."""


class Logged(NamedTuple):
    """An entry, and which node's it is."""

    node: str
    entry: Entry


class Notice(NamedTuple):
    """Why a node does not answer; no reason: it answers again."""

    node: str
    reason: str


class Batch(NamedTuple):
    """Some entries in order, and what has become known of nodes meanwhile."""

    entries: list[Logged]
    notices: list[Notice]


class Gathering:
    """Iterate over it, once; `close` ends that, from any thread, and so does who iterates no more."""

    def __init__(
        self, sources: Mapping[str, Source], since: float | None, follow: bool, ending: threading.Event
    ) -> None:
        """`sources` by the node's name. What is older than `since` is left out; without it a gathering that follows begins with
        what comes now, another with all that is kept. `ending` is set when the node closes: then it is over, too."""
        self._since, self._follow, self._ending = since, follow, ending
        self._began = time.time()
        self._closed = threading.Event()
        self._notices: deque[Notice] = deque()
        self._channels: dict[str, Queue[list[Logged] | None]] = {name: Queue(PAGES) for name in sources}
        """Pages of entries; None: that is all there was at the beginning."""
        try:
            for name, source in sources.items():
                work = threading.Thread(
                    target=self._work, args=(name, source), name=f"raftcluster-logs-{name}", daemon=True
                )
                work.start()
        except RuntimeError:  # no more threads: those that have begun would go on for nobody
            self.close()
            raise

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._batches()
        finally:  # who iterates has had enough: nobody else would end it
            self.close()

    def close(self) -> None:
        """Idempotent."""
        self._closed.set()

    def _over(self) -> bool:
        return self._closed.is_set() or self._ending.is_set()

    def _batches(self) -> Iterator[Batch]:
        kept = heapq.merge(*map(self._kept, self._channels.values()), key=lambda each: each.entry.time)
        batch: list[Logged] = []
        for each in kept:
            batch.append(each)
            if len(batch) == BATCH:
                yield Batch(batch, self._told())
                batch = []
        yield Batch(batch, self._told())
        while self._follow and not self._closed.wait(HOLD_SECONDS) and not self._over():
            came = sorted(self._came(), key=lambda each: each.entry.time)
            notices = self._told()
            if came or notices:
                yield Batch(came, notices)

    def _told(self) -> list[Notice]:
        return [self._notices.popleft() for _ in range(len(self._notices))]

    def _kept(self, channel: Queue[list[Logged] | None]) -> Iterator[Logged]:
        while not self._over():
            try:
                page = channel.get(timeout=HOLD_SECONDS)
            except Empty:
                continue
            if page is None:
                return
            yield from page

    def _came(self) -> Iterator[Logged]:
        for channel in self._channels.values():
            try:
                while True:
                    yield from channel.get_nowait() or ()
            except Empty:
                pass

    # --- a node's thread

    def _work(self, name: str, source: Source) -> None:
        try:
            self._read(name, source)
        finally:
            if isinstance(source, Member):
                source.close()

    def _read(self, name: str, source: Source) -> None:
        after = FROM_THE_END if self._follow and self._since is None else 0
        since = self._since or 0.0
        live = silent = False
        while not self._over():
            try:
                lines, after, end, _ = source(after, since, WAIT_SECONDS if live else 0.0)
            except RaftclusterError as error:
                if not silent:
                    self._notices.append(Notice(name, error.message))
                silent = True
                if not live and not self._hand(name, None):
                    return
                live = True
                if not self._follow:
                    return
                if after == FROM_THE_END:  # what it logs until it answers has come, too
                    after, since = 0, self._began
                self._closed.wait(RETRY_SECONDS)
                continue
            if silent:
                silent = False
                self._notices.append(Notice(name, ""))
            found = [Logged(name, entry) for line in lines if (entry := parse(line)) is not None]
            if found and not self._hand(name, found):
                return
            if end:
                since = self._since or 0.0
            if end and not live:
                live = True
                if not self._hand(name, None) or not self._follow:
                    return

    def _hand(self, name: str, page: list[Logged] | None) -> bool:
        """Give it to who iterates; False when nobody does any more."""
        while not self._over():
            try:
                self._channels[name].put(page, timeout=HOLD_SECONDS)
            except Full:
                continue
            return True
        return False


class Stream(Protocol):
    """What is needed of a connection: see `transport`."""

    def send(self, value: Value) -> None: ...
    def receive(self, timeout: float) -> Value: ...
    def close(self) -> None: ...


class Member:
    """Another node as a `Source`; it is dialled when it is asked, and again after its connection broke."""

    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        self._open_stream = open_stream
        self._stream: Stream | None = None

    def __call__(self, after: int, since: float, wait: float) -> Page:
        """See `Source`."""
        try:
            if self._stream is None:
                self._stream = self._open_stream()
            self._stream.send({"after": after, "since": since, "wait": wait})
            return _page(self._stream.receive(wait + ANSWER_SECONDS))
        except RaftclusterError:
            self.close()
            raise

    def close(self) -> None:
        """Hang up. Idempotent."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def serve(stream: Stream, source: Source) -> None:
    """Answer a member that reads this node's log, until it has gone. Blocks; on a stream thread."""
    while True:
        match stream.receive(limits.MAILLOG_IDLE_SECONDS):
            case {"after": int(after), "since": int() | float() as since, "wait": int() | float() as wait}:
                try:
                    lines, last, end, oldest = source(after, since, min(max(0.0, wait), WAIT_SECONDS))
                except RaftclusterError as error:
                    stream.send({"error": error.message})
                    return
                stream.send({"lines": lines, "last": last, "end": end, "oldest": oldest})
            case _:
                raise FrameError("this asks for no page", subject="logs")


def _page(answer: Value) -> Page:
    match answer:
        case {"error": str(text)}:
            raise Unavailable(text[: limits.KIB])
        case {"lines": [*lines], "last": int(last), "end": bool(end), "oldest": int(oldest)}:
            if all(isinstance(line, bytes) for line in lines):
                return Page(lines, last, end, oldest)
    raise FrameError("its answer is no page", subject="logs")
