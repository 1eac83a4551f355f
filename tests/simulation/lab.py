"""A bench for schedules written by hand: the stock engine or ours, and every message in the hand of the test.

Both labs speak the same words, so that one schedule runs on either::

    lab.elect("n1", ["n2"])      n1 campaigns, the named voters answer
    lab.command("n1")            a command at n1; its number
    lab.tick("n1")               one tick
    lab.give("n1", "n2")         deliver what n1 has sent n2
    lab.drop("n1", "n2")         lose it
    lab.flow(["n1", "n2"])       let those talk for a while

Disks are perfect and links ordered, unless a schedule says otherwise: what goes wrong is the engine's.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, cast

from raftcluster.engine import seam
from raftcluster.engine.membership import Change
from raftcluster.engine.operations import Operation, Result
from raftcluster.engine.ports import Bounds, Ports, Timing
from raftcluster.engine.replica import Replica
from raftcluster.machine import Tables
from raftcluster.storage.memory import MemoryDisk, MemoryLog, MemoryTables

Message = dict[str, Any]
PERIOD = 0.11


class Clock:
    """The virtual clock of one lab."""

    def __init__(self) -> None:
        self.now = 100.0
        self.reading_seconds = 1e-6
        """What a reading takes; a heartbeat is 0.1 s."""

    def __call__(self) -> float:
        self.now += self.reading_seconds
        return self.now


class Lab(ABC):
    """What both have in common: queues of messages between nodes."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = list(ids)
        self.clock = Clock()
        self.sent: dict[tuple[str, str], deque[Message]] = defaultdict(deque)
        self.links: set[tuple[str, str]] = set()
        self.acknowledged: dict[int, bool] = {}
        """command -> whether its caller was told of success."""
        self.commands = 0
        self.errors: list[str] = []
        """Exceptions that a tick or a delivery has raised."""

    def queue(self, source: str, target: str, message: Message) -> bool:
        if (source, target) not in self.links:
            return False
        message = dict(message)
        if "entries" in message:
            message["entries"] = list(message["entries"])
        self.sent[source, target].append(message)
        return True

    def give(self, source: str, target: str, count: int | None = None) -> int:
        """Deliver the next `count` messages (all by default); how many there were."""
        queue = self.sent[source, target]
        given = 0
        while queue and (count is None or given < count):
            self.deliver(source, target, queue.popleft())
            given += 1
        return given

    def drop(self, source: str, target: str) -> None:
        self.sent[source, target].clear()

    def take(self, source: str, target: str) -> list[Message]:
        """What is under way, taken out."""
        taken = list(self.sent[source, target])
        self.sent[source, target].clear()
        return taken

    def link(self, a: str, b: str) -> None:
        for x, y in ((a, b), (b, a)):
            if (x, y) not in self.links:
                self.links.add((x, y))
                self.up(x, y)

    def unlink(self, a: str, b: str) -> None:
        for x, y in ((a, b), (b, a)):
            self.sent[x, y].clear()
            if (x, y) in self.links:
                self.links.discard((x, y))
                self.down(x, y)

    def flow(self, ids: Iterable[str], rounds: int = 4, seconds: float = PERIOD) -> None:
        ids = list(ids)
        for _ in range(rounds):
            self.clock.now += seconds
            for node in ids:
                self.tick(node)
            for _ in range(6):
                for a in ids:
                    for b in ids:
                        if a != b:
                            self.give(a, b)

    def beat(self, *ids: str, seconds: float = PERIOD) -> None:
        """Time passes, then each ticks."""
        self.clock.now += seconds
        for node in ids:
            self.tick(node)

    def guarded_call(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the schedule goes on, as the engine's own thread would
            self.errors.append(f"{type(error).__name__}: {error}")

    # what differs

    @abstractmethod
    def deliver(self, source: str, target: str, message: Message) -> None: ...

    @abstractmethod
    def tick(self, node: str) -> None: ...

    @abstractmethod
    def up(self, node: str, peer: str) -> None: ...

    @abstractmethod
    def down(self, node: str, peer: str) -> None: ...


class StockJournal:
    """A perfect disk for the stock engine: what was written is there after a crash."""

    def __init__(self, disk: dict[str, Any]) -> None:
        self.disk = disk

    @property
    def entries(self) -> list[tuple[bytes, int, int]]:
        return self.disk.setdefault("log", [])  # type: ignore[no-any-return]

    def add(self, command: bytes, idx: int, term: int) -> None:
        self.entries.append((command, idx, term))

    def clear(self) -> None:
        self.entries.clear()

    def deleteEntriesFrom(self, position: int) -> None:  # noqa: N802
        del self.entries[position:]

    def deleteEntriesTo(self, position: int) -> None:  # noqa: N802
        del self.entries[:position]

    def __getitem__(self, position: Any) -> Any:
        return self.entries[position]

    def __len__(self) -> int:
        return len(self.entries)

    def _destroy(self) -> None: ...

    def setRaftCommitIndex(self, commit: int) -> None:  # noqa: N802
        self.disk["commit"] = commit

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return int(self.disk.get("commit", 1))

    def setCurrentTerm(self, term: int, vote: Any) -> None:  # noqa: N802
        self.disk["term"], self.disk["vote"] = term, vote

    def getCurrentTerm(self) -> int:  # noqa: N802
        return int(self.disk.get("term", 0))

    def getVotedForNodeId(self) -> Any:  # noqa: N802
        return self.disk.get("vote")

    def onOneSecondTimer(self) -> None: ...  # noqa: N802


class _StockTransport:
    """The stock engine's transport: it knows its configured peers and trusts every message."""

    ready = True

    def __init__(self, lab: StockLab, me: str) -> None:
        self.lab, self.me = lab, me
        self.nodes: dict[str, Any] = {}
        self.on_message: Callable[..., None] = lambda *_: None
        self.on_up: Callable[..., None] = lambda *_: None
        self.on_down: Callable[..., None] = lambda *_: None

    def setOnMessageReceivedCallback(self, callback: Callable[..., None]) -> None:  # noqa: N802
        self.on_message = callback

    def setOnNodeConnectedCallback(self, callback: Callable[..., None]) -> None:  # noqa: N802
        self.on_up = callback

    def setOnNodeDisconnectedCallback(self, callback: Callable[..., None]) -> None:  # noqa: N802
        self.on_down = callback

    def _ignore(self, *_: Any) -> None: ...

    setOnReadonlyNodeConnectedCallback = setOnReadonlyNodeDisconnectedCallback = _ignore  # noqa: N815
    setOnUtilityMessageCallback = tryGetReady = waitReady = destroy = _ignore  # noqa: N815

    def addNode(self, node: Any) -> None:  # noqa: N802
        self.nodes[node.id] = node

    def dropNode(self, node: Any) -> None:  # noqa: N802
        self.nodes.pop(node.id, None)

    def send(self, node: Any, message: Message) -> bool:
        return self.lab.queue(self.me, node.id, message)


class StockLab(Lab):
    """pysyncobj 0.3.17 as published: its class, its dumps, its pickles; our links and disks."""

    def __init__(
        self,
        ids: Iterable[str],
        dumps: str = "",
        *,
        boot: Iterable[str] | None = None,
        batch_bytes: int = 2**16,
        compact_entries: int = 10**6,
        snapshot_bytes: int = 2**16,
        membership: bool = False,
    ) -> None:
        super().__init__(ids)
        logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)
        self.module: Any = cast("Any", seam.stock_copy())
        self.module.monotonicTime = self.clock
        self.module.PIPE_NOTIFIER_ENABLED = False
        self.module.createJournal = lambda journal: journal
        self.dumps = dumps
        self.options = {
            "batch": batch_bytes,
            "compact": compact_entries,
            "snapshot": snapshot_bytes,
            "membership": membership,
        }
        self.boot = list(boot or self.ids)
        self.disks: dict[str, dict[str, Any]] = {node: {} for node in self.ids}
        self.nodes: dict[str, Any] = {}
        self.started: list[Any] = []
        self.transports: dict[str, _StockTransport] = {}
        self.executed: dict[str, list[int]] = {}
        self.poison: set[int] = set()
        """Commands whose method raises."""
        for node in self.ids:
            self.start(node)

    def start(self, node: str, others: Iterable[str] | None = None) -> None:
        lab = self

        class Replicated(self.module.SyncObj):  # type: ignore[name-defined,misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.history: list[int] = []

            @self.module.replicated  # type: ignore[untyped-decorator]
            def operate(self, number: int, padding: str = "") -> int:
                lab.executed.setdefault(node, []).append(number)
                if number in lab.poison:
                    raise KeyError(number)
                self.history.append(number)
                return number

        transport = self.transports[node] = _StockTransport(self, node)
        conf = self.module.SyncObjConf(
            autoTick=False,
            journalFile=StockJournal(self.disks[node]),
            fullDumpFile=f"{self.dumps}/{node}.dump" if self.dumps else None,
            useFork=False,
            dynamicMembershipChange=self.options["membership"],
            appendEntriesBatchSizeBytes=self.options["batch"],
            logCompactionMinEntries=self.options["compact"],
            logCompactionMinTime=10**9,
            logCompactionBatchSize=self.options["snapshot"],
        )
        peers = [seam.Peer(p) for p in (self.boot if others is None else others) if p != node]
        for each in peers:
            transport.addNode(each)
        self.nodes[node] = Replicated(seam.Peer(node), peers, conf, nodeClass=seam.Peer, transport=transport)
        self.started.append(self.nodes[node])
        for peer in self.nodes:
            if peer != node:
                self.link(node, peer)

    def close(self) -> None:
        """Close the dump files that the stock class has left open."""
        for node in self.started:
            serializer = node._SyncObj__serializer
            if serializer._Serializer__incomingTransmissionFile is not None:
                serializer._Serializer__incomingTransmissionFile.close()
            for peer in self.ids:
                serializer.cancelTransmisstion(seam.Peer(peer))

    def crash(self, node: str) -> None:
        for peer in self.ids:
            self.unlink(node, peer)
        del self.nodes[node]

    def up(self, node: str, peer: str) -> None:
        if node in self.nodes and peer in self.transports[node].nodes:
            self.transports[node].on_up(self.transports[node].nodes[peer])

    def down(self, node: str, peer: str) -> None:
        if node in self.nodes and peer in self.transports[node].nodes:
            self.transports[node].on_down(self.transports[node].nodes[peer])

    def deliver(self, source: str, target: str, message: Message) -> None:
        known = self.transports[target].nodes.get(source) if target in self.nodes else None
        if known is not None:
            self.guarded_call(lambda: self.transports[target].on_message(known, message))

    def tick(self, node: str) -> None:
        if node in self.nodes:
            self.guarded_call(lambda: self.nodes[node].doTick(0.0))

    def private(self, node: str, name: str) -> Any:
        return getattr(self.nodes[node], f"_SyncObj__{name}")

    def elect(self, node: str, voters: Iterable[str]) -> None:
        for _ in range(30):
            self.nodes[node]._SyncObj__raftElectionDeadline = 0
            self.tick(node)
            for voter in voters:
                self.give(node, voter)
                self.give(voter, node)
            if self.is_leader(node):
                return
        raise AssertionError(f"{node} was not elected")

    def is_leader(self, node: str) -> bool:
        return bool(self.nodes[node]._isLeader())

    def command(self, node: str, padding: str = "") -> int:
        self.commands += 1
        number = self.commands

        def done(result: Any, reason: int) -> None:
            self.acknowledged[number] = reason == self.module.FAIL_REASON.SUCCESS

        self.nodes[node].operate(number, padding, callback=done)
        return number

    def log(self, node: str) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self.disks[node]["log"]]

    def term(self, node: str) -> int:
        return int(self.nodes[node].raftCurrentTerm)

    def commit(self, node: str) -> int:
        return int(self.nodes[node].raftCommitIndex)

    def history(self, node: str) -> list[int]:
        return list(self.nodes[node].history)

    def members(self, node: str) -> set[str]:
        return {peer.id for peer in self.nodes[node].otherNodes}

    def add(self, node: str, member: str) -> None:
        self.nodes[node].addNodeToCluster(seam.Peer(member), callback=lambda *_: None)

    def compact(self, node: str) -> None:
        self.nodes[node].forceLogCompaction()


