"""The one seam to pysyncobj 0.3.17: the only file that imports it or touches a private name of it.

pysyncobj is imported once and then **copied**: `syncobj.py` is loaded a second time, as a module of our own, and what we
replace is replaced in that copy. An embedder who uses pysyncobj finds it as it was, and the standard library's unpickler
(which importing pysyncobj patches) is put back.

Replaced module names, and why:

=====================  ====================================================================================
`pickle`               raises: nothing is pickled, on the wire or on disk
`createJournal`        returns the object in `conf.journalFile`: there is no argument for a journal
`createPoller`         polls nothing: the tick thread polls its own links
`PIPE_NOTIFIER_ENABLED`  no pipe: the tick thread has its own way to be woken
`globalDnsResolver`    no process-wide resolver: names are the mesh's business
`Serializer`           `_Pointer`: a snapshot is an offer, the state travels on a second connection
`monotonicTime`        `time.monotonic`, as everywhere else: the engine takes CLOCK_MONOTONIC_RAW, which NTP does not
                       steer and which drifts away from it. A simulator has its own, through :func:`use_clock`
=====================  ====================================================================================

Private members of `SyncObj` that are read, written or overridden (each is a debt with a name):

=============================  =============================================================================
read `__raftState`, `__raftCurrentTerm`, read/write `__raftLeader`  role, term and leader; a leader that is not heard
                                       is none
read/write `__raftElectionDeadline`    pre-vote and patience (H17, rule 8)
read/write `__raftNextIndex`           late acknowledgements and full queues (H2)
read/write `__raftMatchIndex`          acknowledgements clamped to the leader's durable index (rule 6)
read/write `__raftLastApplied`         starts at the checkpoint's index (H13); our own apply loop (H12)
read/write `__raftCommitIndex`         after the install of a snapshot
write `__readonlyNodes`                learners that become voters, and back
call `__onMessageReceived`, `__onNodeConnected`, `__onNodeDisconnected`, `__onReadonlyNodeConnected`,
     `__onReadonlyNodeDisconnected`    what a transport calls; kept by name to hand messages over after the guard
call `__updateClusterConfiguration`    after the install of a snapshot
override `__generateRaftTimeout`       seeded randomness, patience (rule 8)
override `__applyLogEntries`           no exception escapes, no entry twice, bounded by the overlay (H12, H13)
override `__sendAppendEntries`         flow control
override `__changeCluster`, `__doChangeCluster`, `__parseChangeClusterRequest`   membership (H8, H9, no pickle)
override `__tryLogCompaction`          does nothing: the log is cut behind checkpoints
override `_onTick`, `_checkCommandsToApply`   elections (pre-vote, one voter), batches; there is no queue of commands
=============================  =============================================================================
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle as _stdlib_pickle
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from raftcluster import failpoints, limits
from raftcluster.engine import membership, operations
from raftcluster.engine.guard import Guard
from raftcluster.engine.guards import Message
from raftcluster.engine.journal import Journal
from raftcluster.errors import Refusal
from raftcluster.storage.ports import Entry

_dispatch = dict(_stdlib_pickle._Unpickler.dispatch)
import pysyncobj  # noqa: E402 - between the copy and the restoration of the dispatch table
from pysyncobj.node import Node as _PackageNode  # noqa: E402

_stdlib_pickle._Unpickler.dispatch.clear()
_stdlib_pickle._Unpickler.dispatch.update(_dispatch)

PACKAGE_SHA256 = "45ba8b60ce682f65a65c8ab0c8c724028a28872c6470f0368c6dd4e015de7e15"
"""SHA-256 over (name, SHA-256) of every `*.py` of pysyncobj 0.3.17: the guard is written against these very files."""

NEVER = float("inf")


def package_sha256() -> str:
    """The hash of the installed pysyncobj, to compare with :data:`PACKAGE_SHA256`."""
    total = hashlib.sha256()
    for file in sorted(Path(pysyncobj.__file__).parent.glob("*.py")):
        total.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def check_package(*, allow_other: bool = False) -> bool:
    """Whether the installed engine is the one that the guard was written against.

    Raises `Refusal` when it is another one, unless `allow_other`; then it returns False and the caller raises an alarm.
    """
    found = package_sha256()
    if found == PACKAGE_SHA256:
        return True
    if allow_other:
        return False
    raise Refusal(
        f"the installed pysyncobj is not the 0.3.17 that the guard was written against (hash {found[:16]}…)",
        subject="pysyncobj",
        remedy="pip install --force-reinstall pysyncobj==0.3.17",
    )


class _NoPickle:
    """Stands where the engine's pickle was."""

    @staticmethod
    def _refuse(*_: object, **__: object) -> Any:
        raise AssertionError("pickle was reached")

    dumps = loads = dump = load = to_bytes = _refuse


