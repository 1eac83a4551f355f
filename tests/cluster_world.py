"""A small simulator of the certificate protocol: real decisions and a real state machine; disks, links, keys and crashes are
stand-ins, and an adversary with a seed chooses who runs, leads, crashes and is down."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from raftcluster.cluster.actions import (
    Action,
    Alarm,
    Amend,
    CatchUp,
    Endorse,
    Expel,
    Forget,
    HandOver,
    Local,
    Mint,
    Promote,
    Propose,
    Relink,
    Renew,
    Request,
    Store,
    Use,
    Vouch,
)
from raftcluster.cluster.lifecycle import LONELY_SECONDS, decide, is_for_the_unheard
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.manifests import link_digest
from raftcluster.cluster.reconcile import OVERTAKEN
from raftcluster.cluster.records import SCHEMA
from raftcluster.cluster.view import View, links
from raftcluster.codec import unpack
from raftcluster.errors import Rejected, Unavailable
from tests.cluster_log import Log, Rows, genesis, key, minting, pin, vouch

GENESIS = genesis(["c1", "mail", False, "mta/1", SCHEMA, "standalone", "n1"], ["n1", "mx1", "192.0.2.1", 9777, "mta/1"])
ROUND_MS = 40
"""How far cluster time goes in a round, when it goes."""


def join(log: Log, node: str) -> Log:
    """Invite the node, and begin the generation that lets it in."""
    log.apply("invite", f"t-{node}", b"k" * 32, f"mx{node[1:]}", 3600, [])
    csr = b"csr-" + node.encode()
    address = (f"192.0.2.{node[1:]}", 9777)
    who = [node, f"mx{node[1:]}", *address, "mta/1", SCHEMA, "standalone", f"t-{node}", csr.ljust(32), csr]
    log.apply("begin", "x", who)
    return log


def three() -> Log:
    """Three voters, nothing under way."""
    return joined_by("n2", "n3")


def joined_by(*nodes: str) -> Log:
    """The founder and these as voters, nothing under way."""
    log = Log()
    log.apply(*GENESIS)
    for node in nodes:
        join(log, node)
        number = log.pending().number
        for each in log.pending().members:
            log.apply("csr", number, each, each.encode())
        log.mint()
        members = list(log.pending().members)
        log.trust(*members)
        log.switch(*members)
        log.apply("retire", number)
        log.apply("promoted", node)
        log.amend()
    return log


class Node:
    """A node as far as the lifecycle sees it: a disk, links, and a replica that lags and falls back at a restart."""

    def __init__(self, world: World, node: str) -> None:
        self.world, self.id = world, node
        self.up = True
        self.requests: dict[int, bytes] = {}
        self.stored: set[int] = set()
        self.rooted: set[int] = set()
        self.on_disk: set[int] = set()
        self.endorsed: dict[int, bytes] = {}
        self.presented, self.revision = 0, 0
        self.trusted: tuple[int, ...] = ()
        self.awaiting = 0
        self.asked: set[int] = set()  # generations that it was let into with the key of its way back: durable
        self.applied = 0
        self.rows = Rows()
        self.restart()

    def restart(self) -> None:
        """Volatile state is gone; the tables are those of an earlier checkpoint."""
        self.links: dict[str, int] = {}
        self.awaiting = 0
        checkpoint = self.world.random.randint(max(0, self.applied - 6), self.applied)
        self.rows, self.applied = Rows(), 0
        self.apply(checkpoint)

    def apply(self, upto: int) -> None:
        machine = ClusterMachine()
        while self.applied < upto:
            before = dict(self.rows.rows)
            try:
                log = self.world.log
                machine.apply(unpack(log.commands[self.applied]), self.rows, log.times[self.applied])
            except Rejected:
                self.rows.rows = before
            self.applied += 1

    def can_link(self, other: Node) -> bool:
        """Whether a handshake between the two succeeds now."""
        live = self.world.log.view.live()
        return (
            self.up
            and other.up
            and self.presented in other.trusted
            and other.presented in self.trusted
            and all(each.id in live and pin(each.presented, each.id) in live[each.id].pins for each in (self, other))
        )

    @property
    def heard(self) -> bool:
        """Whether entries reach this node, and its commands the leader."""
        return self.world.leader == self.id or self.world.leader in self.links

    def step(self) -> Iterator[None]:
        """One round of the reconciler; it may crash wherever it yields."""
        if not self.up:
            return
        if self.heard:
            self.apply(self.world.random.randint(self.applied, len(self.world.log.commands)))
        leader = self.world.leader == self.id
        view = View.read(self.rows, self.world.log.time)
        unheard = False
        for action in decide(view, self.local(leader)):
            if unheard and not is_for_the_unheard(action):
                continue
            yield
            try:
                yield from self.perform(action, view)
            except Unavailable:
                unheard = True

    def local(self, leader: bool) -> Local:
        voters = self.world.voters if leader else ()
        alone = len(self.world.nodes) > 1 and not self.links
        return Local(
            self.id, leader, self.revision, self.requests, self.stored, self.on_disk, self.presented, self.trusted,
            self.links, rooted=self.rooted, lonely_s=LONELY_SECONDS if alone else 0.0, voters=voters,
            caught_up=set(self.links) if leader else (),
        )  # fmt: skip

    def perform(self, action: Action, view: View) -> Iterator[None]:
        match action:
            case Request(number):
                if number not in self.requests:
                    self.requests[number] = f"csr-{number}-{self.id}-{self.world.random.random()}".encode()
                    self.on_disk.add(number)
                yield
                self.propose("csr", number, self.id, self.requests[number])
            case Mint():
                yield
                self.propose(*minting(view))
            case Store(number, _, certificate):
                self.rooted.add(number)
                self.on_disk.add(number)
                if certificate is not None:
                    del self.requests[number]
                    self.stored.add(number)
            case Vouch():
                assert view.pending is not None
                self.endorse(view.pending.sequence, link_digest(view.pending.manifest, view.pending.root))
                yield
                self.propose(*vouch(view, self.id))
            case Endorse(sequence):
                assert view.amendment is not None and view.head is not None
                self.endorse(sequence, link_digest(view.amendment.manifest, b""))
                yield
                self.propose("amended", sequence, self.id, [key(view.head.content().generation, self.id), b"sig"])
            case Amend(candidate):
                self.propose("amend", "x", candidate)
            case Use(present, trust):
                assert present in self.stored and set(trust) <= self.rooted
                self.presented, self.trusted, self.revision = present, trust, view.revision
                self.world.cut()
            case Relink(peers):
                self.links = {
                    each: self.presented if each in peers and self.can_link(self.world.node(each)) else shown
                    for each, shown in self.links.items()
                }
            case Propose(command):
                self.propose(*command)
            case Renew():
                self.propose("rotate", "x", [], False)
            case Forget(numbers):
                assert self.presented not in numbers and not set(numbers) & set(self.trusted)
                for number in numbers:
                    self.requests.pop(number, None)
                self.stored -= set(numbers)
                self.rooted -= set(numbers)
                self.on_disk -= set(numbers)
            case CatchUp():
                yield from self.catch_up()
            case HandOver():
                self.world.lead()
            case Promote(node):
                self.world.voters.add(node)
            case Expel(node):
                self.world.voters.discard(node)
            case Alarm():
                self.world.alarms.add(action.code)
            case _:
                raise AssertionError(action)

    def endorse(self, sequence: int, digest: bytes) -> None:
        """Durably, before it is said: never two for one number."""
        assert self.endorsed.setdefault(sequence, digest) == digest, (
            f"{self.id} endorses two manifests number {sequence}"
        )

    def catch_up(self) -> Iterator[None]:
        """Over a stranger's connection to any member that is up: the public chain, then a certificate."""
        asked = [each for each in self.world.nodes if each.up and each is not self]
        view = self.world.log.view
        me = view.live().get(self.id)
        if not asked or me is None or view.head is None or view.active is None:
            return
        if view.head.content().generation == self.presented:
            return
        held = [each for each in (view.active, view.pending) if each is not None and each.root]
        has = {*self.stored, *self.requests, *self.asked}
        found = [each for each in held if self.id in each.certificates and each.number in has]
        if found:
            yield
            self.take(found[-1].number, [each.number for each in held], view)
        elif self.awaiting == 0:
            shown = next((number for number in sorted(has, reverse=True) if pin(number, self.id) in me.pins), 0)
            if shown:
                try:
                    self.awaiting = self.world.log.apply("return", "x", self.id, pin(shown, self.id), b"back")
                    self.asked.add(self.awaiting)
                except Rejected as error:
                    if error.code not in ("generation-under-way", "not-asleep"):
                        raise
        elif view.newest > self.awaiting or (view.pending is None and view.active.number < self.awaiting):
            self.awaiting = 0  # given up

    def take(self, number: int, roots: list[int], view: View) -> None:
        self.requests.pop(number, None)
        self.stored.add(number)
        self.rooted |= set(roots)
        self.on_disk |= {*roots, number}
        self.presented, self.trusted, self.revision = number, tuple(roots), view.revision
        self.awaiting = 0
        self.asked.clear()
        self.world.cut()
        self.world.returns += 1

    def propose(self, *command: Any) -> None:
        if not self.heard or not self.world.has_quorum():
            raise Unavailable("nobody who leads hears it")
        try:
            self.world.log.apply(*command)
        except Rejected as error:
            if error.code not in OVERTAKEN:
                raise
        self.world.cut()


