"""The faults. Each is a generator: it does its harm, makes sure that it is felt, yields, and undoes it.

What yields is counted under its name. A fault that had no effect raises AssertionError: a run that only believes to have
tested something is worth nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.chaos.cluster import START_SECONDS, Cluster
from tests.chaos.nodes import NodeProcess, Refused
from tests.chaos.volumes import FaultyVolume
from tests.helpers import eventually

FELT_SECONDS = 90.0
DAY_SECONDS = 86400.0
STEP_DOWN_SECONDS = 60.0
SLOW_SECONDS = (0.05, 0.2, 0.5)

Fault = Callable[[Cluster], Iterator[None]]
Links = dict[tuple[int, int], dict[str, Any]]


class Kind(NamedTuple):
    """A kind of fault."""

    name: str
    fault: Fault
    hold: tuple[float, float]
    """Seconds that it lasts in a short run, at least and at most."""
    long: tuple[float, float]
    """The same every `LONG_EVERY`th time in a long run."""


def kill(cluster: Cluster) -> Iterator[None]:
    node = cluster.target()
    cluster.losing(node, "SIGKILL")
    node.kill()
    yield
    node.start(cluster.seed)


def pause(cluster: Cluster) -> Iterator[None]:
    node = cluster.target()
    cluster.losing(node, "SIGSTOP")
    node.pause()
    yield
    node.resume()


def plug(cluster: Cluster) -> Iterator[None]:
    """Power off: its processes end at once, its device is gone, and what was not synced is lost."""
    node = cluster.target()
    cluster.losing(node, "pulled plug")
    _power_off(cluster, [node])
    yield
    _power_on(cluster, [node])


def power_cut(cluster: Cluster) -> Iterator[None]:
    """All lose their power at once: what was acknowledged must be on disks. These are slow, so that much is not yet."""
    volumes = [node.volume for node in cluster.nodes if isinstance(node.volume, FaultyVolume)]
    seconds = cluster.random.choice((0.0, *SLOW_SECONDS))
    for volume in volumes:
        volume.command(delay=seconds)
    cluster.wait(4 * seconds)
    _power_off(cluster, cluster.nodes)
    for volume in volumes:
        volume.command()
    yield
    _power_on(cluster, cluster.nodes)


def _power_off(cluster: Cluster, nodes: list[NodeProcess]) -> None:
    for node in nodes:
        cluster.network.plug(node.number, "down")
        cluster.network.kill_all(node.number)
    for node in nodes:
        node.kill()
    for node in nodes:
        cluster.writes_lost += node.volume.lose_power()


def _power_on(cluster: Cluster, nodes: list[NodeProcess]) -> None:
    for node in nodes:
        cluster.network.plug(node.number, "up")
        node.start(cluster.seed)


# ---- network


def split(cluster: Cluster) -> Iterator[None]:
    """A minority, with the leader in it more often than not, is cut off both ways."""
    first = cluster.target()
    others = [node for node in cluster.nodes if node is not first]
    minority = [first, *cluster.random.sample(others, cluster.random.randint(0, (len(cluster.nodes) - 1) // 2 - 1))]
    for node in minority:
        cluster.losing(node, "partition")
    cut = {(a.number, b.number) for a in minority for b in cluster.nodes if b not in minority}
    yield from _on_links(
        cluster, {link: {"cut": True} for one, other in cut for link in ((one, other), (other, one))}, "cut"
    )


def one_way(cluster: Cluster) -> Iterator[None]:
    """A node hears and is not heard, or the other way round."""
    node = cluster.target()
    cluster.losing(node, "one-way partition")
    out = cluster.random.random() < 0.5
    others = [other.number for other in cluster.nodes if other is not node]
    cut = [(node.number, other) if out else (other, node.number) for other in others]
    yield from _on_links(cluster, {link: {"cut": True} for link in cut}, "cut")


def ring(cluster: Cluster) -> Iterator[None]:
    """Every node reaches its two neighbours only; with three nodes, two do not reach each other."""
    order = [node.number for node in cluster.nodes]
    cluster.random.shuffle(order)
    size = len(order)
    near = {frozenset((order[i], order[(i + 1) % size])) for i in range(size if size > 3 else size - 1)}
    cut = [(one, other) for one in order for other in order if one != other and frozenset((one, other)) not in near]
    yield from _on_links(cluster, {link: {"cut": True} for link in cut}, "cut")


def loss(cluster: Cluster) -> Iterator[None]:
    """Every tenth packet is lost."""
    yield from _on_links(cluster, _all_links(cluster, {"loss": 0.1}), "lost")


def delay(cluster: Cluster) -> Iterator[None]:
    """Every packet takes 20 to 160 ms."""
    least = cluster.random.uniform(0.02, 0.08)
    yield from _on_links(cluster, _all_links(cluster, {"delay": least, "jitter": least}), "delayed")


def _all_links(cluster: Cluster, rule: dict[str, Any]) -> Links:
    numbers = [node.number for node in cluster.nodes]
    return {(one, other): rule for one in numbers for other in numbers if one != other}


def _on_links(cluster: Cluster, links: Links, counted: str) -> Iterator[None]:
    before = cluster.network.rules(links).get(counted, 0)
    eventually(lambda: cluster.network.rules(links).get(counted, 0) > before, FELT_SECONDS, f"packets are {counted}")
    yield
    cluster.network.rules({})


# ---- clocks


def clock(offset: str, seconds: float) -> Fault:
    """One node's wall clock is wrong, and it leads for a part of that time."""

    def wrong(cluster: Cluster) -> Iterator[None]:
        node = cluster.random.choice(cluster.nodes)
        node.set_clock(offset)
        eventually(lambda: off_by(node, seconds), FELT_SECONDS, f"the clock of {node.name} is off by {offset}")
        if cluster.random.random() < 0.5:
            _try_to_lead(cluster, node)
        yield
        node.set_clock("+0")
        eventually(lambda: off_by(node, 0), FELT_SECONDS, f"the clock of {node.name} is right")

    return wrong


