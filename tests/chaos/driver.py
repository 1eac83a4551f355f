"""`python -m tests.chaos.driver DIRECTORY NAME INCARNATION HISTORY`: a node with its recorded clients.

Driven by JSON lines on standard input, [number, command, ...arguments]; answered in order with [number, "ok", result] or
[number, "error", code, text]. See `Driver` for the commands.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import raftcluster
from raftcluster import Node, Verdict
from raftcluster.builtin import all_machines
from raftcluster.errors import RaftclusterError, Unavailable
from raftcluster.machine import ReadTables
from raftcluster.storage.digest import digest
from tests.chaos.clients import CLIENTS, Client
from tests.chaos.ledger import NAME as LEDGER
from tests.chaos.ledger import PAGE, Ledger, read_page
from tests.chaos.recorder import Recorder

PRODUCT = "chaos/1"
MACHINES = tuple(all_machines([Ledger()]))
HASH_ENTRIES = 50
"""Tables are hashed after each entry whose index is a multiple of this."""
HASH_ROWS = 500
"""Rows of each table that go into it, from a place on that depends on the index: it is done between two entries."""


class Driver:
    """The public methods are the commands."""

    def __init__(self, directory: Path, name: str, recorder: Recorder) -> None:
        self._directory, self._name, self._recorder = directory, name, recorder
        self._node: Node | None = None
        self._clients: list[Client] = []
        self._hashed = 0

    def init(self, address: str, port: int) -> None:
        raftcluster.init(
            self._directory,
            cluster="chaos",
            node=self._name,
            listen=(address, port),
            lab=True,
            product=PRODUCT,
            firewall=False,
        )

    def join(self, member: str, token: str, address: str, port: int) -> None:
        raftcluster.join(
            self._directory,
            address=(member, port),
            token=token,
            node=self._name,
            listen=(address, port),
            product=PRODUCT,
            machines=[Ledger()],
            firewall=False,
        )

    def open(self) -> str:
        """Open the node, without waiting for a leader; its id."""
        self._node = node = Node.open(self._directory, product=PRODUCT, machines=[Ledger()], ready_seconds=0)
        for machine in MACHINES:
            node.on_apply(machine.name, self._applied)
        node._runtime.on_role(self._role)
        return node.id

    def load(self, seed: int) -> None:
        """Let the clients begin."""
        self._clients = [kind(name, self.node, self._recorder, seed) for name, kind in CLIENTS.items()]
        for client in self._clients:
            client.start()

    def checks(self, asked: list[dict[str, Any]]) -> list[Any]:
        """Check all of them at once: [action, reason, whether it is degraded] of each, in order."""
        told: SimpleQueue[tuple[int, Verdict | None]] = SimpleQueue()

        def tell(number: int, verdict: Verdict | None, _: RaftclusterError | None) -> None:
            told.put((number, verdict))

        for number, each in enumerate(asked):
            self.node.greylist.submit(partial(tell, number), **each)
        found = dict(told.get() for _ in asked)
        verdicts = [found[number] for number in range(len(asked))]
        return [[each.action, each.reason, each.degraded] if each else ["", "", True] for each in verdicts]

    def totals(self) -> dict[str, int]:
        """What the counters of all nodes say together."""
        nodes = self.node.greylist.stats(consistency="linearizable")["nodes"].values()
        return {name: sum(counts[name] for counts in nodes) for name in ("deferred", "passed")}

    def seen(self, asked: dict[str, Any]) -> dict[str, int]:
        """What the record of a triplet has counted."""
        seen = self.node.greylist.explain(**asked, consistency="linearizable")["seen_by"]
        return {name: sum(counts[name] for counts in seen) for name in ("deferred", "passed")}

    def quiet(self) -> None:
        """Stop the clients; each may finish what it does."""
        for client in self._clients:
            client.end()
        for client in self._clients:
            client.join()

    @property
    def node(self) -> Node:
        if self._node is None:
            raise Unavailable("the node is not open")
        return self._node

    def status(self) -> Any:
        return self.node.status()

    def settled(self) -> Any:
        """Leader, last entry, applied entry, and whether certificates are as they will stay."""
        status = self.node.status()
        return [status["leader"], status["last_index"], status["applied_index"], self.node.certs.show().pending is None]

    def invite(self, name: str) -> str:
        return str(self.node.members.invite(name))

    def remove(self, name: str) -> None:
        self.node.members.remove(name)

    def transfer(self, target: str | None) -> str:
        return self.node.transfer(target)

    def configure(self, changes: dict[str, Any]) -> int:
        return self.node.greylist.configure(changes)

    def wall(self) -> float:
        """The wall clock as this process sees it."""
        return time.time()

    def ready(self) -> None:
        """Raises `Unavailable` unless the node can answer for the cluster now."""
        self.node.wait_ready(2.0)

    def tables(self) -> Any:
        """[index, {table: hash}] of the newest checkpoint."""
        snapshot = self.node._store.snapshot()
        return None if snapshot is None else [snapshot.index, digest(snapshot)]

    def ledger(self) -> list[Any]:
        """All rows, each page read linearizably."""
        rows: list[Any] = []
        while True:
            after = rows[-1][0] if rows else ""
            page = self.node.query(LEDGER, _page_after(after), consistency="linearizable", deadline=10.0)
            rows += page
            if len(page) < PAGE:
                return rows

    def notices(self) -> list[Any]:
        """[position, text] of all notifications."""
        found = self.node.notifications.list(acknowledged=True, consistency="linearizable")
        return [[each.position, each.text] for each in found]

    def listed(self) -> list[str]:
        """The patterns of all entries of the greylist's lists that this node holds."""
        found: list[str] = []
        after = ""
        while True:
            page: Any = self.node.greylist.lists.show(after=after)
            found += [entry["pattern"] for entry in page["entries"]]
            after = page["next"]
            if not after:
                return found

    def held(self) -> dict[str, list[Any]]:
        """id -> how the release stands, and how often it was delivered, of all held messages."""
        found: dict[str, list[Any]] = {}
        after = ""
        while True:
            page = self.node.quarantine.list(after=after, consistency="linearizable")
            for each in page.messages:
                (one,) = self.node.quarantine.show(each.id).recipients
                found[each.id] = [one.state, one.deliveries]
            after = page.next
            if not after:
                return found

    def counted(self) -> int:
        """How many greylist checks the cluster has counted."""
        nodes = self.node.greylist.stats(consistency="linearizable")["nodes"]
        return sum(counts["deferred"] + counts["passed"] for counts in nodes.values())

    def close(self) -> None:
        self.node.close()

    def _role(self) -> None:
        """Tick thread, when this node has begun or ceased to lead, or has heard of another leader."""
        replica = self.node._replica
        if replica.engine.is_leader:
            disk = replica.journal.slowest()
            self._recorder.event("leads", node=self._name, term=replica.engine.term, disk=disk)

    def _applied(self, index: int) -> None:
        """Tick thread, after an entry. It may be told once per machine."""
        if index % HASH_ENTRIES == 0 and index != self._hashed:
            self._hashed = index
            start = hashlib.sha256(str(index).encode()).digest()[:1]
            hashed = hashlib.sha256()
            for machine in MACHINES:
                rows = self.node.query(machine.name, _rows_of(machine.tables, start))
                hashed.update(repr((machine.name, rows)).encode())
            self._recorder.event("tables", index=index, hash=hashed.hexdigest())


def _rows_of(names: Sequence[str], start: bytes) -> Any:
    def read(tables: ReadTables, _now: int) -> list[Any]:
        return [tables.scan(name, first, None, HASH_ROWS) for name in names for first in (b"", start)]

    return read


def _page_after(after: str) -> Any:
    def read(tables: ReadTables, _now: int) -> list[tuple[str, int, int]]:
        return read_page(tables, after)

    return read


def main() -> None:
    directory, name, incarnation, history = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    driver = Driver(Path(directory), name, Recorder(Path(history), f"{name}.{incarnation}"))
    for line in sys.stdin:
        number, command, *arguments = json.loads(line)
        try:
            answer = [number, "ok", getattr(driver, command)(*arguments)]
        except RaftclusterError as error:
            answer = [number, "error", error.code, str(error)]
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main()