class History:
    """The state machine of the guarded lab: which commands were carried out, in order."""

    name = "history"
    schema = 1
    tables: Sequence[str] = ("rows",)

    def __init__(self, lab: GuardedLab, node: str) -> None:
        self.lab, self.node = lab, node

    def apply(self, command: Any, tables: Tables, time: int) -> Any:
        self.lab.executed.setdefault(self.node, []).append(command[0])
        if command[0] in self.lab.poison:
            raise KeyError(command[0])
        position = len(tables.scan("rows", limit=10**6))
        tables.put("rows", position.to_bytes(4, "big"), command[0].to_bytes(4, "big"))
        return command[0]

    def tick(self, tables: Tables, time: int) -> None: ...


class GuardedLab(Lab):
    """Our replica, driven by hand."""

    def __init__(
        self,
        ids: Iterable[str],
        *,
        boot: Iterable[str] | None = None,
        batch_bytes: int = 2**20,
        keep_entries: int = 10**6,
        disabled: Iterable[str] = (),
    ) -> None:
        super().__init__(ids)
        seam.use_clock(self.clock)
        self.boot = list(boot or self.ids)
        self.bounds = Bounds(append_bytes=batch_bytes, entry_operations=1, keep_entries=keep_entries, in_flight=10**6)
        self.disabled = frozenset(disabled)
        self.disks = {node: MemoryDisk() for node in self.ids}
        self.logs: dict[str, MemoryLog] = {}
        self.nodes: dict[str, Replica] = {}
        self.posts: dict[str, deque[Callable[[], None]]] = defaultdict(deque)
        self.fetches: list[tuple[str, str]] = []
        """(node, peer): snapshots that were asked for and not brought yet."""
        self.executed: dict[str, list[int]] = {}
        self.poison: set[int] = set()
        for node in self.ids:
            self.start(node)

    def start(self, node: str) -> None:
        disk = self.disks[node]
        self.posts[node].clear()
        self.logs[node] = MemoryLog(disk, auto=True)
        ports = Ports(
            send=lambda peer, message: self.queue(node, peer, message),
            post=self.posts[node].append,
            fetch=lambda peer: self.fetches.append((node, peer)),
            now=self.clock,
            boot=lambda: self.clock.now * 1000,
            wall=lambda: self.clock.now * 1000,
            random=Random(f"{node} {self.clock.now}"),
        )
        timing = Timing(heartbeat=0.1, election_min=0.4, election_max=1.4, check_quorum=30.0, checkpoint=10**9)
        self.nodes[node] = Replica(
            node,
            self.boot,
            [History(self, node)],
            self.logs[node],
            MemoryTables(disk, auto=True),
            ports,
            timing=timing,
            bounds=self.bounds,
            disabled=self.disabled,
        )
        for peer in self.nodes:
            if peer != node:
                self.link(node, peer)

    def crash(self, node: str) -> None:
        for peer in self.ids:
            self.unlink(node, peer)
        self.disks[node].crash()
        del self.nodes[node]

    def up(self, node: str, peer: str) -> None:
        if node in self.nodes:
            self.nodes[node].link_up(peer)

    def down(self, node: str, peer: str) -> None:
        if node in self.nodes:
            self.nodes[node].link_down(peer)

    def settle(self, node: str) -> None:
        while self.posts[node]:
            self.posts[node].popleft()()

    def deliver(self, source: str, target: str, message: Message) -> None:
        if target in self.nodes:
            self.guarded_call(lambda: self.nodes[target].deliver(source, message))
            self.settle(target)
            self.guarded_call(self.nodes[target].journal.flush)
            self.settle(target)

    def tick(self, node: str) -> None:
        if node in self.nodes:
            self.guarded_call(self.nodes[node].step)
            self.settle(node)

    def elect(self, node: str, voters: Iterable[str]) -> None:
        voters = list(voters)
        for _ in range(30):
            self.clock.now += 1.5  # whoever heard a leader has forgotten it
            self.nodes[node].engine.campaign()
            self.tick(node)
            for _ in range(2):
                for voter in voters:
                    self.give(node, voter)
                    self.give(voter, node)
            if self.is_leader(node):
                return
        raise AssertionError(f"{node} was not elected: {self.errors}")

    def is_leader(self, node: str) -> bool:
        return self.nodes[node].engine.is_leader

    def command(self, node: str, padding: str = "") -> int:
        self.commands += 1
        number = self.commands

        def done(results: list[Result] | None, error: Exception | None) -> None:
            self.acknowledged[number] = error is None and results is not None and results[0][0] == 0

        replica = self.nodes[node]
        ident = number.to_bytes(16, "big")
        replica.submit(Operation("history", ident, replica.engine.applied, [[number, padding]]), done)
        return number

    def log(self, node: str) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self.nodes[node].journal.entries]

    def term(self, node: str) -> int:
        return self.nodes[node].engine.term

    def commit(self, node: str) -> int:
        return self.nodes[node].engine.commit_index

    def history(self, node: str) -> list[int]:
        rows = self.nodes[node].applier.tables("history").scan("rows", limit=10**6)
        return [int.from_bytes(value, "big") for _, value in rows]

    def members(self, node: str) -> set[str]:
        return set(self.nodes[node].engine.others)

    def add(self, node: str, member: str) -> bool:
        return self.nodes[node].change_voters(Change("add", member), lambda done: None)

    def compact(self, node: str) -> None:
        """A checkpoint, and the log cut behind it."""
        self.nodes[node].checkpoint_now()
        self.settle(node)

    def bring_snapshots(self) -> int:
        """Carry out the fetches that wait; how many there were."""
        fetches, self.fetches = self.fetches, []
        for node, peer in fetches:
            snapshot = self.nodes[peer].store.snapshot() if peer in self.nodes else None
            replica = self.nodes[node]
            if snapshot is None:
                replica.snapshot_done(False)
            else:
                replica.store.install(snapshot.index, snapshot.anchor, snapshot.chunks, replica.snapshot_done)
            self.settle(node)
        return len(fetches)
