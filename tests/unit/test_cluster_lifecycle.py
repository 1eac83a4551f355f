"""What each node does next: decision by decision, then whole generations in which any node crashes at any step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from raftcluster.cluster.actions import (
    Action,
    Alarm,
    Depart,
    Expel,
    Forget,
    Found,
    Local,
    Mint,
    Promote,
    Propose,
    Record,
    Relink,
    Renew,
    Request,
    Store,
    Use,
    Wipe,
)
from raftcluster.cluster.dismantling import DESTROY_SECONDS, FAREWELL_SECONDS
from raftcluster.cluster.lifecycle import RENEW_MS, decide, peers
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.records import SCHEMA
from raftcluster.cluster.view import View
from raftcluster.codec import unpack
from raftcluster.errors import Rejected
from tests.cluster_log import Log, Rows

GENESIS = [
    "genesis",
    ["c1", "mail", False, "mta/1", SCHEMA, "standalone", "n1"],
    ["n1", "mx1", "192.0.2.1", 9777, "mta/1"],
    [1, b"root", b"cert", b"1n1".ljust(32)],
]
OVERTAKEN = {
    "minted-already",
    "not-under-way",
    "out-of-order",
    "other-request",
    "generation-under-way",
    "incomplete",
    "not-switched",
}
"""How a command is refused whose node did not know what others had done meanwhile."""
ALONE = Local("n1", True, 0, {}, {1}, {1}, 1, (1,), {}, voters={"n1"})


def begun(number: int = 2) -> Log:
    log = Log()
    log.apply(*GENESIS)
    return join(log, f"n{number}")


def join(log: Log, node: str) -> Log:
    log.apply("invite", f"t-{node}", b"k" * 32, f"mx{node[1:]}", 3600, [])
    csr = b"csr-" + node.encode()
    log.apply(
        "begin",
        "x",
        [
            node,
            f"mx{node[1:]}",
            f"192.0.2.{node[1:]}",
            9777,
            "mta/1",
            SCHEMA,
            "standalone",
            f"t-{node}",
            csr.ljust(32),
            csr,
        ],
    )
    return log


def mint(log: Log) -> Log:
    number = log.pending().number
    issued = {
        node: [log.pending().requests[node], b"cert", f"{number}{node}".encode().ljust(32)] for node in log.view.live()
    }
    log.apply("minted", number, b"root", issued)
    return log


def collected() -> Log:
    log = begun()
    log.apply("csr", 2, "n1", b"csr-n1")
    return log


def applied(log: Log, *commands: list[Any]) -> View:
    for command in commands:
        log.apply(*command)
    return log.view


def test_before_genesis_the_founder_founds_and_others_wait() -> None:
    view = Log().view
    assert decide(view, replace(ALONE, founder=True)) == [Found()]
    assert decide(view, ALONE) == []


def test_collect() -> None:
    log = begun()
    assert decide(log.view, ALONE) == [Request(2)], "no key yet"
    waiting = replace(ALONE, requests={2: b"csr-n1"}, on_disk={1, 2})
    assert decide(log.view, waiting) == [Request(2)], "crashed after the key was made: the request is proposed"
    log.apply("csr", 2, "n1", b"lost")
    assert decide(log.view, waiting) == [Request(2), Mint(2, {"n1": b"lost", "n2": b"csr-n2"})], "replaced until minted"
    log.apply("csr", 2, "n1", b"csr-n1")
    assert decide(log.view, waiting) == [Mint(2, {"n1": b"csr-n1", "n2": b"csr-n2"})]
    assert decide(log.view, replace(waiting, leader=False)) == [], "only the leader mints"


def test_trust_switch_retire() -> None:
    log = mint(collected())
    local = replace(ALONE, requests={2: b"csr-n1"}, on_disk={1, 2})
    assert decide(log.view, local) == [Store(2, b"root", b"cert")]
    local = replace(local, requests={}, stored={1, 2})
    assert decide(log.view, local) == [Use(1, (1, 2))], "trust before it is said"
    local = replace(local, trusted=(1, 2))
    assert decide(log.view, local) == [Propose(["trusted", 2, "n1"])]
    view = applied(log, ["trusted", 2, "n1"])
    assert decide(view, local) == [Use(2, (1, 2))]
    local = replace(local, presented=2, links={"n2": 1})
    assert decide(view, local) == [Relink()], "a link still shows the old certificate"
    local = replace(local, links={"n2": 2})
    assert decide(view, local) == [Propose(["switched", 2, "n1"])]
    view = applied(log, ["switched", 2, "n1"])
    assert decide(view, local) == [Propose(["retire", 2])]
    view = applied(log, ["retire", 2])
    assert decide(view, replace(local, leader=False)) == [Use(2, (2,))], "only then is the old root dropped"
    local = replace(local, trusted=(2,))
    assert decide(view, local) == [Forget((1,))]
    local = replace(local, stored={2}, on_disk={2})
    assert decide(view, local) == []
    assert decide(view, replace(local, caught_up={"n2"})) == [Promote("n2")]
    assert decide(view, replace(local, caught_up={"n2"}, leader=False)) == []
    local = replace(local, voters={"n1", "n2"})
    assert decide(view, local) == [Propose(["promoted", "n2"])], "crashed after the engine had changed"
    assert decide(applied(log, ["promoted", "n2"]), local) == []


def test_the_leader_switches_last() -> None:
    log = mint(collected())
    log.apply("trusted", 2, "n1")
    log.apply("switched", 2, "n1")
    log.apply("retire", 2)
    log.apply("promoted", "n2")
    log.apply("begin", "x", None)
    for node in ("n1", "n2"):
        log.apply("csr", 3, node, node.encode())
    mint(log)
    for node in ("n1", "n2"):
        log.apply("trusted", 3, node)
    local = Local("n1", True, 0, {}, {2, 3}, {2, 3}, 2, (2, 3), {"n2": 2}, voters={"n1", "n2"})
    follower = replace(local, node_id="n2", leader=False, links={"n1": 2})
    assert decide(log.view, local) == []
    assert decide(log.view, follower) == [Use(3, (2, 3))]
    elected = replace(follower, leader=True, presented=3, links={})
    assert decide(log.view, elected) == [Propose(["switched", 3, "n2"])], "no way back"
    assert decide(applied(log, ["switched", 3, "n2"]), local) == [Use(3, (2, 3))]


def test_a_joiner_presents_the_only_certificate_it_has() -> None:
    view = mint(collected()).view
    joiner = Local("n2", False, view.revision, {}, {2}, {1, 2}, 2, (1, 2), {"n1": 2})
    assert decide(view, joiner) == []
    assert decide(view, replace(joiner, revision=view.revision + 1)) == [], "a view from before its bundle is ignored"
    log = mint(collected())
    view = applied(log, ["trusted", 2, "n1"], ["switched", 2, "n1"], ["retire", 2])
    assert decide(view, joiner) == [Use(2, (2,))]
    assert decide(view, replace(joiner, trusted=(2,))) == [Forget((1,))], "the old root that its bundle carried"


def test_a_lost_key_is_an_alarm_and_nothing_else() -> None:
    view = mint(collected()).view
    found = decide(view, replace(ALONE, leader=False))
    assert [type(each) for each in found] == [Alarm] and "generation 2" in str(found)


def test_a_member_loses_its_vote_before_it_is_shut_out() -> None:
    log = mint(collected())
    view = applied(
        log, ["trusted", 2, "n1"], ["switched", 2, "n1"], ["retire", 2], ["promoted", "n2"], ["leaving", "n2"]
    )
    leader = Local("n1", True, 0, {}, {2}, {2}, 2, (2,), {}, voters={"n1", "n2"})
    assert decide(view, leader) == [Expel("n2")]
    assert decide(view, replace(leader, voters={"n1"})) == [Propose(["removed", "n2"])]
    assert decide(view, replace(leader, leader=False)) == []
    assert decide(view, Local("n2", False, 0, {}, {2}, {2}, 2, (2,), {})) == [], "it stays until it is shut out"
    assert decide(applied(log, ["removed", "n2"]), replace(leader, voters={"n1"})) == [Renew()]


def test_removal() -> None:
    log = mint(collected())
    view = applied(
        log, ["trusted", 2, "n1"], ["switched", 2, "n1"], ["retire", 2], ["promoted", "n2"], ["removed", "n2"]
    )
    leader = Local("n1", True, 0, {}, {2}, {2}, 2, (2,), {}, voters={"n1", "n2"})
    assert decide(view, leader) == [Renew(), Expel("n2")]
    gone = Local("n2", False, 0, {}, {2}, {2}, 2, (2,), {})
    assert decide(view, gone) == [Depart()]
    assert peers(view, "n1") == {}


def test_renewal_at_two_thirds_of_the_certificates_life() -> None:
    log = Log()
    log.apply(*GENESIS)
    log.time += RENEW_MS - 1
    assert decide(log.view, ALONE) == []
    log.time += 1
    assert decide(log.view, ALONE) == [Renew()]
    assert decide(log.view, replace(ALONE, leader=False)) == []


def test_destruction_is_recorded_by_all_before_any_wipes() -> None:
    log = mint(collected())
    log.apply("destroy", "e1", "mail", True, "")
    leader = replace(ALONE, links={"n2": 1})
    (first,) = decide(log.view, leader)
    assert isinstance(first, Record) and first.destruction.event_id == "e1"
    leader = replace(leader, recorded=True)
    assert decide(log.view, leader) == [Propose(["recorded", "n1"])]
    log.apply("recorded", "n1")
    assert decide(log.view, leader) == [], "n2 has not recorded it"
    assert decide(log.view, replace(leader, destroying_s=DESTROY_SECONDS)) == [Wipe()], "the decision stands without n2"
    log.apply("recorded", "n2")
    assert decide(log.view, leader) == [], "n2 may not have heard yet"
    assert decide(log.view, replace(leader, links={})) == [Wipe()]
    assert decide(log.view, replace(leader, destroying_s=FAREWELL_SECONDS)) == [Wipe()]
    follower = replace(leader, node_id="n2", leader=False, links={"n1": 2})
    assert decide(log.view, follower) == [Wipe()]


class Node:
    """A node as far as the lifecycle sees it: a disk, links, and a replica that lags and falls back at a restart."""

    def __init__(self, world: World, node: str) -> None:
        self.world, self.id = world, node
        self.requests: dict[int, bytes] = {}
        self.stored: set[int] = set()
        self.on_disk: set[int] = set()
        self.presented, self.revision = 0, 0
        self.trusted: tuple[int, ...] = ()
        self.applied = 0
        self.rows = Rows()
        self.restart()

    def restart(self) -> None:
        """Volatile state is gone; the tables are those of an earlier checkpoint."""
        self.links: dict[str, int] = {}
        checkpoint = self.world.random.randint(max(0, self.applied - 6), self.applied)
        self.rows, self.applied = Rows(), 0
        self.apply(checkpoint)

    def apply(self, upto: int) -> None:
        machine = ClusterMachine()
        while self.applied < upto:
            before = dict(self.rows.rows)
            try:
                machine.apply(unpack(self.world.log.commands[self.applied]), self.rows, self.world.log.time)
            except Rejected:
                self.rows.rows = before
            self.applied += 1

    def step(self) -> Iterator[None]:
        """One round of the reconciler; it may crash wherever it yields."""
        self.apply(self.world.random.randint(self.applied, len(self.world.log.commands)))
        leader = self.world.leader == self.id
        view = View.read(self.rows, self.world.log.time)
        for action in decide(view, self.local(leader)):
            yield
            yield from self.perform(action, view)

    def local(self, leader: bool) -> Local:
        voters = self.world.voters if leader else ()
        return Local(
            self.id, leader, self.revision, self.requests, self.stored, self.on_disk, self.presented, self.trusted,
            self.links, voters=voters, caught_up={each.id for each in self.world.nodes} if leader else (),
        )  # fmt: skip

    def perform(self, action: Action, view: View) -> Iterator[None]:
        match action:
            case Request(number):
                if number not in self.requests:
                    self.requests[number] = f"csr-{number}-{self.id}-{self.world.random.random()}".encode()
                    self.on_disk.add(number)
                yield
                self.propose("csr", number, self.id, self.requests[number])
            case Mint(number, requests):
                issued = {node: [csr, b"cert", f"{number}{node}".encode().ljust(32)] for node, csr in requests.items()}
                yield
                self.propose("minted", number, b"root", issued)
            case Store(number):
                del self.requests[number]
                self.stored.add(number)
            case Use(present, trust):
                assert present in self.stored and set(trust) <= self.on_disk
                self.presented, self.trusted, self.revision = present, trust, view.revision
            case Relink():
                self.links = dict.fromkeys(self.links, self.presented)
            case Propose(command):
                self.propose(*command)
            case Renew():
                self.propose("begin", "x", None)
            case Forget(numbers):
                assert self.presented not in numbers and not set(numbers) & set(self.trusted)
                for number in numbers:
                    self.requests.pop(number, None)
                self.stored -= set(numbers)
                self.on_disk -= set(numbers)
            case Promote(node):
                self.world.voters.add(node)
            case Expel(node):
                self.world.voters.discard(node)
            case _:
                raise AssertionError(action)

    def propose(self, *command: Any) -> None:
        try:
            self.world.log.apply(*command)
        except Rejected as error:
            if error.code not in OVERTAKEN:
                raise


class World:
    """A cluster of `Node`s over one log, with an adversary that chooses who runs, leads and crashes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.log = Log()
        self.log.apply(*GENESIS)
        self.voters = {"n1"}
        self.leader = "n1"
        self.nodes: list[Node] = []
        founder = self.add("n1")
        founder.stored, founder.on_disk, founder.presented, founder.trusted = {1}, {1}, 1, (1,)

    def add(self, node: str) -> Node:
        self.nodes.append(Node(self, node))
        return self.nodes[-1]

    def check(self) -> None:
        """No two members are ever unable to link: each trusts and has the pin of what the other presents."""
        for one in self.nodes:
            for other in self.nodes:
                assert one is other or one.presented in other.trusted, (one.id, one.presented, other.id, other.trusted)
            shown = f"{one.presented}{one.id}".encode().ljust(32)
            assert shown in self.log.view.members[one.id].pins

    def links(self) -> None:
        for one in self.nodes:
            for other in self.nodes:
                if one is not other and self.random.random() < 0.5:
                    one.links.setdefault(other.id, one.presented)

    def round(self, crash: float) -> None:
        node = self.random.choice(self.nodes)
        for _ in node.step():
            self.check()
            if self.random.random() < crash:
                node.restart()
                break
        self.check()
        self.links()
        if self.random.random() < 0.05:
            self.leader = self.random.choice([each.id for each in self.nodes if each.id in self.voters])

    def settled(self) -> bool:
        view = self.log.view
        return view.pending is None and view.active is not None and all(
            each.applied == len(self.log.commands) and each.on_disk == {view.active.number} and not each.requests
            and each.trusted == (view.active.number,) for each in self.nodes
        ) and {each.id for each in self.nodes} == self.voters  # fmt: skip

    def run(self, crash: float) -> None:
        for _ in range(20_000):
            if self.settled():
                return
            self.round(crash)
        raise AssertionError(f"not settled: {self.log.view}")

    def admit(self, node: str, crash: float) -> None:
        """A joiner: its bundle holds what its disk has when it starts."""
        join(self.log, node)
        while not (self.log.view.pending and self.log.view.pending.root):
            self.round(crash)
        number, active = self.log.pending().number, self.log.view.active
        assert active is not None
        joiner = self.add(node)
        joiner.stored, joiner.on_disk, joiner.presented = {number}, {number, active.number}, number
        joiner.trusted, joiner.revision = (active.number, number), self.log.view.revision
        while not all(number in each.trusted for each in self.nodes):
            next(iter(self.nodes[self.random.randrange(len(self.nodes) - 1)].step()), None)
            for each in self.nodes[:-1]:
                for _ in each.step():
                    pass
        self.run(crash)


@pytest.mark.parametrize("seed", range(12))
def test_growing_and_renewing_with_crashes_anywhere(seed: int) -> None:
    print(f"seed {seed}")
    world = World(seed)
    crash = 0.0 if seed == 0 else 0.2
    for node in ("n2", "n3"):
        world.admit(node, crash)
    world.log.apply("begin", "renew", None)
    world.run(crash)
    view = world.log.view
    assert view.active is not None and view.active.number == 4
    assert {member.role for member in view.live().values()} == {"voter"}
    assert all(len(member.pins) == 1 and member.generation == 4 for member in view.live().values())
