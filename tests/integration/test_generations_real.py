"""Certificate generations in clusters of real nodes and processes: while leaders change, die and are cut off."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raftcluster.control.client import Client
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Unavailable
from tests.children import Child
from tests.clusters import SECONDS, Cluster
from tests.helpers import eventually, free_ports
from tests.integration.test_full_life import COMMAND, ENVIRONMENT, Host

PHASES = ("collect", "trust", "switch")


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 3) as cluster:
        yield cluster


def test_generations_follow_each_other_while_leadership_goes_round(three: Cluster) -> None:
    nodes = list(three.nodes.values())
    first = nodes[0].certs.show().generation
    ending, moves = threading.Event(), [0]

    def transfer() -> None:
        while not ending.is_set():
            for node in nodes:
                try:
                    node.transfer(node.name)
                    moves[0] += 1
                except RaftclusterError:  # another one leads already
                    ending.wait(0.05)

    mover = threading.Thread(target=transfer)
    mover.start()
    try:
        for number in range(first + 1, first + 4):
            node, before = nodes[number % 3], moves[0]
            assert eventually(lambda n=node: begun(n), SECONDS, "it begins") == number  # type: ignore[misc]
            node.certs.wait(number, seconds=SECONDS)
            eventually(lambda n=node: n.certs.show().pending is None, SECONDS)  # type: ignore[misc]
            eventually(lambda b=before: moves[0] > b, SECONDS, "leadership has moved meanwhile")  # type: ignore[misc]
    finally:
        ending.set()
        mover.join()
    eventually(three.settled, SECONDS, "all is well")
    for node in nodes:
        shown = node.certs.show()
        assert shown.generation == first + 3 and shown.asleep == [] and node.certs.verify().problems == []
        assert {link.generation for link in node.mesh.links().values()} == {first + 3}


def begun(node: object) -> int:
    try:
        return int(node.certs.rotate())  # type: ignore[attr-defined]
    except RaftclusterError:  # the one before is not quite over, or leadership has just moved
        return 0


def test_a_minority_invites_and_mints_nothing(three: Cluster, soon_told: None) -> None:
    alone = three.nodes[0]
    before = alone.certs.show().generation
    for number in (1, 2):
        three.stop(number)
    eventually(lambda: alone.status()["leader"] is None, SECONDS, "it leads no more")
    for call in (lambda: alone.members.invite("mx9"), alone.certs.rotate, lambda: alone.members.remove("mx1")):
        with pytest.raises((Unavailable, OutcomeUnknown, RaftclusterError)) as caught:
            call()
        assert caught.value.code in (Unavailable.code, OutcomeUnknown.code, "no-quorum"), caught.value
    shown = alone.certs.show()
    assert shown.generation == before and shown.pending is None and alone.tokens.list()[-1].name != "mx9"
    three.start(1)
    assert three.nodes[1].certs.show().generation == before


def test_two_joins_and_a_rotation_while_the_leader_is_killed(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ports = free_ports(10)
    hosts = [Host(f"mx{n + 1}", tmp_path, *ports[2 * n : 2 * n + 2]) for n in range(5)]
    members, joiners = hosts[:3], hosts[3:]
    with ExitStack() as stack:
        for host in hosts:
            stack.callback(host.end)
        members[0].said("init", "--name", "mail", "--node", "mx1", "--listen", members[0].address)
        members[0].serve()
        for number, host in ((2, members[1]), (3, members[2])):
            host.join(members[0], members[0].said("invite", host.name))
            members[0].votes(number)
        tokens = {host.name: members[0].said("invite", host.name) for host in joiners}
        status = members[0].asked("status")
        names = {row["id"]: row["name"] for row in status["members"]}
        leader = next(host for host in members if host.name == names[status["leader"]])
        others = [host for host in members if host is not leader]

        joining = Joining(tmp_path, dict(zip(joiners, others, strict=True)), tokens)
        stack.callback(joining.end)
        rotating = others[0].run("certs", "rotate", "--no-wait")
        moment = chance.choice(PHASES)
        seen = eventually(lambda: reached(others[0], moment) or joining.ended(), SECONDS, f"a generation in {moment}")
        leader.kill()
        print(f"the leader {leader.name} is killed: {moment} wanted, {seen}")
        print(f"rotate: {rotating.returncode} {rotating.stdout}{rotating.stderr}", end="")
        leader.serve()
        eventually(joining.done, SECONDS, "both are let in")
        members[0].votes(5)
        shown = {host.name: host.asked("certs") for host in hosts}
        assert len({each["generation"] for each in shown.values()}) == 1
        for host in hosts:
            host.said("certs", "verify")
        told = [row["subject"].split()[0] for row in others[0].asked("audit") if row["action"] == "join"]
        assert sorted(told) == ["mx2", "mx3", "mx4", "mx5"], "each was let in once, however often it has asked"
        for host in joiners:
            again = host.directory.with_name(f"{host.name}-thief")
            words = [
                *COMMAND,
                "-C",
                str(again),
                "join",
                others[0].address,
                "--node",
                host.name,
                "--listen",
                host.address,
            ]
            replay = subprocess.run(
                words, input=tokens[host.name], capture_output=True, text=True, env=ENVIRONMENT, timeout=60
            )
            assert replay.returncode == 4 and "was used already" in replay.stderr, "the token is worth nothing any more"


def reached(host: Host, phase: str) -> str:
    """The generation under way and its phase, once that is this one or a later one."""
    pending = Client(host.directory / "control.sock").certs.show()["pending"]
    late = pending is not None and PHASES.index(pending["phase"]) >= PHASES.index(phase)
    return f"generation {pending['number']} in {pending['phase']}" if late else ""


class Joining:
    """Hosts that ask to be let in, again and again with the same token and directory, and are started when they are."""

    def __init__(self, folder: Path, via: dict[Host, Host], tokens: dict[str, str]) -> None:
        self.folder, self.via, self.tokens = folder, via, tokens
        self.asking = {host: self._ask(host) for host in via}

    def _ask(self, host: Host) -> Child:
        where = ("join", self.via[host].address, "--node", host.name, "--listen", host.address)
        child = Child(
            host.name, [*COMMAND, "-C", str(host.directory), *where], self.log(host), env=ENVIRONMENT, pipes=True
        )
        child.tell(self.tokens[host.name].strip())
        return child

    def log(self, host: Host) -> Path:
        return self.folder / f"{host.name}-join.log"

    def ended(self) -> str:
        return "all had joined before" if all(each.process.poll() is not None for each in self.asking.values()) else ""

    def done(self) -> bool:
        """Whether all are in and running."""
        for host, child in list(self.asking.items()):
            if child.process.poll() is None:
                continue
            print(f"{host.name}: join ended with {child.stop()}: {child.tail().splitlines()[-1:]}")
            if child.process.returncode == 0:
                del self.asking[host]
                host.serve()
            else:
                self.asking[host] = self._ask(host)
        return not self.asking

    def end(self) -> None:
        for child in self.asking.values():
            child.stop()
