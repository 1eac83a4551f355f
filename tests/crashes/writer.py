"""`python -m tests.crashes.writer DIRECTORY OPTIONS`: a node and its callers, driven by JSON lines; it expects to be killed.

A line that is a number says that the cluster has acknowledged this check; every other line answers a command, with
{"answer": ...} or with what the library says when it refuses, {"error": code, "text": ...}. The first one is "open".

    ["status"] ["settled"]        -> the node's status; leader, last and applied entry, whether certificates will stay
    ["invite", name]              -> a token
    ["write", seed, round, node]  -> "writing"; from then on the number of each check, until killed or told to
    ["stop"]                      -> "stopped", when all that was asked is acknowledged
    ["repeat", seed, round, node, [number, ...]]  -> "repeated", after the same checks again under the same instances
    ["read", [triplet, ...]]      -> per triplet the number of checks that its record has counted, on this node
    ["hashes"]                    -> [index, {table: hash}] of the newest checkpoint, or null
    ["arm", failpoint, count]     -> "armed"
    ["generation"] ["root_keys"]  -> the certificate generation in force; files that hold a root's private key
    ["rotate"] ["remove", name] ["transfer", node or null] ["destroy", cluster]  -> what the node says to it

OPTIONS is a JSON object: `bounds`, `timing`
and `ready_seconds` of the node, `limits`: other values of these, `history`: a file for the votes and leaders that it hears of.

A check is known by (seed, round, node, number): from these follow its triplet and its instance, so the test can compute
what every record must have counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import random
import sys
import threading
from pathlib import Path
from typing import Any

from raftcluster import Node, failpoints, limits
from raftcluster.cluster.keystore import Keystore
from raftcluster.engine.guards import Message
from raftcluster.engine.ports import Bounds, Timing
from raftcluster.engine.replica import Replica
from raftcluster.errors import RaftclusterError, StorageFailed
from raftcluster.greylist.verdict import Verdict
from raftcluster.host import Consistency
from raftcluster.node import READY_SECONDS
from raftcluster.storage.digest import digest

IN_FLIGHT = 32
TRIPLETS = 150  # few, so that records are counted up again and again, by all nodes
DEADLINE_SECONDS = 15.0
_telling = threading.Lock()
RECIPIENT = "box@example.test"
CLIENT = "192.0.2.7"


def triplet_of(seed: int, number_of_round: int, node: int, number: int) -> int:
    """Which triplet the check is about."""
    return random.Random(f"{seed}/{number_of_round}/{node}/{number}").randrange(TRIPLETS)


def sender_of(triplet: int) -> str:
    return f"sender{triplet}x@example.org"


def say(value: object) -> None:
    """One line. Thread: any."""
    with _telling:
        print(json.dumps(value, default=str), flush=True)


class Writer:
    """Submits checks and tells which of them the cluster has decided."""

    def __init__(self, node: Node, seed: int, number_of_round: int, number_of_node: int) -> None:
        self._node = node
        self._key = (seed, number_of_round, number_of_node)
        self._answered: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()  # number, decided by the cluster
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True, name="writer")

    def start(self) -> None:
        """Write without end."""
        self._thread.start()

    def stop(self) -> None:
        """Ask for nothing more, and return when all that was asked is decided."""
        self._ending.set()
        self._thread.join()

    def all_of(self, numbers: list[int]) -> None:
        """These checks, once more."""
        for number in numbers:
            self._submit(number)
        for _ in numbers:
            say(self._next())

    def _write(self) -> None:
        for number in range(IN_FLIGHT):
            self._submit(number)
        following, waiting = IN_FLIGHT, IN_FLIGHT
        while waiting:
            say(self._next())
            waiting -= 1
            if not self._ending.is_set():
                self._submit(following)
                following, waiting = following + 1, waiting + 1

    def _submit(self, number: int) -> None:
        def answer(verdict: Verdict | None, error: RaftclusterError | None) -> None:  # on the tick thread
            self._answered.put((number, verdict is not None and not verdict.degraded))

        self._node.greylist.submit(
            answer,
            client=CLIENT,
            sender=sender_of(triplet_of(*self._key, number)),
            recipient=RECIPIENT,
            instance="{}.{}.{}.{}".format(*self._key, number),
            deadline=DEADLINE_SECONDS,
        )

    def _next(self) -> int:
        """The next number that was acknowledged. What was not decided in time is asked again, as the same check."""
        while True:
            number, decided = self._answered.get(timeout=DEADLINE_SECONDS + 1)
            if decided:
                return number
            self._submit(number)


class Driver:
    """One node, and the commands it is given."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._writer: Writer | None = None

    def carry_out(self, request: Any) -> Any:
        """The answer to one command. Raises `RaftclusterError`."""
        node = self._node
        match request:
            case ["status"]:
                return node.status()
            case ["settled"]:
                status = node.status()
                pending = node.certs.show().pending
                return [status["leader"], status["last_index"], status["applied_index"], pending is None]
            case ["invite", name]:
                return str(node.members.invite(name))
            case ["write", seed, number_of_round, number_of_node]:
                self._writer = Writer(node, seed, number_of_round, number_of_node)
                self._writer.start()
                return "writing"
            case ["stop"]:
                assert self._writer is not None
                self._writer.stop()
                return "stopped"
            case ["repeat", seed, number_of_round, number_of_node, numbers]:
                Writer(node, seed, number_of_round, number_of_node).all_of(numbers)
                return "repeated"
            case ["read", triplets]:
                # The first read waits for all that was acknowledged anywhere; then this node's own state is new enough.
                return [self._count(each, "local" if at else "linearizable") for at, each in enumerate(triplets)]
            case ["hashes"]:
                snapshot = node._store.snapshot()
                return None if snapshot is None else [snapshot.index, digest(snapshot)]
            case ["arm", failpoint, count]:
                failpoints.arm(failpoint, count)
                return "armed"
            case ["generation"]:
                return node.certs.show().generation
            case ["root_keys"]:
                return self._root_keys()
            case ["rotate"]:
                return node.certs.rotate()
            case ["remove", name]:
                return node.members.remove(name).node_id
            case ["transfer", target]:
                return node.transfer(target)
            case ["destroy", cluster]:
                return node.destroy(cluster, every_node=True, reason="test")
            case other:
                raise SystemExit(f"what is {other!r}?")

    def _root_keys(self) -> list[Path]:
        keystore = Keystore(self._node.directory, self._node.facts["cluster_id"], self._node.id)
        while True:
            try:
                return keystore.root_keys()
            except (FileNotFoundError, StorageFailed):
                continue  # files of an old generation were deleted meanwhile

    def _count(self, triplet: int, consistency: Consistency) -> int:
        """How many checks the record of the triplet has counted; 0 without a record."""
        explained = self._node.greylist.explain(
            client=CLIENT, sender=sender_of(triplet), recipient=RECIPIENT, consistency=consistency
        )
        return sum(int(row["deferred"]) + int(row["passed"]) for row in explained["seen_by"])


