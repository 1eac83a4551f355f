"""Keeps a node's table as the cluster is: compares what should be let in with what the kernel says, and mends it.

Thread: its own; nothing of it runs on the tick thread but the setting of an event. It looks when the cluster's tables have
changed, and every some seconds besides: names move, members are seen, and somebody may have flushed the rule set. A node
whose firewall cannot be kept goes on, with an alarm and an event: mutual TLS is what keeps strangers out of the cluster.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from raftcluster.errors import RaftclusterError, Refusal, Unavailable
from raftcluster.firewall.foreign import obstacles
from raftcluster.firewall.nft import Nft
from raftcluster.firewall.sources import Memory, Resolve, addresses_of
from raftcluster.firewall.table import Found, Table
from raftcluster.storage.directory import DataDirectory

log = logging.getLogger("raftcluster.firewall")

INTERVAL_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 5.0
"""A name that is being looked up cannot be interrupted."""
FILE: Final = "firewall.json"
"""What is remembered of the members' addresses, in the data directory."""

Note = Callable[..., None]
"""`note(event, **fields)` records an event."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the cluster says now."""

    members: Mapping[str, str]
    """node id -> name or address, this node's own not included."""
    links: Mapping[str, str] = field(default_factory=dict)
    """node id -> the address from which it is linked."""
    invited: Mapping[str, int] = field(default_factory=dict)
    """Name or address -> for how many seconds it is invited yet."""
    former: frozenset[str] = frozenset()
    """Names or addresses of members of a destroyed cluster, who may come for its tombstone."""
    moved: frozenset[str] = frozenset()
    """Names or addresses at which members are looked for that the record has elsewhere yet."""


class Keeper:
    """One per node with a firewall. Thread: every method from any thread but the tick thread, `wake` from that as well."""

    def __init__(
        self,
        directory: DataDirectory,
        table: str,
        port: int,
        look: Callable[[], Wanted],
        note: Note,
        resolve: Resolve,
        *,
        nft: Nft | None = None,
        interval_s: float = INTERVAL_SECONDS,
    ) -> None:
        """`look` says what the cluster wants; it may raise `RaftclusterError` when the node cannot answer now."""
        self.table, self.port = table, port
        self._directory, self._look, self._note, self._resolve = directory, look, note, resolve
        self._nft = nft or Nft()
        self._interval_s = interval_s
        self._memory = self._remembered()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._prepared: Mapping[str, str] = {}
        """Members as known without the cluster, until it says more: node id -> host."""
        self._troubles: dict[str, str] = {}
        self._state: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="raftcluster-firewall", daemon=True)

    def prepare(self, members: Mapping[str, str]) -> None:
        """Before the port is listened at: make the table unless it is there, from what is known without the cluster."""
        wanted = Wanted(members)
        with self._lock:
            try:
                if not self._nft.table(self.table):
                    self._prepared = members
                    self._memory.learn(members, {}, lambda name: ())
                    self._create(self._desired(wanted))
            except Refusal as error:
                self._failed(error)

    def start(self) -> None:
        """Begin to keep it."""
        self._thread.start()

    def wake(self) -> None:
        """Look soon."""
        self._wake.set()

    def close(self) -> None:
        """End. The table stays: a port that nobody listens at needs no less protection. Idempotent."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def troubles(self) -> dict[str, str]:
        """What people must know: stable code -> text."""
        return dict(self._troubles)

    def state(self) -> dict[str, Any]:
        """For status: table, port, who is let in, and how many packets were dropped and admitted."""
        return dict(self._state)

    def step(self) -> None:
        """Compare and mend once. Raises `RaftclusterError` when the node cannot say what it wants."""
        try:
            wanted = self._look()
        except Unavailable:
            self._name_prepared()
            raise
        self._prepared = {}
        with self._lock:
            if self._memory.learn(wanted.members, wanted.links, self._resolve):
                self._directory.write(FILE, json.dumps(asdict(self._memory)).encode())
            table = self._desired(wanted)
            if self._closed.is_set():  # names take their time: the table may have been removed meanwhile, for good
                return
            try:
                found = self._reconcile(table)
                foreign = obstacles(self._nft.ruleset(), self.port, self.table)
            except Refusal as error:
                self._failed(error)
                return
            self._troubles = {"firewall-foreign": "; ".join(map(str, foreign))} if foreign else {}
            self._state = {
                "table": self.table,
                "port": self.port,
                "members": sorted(table.members),
                "invited": sorted(table.invited),
                "admitted": found.admitted if found else 0,
                "dropped": found.dropped if found else 0,
            }

    def _name_prepared(self) -> None:
        """Let in the members that `prepare` knew by name only: a node that has just joined knows nothing newer before one
        of them has linked, and of two nodes one dials."""
        with self._lock:
            if self._closed.is_set() or not self._prepared:
                return
            if not self._memory.learn(self._prepared, {}, self._resolve):
                return
            try:
                self._reconcile(self._desired(Wanted(self._prepared)))
            except Refusal as error:
                self._failed(error)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            try:
                self.step()
            except RaftclusterError as error:
                log.debug("nothing to compare now: %s", error)
            self._wake.wait(self._interval_s)

    def _reconcile(self, table: Table) -> Found | None:
        """What was found; afterwards it is as `table` says."""
        found = Found.read(self._nft.table(table.name), table.name)
        if found is None or not found.is_framed_as(table):
            self._create(table)
        elif not found.lets_in(table):
            self._nft.apply(table.update())
            before = found.members | set(found.invited)
            added, removed = sorted(table.sources - before), sorted(before - table.sources)
            if added or removed:
                self._note("firewall-changed", table=table.name, added=added, removed=removed)
        return found

    def _create(self, table: Table) -> None:
        self._nft.apply(table.creation())
        self._note("firewall-created", table=table.name, port=table.port, sources=sorted(table.sources))

    def _desired(self, wanted: Wanted) -> Table:
        former = {each for host in wanted.former | wanted.moved for each in addresses_of(host, self._resolve)}
        members = self._memory.addresses() | former
        invited: dict[str, int] = {}
        for host, seconds in wanted.invited.items():
            for address in addresses_of(host, self._resolve):
                if address not in members:
                    invited[address] = max(seconds, invited.get(address, 0))
        return Table(self.table, self.port, members, invited)

    def _failed(self, error: Refusal) -> None:
        text = f"table {self.table} cannot be kept up to date: {error}"
        if self._troubles.get("firewall") != text:
            log.error("%s", text)
            self._note("firewall-failed", table=self.table, reason=str(error))
        self._troubles = {"firewall": text}

    def _remembered(self) -> Memory:
        file = self._directory.path / FILE
        try:
            return Memory(**json.loads(file.read_bytes()))
        except FileNotFoundError:
            return Memory()
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s is of no use, addresses are learnt anew: %s", file, error)
            return Memory()
