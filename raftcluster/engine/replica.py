"""One node without threads, sockets or disks: engine, guard, cluster time, batches, tables and checkpoints together.

Duties of whoever drives it (a node's tick thread, or a simulator):

1. call everything from one thread, and `step` whenever something happened and at the latest after `pause`;
2. pass links and messages in (`link_up`, `link_down`, `deliver`), one ordered link per peer; what an old link still holds
   is dropped when a new one replaces it;
3. run what is given to `ports.post` soon, on that thread, in order: storage answers come that way from other threads;
4. carry out `ports.fetch`: bring the peer's snapshot into `store.install`, and call `snapshot_done`;
5. when `step` or `deliver` raises, stop for good: nothing more may leave this node (fail-stop).

The way of one operation: `submit` -> unsent -> (leader) batch queue, or (follower) one `forward` frame per step ->
`_feed` makes one entry of all that waits -> the engine commits -> the applier decides on the tables -> whoever waits
on this node for that id gets the result. Results never travel; what is lost is sent again under the same id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from raftcluster import limits
from raftcluster.engine import membership, operations, recovery, wire
from raftcluster.engine.applier import Applier
from raftcluster.engine.cluster_time import ClusterTime
from raftcluster.engine.guard import Guard
from raftcluster.engine.guards import Message
from raftcluster.engine.holding import Holding
from raftcluster.engine.journal import Journal
from raftcluster.engine.leadership import Leadership
from raftcluster.engine.operations import Operation
from raftcluster.engine.outbox import Answer, Outbox
from raftcluster.engine.ports import Bounds, Observer, Ports, Timing
from raftcluster.engine.queries import Queries
from raftcluster.engine.seam import Engine
from raftcluster.errors import StorageFailed, StorageFull, Unavailable
from raftcluster.machine import StateMachine
from raftcluster.storage.ports import Entry, Log, TableStore


class Replica:
    """See the module's text. `machines` are applied in the order given; names are unique."""

    def __init__(
        self,
        me: str,
        founders: Iterable[str],
        machines: Sequence[StateMachine],
        disk: Log,
        store: TableStore,
        ports: Ports,
        *,
        timing: Timing | None = None,
        bounds: Bounds | None = None,
        observer: Observer | None = None,
        disabled: Collection[str] = (),
        has_run: bool = False,
    ) -> None:
        """`founders` are the voters before the first entry. `has_run` says that this node has run before, so that it must
        have its stores. Raises `StorageFailed` when it has not, or when what it has is damaged."""
        self.me, self.ports, self.store = me, ports, store
        self.timing, self.bounds = timing or Timing(), bounds or Bounds()
        self.observer = observer or Observer()
        self._disabled = frozenset(disabled)
        stored = store.anchor()
        anchor = None if stored is None else recovery.Anchor.decode(stored[1])
        image = disk.load()
        if has_run:
            recovery.check_stores(image, anchor)
        found = recovery.recover(image, anchor, tables_win="recover" not in self._disabled)
        self.applier = Applier(machines, store, self.bounds.ring, 0 if anchor is None else anchor.stamp)
        self.journal = Journal(
            disk,
            ports.now,
            entries=found.entries,
            term=found.term,
            vote=found.vote,
            commit=found.commit,
            base_index=1 if anchor is None else anchor.index,
            base_voters=founders if anchor is None else anchor.voters,
            repair=found.repair,
        )
        applied = 1 if anchor is None or "applied" in self._disabled else anchor.index
        self.clock = ClusterTime(ports.boot, ports.wall, self._disabled)
        self.holding = Holding(ports.now, lambda peer: self.engine.match_index(peer))
        self.engine = Engine(
            me,
            self.journal.voters(),
            self.journal,
            applied=applied,
            random=ports.random,
            feed=self._feed,
            apply=self._apply,
            may_apply=lambda: not self._fetching and self.applier.overlay.keys < self.bounds.overlay_keys,
            flush=ports.flush,
            on_role=self._role_changed,
            heartbeat_seconds=self.timing.heartbeat,
            election_seconds=(self.timing.election_min, self.timing.election_max),
            check_quorum_seconds=self.timing.check_quorum,
            append_bytes=self.bounds.append_bytes,
        )
        self.guard = Guard(
            self.engine,
            ports.send,
            ports.now,
            self.clock,
            sticky_seconds=self.timing.election_min,
            sign_seconds=self.timing.heartbeat,
            disabled=self._disabled,
        )
        self.engine.guarded_by(self.guard)

        self.outbox = Outbox()
        self._queue: OrderedDict[bytes, None] = OrderedDict()
        """At the leader: packed operations for the next entries, in order. What is sent again while it waits is there once:
        where disks are slow everything is sent again, and the queue would fill with copies."""
        self._queue_bytes = 0
        self._last_leader: tuple[str | None, int] = (None, 0)
        self._leader_linked = False
        self._resend_at = 0.0
        self._last_stamp = 0
        self._stamp_term = -1
        self._steer_at = 0.0
        self._checkpointing = False
        self._checkpoint_at = ports.now()
        self._fetching = False
        """A snapshot is on its way into the store. Nothing is applied and no reading view moves meanwhile: the view may
        otherwise be ahead of what memory has applied, and a command would be carried out on a state that has it."""
        self._written: recovery.Anchor | None = None
        """A checkpoint that became durable during a fetch."""
        self.queries = Queries(self.engine, self.guard, self.clock, ports.send, ports.random.getrandbits(48))
        self.leadership = Leadership(self.engine, self.clock, ports, self.timing.election_max)
        self._told = 0
        self.health: str = "ok"
        self._changes: list[tuple[int, int, Callable[[bool], None]]] = []
        """(index, term, answer) of changes of the voters that this node has appended."""

        disk.on_durable = lambda ticket: ports.post(lambda: self._durable(ticket))
        self._healths = {"log": "ok", "tables": "ok"}
        disk.on_health = lambda health, detail: ports.post(lambda: self._health_changed("log", health, detail))
        store.on_health = lambda health, detail: ports.post(lambda: self._health_changed("tables", health, detail))
        # Told once, while nobody listened: what is left of runs is moved from the first moment on.
        if store.health == "failed":
            ports.post(lambda: self._health_changed("tables", "failed", "the tables failed while they were opened"))
        self.journal.flush()

    # ---- links and messages

    def link_up(self, peer: str) -> None:
        self.guard.link_up(peer)
        self.engine.link_up(peer)

    def link_down(self, peer: str) -> None:
        if peer in self.guard.linked:
            self.guard.link_down(peer)
            self.engine.link_down(peer)
            if peer == self._last_leader[0]:
                # noted here: a link that is replaced is up again before the next step looks
                self._leader_linked = False
            self.queries.lost(peer)

    def deliver(self, peer: str, message: Message) -> None:
        """A message of `peer`. Raises `FrameError` for one that is malformed: the caller closes that link."""
        kind = wire.check(message, self.engine.term)
        if kind == "forward":
            self._forwarded(message["operations"])
        elif kind == "read_index":
            self.queries.asked(peer, message["number"])
        elif kind == "read_at":
            self.queries.answered(peer, message["number"], message["index"])
        elif kind == "transfer":
            if self.engine.is_leader:  # else two nodes that take each other for the leader pass it to and fro
                self.leadership.transfer(message["target"])
        else:
            offer = self.guard.incoming(peer, message)
            if offer is not None:
                self._offered(peer, offer["index"], offer["term"])
            if kind == "append_entries" and message["term"] == self.engine.term:
                self.queries.heard(message)

    def pause(self) -> float:
        """In how many seconds the next step is due if nothing happens before: a leader's heartbeat, at most `TICK_SECONDS`."""
        due = self.engine.heartbeat_in() if self.engine.is_leader else limits.TICK_SECONDS
        return min(max(0.0, due), limits.TICK_SECONDS)

    # ---- the step

    def step(self) -> None:
        """Do all that can be done now. Raises `StorageFailed` and whatever else must stop the node."""
        self._watch_leader()
        self._route()
        try:
            self.engine.doTick(0.0)
        except StorageFull:
            pass  # a cluster of one on a full disk: its election waits with its records; the alarm was raised
        if (self.engine.leader, self.engine.term) != self._last_leader:
            self._watch_leader()
            self._route()
        self.leadership.step()
        self._settle_changes()
        self.queries.serve()
        self._checkpoint()
        self.journal.flush()

    def _durable(self, ticket: int) -> None:
        self.journal.note_durable(ticket)
        self.guard.durable()

    def _health_changed(self, store: str, health: str, detail: str) -> None:
        self._healths[store] = health
        if health == "ok" and set(self._healths.values()) != {"ok"}:
            return  # the other one is not yet
        self.health = health
        self.guard.full = health != "ok"
        self.observer.health(health, detail)
        if health == "failed":  # nothing that this node has on its disk can be relied on: fail-stop
            raise StorageFailed(detail, subject=self.me, remedy="check the disk, then restart the node")
        if health == "full" and self.engine.is_leader:
            self.guard.resign()

    def _role_changed(self) -> None:
        self.holding.clear()
        self._queue.clear()  # whoever asked sends again to the next leader
        self._queue_bytes = 0
        self.observer.role()

    def _watch_leader(self) -> None:
        """Operations sent to a leader that is gone, or over a link that is, are sent again; so are old ones."""
        leader = (self.engine.leader, self.engine.term)
        linked = leader[0] == self.me or leader[0] in self.guard.linked
        now = self.ports.now()
        if leader != self._last_leader or linked != self._leader_linked:
            changed = leader != self._last_leader
            self._last_leader, self._leader_linked = leader, linked
            self.outbox.send_again()
            if changed:
                self.observer.role()
        elif now >= self._resend_at and leader[0] != self.me:
            self.outbox.send_again(before=now - self.timing.resend)
        self._resend_at = self._resend_at if now < self._resend_at else now + self.timing.resend

    # ---- operations

    def submit(self, operation: Operation, answer: Answer) -> None:
        """Carry out `operation`; `answer(results, None)` or `answer(None, Unavailable)` follows, maybe at once.

        Raises `Rejected` for what cannot be sent. The same id again joins the one that is under way, or gets the results
        that are kept.
        """
        ident = operation.id
        if self.outbox.join(ident, answer):
            return
        if (results := self.applier.results(ident)) is not None:
            answer(results, None)
        elif self.outbox.commands >= self.bounds.pending or self.outbox.bytes >= self.bounds.pending_bytes:
            text = f"{self.outbox.commands} commands are waiting on this node"
            answer(None, Unavailable(text, subject=self.me, remedy="ask again"))
        else:
            self.outbox.add(operation, answer)

    def _route(self) -> None:
        """Send what is unsent: into the own queue, or to the leader in one frame."""
        if not self.outbox or self._last_leader[0] is None or not self._leader_linked:
            return
        leader = self._last_leader[0]
        room, room_bytes = len(self.outbox), self.bounds.append_bytes
        if leader == self.me:
            room = self.bounds.queue - len(self._queue)
            room_bytes = min(room_bytes, self.bounds.queue_bytes - self._queue_bytes)
        taken = self.outbox.take(room, room_bytes)
        if not taken:
            return
        batch = [pending.packed for pending in taken.values()]
        if leader == self.me:
            self._forwarded(batch)
        elif not self.ports.send(leader, {"type": "forward", "operations": batch}):
            self.outbox.put_back(taken)  # no room on the link: with the next step
            return
        now = self.ports.now()
        for pending in taken.values():
            pending.sent_at = now

    def _forwarded(self, packed: list[Any]) -> None:
        if not self.engine.is_leader:
            return
        for operation in packed:
            if len(self._queue) >= self.bounds.queue or self._queue_bytes >= self.bounds.queue_bytes:
                return  # it is sent again
            if (
                isinstance(operation, bytes)
                and len(operation) <= limits.OPERATION_BYTES
                and operation not in self._queue
            ):
                self._queue[operation] = None
                self._queue_bytes += len(operation)

    def _feed(self) -> list[bytes]:
        """The entries that the engine may append now: one of all that waits, up to the bound in flight."""
        now = self.ports.now()
        if not self._queue and now < self._steer_at:
            return []
        self._steer_at = now + self.timing.heartbeat  # cluster time is steered with every batch, at least so often
        term = self.engine.term
        if self._stamp_term != term:
            stamps = [s for e in self.journal.entries if (s := operations.entry_stamp(e[0])) is not None]
            self._last_stamp = max([self.applier.stamp, *stamps])
            self._stamp_term = term
        time = self.clock.stamp(term, float(self._last_stamp), self.journal.voters(), self.me)
        if time is None or not self._queue or self.leadership.leaving or self.health != "ok":
            return []
        last, last_index, _ = self.journal.last
        in_flight = last_index - self.engine.applied
        if in_flight >= self.bounds.in_flight:
            return []  # unapplied, not uncommitted: where tables are slow, what waits is sent again and must not pile up
        if in_flight and self._queue_bytes < len(last) and len(self._queue) < self.bounds.entry_operations:
            return []  # an entry costs much, a command little: under load the second is no smaller than the first
        batch: list[bytes] = []
        size = 0
        while self._queue and len(batch) < self.bounds.entry_operations and size < self.bounds.entry_bytes:
            packed = next(iter(self._queue))
            if batch and size + len(packed) > self.bounds.entry_bytes:
                break
            del self._queue[packed]
            batch.append(packed)
            size += len(packed)
        self._queue_bytes -= size
        self._last_stamp = max(self._last_stamp, int(time))
        return [operations.encode_entry(self._last_stamp, batch)]

    def _apply(self, entry: Entry) -> None:
        """The engine has committed `entry`; whoever waits here for its results gets them."""
        told, machines = self.applier.apply(entry)
        for ident, results in told:
            self.outbox.settle(ident, results)
        self.observer.applied(entry, machines)

    def time(self) -> int:
        """Cluster time as this node knows it, in milliseconds: it runs on while nothing is applied, and never goes back (a
        new leader's may be a message's delay behind)."""
        self._told = max(self._told, self.applier.stamp, int(self.clock.now() or 0.0))
        return self._told

    # ---- checkpoints and snapshots

    def _checkpoint(self) -> None:
        """Write behind: hand the overlay to the checkpoint thread when it is due."""
        now, index = self.ports.now(), self.engine.applied
        due = (
            now - self._checkpoint_at >= self.timing.checkpoint
            or self.applier.overlay.keys >= self.bounds.checkpoint_keys
        )
        if due and not self._checkpointing:
            self.checkpoint_now(index)

    def checkpoint_now(self, index: int | None = None) -> bool:
        """Begin a checkpoint at the applied index; False when there is nothing new. The durable log may be behind it."""
        index = self.engine.applied if index is None else index
        if self._checkpointing or index <= self.journal.base_index:
            return False
        entry, previous = self.journal.get(index), self.journal.get(index - 1)
        if entry is None or previous is None:
            return False
        voters = tuple(sorted(self.journal.voters(index)))
        anchor = recovery.Anchor(index, entry[2], entry[0], previous[2], voters, self.applier.stamp)
        self._checkpointing = True
        self._checkpoint_at = self.ports.now()
        unit = self.applier.overlay.freeze(index, anchor.encode())
        self.store.checkpoint(unit, lambda done: self.ports.post(lambda: self._checkpointed(anchor)))
        return True

    def _checkpointed(self, anchor: recovery.Anchor) -> None:
        """The unit is durable, or the tables were beyond it already: either way the overlay's frozen half is."""
        if self._fetching:
            self._written = anchor
            return
        self._checkpointing = False
        self.applier.overlay.release()
        held = self.journal.get(anchor.index)
        if anchor.index > self.journal.base_index and held is not None and held[2] == anchor.term:
            self.journal.rebase(anchor.index, anchor.voters)
            self._cut()

    def _cut(self) -> None:
        """Cut the log behind the checkpoint, keeping some for peers that were away for a moment."""
        journal = self.journal
        most = journal.base_index - 1 - journal.first_index  # recovery needs the checkpoint's entry and the one before
        position = max(0, most - self.bounds.keep_entries)
        keep_bytes = self.bounds.keep_bytes
        floor = self.holding.floor(journal.last[1] - self.bounds.keep_entries)
        if floor is not None:
            position = max(0, min(position, floor - 1 - journal.first_index))  # an offer names the log's second entry
            keep_bytes = max(keep_bytes, limits.LOG_HOLD_BYTES)
        excess = journal.bytes - keep_bytes - sum(len(e[0]) for e in journal[:position])
        while excess > 0 and position < most:
            excess -= len(journal[position][0])
            position += 1
        if position > 0:
            journal.deleteEntriesTo(position)

    def _offered(self, peer: str, index: int, term: int) -> None:
        """The leader's log begins above ours: its tables must come over the second connection. Unless that was true once, and what it
        has sent since is on its way behind older offers."""
        held = self.journal.get(index)
        if not self._fetching and index > self.engine.applied and (held is None or held[2] != term):
            self._fetching = True
            self.ports.fetch(peer)

    def snapshot_done(self, installed: bool) -> None:
        """A fetch has ended. When the tables were replaced, memory follows, then the log (rule 14)."""
        self._fetching = False
        if installed:
            self._install()
        if self._written is not None:
            written, self._written = self._written, None
            self._checkpointed(written)

    def _install(self) -> None:
        self.store.refresh()
        stored = self.store.anchor()
        assert stored is not None
        anchor = recovery.Anchor.decode(stored[1])
        if anchor.index <= self.engine.applied:
            return  # memory has overtaken the snapshot: the overlay holds all that lies between
        self.applier.replaced(anchor.stamp)
        journal = self.journal
        held = journal.get(anchor.index)
        if held is None or held[2] != anchor.term or journal.get(anchor.index - 1) is None:
            journal.clear()
            for command, index, term in anchor.entries():
                journal.add(command, index, term)
        journal.rebase(anchor.index, anchor.voters)
        self.engine.installed(anchor.index)
        self._cut()
        journal.flush()
        for ident in self.outbox:
            if (results := self.applier.results(ident)) is not None:
                self.outbox.settle(ident, results)
        entry = journal.get(anchor.index)
        assert entry is not None
        self.observer.applied(entry, self.applier.machines)

    # ---- membership and leadership

    def change_voters(self, change: membership.Change, answer: Callable[[bool], None]) -> bool:
        """At the leader: add or remove one voter. False when refused; else `answer(committed)` follows."""
        if self.leadership.leaving or self.health != "ok":
            return False
        index = self.engine.change_voters(change)
        if index is None:
            return False
        self._changes.append((index, self.engine.term, answer))
        return True

    def _settle_changes(self) -> None:
        if self._changes:
            waiting = []
            for index, term, answer in self._changes:
                entry = self.journal.get(index)
                if index <= self.engine.applied and (entry is None or entry[2] == term):
                    answer(True)
                elif entry is None or entry[2] != term:
                    answer(False)
                else:
                    waiting.append((index, term, answer))
            self._changes = waiting

    @property
    def led(self) -> bool:
        """Whether somebody leads from whom this node can hear: itself, or a peer that it has a link to. A learner, which never
        campaigns, knows the last leader's name for ever."""
        leader = self.engine.leader
        return leader is not None and (leader == self.me or leader in self.guard.linked)

    def caught_up(self, peer: str) -> bool:
        """At the leader: whether `peer`'s log holds all that is committed."""
        match = self.engine.match_index(peer)
        return self.engine.is_leader and match is not None and match >= self.engine.commit_index
