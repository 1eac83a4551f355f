"""A member with a valid certificate that means no good, against two real nodes: it is a member, and that is all it gets.

The third node of a cluster is stopped; the test connects to the others with what is in its directory.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from raftcluster import Node, codec, limits
from raftcluster.cluster.keystore import Keystore
from raftcluster.engine.ports import Timing
from raftcluster.engine.wire import TERM_LEAP
from raftcluster.errors import OutcomeUnknown, Unavailable
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.ports import Identity
from tests.clusters import Cluster
from tests.helpers import eventually
from tests.integration.meshes import PATIENCE_SECONDS, Client, client, context

LAST = 2**62 - 1
MIB = 1024 * 1024


class Patient(Cluster):
    """Nobody is deposed because the machine has other work: whoever is, was deposed by the enemy."""

    def start(self, number: int, **settings: Any) -> Node:
        timing = Timing(election_min=4.0, election_max=6.0, check_quorum=6.0)
        return super().start(number, timing=timing, **settings)


class Siege:
    """Two nodes that go on, and the certificate of the third, whose id is the greatest: it dials both."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.count = 0
        number = max(cluster.nodes, key=lambda each: cluster.nodes[each].id)
        self.enemy = cluster.nodes[number].id
        cluster.stop(number)
        self.nodes: list[Node] = list(cluster.nodes.values())
        self.identity = self._identity(cluster.path(number))
        self.well()

    def _identity(self, path: Path) -> Identity:
        with DataDirectory.open(path) as directory:
            facts = directory.read_node()
            keystore = Keystore(directory, facts["cluster_id"], facts["node_id"])
            return keystore.identity(keystore.trust().presented)

    @property
    def leader(self) -> Node:
        """The one that leads now."""
        return self.cluster.nodes[self.cluster.leader()]

    @property
    def follower(self) -> Node:
        """The other one."""
        leader = self.leader
        return next(node for node in self.nodes if node is not leader)

    def term(self) -> int:
        """Of the leader."""
        return self.leader._replica.engine.term

    @contextlib.contextmanager
    def linked(self, node: Node) -> Iterator[Client]:
        """The enemy, linked to this node."""
        with client(node.mesh.address, context(self.folder, self.identity)) as enemy:
            enemy.sock.settimeout(20)
            enemy.say(node.mesh._trust.hello("raft"))
            assert "refused" not in enemy.hear()
            eventually(lambda: self.enemy in node.mesh.links(), what="the enemy is linked")
            yield enemy

    def well(self) -> None:
        """Both take a change, both hold it, none has stopped."""
        self.count += 1
        for node in self.nodes:
            key = f"well/{self.count}-{node.name}"
            eventually(lambda n=node, k=key: self._set(n, k), 90, "a change is taken")  # type: ignore[misc]
            for other in self.nodes:
                eventually(lambda n=other, k=key: self._get(n, k) == self.count, 90, "it is everywhere")  # type: ignore[misc]
            assert node.failure is None

    def _set(self, node: Node, key: str) -> bool:
        with contextlib.suppress(Unavailable, OutcomeUnknown):
            node.config.set(key, self.count, reason="still well", deadline=60.0)
            return True
        return False

    def _get(self, node: Node, key: str) -> Any:
        with contextlib.suppress(Unavailable):
            return node.config.get(key, consistency="linearizable")
        return None


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    folder = tmp_path_factory.mktemp("siege")
    with pytest.MonkeyPatch.context() as patch, Patient(folder, 3) as cluster:
        patch.setattr(limits, "LINK_IDLE_SECONDS", PATIENCE_SECONDS)
        yield Siege(folder, cluster)


def ended(enemy: Client) -> bool:
    """Whether the other side has closed, once all it had said is heard."""
    try:
        while True:
            enemy.hear()
    except (EOFError, ConnectionError):
        return True


def append(**fields: Any) -> dict[str, Any]:
    return {"type": "append_entries", "commit_index": 0, "seq": 1, "entries": [], **fields}


Forgery = Callable[[int, int], dict[str, Any]]
"""A message, made of the term and the last index."""