def off_by(node: NodeProcess, seconds: float) -> bool:
    """Whether its wall clock is wrong by so much."""
    return abs(float(node.ask("wall")) - time.time() - seconds) < 60


def _try_to_lead(cluster: Cluster, node: NodeProcess) -> None:
    """A node that knows that its clock is wrong may hand leadership over at once."""
    leader = cluster.leader()
    if leader is not node:
        try:
            leader.ask("transfer", node.id)
        except Refused as refused:
            if refused.code != "unavailable":
                raise


# ---- disks


def full(cluster: Cluster) -> Iterator[None]:
    node, volume = cluster.disk(small=True)
    cluster.losing(node, "disk full")
    volume.fill()
    eventually(
        lambda: node.ask("status")["storage"] != "ok", FELT_SECONDS, f"{node.name} notices that its disk is full"
    )
    yield
    volume.empty()
    eventually(lambda: node.ask("status")["storage"] == "ok", FELT_SECONDS, f"{node.name} notices that there is space")


def fsync_error(cluster: Cluster) -> Iterator[None]:
    """The node stops for good, also when the disk is well again, until it is restarted."""
    node, volume = cluster.disk()
    cluster.losing(node, "fsync error")
    volume.command(error=True)
    eventually(lambda: _failed(node), FELT_SECONDS, f"{node.name} stops after a failed fsync")
    volume.command()
    yield
    assert _failed(node), f"{node.name} goes on after a failed fsync"
    eventually(lambda: not _leads(node), STEP_DOWN_SECONDS, f"{node.name} leads no more after a failed fsync")
    node.kill()
    node.start(cluster.seed)


def _failed(node: NodeProcess) -> bool:
    try:
        return bool(node.ask("status")["storage"] == "failed")
    except Refused as refused:
        return refused.code == "storage-failed"


def _leads(node: NodeProcess) -> bool:
    try:
        return bool(node.ask("status")["role"] == "leader")
    except Refused:
        return False


def slow_disk(cluster: Cluster) -> Iterator[None]:
    _, volume = cluster.disk()
    seconds = cluster.random.choice(SLOW_SECONDS)
    before = volume.command(delay=seconds).get("syncs delayed", 0)
    eventually(lambda: volume.command(delay=seconds).get("syncs delayed", 0) > before, FELT_SECONDS, "syncs are slow")
    yield
    volume.command()