class _Quiet:
    """A poller, and a resolver's configuration, that do nothing."""

    def poll(self, timeout: float) -> None: ...
    def setTimeouts(self, *_: object) -> None: ...  # noqa: N802 - the engine's name
    def setPreferredAddrFamily(self, *_: object) -> None: ...  # noqa: N802 - the engine's name


class _Pointer:
    """The engine's serializer: state is durable already, so a snapshot is an *offer*, never None (H16) and never data."""

    def __init__(self, *_: object) -> None: ...

    def getTransmissionData(self, node: object) -> tuple[bytes, bool, bool]:  # noqa: N802 - the engine's name
        return b"offer", True, True

    def setTransmissionData(self, data: object) -> bool:  # noqa: N802 - the engine's name
        return False

    def cancelTransmisstion(self, node: object) -> None: ...  # noqa: N802 - the engine's spelling


def _load_copy(name: str) -> ModuleType:
    """A second, private copy of the engine's module; relative imports go to the package as usual."""
    spec = importlib.util.spec_from_file_location(f"pysyncobj.{name}", Path(pysyncobj.__file__).with_name("syncobj.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stock_copy() -> ModuleType:
    """The engine as it was published, as a module of its own: for the tests that show what the guard mends."""
    return _load_copy("_raftcluster_stock")


_engine: Any = _load_copy("_raftcluster_guarded")
_engine.pickle = _NoPickle
_engine.createJournal = lambda journal: journal
_engine.createPoller = lambda kind: _Quiet()
_engine.globalDnsResolver = _Quiet
_engine.monotonicTime = time.monotonic
_engine.PIPE_NOTIFIER_ENABLED = False
_engine.Serializer = _Pointer
_SyncObj: Any = _engine.SyncObj
_LEADER, _CANDIDATE = _engine._RAFT_STATE.LEADER, _engine._RAFT_STATE.CANDIDATE


def use_clock(now: Callable[[], float]) -> None:
    """Let every engine of this process read `now` (seconds). For simulators, which own the process."""
    _engine.monotonicTime = now


def clock() -> float:
    """What every engine of this process reads, in seconds. All that is compared with its deadlines must be read here, or be the
    same: `Ports.now`."""
    return float(_engine.monotonicTime())


class Peer(_PackageNode):  # type: ignore[misc]
    """A node as the engine knows it. Hashed by its id alone, so that sets iterate alike in every process."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._hash = zlib.crc32(id.encode())  # the engine's dictionaries ask dozens of times an entry

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: Peer) -> bool:
        return bool(self.id < other.id)


class _Wire:
    """What the engine takes for its transport: it sends through the guard, and connections are not its business."""

    ready = True

    def __init__(self) -> None:
        self.guard: Guard | None = None

    def send(self, node: Peer, message: Message) -> bool:
        assert self.guard is not None
        self.guard.outgoing(node.id, message)
        return True

    def _ignore(self, *_: object) -> None: ...

    setOnNodeConnectedCallback = setOnNodeDisconnectedCallback = setOnMessageReceivedCallback = _ignore  # noqa: N815
    setOnReadonlyNodeConnectedCallback = setOnReadonlyNodeDisconnectedCallback = _ignore  # noqa: N815
    setOnUtilityMessageCallback = addNode = dropNode = tryGetReady = waitReady = destroy = _ignore  # noqa: N815


class Engine(_SyncObj):  # type: ignore[misc]
    """One node's Raft. Thread: tick thread only.

    `feed` is asked for new entries (bytes) whenever this node leads and may append; `apply` is given each committed
    entry once, in order, and raises only to stop the node; `may_apply` says whether there is room for another.
    """

    def __init__(
        self,
        me: str,
        voters: Iterable[str],
        journal: Journal,
        *,
        applied: int,
        random: Random,
        feed: Callable[[], list[bytes]],
        apply: Callable[[Entry], None],
        may_apply: Callable[[], bool],
        flush: Callable[[], None],
        on_role: Callable[[], None],
        heartbeat_seconds: float = limits.HEARTBEAT_SECONDS,
        election_seconds: tuple[float, float] = (limits.ELECTION_MIN_SECONDS, limits.ELECTION_MAX_SECONDS),
        check_quorum_seconds: float = limits.CHECK_QUORUM_SECONDS,
        append_bytes: int = limits.APPEND_BYTES,
    ) -> None:
        self.me, self.journal = me, journal
        self._guard: Guard | None = None
        self._random = random
        self._feed, self._apply, self._may_apply, self._flush = feed, apply, may_apply, flush
        self._peers: dict[str, Peer] = {}
        self._go = False
        self._wire = _Wire()
        conf = _engine.SyncObjConf(
            autoTick=False,
            journalFile=journal,
            fullDumpFile=None,
            dynamicMembershipChange=True,
            appendEntriesUseBatch=False,  # an entry leaves when it is appended, a commit when it is known
            appendEntriesPeriod=heartbeat_seconds,
            appendEntriesBatchSizeBytes=append_bytes,
            raftMinTimeout=election_seconds[0],
            raftMaxTimeout=election_seconds[1],
            leaderFallbackTimeout=check_quorum_seconds,
            connectionTimeout=max(3.5, election_seconds[1]),
            onStateChanged=lambda old, new: on_role(),
        )
        super().__init__(self._peer(me), [self._peer(v) for v in sorted(voters) if v != me], conf, transport=self._wire)
        if applied > 1:
            self._SyncObj__raftLastApplied = applied

    def guarded_by(self, guard: Guard) -> None:
        """Connect the guard; must happen before anything else does."""
        self._guard = self._wire.guard = guard

    def _peer(self, name: str) -> Peer:
        if name not in self._peers:
            self._peers[name] = Peer(name)
        return self._peers[name]

    # ---- what the guard and the replica see

    @property
    def term(self) -> int:
        return self._SyncObj__raftCurrentTerm  # type: ignore[no-any-return]

    @property
    def commit_index(self) -> int:
        return self._SyncObj__raftCommitIndex

    @property
    def applied(self) -> int:
        return self._SyncObj__raftLastApplied

    @property
    def is_leader(self) -> bool:
        return self._SyncObj__raftState == _LEADER  # type: ignore[no-any-return]

    @property
    def is_candidate(self) -> bool:
        return self._SyncObj__raftState == _CANDIDATE  # type: ignore[no-any-return]

    @property
    def leader(self) -> str | None:
        leader: Any = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def others(self) -> frozenset[str]:
        return frozenset(node.id for node in self._SyncObj__otherNodes)

    def hand(self, peer: str, message: Message) -> None:
        self._SyncObj__onMessageReceived(self._peer(peer), message)

    def next_index(self, peer: str) -> int | None:
        index = self._SyncObj__raftNextIndex.get(self._peer(peer))
        return None if index is None else int(index)

    def set_next_index(self, peer: str, index: int) -> None:
        if self._peer(peer) in self._SyncObj__raftNextIndex:
            self._SyncObj__raftNextIndex[self._peer(peer)] = index

    def match_index(self, peer: str) -> int | None:
        index = self._SyncObj__raftMatchIndex.get(self._peer(peer))
        return None if index is None else int(index)

    def raise_match(self, peer: str, index: int) -> None:
        match = self._SyncObj__raftMatchIndex
        match[self._peer(peer)] = max(match[self._peer(peer)], index)

    def heartbeat_in(self) -> float:
        """Seconds until a leader's next one is due; infinite while a cluster of one waits for its disk."""
        return NEVER if self._waits_for_disk() else float(self._SyncObj__newAppendEntriesTime - clock())

    def campaign(self) -> None:
        self._go = True
        self._SyncObj__raftElectionDeadline = 0.0

    # ---- links

    def linked(self, peer: str) -> bool:
        return bool(self.isNodeConnected(self._peer(peer)))

    def link_up(self, peer: str) -> None:
        node = self._peer(peer)
        if node in self._SyncObj__otherNodes:
            self._SyncObj__onNodeConnected(node)
        else:
            self._SyncObj__onReadonlyNodeConnected(node)  # a learner: it gets entries and has no vote

    def link_down(self, peer: str) -> None:
        node = self._peer(peer)
        if node in self._SyncObj__readonlyNodes:
            self._SyncObj__onReadonlyNodeDisconnected(node)
        else:
            self._SyncObj__onNodeDisconnected(node)

    def _sort_links(self) -> None:
        """After a change of the voters: learners that became voters, voters that became none."""
        assert self._guard is not None
        for peer in sorted(self._guard.linked):
            node = self._peer(peer)
            if node in self._SyncObj__otherNodes:
                self._SyncObj__readonlyNodes.discard(node)
            elif node not in self._SyncObj__readonlyNodes:
                self._SyncObj__onReadonlyNodeConnected(node)

    # ---- the tick

    def _onTick(self, timeToWait: float = 0.0) -> None:  # noqa: N802, N803 - the engine's names
        guard, journal = self._guard, self.journal
        assert guard is not None
        journal.flush()
        if self._waits_for_disk():
            return
        journal.synchronous = not self._SyncObj__otherNodes and guard.on("single") and not self.is_leader
        deadline: float = self._SyncObj__raftElectionDeadline
        if self.is_candidate and journal.term_ticket > journal.done:
            # one vote of its own in flight at a time
            deadline = max(deadline, clock() + self.conf.appendEntriesPeriod)
        if not self.is_leader:
            go, deadline = self._may_campaign(guard, deadline)
            # the engine compares the deadline with a later reading of the clock: park it unless an election is wanted
            self._SyncObj__raftElectionDeadline = 0.0 if go else NEVER
        try:
            super()._onTick(timeToWait)
        finally:
            journal.synchronous = False
            if self._SyncObj__raftElectionDeadline == NEVER:
                self._SyncObj__raftElectionDeadline = deadline
        guard.reads.settle()
        journal.flush()

    def _waits_for_disk(self) -> bool:
        """Rule 7: a cluster of one would count itself before its disk has."""
        assert self._guard is not None
        alone = not self._SyncObj__otherNodes and self._guard.on("single")
        return alone and self.journal.submitted > self.journal.done

    def _may_campaign(self, guard: Guard, deadline: float) -> tuple[bool, float]:
        """Whether this tick may start an election, and the deadline to keep when it may not."""
        go, self._go = self._go, False
        now = clock()
        if not self._SyncObj__otherNodes and self.me in self.journal.voters():
            return True, deadline  # a cluster of one has nobody to wait for
        if deadline >= now:
            return False, deadline
        if guard.on("only_voters") and self.me not in self.journal.voters():
            return False, now + self.conf.raftMaxTimeout
        if go or guard.election.transfer_term == self.term or not guard.on("pre_vote"):
            return True, deadline
        deadline = now + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = None  # it was not heard for an election time-out
        return guard.election.ask(), deadline

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        timeout = self._random.uniform(self.conf.raftMinTimeout, self.conf.raftMaxTimeout)
        if self._guard is not None and self._guard.on("patience"):
            timeout += 3 * min(5.0, self.journal.slowest())
        return timeout

    def _checkCommandsToApply(self) -> None:  # noqa: N802 - the engine's name
        """Append what there is, and send it. Not by way of the engine's queue: there an entry stays when the process stands still
        for a heartbeat, and one that has lost the lead meanwhile would hand it over to the next leader."""
        if self.is_leader and (entries := self._feed()):
            for entry in entries:
                self.journal.add(operations.REGULAR + entry, self.journal.last[1] + 1, self.term)
            self._SyncObj__sendAppendEntries()

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """The replica cuts the log itself, behind its checkpoints (H6, H7)."""

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        super()._SyncObj__sendAppendEntries()
        assert self._guard is not None
        self._guard.round_done()

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """Apply what is committed, once each and in order. The leader first sends its followers the commit index, with the
        next batch: all apply at the same time, while that batch is on its way to the disks. (So it need not send after.)"""
        if self.is_leader and self._SyncObj__raftLastApplied < self._SyncObj__raftCommitIndex:
            last = self.journal.last[1]
            self._checkCommandsToApply()
            if self.journal.last[1] == last:
                self._SyncObj__sendAppendEntries()
            self.journal.flush()
            self._flush()
        while self._SyncObj__raftLastApplied < self._SyncObj__raftCommitIndex and self._may_apply():
            entry = self.journal.get(self._SyncObj__raftLastApplied + 1)
            assert entry is not None, f"committed entry {self._SyncObj__raftLastApplied + 1} is not in the log"
            self._apply(entry)
            self._SyncObj__raftLastApplied += 1
        return False

    # ---- membership

    def change_voters(self, change: membership.Change) -> int | None:
        """Append a change of the voters; its index, or None when it is refused: not the leader, another change under
        way, nothing of this term committed yet, or the new voter has not caught up."""
        if not self.is_leader or not self._SyncObj__changeCluster([change.action, change.node]):
            return None
        index = self.journal.last[1] + 1
        self.journal.add(membership.MEMBERSHIP + membership.encode(change), index, self.term)
        failpoints.reach("membership.append")
        self._SyncObj__sendAppendEntries()
        return index

    def _SyncObj__changeCluster(self, request: list[str]) -> bool:  # noqa: N802
        guard, journal, commit = self._guard, self.journal, self.commit_index
        assert guard is not None
        committed = journal.get(commit)
        if guard.on("no_op_first") and (committed is None or committed[2] != self.term):
            return False
        if guard.on("one_change") and journal.change_after(commit):
            return False
        if request[0] == "add" and guard.on("caught_up") and (self.match_index(request[1]) or 0) < commit:
            return False
        return bool(self._SyncObj__doChangeCluster(request))

    def _SyncObj__doChangeCluster(self, request: list[str], reverse: bool = False) -> bool:  # noqa: N802
        failpoints.reach("membership.apply.before")
        changed = super()._SyncObj__doChangeCluster([request[0], request[1], self._peer(request[1])], reverse)
        if changed:
            self._sort_links()
        failpoints.reach("membership.apply.after")
        return bool(changed)

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> list[str] | None:  # noqa: N802
        change = membership.decode(command)
        return None if change is None else [change.action, change.node]

    # ---- snapshots

    def installed(self, index: int) -> None:
        """The journal and the tables have been replaced by a snapshot at `index`: follow them."""
        self._SyncObj__raftLastApplied = index
        if self.commit_index < index:
            self._SyncObj__raftCommitIndex = index
            self.journal.setRaftCommitIndex(index)
        self._SyncObj__updateClusterConfiguration(
            [self._peer(v) for v in sorted(self.journal.voters()) if v != self.me]
        )
        self._sort_links()

    # ---- leadership

    def hand_over(self, target: str | None) -> bool:
        """Ask `target` (or the follower that has most) to campaign at once; False when it has not caught up."""
        answers: list[int] = []
        self.transferLeadership(
            None if target is None else self._peer(target), lambda _, reason: answers.append(reason)
        )
        return answers == [_engine.FAIL_REASON.SUCCESS]