class World:
    """A cluster of `Node`s over one log. With `time` its deadlines pass; without, everybody is waited for."""

    def __init__(self, seed: int, *, time: bool = False) -> None:
        self.random = random.Random(seed)
        self.time = time
        self.log = Log()
        self.log.apply(*GENESIS)
        self.voters = {"n1"}
        self.leader = "n1"
        self.alarms: set[str] = set()
        self.returns = 0
        self.checked = 0
        self.nodes: list[Node] = []
        founder = self.add("n1")
        founder.stored, founder.rooted, founder.on_disk, founder.presented, founder.trusted = {1}, {1}, {1}, 1, (1,)

    def add(self, node: str) -> Node:
        self.nodes.append(Node(self, node))
        return self.nodes[-1]

    def node(self, node: str) -> Node:
        """The node of that id."""
        return next(each for each in self.nodes if each.id == node)

    def check(self) -> None:
        """While nobody is left behind, no two members are ever unable to link: each trusts, and has the pin of, what the
        other presents. The chain follows rule by rule, whoever was left behind."""
        self.check_chain()
        if self.time:
            return
        for one in self.nodes:
            for other in self.nodes:
                assert one is other or one.presented in other.trusted, (one.id, one.presented, other.id, other.trusted)
            assert pin(one.presented, one.id) in self.log.view.members[one.id].pins

    def check_chain(self) -> None:
        """Each link follows the one before and is endorsed by a majority of its voters."""
        if len(self.log.commands) == self.checked:
            return
        self.checked = len(self.log.commands)
        chain = links(self.log.rows)[-3:]  # the others were checked when they were new
        for before, link in pairwise(chain):
            known, current = before.content(), link.content()
            assert current.previous == before.digest and current.sequence > known.sequence
            signed = [each for each in link.endorsements if each in known.voters]
            assert len(signed) > len(known.voters) / 2, (current, signed)

    def has_quorum(self) -> bool:
        """Whether the leader can commit anything: it reaches a majority of the voters."""
        leader = self.node(self.leader)
        reached = {each for each in self.voters if each == leader.id or each in leader.links}
        return leader.up and len(reached) > len(self.voters) / 2

    def lead(self) -> None:
        """Somebody else leads: who is up and has the newest log."""
        able = [each for each in self.nodes if each.up and each.id in self.voters and each.id in self.log.view.live()]
        if able:
            chosen = self.random.choice(able)
            chosen.apply(len(self.log.commands))
            self.leader = chosen.id

    def cut(self) -> None:
        """Links end when a peer is down, removed or shows what is not trusted any more."""
        live = self.log.view.live()
        for one in self.nodes:
            for other in list(one.links):
                far = self.node(other)
                kept = one.up and far.up and one.links[other] in far.trusted and far.links.get(one.id, 0) in one.trusted
                if not kept or other not in live or one.id not in live:
                    del one.links[other]
                    far.links.pop(one.id, None)

    def link(self, chance: float = 0.5) -> None:
        """New links, between whoever can."""
        for one in self.nodes:
            for other in self.nodes:
                fresh = one.id < other.id and other.id not in one.links
                if fresh and one.can_link(other) and self.random.random() < chance:
                    one.links[other.id], other.links[one.id] = one.presented, other.presented

    def round(self, crash: float) -> None:
        if self.time:
            self.log.time += ROUND_MS
        node = self.random.choice(self.nodes)
        for _ in node.step():
            self.check()
            if self.random.random() < crash:
                node.restart()
                for each in self.nodes:
                    each.links.pop(node.id, None)
                break
        self.check()
        self.link()
        if self.random.random() < 0.05 or not self.has_quorum():
            self.lead()

    def settled(self) -> bool:
        """Whether nothing is left to do anywhere."""
        view = self.log.view
        members = [each for each in self.nodes if each.id in view.live()]
        return view.pending is None and view.active is not None and view.head is not None and all(
            each.up and each.applied == len(self.log.commands) and each.on_disk == {view.active.number}
            and not each.requests and each.trusted == (view.active.number,) for each in members
        ) and {each.id for each in members} == self.voters == set(view.head.content().voters) and not any(
            member.asleep_since or member.role == "learner" for member in view.live().values()
        )  # fmt: skip

    def run(self, crash: float, rounds: int = 20_000) -> None:
        """Until all is settled."""
        for _ in range(rounds):
            if self.settled():
                return
            self.round(crash)
        states = [(each.id, each.up, each.presented, each.trusted, each.links, each.awaiting) for each in self.nodes]
        raise AssertionError(f"not settled: leader {self.leader}, voters {self.voters}, {states}, {self.log.view}")

    def until(self, phase: str, crash: float = 0.0) -> None:
        """Until the generation under way is in that phase; "active" when none is."""
        for _ in range(20_000):
            pending = self.log.view.pending
            if (pending.phase if pending else "active") == phase:
                return
            self.round(crash)
        raise AssertionError(f"never in phase {phase}: {self.log.view.pending}")

    def stop(self, node: str) -> None:
        """The node is down."""
        found = self.node(node)
        found.up = False
        found.restart()
        self.cut()
        if self.leader == node:
            self.lead()

    def start(self, node: str) -> None:
        """It is up again, with what its disk has."""
        self.node(node).up = True

    def admit(self, node: str, crash: float) -> None:
        """A joiner: its bundle holds what its disk has when it starts."""
        join(self.log, node)
        while not (self.log.view.pending and self.log.view.pending.root):
            self.round(crash)
        number, active = self.log.pending().number, self.log.view.active
        assert active is not None
        joiner = Node(self, node)
        joiner.stored, joiner.on_disk, joiner.rooted = {number}, {number, active.number}, {number, active.number}
        joiner.presented, joiner.trusted, joiner.revision = number, (active.number, number), self.log.view.revision
        self.finish(number)
        self.nodes.append(joiner)
        self.run(crash)

    def finish(self, number: int) -> None:
        """Until every node there is trusts the generation: only then can the joiner link with all."""
        while not all(number in each.trusted for each in self.nodes if each.up):
            for each in self.nodes:
                for _ in each.step():
                    self.check()
            self.link(1.0)