# ---- members and leaders


def transfer(cluster: Cluster) -> Iterator[None]:
    leader = cluster.leader()
    target = cluster.random.choice([node for node in cluster.nodes if node is not leader])
    cluster.retried(lambda: cluster.leader().ask("transfer", target.id), f"{target.name} leads")
    yield


def add(cluster: Cluster) -> Iterator[None]:
    """The spare host joins, and stays until `remove`."""
    node = cluster.spare
    assert node is not None, "the spare host is a member already"
    cluster.spare = None
    cluster.nodes.append(node)
    cluster.admit(node)
    node.ask("load", cluster.seed)
    yield


def remove(cluster: Cluster) -> Iterator[None]:
    """The member that joined last is removed; its host is the spare one again."""
    assert cluster.spare is None, "nobody was added"
    node = cluster.nodes[-1]
    remover = cluster.random.choice([other for other in cluster.nodes if other is not node])
    cluster.losing(node, "removal")
    cluster.retried(lambda: _remove(remover, node), f"{node.name} is removed")
    cluster.nodes.remove(node)
    eventually(
        lambda: cluster.voters() and node.id not in cluster.voters(), START_SECONDS, f"{node.name} votes no more"
    )
    node.kill()
    node.forget()
    cluster.spare = node
    yield


def _remove(remover: NodeProcess, node: NodeProcess) -> None:
    try:
        remover.ask("remove", node.name)
    except Refused as refused:
        if refused.code != "no-member":  # an earlier attempt, whose outcome was unknown
            raise


def snapshot(cluster: Cluster) -> Iterator[None]:
    """A node is away until the leader no longer has the entries that it lacks: only a snapshot can help it."""
    leader = cluster.leader()
    node = cluster.random.choice([node for node in cluster.nodes if node is not leader])
    node.kill()
    before = cluster.snapshots_sent()
    held = cluster.leader().ask("status")["last_index"]

    def forgotten() -> bool:
        status = cluster.leader().ask("status")
        return bool(status["last_index"] - status["log_entries"] > held)

    eventually(forgotten, 4 * START_SECONDS, "the log is cut")
    yield
    node.start(cluster.seed)
    eventually(lambda: node.ask("status")["applied_index"] > held, START_SECONDS, f"{node.name} has caught up")
    assert cluster.snapshots_sent() > before, f"{node.name} has caught up without a snapshot"


KINDS = (
    Kind("kill -9", kill, (0.5, 2), (1, 10)),
    Kind("SIGSTOP", pause, (1, 2.5), (1, 30)),
    Kind("pulled plug", plug, (0.5, 2), (1, 10)),
    Kind("power cut everywhere", power_cut, (0.2, 0.5), (1, 5)),
    Kind("symmetric partition", split, (1.5, 3), (3, 15)),
    Kind("one-way partition", one_way, (1.5, 3), (3, 15)),
    Kind("ring partition", ring, (1.5, 3), (3, 15)),
    Kind("10 % loss", loss, (2, 3), (5, 15)),
    Kind("delay with jitter", delay, (2, 3), (5, 15)),
    Kind("clock +1 h", clock("+1h", 3600), (1, 2), (3, 10)),
    Kind("clock -1 h", clock("-1h", -3600), (1, 2), (3, 10)),
    Kind("clock +1 d", clock("+1d", DAY_SECONDS), (1, 2), (3, 10)),
    Kind("clock -1 d", clock("-1d", -DAY_SECONDS), (1, 2), (3, 10)),
    Kind("disk full", full, (0.5, 1.5), (2, 10)),
    Kind("fsync EIO", fsync_error, (0.2, 0.5), (1, 5)),
    Kind("slow disk", slow_disk, (1.5, 2.5), (3, 15)),
    Kind("leader transfer", transfer, (0, 0.1), (0, 1)),
    Kind("add member", add, (0, 0), (3, 15)),
    Kind("remove member", remove, (0, 0), (1, 5)),
    Kind("snapshot catch-up", snapshot, (0, 0), (0, 1)),
)
