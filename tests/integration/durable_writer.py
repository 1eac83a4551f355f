"""`python -m tests.integration.durable_writer DIRECTORY`: a node and its callers, driven by JSON lines; it expects to be killed.

    ["invite", name]              -> a token
    ["status"]                    -> the node's status
    ["write", seed, round, node]  -> the number of each check that the cluster acknowledged, one a line, until killed
    ["repeat", seed, round, node, [number, ...]]  -> the same checks again under the same instances, then "repeated"
    ["read", [triplet, ...]]      -> per triplet the number of checks that its record has counted, on this node

A check is known by (seed, round, node, number): from these follow its triplet and its instance, so the test can compute
what every record must have counted.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import sys
from functools import partial
from typing import Any

from raftcluster import Node
from raftcluster.errors import RaftclusterError, Unavailable
from raftcluster.greylist.api import Verdict
from raftcluster.host import Consistency
from tests.helpers import eventually

IN_FLIGHT = 32
TRIPLETS = 150  # few, so that records are counted up again and again, by all nodes
DEADLINE_SECONDS = 15.0
RECIPIENT = "box@example.test"
CLIENT = "192.0.2.7"


def triplet_of(seed: int, number_of_round: int, node: int, number: int) -> int:
    """Which triplet the check is about."""
    return random.Random(f"{seed}/{number_of_round}/{node}/{number}").randrange(TRIPLETS)


def sender_of(triplet: int) -> str:
    return f"sender{triplet}x@example.org"


class Writer:
    """Submits checks and tells which of them the cluster has decided."""

    def __init__(self, node: Node, seed: int, number_of_round: int, number_of_node: int) -> None:
        self._node = node
        self._key = (seed, number_of_round, number_of_node)
        self._answered: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()  # number, decided by the cluster

    def submit(self, number: int) -> None:
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

    def next(self) -> int:
        """The next number that was acknowledged. What was not decided in time is asked again, as the same check."""
        while True:
            number, decided = self._answered.get(timeout=DEADLINE_SECONDS + 1)
            if decided:
                return number
            self.submit(number)


def say(value: object) -> None:
    print(json.dumps(value, default=str), flush=True)


def count(node: Node, triplet: int, consistency: Consistency) -> int:
    """How many checks the record of the triplet has counted; 0 without a record."""
    explained = node.greylist.explain(
        client=CLIENT, sender=sender_of(triplet), recipient=RECIPIENT, consistency=consistency
    )
    return sum(int(row["deferred"]) + int(row["passed"]) for row in explained["seen_by"])


def serve(node: Node, request: Any) -> None:
    match request:
        case ["status"]:
            say(node.status())
        case ["invite", name]:
            say(eventually(partial(invite, node, name), what="the first node is a member"))
        case ["write", seed, number_of_round, number_of_node]:
            writer = Writer(node, seed, number_of_round, number_of_node)
            for number in range(IN_FLIGHT):
                writer.submit(number)
            following = IN_FLIGHT
            while True:
                say(writer.next())
                writer.submit(following)
                following += 1
        case ["repeat", seed, number_of_round, number_of_node, numbers]:
            writer = Writer(node, seed, number_of_round, number_of_node)
            for number in numbers:
                writer.submit(number)
            for _ in numbers:
                say(writer.next())
            say("repeated")
        case ["read", triplets]:
            # The first read waits for all that was acknowledged anywhere; then this node's own state is new enough.
            say([count(node, triplet, "local" if at else "linearizable") for at, triplet in enumerate(triplets)])
        case other:
            raise SystemExit(f"what is {other!r}?")


def invite(node: Node, name: str) -> str:
    """A token; "" while the genesis of a new cluster is not applied yet."""
    try:
        return str(node.members.invite(name))
    except Unavailable:
        return ""


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with Node.open(sys.argv[1]) as node:
        say("open")
        for line in sys.stdin:
            serve(node, json.loads(line))


if __name__ == "__main__":
    main()