NONSENSE: dict[str, Forgery] = {
    "a type that there is not": lambda term, last: {"type": "shutdown"},
    "no type": lambda term, last: {"term": term},
    "a second hello": lambda term, last: {"protocol": 1, "oldest": 1, "cluster": "c", "product": "p", "kind": "raft"},
    "a field too many": lambda term, last: {"type": "term", "term": term, "more": 1},
    "a term that is text": lambda term, last: {"type": "term", "term": "7"},
    "the last term of all": lambda term, last: {"type": "term", "term": LAST},
    "a term beyond reach": lambda term, last: (
        {"type": "request_vote", "last_log_index": LAST, "last_log_term": LAST} | {"term": term + TERM_LEAP + 1}
    ),
    "to lead, too": lambda term, last: append(term=term, prevLogIdx=last, prevLogTerm=term),
    "to lead, too, and all is committed": lambda term, last: append(
        term=term, prevLogIdx=last, prevLogTerm=term, commit_index=LAST
    ),
    "an entry of a later term": lambda term, last: append(
        term=term, prevLogIdx=last, prevLogTerm=term, entries=[[b"\x01", last + 1, term + 5]]
    ),
    "an entry far ahead": lambda term, last: append(
        term=term, prevLogIdx=last, prevLogTerm=term, entries=[[b"\x01", last + 9, term]]
    ),
    "a snapshot of another leader": lambda term, last: append(term=term, offer=[LAST, term]),
    "an end of time": lambda term, last: append(term=term, prevLogIdx=last, prevLogTerm=term, time=2.0**60),
    "operations that are too short for any": lambda term, last: {"type": "forward", "operations": [b"", b"x"]},
    "an acknowledgement before all": lambda term, last: (
        {"type": "next_node_idx", "term": term, "next_node_idx": -1} | {"reset": False, "success": True}
    ),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_ends_its_link_and_changes_nothing(siege: Siege, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "raftcluster")
    term = siege.term()
    for node in siege.nodes:
        last = int(str(node.status()["applied_index"]))
        with siege.linked(node) as enemy:
            enemy.say(NONSENSE[name](term, last))
            assert ended(enemy)
        refused = [text for text in caplog.messages if "nonsense" in text and siege.enemy in text]
        assert refused, "a log line says who and why"
        caplog.clear()
    assert siege.term() == term
    siege.well()


HARMLESS: dict[str, Forgery] = {
    "votes": lambda term, last: {"type": "response_vote", "term": term},
    "votes of a term to come": lambda term, last: {"type": "response_vote", "term": term + 1},
    "a grant that nobody asked for": lambda term, last: {"type": "pre_vote_grant", "term": term + 1, "round": 1},
    "a request for votes while a leader is heard": lambda term, last: (
        {"type": "request_vote", "term": term + 1} | {"last_log_index": LAST, "last_log_term": term + 1}
    ),
    "a wish to be elected": lambda term, last: (
        {"type": "pre_vote", "term": term + 1, "index": LAST} | {"last_term": term + 1, "round": 1}
    ),
    "an order to campaign": lambda term, last: {"type": "timeout_now", "term": term},
    "an acknowledgement of what nobody wrote": lambda term, last: (
        {"type": "next_node_idx", "term": term}
        | {"next_node_idx": last + 10**6, "reset": False, "success": True, "seq": LAST}
    ),
    "a reset to nothing": lambda term, last: (
        {"type": "next_node_idx", "term": term, "next_node_idx": 0} | {"reset": True, "success": False, "seq": LAST}
    ),
    "an old term": lambda term, last: append(term=0, prevLogIdx=1, prevLogTerm=0),
    "the index of a read that nobody asked for": lambda term, last: {"type": "read_at", "number": 1, "index": 1},
    "an answer to a probe that was never sent": lambda term, last: {"type": "read_ack", "term": term, "number": LAST},
    "operations that are none": lambda term, last: {"type": "forward", "operations": [b"\xc1" * 24, b"x" * 999]},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_others_may_say_has_no_effect(siege: Siege, name: str) -> None:
    term = siege.term()
    for node in siege.nodes:
        with siege.linked(node) as enemy:
            for _ in range(50):
                enemy.say(HARMLESS[name](term, int(str(node.status()["applied_index"]))))
            siege.well()
    assert siege.term() == term, "nobody was deposed"


def test_replays_of_the_leaders_own_messages_change_nothing(siege: Siege) -> None:
    term, leader, follower = siege.term(), siege.leader, siege.follower
    heard: list[dict[str, Any]] = []
    with siege.linked(leader) as enemy:
        while len(heard) < 20:
            value = enemy.hear()
            if isinstance(value, dict):
                heard.append(value)
    for message in heard:
        with siege.linked(follower) as enemy, contextlib.suppress(OSError):
            for _ in range(3):
                enemy.say(message)
    siege.well()
    assert siege.term() == term


def test_a_term_that_is_claimed_is_believed_and_the_cluster_goes_on(siege: Siege) -> None:
    term = siege.term()
    with siege.linked(siege.leader) as enemy:
        enemy.say({"type": "term", "term": term + TERM_LEAP})
        eventually(lambda: siege.term() > term, what="the term is raised")
    siege.well()


# --- floods


FLOODS: dict[str, bytes] = {
    "messages that say nothing": codec.pack({"type": "term", "term": 0}),
    "reads": codec.pack({"type": "read_index", "number": 1}),
    "wishes to be elected": codec.pack({"type": "pre_vote", "term": 1, "index": 1, "last_term": 1, "round": 1}),
    "operations that are none": codec.pack({"type": "forward", "operations": [b"x" * 24] * 1_000}),
    "links' own pings": codec.pack([0, 1.5]),
    "large operations": codec.pack({"type": "forward", "operations": [b"y" * limits.OPERATION_BYTES]}),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_leaves_others_their_turn_and_memory_flat(siege: Siege, name: str) -> None:
    """While the enemy sends as fast as it can, changes are taken at both nodes, and nobody is deposed. Without a bound
    for messages a turn took in 200,000 of them: seconds in which the node did nothing else, and 80 MB."""
    term, process = siege.term(), psutil.Process()
    frame = struct.pack(">I", len(FLOODS[name])) + FLOODS[name]
    burst = frame * (200_000 // len(frame) + 1)
    stop, sent = threading.Event(), 0
    with siege.linked(siege.leader) as enemy:

        def flood() -> None:
            nonlocal sent
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    enemy.sock.sendall(burst)
                    sent += len(burst)

        before = process.memory_info().rss
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            eventually(lambda: sent > 2 * MIB, 60, "the flood has begun")
            for _ in range(3):
                siege.well()
            assert process.memory_info().rss - before < 150 * MIB
        finally:
            stop.set()
            with contextlib.suppress(OSError):  # it may have been closed already
                enemy.sock.shutdown(socket.SHUT_RDWR)
            flooding.join(60)
    assert siege.term() == term