def note_votes(history: Path) -> None:
    """Have every vote that a node of this process hears of, and every leader, written to the file at once: one JSON line
    ["vote", term, voter, candidate] or ["leader", term, node]. A request for votes is the candidate's vote for itself."""
    file = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    deliver, known = Replica.deliver, set[tuple[Any, ...]]()

    def noting(replica: Replica, peer: str, message: Message) -> None:
        kind, term = message.get("type"), message.get("term")
        event: tuple[Any, ...] | None = None
        if kind == "response_vote":
            event = ("vote", term, peer, replica.me)
        elif kind == "request_vote":
            event = ("vote", term, peer, peer)
        elif kind == "append_entries":
            event = ("leader", term, peer)
        if event is not None and event not in known:
            known.add(event)
            os.write(file, json.dumps(event).encode() + b"\n")
        deliver(replica, peer, message)

    Replica.deliver = noting  # type: ignore[method-assign, assignment]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = json.loads(sys.argv[2])
    for name, value in options.get("limits", {}).items():
        setattr(limits, name, value)
    if "history" in options:
        note_votes(Path(options["history"]))
    bounds, timing = Bounds(**options.get("bounds", {})), Timing(**options.get("timing", {}))
    ready_seconds = options.get("ready_seconds", READY_SECONDS)
    with Node.open(sys.argv[1], bounds=bounds, timing=timing, ready_seconds=ready_seconds) as node:
        say({"answer": "open"})
        driver = Driver(node)
        for line in sys.stdin:
            try:
                say({"answer": driver.carry_out(json.loads(line))})
            except RaftclusterError as error:
                say({"error": error.code, "text": str(error)})


if __name__ == "__main__":
    main()
