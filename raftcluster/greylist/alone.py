"""What a node decides by itself while the cluster does not (`on_unavailable = local`), and brings to the cluster afterwards.

The rules are the greylist's own. What is known of a triplet is what this node kept alone, joined with what it has applied of
the cluster's; times are cluster time as this node knows it, which stands still when the node is started again without
anybody to ask, so no wait is ever cut short. A decision is given when it is on this node's disk: some hundred of them in one write.

Kept in the node's own store, under the triplet's key: when the node began to keep it (8 bytes, milliseconds), then the record.
Counts are kept under a label of this node's own, apart from those that the cluster made of its checks, so that the join
loses none. When the cluster decides again, all of it is merged, bounded per command, and removed here: see `merging`.

Thread: one of its own does it all, from the first decision, or from the start when something is left; `decide` and `close` from any.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from struct import Struct
from typing import Final, NamedTuple, Protocol

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Rejected, StorageRefusal, Unavailable
from raftcluster.greylist import check
from raftcluster.greylist.check import Told
from raftcluster.greylist.clients import read_client
from raftcluster.greylist.machine import NAME, read_record
from raftcluster.greylist.merging import ROWS_MAX
from raftcluster.greylist.record import COUNT_MAX, NODE_BYTES, Record, join
from raftcluster.greylist.request import Request
from raftcluster.greylist.rules import DEFER, decide
from raftcluster.host import Host
from raftcluster.machine import ReadTables

log = logging.getLogger("raftcluster.greylist")

KEPT_MAX: Final = 200_000  # records, some 100 MB; beyond it strangers are deferred and not remembered
GROUP: Final = 256  # decisions in one write
WAITING_MAX: Final = 10_000  # decisions that wait for it; beyond it mail is deferred at once
RETRY_SECONDS: Final = 1.0  # between two attempts to merge
BATCH_BYTES: Final = 96 * limits.KIB  # of records in a merge

_PREFIX: Final = b"greylist/"
_BEGAN: Final = Struct(">Q")


class Rows(Protocol):
    """The node's own store: `storage.local.LocalStore`."""

    @property
    def begun(self) -> bool: ...

    def get(self, key: bytes) -> bytes | None: ...

    def keys(self, prefix: bytes) -> list[bytes]: ...

    def write(self, rows: Mapping[bytes, bytes | None]) -> None: ...


class Kept(NamedTuple):
    """One record that this node keeps alone; `began` in milliseconds of cluster time."""

    began: int
    record: Record

    def pack(self) -> bytes:
        """The bytes of the row."""
        return _BEGAN.pack(self.began) + self.record.pack()

    @classmethod
    def unpack(cls, row: bytes) -> Kept:
        """What `pack` packed."""
        return cls(_BEGAN.unpack_from(row)[0], Record.unpack(row[_BEGAN.size :]))


Answer = Callable[[Told | None], None]
"""What was decided; None: this node cannot, its disk or its memory is full."""


class _Ask(NamedTuple):
    """A job: to decide."""

    request: Request
    answer: Answer


class _Merged(NamedTuple):
    """A job: the cluster has answered a merge."""

    batch: dict[bytes, bytes]
    taken: bool


