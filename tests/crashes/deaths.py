"""How a node is brought to a failpoint: the work during which it dies there.

Each takes (cluster, victim, failpoint, count) while all write, and returns when the victim has died; the result is who
still owes an answer to a command, if anybody does.
"""

from __future__ import annotations

import signal

from tests.crashes.cluster import ANSWER_SECONDS, Cluster
from tests.helpers import eventually


def dies(cluster: Cluster, victim: int) -> None:
    assert cluster.bury(victim) == -signal.SIGKILL, cluster.log(victim).read_text()[-4000:]


def other(cluster: Cluster, victim: int) -> int:
    """Another one that runs."""
    return next(number for number in sorted(cluster.nodes) if number != victim)


def write(cluster: Cluster, victim: int, failpoint: str, count: int = 1) -> int | None:
    """Nothing but writing."""
    cluster.tell(victim, "arm", failpoint, count)
    dies(cluster, victim)
    return None


def campaign(cluster: Cluster, victim: int, failpoint: str, count: int = 1) -> int | None:
    """Leadership is handed to the victim."""
    leader = cluster.leader()
    if leader == victim:
        cluster.insist(victim, "transfer", None)
        leader = cluster.leader()
    cluster.tell(victim, "arm", failpoint, count)
    cluster.tell(leader, "transfer", cluster.ids[victim])
    dies(cluster, victim)
    return leader


def vote(cluster: Cluster, victim: int, failpoint: str, count: int = 1) -> int | None:
    """Leadership goes to and fro between the others, who are a majority without the victim, until it has voted for one: to
    a candidate that has less in its log than the victim, because all write, it owes no vote."""
    process = cluster.nodes[victim].process
    one, another = (number for number in cluster.nodes if number != victim)
    cluster.tell(victim, "arm", failpoint, count)

    def voted() -> bool:
        for leader, candidate in ((one, another), (another, one)):
            cluster.insist(leader, "transfer", cluster.ids[candidate])
        return process.poll() is not None

    eventually(voted, ANSWER_SECONDS, "the victim votes")
    dies(cluster, victim)
    return None


def fall_behind(cluster: Cluster, node: int) -> None:
    """It is away until the leader no longer has the entries that it lacks."""
    cluster.crash([node])
    leader = cluster.leader()
    held = cluster.ask(leader, "status")["last_index"]

    def forgotten() -> bool:
        status = cluster.ask(leader, "status")
        return bool(status["last_index"] - status["log_entries"] > held)

    eventually(forgotten, ANSWER_SECONDS, "the log is cut")


def receive(cluster: Cluster, victim: int, failpoint: str, count: int = 1) -> int | None:
    """The victim gets a snapshot."""
    fall_behind(cluster, victim)
    cluster.launch(victim, f"{failpoint}:{count}")
    dies(cluster, victim)
    return None


def send(cluster: Cluster, victim: int, failpoint: str, count: int = 1) -> int | None:
    """Another node gets a snapshot from the victim."""
    behind = other(cluster, victim)
    fall_behind(cluster, behind)
    cluster.tell(victim, "arm", failpoint, count)
    cluster.launch(behind)
    dies(cluster, victim)
    assert cluster.hear(behind) == "open"
    cluster.know(behind)
    return None


def rotate(cluster: Cluster, victim: int, failpoint: str, count: int = 1) -> int | None:
    """A new certificate hierarchy."""
    asked = other(cluster, victim)
    cluster.tell(victim, "arm", failpoint, count)
    cluster.tell(asked, "rotate")
    dies(cluster, victim)
    return asked
