"""What a node decides by itself while the cluster does not (`on_unavailable = local`) or is not to (`replicate = off`), and
brings to the cluster afterwards.

The rules are the greylist's own. What is known of a triplet is what this node kept alone, joined with what it has applied of
the cluster's, but for what was forgotten; times are cluster time as this node knows it, which stands still when the node is
started again without anybody to ask, so no wait is ever cut short. A decision is given when it is on this node's disk: some hundred
of them in one write. Whoever asks again in the same SMTP transaction is told the same, and counted once.

Kept in the node's own store, under the triplet's key: when the node began to keep it (8 bytes, milliseconds), then the record.
Counts are kept under a label of this node's own, apart from those that the cluster made of its checks, so that the join
loses none. When the cluster decides again, all of it is merged, bounded per command, and removed here: see `merging`. What somebody
asks about is merged first. While `replicate` is off nothing is; then what has expired is removed by a walk, some rows at a time.

Thread: one of its own does it all, from the first decision, or from the start when something is left; `decide` and `close` from any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue
from struct import error as cut_short
from typing import Final, NamedTuple

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Refusal, Rejected, Unavailable
from raftcluster.greylist import check
from raftcluster.greylist.check import Told
from raftcluster.greylist.clients import Client, client_key, counted
from raftcluster.greylist.earned import Earned, Rows
from raftcluster.greylist.inspection import inspect_record
from raftcluster.greylist.kept import Kept, Overtaken, Seen, see
from raftcluster.greylist.machine import NAME, read_settings_row
from raftcluster.greylist.merging import ROWS_MAX
from raftcluster.greylist.record import COUNT_MAX, NODE_BYTES, NODES_MAX, Record
from raftcluster.greylist.request import Request
from raftcluster.greylist.rules import DEFER, decide
from raftcluster.greylist.settings import Settings
from raftcluster.host import Host
from raftcluster.machine import ReadTables

log = logging.getLogger("raftcluster.greylist")

KEPT_MAX: Final = 1_000_000  # records, some 500 MB; beyond it strangers are deferred and not remembered
GROUP: Final = 256  # decisions in one write
WAITING_MAX: Final = 10_000  # decisions that wait for it; beyond it mail is deferred at once
RETRY_SECONDS: Final = 1.0  # between two attempts to merge
BATCH_BYTES: Final = 96 * limits.KIB  # of records in a merge
WALK_ROWS: Final = 64  # looked at in a second in which nothing is decided; else twice as many as were added
TOLD_KEPT: Final = 10_000  # answers within SMTP transactions that are remembered; they live for seconds

CANNOT: Final = (Unavailable, OutcomeUnknown, Refusal)
"""What its own store and the node raise when they do not do what is asked, whatever is asked."""

_PREFIX: Final = b"greylist/"


Answer = Callable[[Told | Overtaken | None], None]
"""What was decided; None: this node cannot, its disk or its memory is full."""

Brought = Callable[[RaftclusterError | None], None]
"""The cluster has it, or there was nothing; or what went wrong."""


class _Ask(NamedTuple):
    """A job: to decide."""

    request: Request
    answer: Answer
    answered: bool
    """Its client has been told to wait already."""


class _Bring(NamedTuple):
    """A job: to merge this triplet now; `end` is a moment of `time.monotonic()`."""

    key: bytes
    end: float
    brought: Brought


class _Merged(NamedTuple):
    """A job: the cluster has answered a merge."""

    batch: dict[bytes, bytes]
    clients: bool
    """It was of clients, not of records."""
    error: RaftclusterError | None


class Alone:
    """See the head of the file."""

    def __init__(self, host: Host, rows: Rows, node: bytes) -> None:
        self._host, self._rows = host, rows
        self._label = (node.rstrip(b"\0")[: NODE_BYTES - 1] + b"*").ljust(NODE_BYTES, b"\0")
        self._jobs: SimpleQueue[_Ask | _Bring | _Merged | None] = SimpleQueue()
        self._keys: dict[bytes, None] | None = None if rows.begun else {}
        """Of what is kept; None: not looked yet. Thread: the worker's, others ask it for its length and for one key."""
        self._earned = Earned(rows)
        self._merging = False
        self._wanted: dict[bytes, list[_Bring]] = {}
        """Triplets to be merged first, and who waits for it. Thread: the worker's, as those below."""
        self._walk: list[bytes] = []
        """Keys that the walk has not come to yet, the next one at the end."""
        self._told: OrderedDict[bytes | None, Told] = OrderedDict()
        """By request id."""
        self._now = 0
        """When the cluster's table was looked at last."""
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

    def decide(self, request: Request, answer: Answer, *, answered: bool = False) -> None:
        """Decide about a request; `answer` is called once, on the worker's thread or at once, and must not block. `answered`:
        its client has been told to wait already, whatever is decided."""
        if self._jobs.qsize() < WAITING_MAX and self._start(_Ask(request, answer, answered)):
            return
        answer(None)

    def keeps(self, key: bytes) -> bool:
        """Whether something of this triplet may not be merged yet."""
        keys = self._keys
        return keys is None or key in keys

    def bring(self, key: bytes, end: float, brought: Brought) -> None:
        """Merge what is kept of this triplet, before anything else, until `end`; `brought` is called once, like an `Answer`."""
        if self._jobs.qsize() < WAITING_MAX and self._start(_Bring(key, end, brought)):
            return
        brought(Unavailable("too many checks wait for what this node decided alone", subject=self._host.name))

    def find(self, key: bytes) -> Kept | None:
        """What this node keeps alone of the triplet with this key."""
        row = self._rows.get(_PREFIX + key) if self.kept else None
        return None if row is None else _sound(key, row)

    def earned(self, network: bytes) -> Client | None:
        """What this node has counted alone of this client."""
        return self._earned.of([client_key(network)]).get(client_key(network)) if self._earned.kept else None

    def close(self) -> None:
        """Answer what waits, and end. What is kept stays. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            self._jobs.put(None)
            thread.join()

    def _start(self, job: _Ask | _Bring | None = None) -> bool:
        """Have the worker run, and do this; False when it is closed, or cannot run."""
        with self._lock:
            if self._closed:
                return False
            if job is not None:
                self._jobs.put(job)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="raftcluster-greylist", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads: the next one who asks tries again
                    log.warning("the node cannot decide alone: %s", error)
                    if job is not None:
                        self._jobs.get()  # this one: without a thread there is no other
                    return False
                self._thread = thread
            return True

    # --- the worker's thread

    def _run(self) -> None:
        ending = False
        while not ending:
            asked: list[_Ask] = []
            failed = False
            try:
                job = self._jobs.get(timeout=self._patience())
                while True:
                    if job is None:
                        ending = True
                    elif isinstance(job, _Ask):
                        asked.append(job)
                    elif isinstance(job, _Bring):
                        self._want(job)
                    else:
                        failed = self._merged(job)
                    if ending or len(asked) >= GROUP:
                        break
                    job = self._jobs.get_nowait()
            except Empty:
                pass
            self._give_up()
            before = len(self._keys or ())
            if asked:
                self._decide(asked)
            if ending:
                self._brought(list(self._wanted), Unavailable("the node is closed", subject=self._host.name))
            elif not self._merging and (self._wanted or not (asked or failed)):
                self._merge()
            else:
                self._clean(2 * (len(self._keys or ()) - before))

    def _patience(self) -> float | None:
        """How long to wait for a job."""
        idle = self._keys is None or ((self._keys or self._earned.kept) and not self._merging)
        if not self._wanted:
            return RETRY_SECONDS if idle else None
        return max(0.0, min(each.end for waiting in self._wanted.values() for each in waiting) - time.monotonic())

    def _give_up(self) -> None:
        """Tell those whose time is over."""
        now = time.monotonic()
        for key, waiting in list(self._wanted.items()):
            late = [each for each in waiting if each.end <= now]
            if late:
                self._wanted[key] = [each for each in waiting if each.end > now]
                if not self._wanted[key]:
                    del self._wanted[key]
            for each in late:
                each.brought(
                    Unavailable("the cluster has not taken what this node decided alone in time", subject=NAME)
                )

    def _known(self) -> dict[bytes, None]:
        """Raises what `CANNOT` names."""
        if self._keys is None:
            self._keys = dict.fromkeys(key[len(_PREFIX) :] for key in self._rows.keys(_PREFIX))
        return self._keys

    def _row(self, key: bytes) -> tuple[bytes, Kept] | None:
        """What is kept of this triplet. A row that is damaged is none, and is removed: the others are to be merged."""
        row = self._rows.get(_PREFIX + key)
        if row is None:
            return None
        kept = _sound(key, row)
        if kept is not None:
            return row, kept
        log.error("what this node kept of the triplet %s is damaged, and dropped", key.hex())
        self._rows.write({_PREFIX + key: None})
        self._known().pop(key, None)
        return None

    def _want(self, job: _Bring) -> None:
        try:
            known = self._known()
        except CANNOT as error:  # what this node kept is lost or later; the cluster decides
            log.warning("what the node decided alone cannot be read: %s", error)
            job.brought(None)
            return
        if job.key not in known:
            job.brought(None)
            return
        self._wanted.setdefault(job.key, []).append(job)

    def _decide(self, jobs: list[_Ask]) -> None:
        told: list[Told | Overtaken | None] = [None] * len(jobs)
        try:
            known, new = self._known(), dict[bytes, Kept]()
            for request, _, _ in jobs:
                if request.key in known and request.key not in new:
                    row = self._row(request.key)
                    if row is not None:
                        new[request.key] = row[1]
            kept = dict(new)
            new.clear()
            requests = [job.request for job in jobs]
            earned = self._earned.of({client_key(each.network) for each in requests if each.current.counts})
            seen = self._host.query(NAME, partial(see, requests, kept, earned))
            self._now, fresh, decided = seen.now, dict[bytes | None, Told](), list[Told | Overtaken | None]()
            changed = dict[bytes, Client]()
            for request, _, answered in jobs:
                each = self._one(request, answered, seen, new, changed, fresh)
                if request.id is not None and isinstance(each, Told):
                    fresh[request.id] = each
                decided.append(each)
            rows = {_PREFIX + key: made.pack() for key, made in new.items()}
            self._rows.write({**rows, **self._earned.packed(changed)})
            known.update(dict.fromkeys(new))
            self._earned.written(changed)
            told = decided
            for name, answer_again in fresh.items():
                self._told[name] = answer_again
                if len(self._told) > TOLD_KEPT:
                    self._told.popitem(last=False)
        except (*CANNOT, ValueError, cut_short) as error:  # a row of the cluster's may be damaged here: see `verify`
            log.warning("the node cannot decide alone: %s", error)
        for job, each in zip(jobs, told, strict=True):
            job.answer(each)

    def _one(
        self,
        request: Request,
        answered: bool,
        seen: Seen,
        new: dict[bytes, Kept],
        changed: dict[bytes, Client],
        fresh: Mapping[bytes | None, Told],
    ) -> Told | Overtaken | None:
        """Decide; what is to be kept goes to `new` and `changed`. `fresh` are answers that are not on the disk yet, by id."""
        if request.current.revision < seen.settings.revision:
            return seen.settings
        told = fresh.get(request.id) or self._told.get(request.id)
        if told is not None:
            return told
        key, now = request.key, seen.now
        if self._serves(request, seen, changed):
            return Told(check.SERVED, True, 0, 0, 0)
        record: Record | None
        if key in new:
            began, record = new[key]
        elif len(self._known()) + len(new) >= KEPT_MAX and key not in self._known():
            return None
        else:
            began, record = seen.records[key]
        first, known_until, passed = (record.first, record.expires, record.passed) if record else (0, 0, False)
        action, first, expires, before, left, delayed = decide(
            first, known_until, passed, now, request.current.settings.waits(), not request.sender
        )
        deferred = action == DEFER
        if answered and not deferred:  # nobody has heard that it passes: it still has its first pass before it
            deferred, expires = True, known_until
        else:
            passed = not deferred
        counters = {node: (d, p) for node, d, p in record.counters} if record else {}
        deferrals, passes = counters.get(self._label, (0, 0))
        counters[self._label] = min(deferrals + deferred, COUNT_MAX), min(passes + (not deferred), COUNT_MAX)
        nodes = tuple((node, *counters[node]) for node in sorted(counters))[:NODES_MAX]
        last = max(now, first)
        made = Record(first, last, max(expires, last), passed, nodes, request.triplet)
        if made.passed and not request.current.replicated:
            began = now  # it waits for nothing any more, and was held against all that is forgotten until now
        new[key] = Kept(began, made)
        if not deferred and not before and request.current.counts:
            self._count(request, seen, changed)
        return Told(check.DEFERRED if deferred else check.PASSED, before, first, left, delayed)

    def _serves(self, request: Request, seen: Seen, changed: dict[bytes, Client]) -> bool:
        """Whether its client is allowed. What it earns by that is counted only while triplets are not shared."""
        if not request.may_be_allowed or not request.current.clients:
            return False
        key, settings = client_key(request.network), request.current.settings
        since, client = _client(key, seen, changed)
        if client is None or not client.allowed(seen.now, settings.auto_allow):
            return False
        if request.current.counts and self._earned.room(key):
            changed[key] = client.served_at(seen.now, settings.waits().life)._replace(sequence=since)
        return True

    def _count(self, request: Request, seen: Seen, changed: dict[bytes, Client]) -> None:
        """A triplet of this client has waited and passes."""
        key, settings = client_key(request.network), request.current.settings
        if not self._earned.room(key):
            return
        network = b"" if settings.privacy else request.network
        since, known = _client(key, seen, changed)
        client = counted(known, network, seen.now, settings.waits().life)
        if client is not None:
            changed[key] = client._replace(sequence=since)

    def _merge(self) -> None:
        """Ask the cluster to take some of what is kept, if triplets are shared; the answer comes as a job."""
        batch: dict[bytes, bytes] = {}
        try:
            self._known()
            shared, self._now = self._host.query(NAME, _shared)
            if not shared:
                self._brought(list(self._wanted), None)  # asked again, it will be decided here
                self._clean(WALK_ROWS)
                return
            size = 0
            kept = dict[bytes, Kept]()
            for key in chain(self._wanted, list(self._known())):
                row = None if key in batch else self._row(key)
                if row is not None:
                    batch[key], kept[key] = row
                    size += len(row[0])
                if len(batch) == ROWS_MAX or size >= BATCH_BYTES:
                    break
            clients = {} if batch else self._earned.batch(ROWS_MAX)
        except CANNOT as error:
            log.warning("what the node decided alone cannot be read: %s", error)
            self._brought(list(self._wanted), error)
            return
        if not batch and not clients:
            return
        records: Value = ["merge", [[key, each.began, each.record.pack()] for key, each in kept.items()]]
        command = records if batch else ["clients", [[key, row] for key, row in clients.items()]]

        def done(_: Value | None, error: RaftclusterError | None) -> None:
            self._jobs.put(_Merged(batch or clients, not batch, error))

        self._merging = True
        try:
            self._host.submit(NAME, command, done)
        except CANNOT as error:  # the node has stopped for good
            done(None, error)

    def _merged(self, job: _Merged) -> bool:
        """Whether it has failed."""
        batch, clients, error = job
        self._merging = False
        if isinstance(error, Rejected) and not isinstance(
            error, Refusal
        ):  # as at every time: better to lose some waits
            log.error("the cluster does not take what the node decided alone, it is dropped: %s", error)
            error = None
        if error is None:
            self._remove(batch, clients)
        if not clients:
            self._brought(list(batch), error)
        return error is not None

    def _remove(self, batch: Mapping[bytes, bytes], clients: bool = False) -> None:
        """These rows need not be kept, but for those that were written again."""
        try:  # the worker alone writes these rows
            if clients:
                self._earned.remove(batch)
                return
            same = {key: None for key, row in batch.items() if self._rows.get(_PREFIX + key) == row}
            self._rows.write({_PREFIX + key: None for key in same})
        except CANNOT as error:  # merging it once more changes nothing
            log.warning("what was merged cannot be removed: %s", error)
            return
        for key in same:
            self._known().pop(key, None)
        if not self._keys:
            log.info("what this node decided alone is merged")

    def _brought(self, keys: Iterable[bytes], error: RaftclusterError | None) -> None:
        for key in keys:
            for each in self._wanted.pop(key, ()):
                each.brought(error)

    def _clean(self, rows: int) -> None:
        """Look at so many rows, and remove those that have expired."""
        if not rows or self._merging:
            return
        if not self._walk:
            self._walk = list(self._keys or ())
        keys = self._walk[-rows:]
        del self._walk[-rows:]
        try:
            self._earned.clean(self._now, rows)
            found = {key: row for key in keys if (row := self._row(key)) is not None}
        except CANNOT as error:
            log.warning("what the node decided alone cannot be read: %s", error)
            return
        expired = {key: row for key, (row, kept) in found.items() if kept.record.expires <= self._now}
        if expired:
            self._remove(expired)


def _sound(key: bytes, row: bytes) -> Kept | None:
    """What a row says; None when it is damaged."""
    try:
        kept = Kept.unpack(row)
        inspect_record(key, kept.record.pack())
    except (ValueError, cut_short):
        return None
    return kept


def _client(key: bytes, seen: Seen, changed: Mapping[bytes, Client]) -> tuple[int, Client | None]:
    """Since when this node keeps it, and what is known of it."""
    if key in changed:
        return changed[key].sequence, changed[key]
    return seen.clients.get(key, (seen.now, None))


def _shared(tables: ReadTables, now: int) -> tuple[bool, int]:
    return Settings.of(read_settings_row(tables)[1]).replicate, now