class Alone:
    """See the head of the file."""

    def __init__(self, host: Host, rows: Rows, node: bytes) -> None:
        self._host, self._rows = host, rows
        self._label = (node.rstrip(b"\0")[: NODE_BYTES - 1] + b"*").ljust(NODE_BYTES, b"\0")
        self._jobs: SimpleQueue[_Ask | _Merged | None] = SimpleQueue()
        self._keys: dict[bytes, None] | None = None
        """Of what is kept; None: not looked yet. Thread: the worker's, others read its length."""
        self._merging = False
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None
        if rows.begun:
            self._start()

    @property
    def kept(self) -> int:
        """How many records wait to be merged. Raises `Unavailable` when the node is closed."""
        keys = self._keys
        if keys is None:  # the worker has not looked yet
            return len(self._rows.keys(_PREFIX)) if self._rows.begun else 0
        return len(keys)

    def decide(self, request: Request, answer: Answer) -> None:
        """Decide about a request; `answer` is called once, on the worker's thread or at once, and must not block."""
        if self._jobs.qsize() < WAITING_MAX and self._start(_Ask(request, answer)):
            return
        answer(None)

    def find(self, key: bytes) -> Record | None:
        """What this node keeps alone of the triplet with this key."""
        if not self.kept:
            return None
        row = self._rows.get(_PREFIX + key)
        return None if row is None else Kept.unpack(row).record

    def close(self) -> None:
        """Answer what waits, and end. What is kept stays. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            self._jobs.put(None)
            thread.join()

    def _start(self, job: _Ask | None = None) -> bool:
        """Have the worker run, and do this; False when it is closed."""
        with self._lock:
            if self._closed:
                return False
            if job is not None:
                self._jobs.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="raftcluster-greylist", daemon=True)
                self._thread.start()
            return True

    # --- the worker's thread

    def _run(self) -> None:
        ending = False
        while not ending:
            jobs: list[_Ask] = []
            try:
                job = self._jobs.get(
                    timeout=RETRY_SECONDS if self._keys is None or (self._keys and not self._merging) else None
                )
                while True:
                    if job is None:
                        ending = True
                    elif isinstance(job, _Ask):
                        jobs.append(job)
                    else:
                        self._merged(job.batch, job.taken)
                    if ending or len(jobs) >= GROUP:
                        break
                    job = self._jobs.get_nowait()
            except Empty:
                pass
            if jobs:
                self._decide(jobs)
            elif not ending and not self._merging:
                self._merge()

    def _known(self) -> dict[bytes, None]:
        """Raises `StorageRefusal`, `Unavailable`."""
        if self._keys is None:
            self._keys = dict.fromkeys(key[len(_PREFIX) :] for key in self._rows.keys(_PREFIX))
        return self._keys

    def _decide(self, jobs: list[_Ask]) -> None:
        told: list[Told | None] = [None] * len(jobs)
        try:
            known, new = self._known(), dict[bytes, Kept]()
            applied, now = self._host.query(
                NAME, lambda tables, now: ([_applied(tables, r, now) for r, _ in jobs], now)
            )
            decided = [
                self._one(request, *of_cluster, known, new, now)
                for (request, _), of_cluster in zip(jobs, applied, strict=True)
            ]
            self._rows.write({_PREFIX + key: kept.pack() for key, kept in new.items()})
            known.update(dict.fromkeys(new))
            told = list(decided)
        except (StorageRefusal, Unavailable, OutcomeUnknown) as error:
            log.warning("the node cannot decide alone: %s", error)
        for (_, answer), each in zip(jobs, told, strict=True):
            answer(each)

    def _one(
        self,
        request: Request,
        applied: Record | None,
        allowed: bool,
        known: dict[bytes, None],
        new: dict[bytes, Kept],
        now: int,
    ) -> Told | None:
        key = request.key
        if allowed:
            return Told(check.SERVED, True, 0, 0, 0)
        kept = new.get(key)
        if kept is None and key in known and (row := self._rows.get(_PREFIX + key)) is not None:
            kept = Kept.unpack(row)
        if kept is None and len(known) + len(new) >= KEPT_MAX:
            return None
        record = applied if applied is not None and now < applied.expires else None
        began = now
        if kept is not None and now < kept.record.expires:
            began, record = kept.began, kept.record if record is None else join(record, kept.record)
        first, expires, passed = (record.first, record.expires, record.passed) if record else (0, 0, False)
        action, first, expires, before, left, delayed = decide(
            first, expires, passed, now, request.current.settings.waits(), not request.sender
        )
        deferred = action == DEFER
        counters = {node: (d, p) for node, d, p in record.counters} if record else {}
        deferrals, passes = counters.get(self._label, (0, 0))
        counters[self._label] = min(deferrals + deferred, COUNT_MAX), min(passes + (not deferred), COUNT_MAX)
        nodes = tuple((node, *counters[node]) for node in sorted(counters))
        last = max(now, first)
        made = Record(first, last, max(expires, last), not deferred, nodes, request.triplet)
        new[key] = Kept(began, made)
        return Told(check.DEFERRED if deferred else check.PASSED, before, first, left, delayed)

    def _merge(self) -> None:
        """Ask the cluster to take some of what is kept; the answer comes as a job."""
        try:
            batch: dict[bytes, bytes] = {}
            size = 0
            for key in self._known():
                row = self._rows.get(_PREFIX + key)
                if row is not None:
                    batch[key] = row
                    size += len(row)
                if len(batch) == ROWS_MAX or size >= BATCH_BYTES:
                    break
        except (StorageRefusal, Unavailable) as error:
            log.warning("what the node decided alone cannot be read: %s", error)
            return
        if not batch:
            return
        rows: list[Value] = []
        for key, row in batch.items():
            kept = Kept.unpack(row)
            rows.append([key, kept.began, kept.record.pack()])

        def done(_: Value | None, error: RaftclusterError | None) -> None:
            refused = isinstance(
                error, Rejected
            )  # it will be at every time: better to lose some waits than to stop here
            if refused:
                log.error("the cluster does not take what the node decided alone, it is dropped: %s", error)
            self._jobs.put(_Merged(batch, error is None or refused))

        self._merging = True
        self._host.submit(NAME, ["merge", rows], done)

    def _merged(self, batch: dict[bytes, bytes], taken: bool) -> None:
        self._merging = False
        if not taken:
            return
        try:  # the worker alone writes these rows: what is as it was is the cluster's now
            same = {key: None for key, row in batch.items() if self._rows.get(_PREFIX + key) == row}
            self._rows.write({_PREFIX + key: None for key in same})
        except (StorageRefusal, Unavailable) as error:  # merging it once more changes nothing
            log.warning("what was merged cannot be removed: %s", error)
            return
        for key in same:
            self._known().pop(key, None)
        if not self._keys:
            log.info("what this node decided alone is merged")


def _applied(tables: ReadTables, request: Request, now: int) -> tuple[Record | None, bool]:
    """What this node has applied of a triplet's record, and whether its client is allowed."""
    client = read_client(tables, request.network) if request.hinted else None
    allowed = client is not None and client.allowed(now, request.current.settings.auto_allow)
    return read_record(tables, request.key), allowed
