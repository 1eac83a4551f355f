"""One node's part of the cluster's record, over the real replica: the real decisions, and stand-ins for keys and files.

What the product's reconciler does with threads, a keystore and TLS is done here in virtual time: `step` reads the tables that
this process has applied, asks `lifecycle.decide`, and carries out what it says, one command to the log at a time. A
certificate is a number, its pin is that of `tests.cluster_log`, and two processes link when each trusts, and has the pin
of, what the other presents.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from raftcluster.cluster.actions import (
    Action,
    Alarm,
    Amend,
    CatchUp,
    Depart,
    Endorse,
    Expel,
    Forget,
    Found,
    HandOver,
    Local,
    Mint,
    Promote,
    Propose,
    Record,
    Relink,
    Renew,
    Request,
    Sign,
    Store,
    Use,
    Vouch,
    Wipe,
)
from raftcluster.cluster.lifecycle import decide, peers
from raftcluster.cluster.manifests import is_endorsed, link_digest, majority
from raftcluster.cluster.reconcile import OVERTAKEN
from raftcluster.cluster.view import View
from raftcluster.engine.membership import Change
from tests.cluster_log import key, minting, pin, vouch
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.residents import Residents

LOOK_SECONDS: Final = 0.3
ASK_SECONDS: Final = 1.0
SEEK_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 2.0
CRASHES: Final = 0.01
"""How often a process dies after it has done something, and before it has done the next."""


class Resident:
    """See the module's text. The fields of the first part are on its disk, those of the second end with the process."""

    def __init__(self, process: Process, residents: Residents) -> None:
        self.process, self._all, self._world = process, residents, process.world
        self.name = process.name
        self.requests: dict[int, bytes] = {}
        self.stored: set[int] = set()
        self.rooted: set[int] = set()
        self.on_disk: set[int] = set()
        self.endorsed: dict[int, bytes] = {}
        self.asked: set[int] = set()
        """Generations that it was let into with the key of its way back."""
        self.presented, self.revision = 0, 0
        self.trusted: tuple[int, ...] = ()
        self.pins: dict[str, frozenset[bytes]] = {}
        """Who may link, and what they may show."""
        self.member = False
        """It has been let in, or has founded the cluster."""
        self.left = ""
        """Why it has stopped for good: removed, or destroyed."""
        self.recorded = False
        self.started()

    def started(self) -> None:
        self.links: dict[str, int] = {}
        self._awaiting = 0
        self._waits = self._asks = False
        self._alone: float | None = self._world.time
        self._destroying: float | None = None
        self._asked_at = self._sought_at = 0.0

    # ---- links

    def admits(self, other: Resident) -> bool:
        """Whether it takes what the other presents."""
        return other.presented in self.trusted and pin(other.presented, other.name) in self.pins.get(other.name, ())

    def link_up(self, peer: str) -> None:
        self.links[peer] = self.presented

    def link_down(self, peer: str) -> None:
        self.links.pop(peer, None)

    # ---- the reconciler

    def run(self) -> None:
        """Look, act, and look again; for as long as the process is up."""
        if self.process.up and not self.left and not self._waits and self.process.paused_until <= self._world.time:
            self._seek()
            if not self.left:
                self.step()
        if not self.left:
            self._world.after(self._world.random.uniform(0.3, 1.0) * LOOK_SECONDS, self.run)

    def view(self) -> View:
        """What this process has applied."""
        replica = self.process.replica
        assert replica is not None
        return View.read(replica.applier.tables("cluster"), replica.time())

    def step(self) -> None:
        """Compare, and act until something has to be waited for."""
        view = self.view()
        self._configure(view)
        actions = decide(view, self._local(view))
        self._asks = any(isinstance(each, CatchUp) for each in actions)
        for action in actions:
            self._perform(action, view)
            if self._waits or not self.process.up:
                return
            if self.process.options.strikes and not self._all.healed and self._world.chance(CRASHES):
                self.process.crash(self._world.random.uniform(0.05, 1.0))
                return

    def _configure(self, view: View) -> None:
        """Let exactly those link that the record names."""
        if view.facts is None or view.revision < self.revision or self.name not in view.live():
            return
        self.revision = view.revision
        self.pins = {name: frozenset(member.pins) for name, member in peers(view, self.name).items()}
        for peer in set(self.links) - set(self.pins):
            self.process.network.drop(self.name, peer)

    def _local(self, view: View) -> Local:
        replica, now = self.process.replica, self._world.time
        assert replica is not None
        leader = replica.engine.is_leader
        if len(self.links) + 1 >= majority(len(self.pins) + 1) and replica.led:
            self._alone = None
        elif self._alone is None:
            self._alone = now
        ending = view.destruction
        if ending is not None and self._destroying is None:
            self._destroying = now
        voters = view.head.content().voters if view.head is not None else {}
        learners = [each.node_id for each in view.live().values() if each.role == "learner"]
        return Local(
            self.name, leader, self.revision, self.requests, self.stored, self.on_disk, self.presented, self.trusted,
            self.links, rooted=self.rooted, lonely_s=0.0 if self._alone is None else now - self._alone,
            voters=replica.journal.voters() if leader else (),
            changing=leader and replica.journal.change_after(replica.engine.commit_index),
            caught_up=[each for each in learners if replica.caught_up(each)] if leader else (),
            signed=ending is not None and self.name in ending.signatures,
            entombed=ending is not None and is_endorsed(voters, list(ending.signatures)),
            recorded=self.recorded,
            destroying_s=0.0 if self._destroying is None else now - self._destroying,
            founder=self._all.founder == self.name,
        )  # fmt: skip

    def _perform(self, action: Action, view: View) -> None:
        match action:
            case Found():
                self._propose(self._all.genesis)
            case Request(number):
                self.requests.setdefault(number, f"csr-{number}-{self.name}-{self._world.random.random()}".encode())
                self.on_disk.add(number)
                self._propose(["csr", number, self.name, self.requests[number]])
            case Mint():
                self._propose(minting(view))
            case Store(number, _, certificate):
                self.rooted.add(number)
                self.on_disk.add(number)
                if certificate is not None:
                    del self.requests[number]
                    self.stored.add(number)
            case Vouch():
                assert view.pending is not None
                self._endorse(view.pending.sequence, link_digest(view.pending.manifest, view.pending.root))
                self._propose(vouch(view, self.name))
            case Endorse(sequence):
                assert view.amendment is not None and view.head is not None
                self._endorse(sequence, link_digest(view.amendment.manifest, b""))
                given = [key(view.head.content().generation, self.name), b"signature"]
                self._propose(["amended", sequence, self.name, given])
            case Amend(candidate):
                self._propose(["amend", "x", candidate])
            case Use(present, trust):
                self.presented, self.trusted = present, trust
            case Relink(peers):
                for peer in peers:
                    self.process.network.drop(self.name, peer)
            case Propose(command):
                self._propose(command)
            case Renew():
                self._propose(["rotate", "x", [], False])
            case Forget(numbers):
                self._all.check(self.presented not in numbers, f"{self.name} deletes what it presents")
                for number in numbers:
                    self.requests.pop(number, None)
                for held in (self.stored, self.rooted, self.on_disk):
                    held.difference_update(numbers)
            case CatchUp():
                self._catch_up()
            case HandOver():
                self._hand_over()
            case Promote(name):
                self._change(Change("add", name))
            case Expel(name) if name == self.name:
                self._hand_over()
            case Expel(name):
                self._change(Change("rem", name))
            case Depart():
                self._leave("removed")
            case Sign():
                self._propose(["signed", self.name, b"key", b"signature"])
            case Record():
                self.recorded = True
            case Wipe():
                self._all.check(self.recorded, f"{self.name} is wiped, and has not recorded it")
                self._leave("destroyed")
            case Alarm():
                self._world.counts[f"alarm {action.code}"] += 1
            case _:
                raise AssertionError(action)

    def _endorse(self, sequence: int, digest: bytes) -> None:
        """On the disk, before it is said."""
        known = self.endorsed.setdefault(sequence, digest)
        self._all.check(known == digest, f"{self.name} endorses two manifests number {sequence}")

    def _propose(self, command: list[Any]) -> None:
        """Into the log, and wait for what it says."""
        self._waits = True
        incarnation = self.process.incarnation

        def told(result: list[Any] | None) -> None:
            if self.process.incarnation != incarnation:
                return
            self._waits = False
            if result is None and self._asks and not self.left:
                self._catch_up()
            if result is not None and result[0] != 0 and result[1] not in OVERTAKEN:
                self._all.check(self._all.expects(result[1]), f"{self.name}: {command[0]} is refused: {result}")

        self._all.submit(self.process, command, told, PATIENCE_SECONDS)

    def _change(self, change: Change) -> None:
        replica, counts = self.process.replica, self._world.counts
        assert replica is not None

        def done(committed: bool) -> None:
            if committed:
                counts["voters added" if change.action == "add" else "voters removed"] += 1

        self.process.run(lambda: replica.change_voters(change, done))
        self.process.wake()

    def _hand_over(self) -> None:
        replica = self.process.replica
        assert replica is not None
        self.process.run(partial(replica.leadership.transfer, None))
        self.process.wake()

    def _leave(self, why: str) -> None:
        self.left = why
        self._world.counts[f"nodes {why}"] += 1
        self._world.tell(self.name, f"stops for good: {why}")
        self.process.retire()

    # ---- the way back

    def _seek(self) -> None:
        """While nobody leads: the tombstone, where its peers were."""
        replica, now = self.process.replica, self._world.time
        assert replica is not None
        if not replica.led and now - self._sought_at >= SEEK_SECONDS:
            self._sought_at = now
            if any(each.left == "destroyed" and each.name in self.pins for each in self._all.reachable(self)):
                self.recorded = True
                self._leave("destroyed")

    def _catch_up(self) -> None:
        """Over a stranger's connection to somebody: what it has slept through."""
        if self._world.time - self._asked_at < ASK_SECONDS:
            return
        self._asked_at = self._world.time
        others = [each for each in self._all.reachable(self) if each.name in self.pins and not each.left]
        if not others:
            return
        other = self._world.random.choice(others)
        view = other.view()
        if view.head is None or view.active is None or view.revision < self.revision:
            return
        me = view.members.get(self.name)
        if me is None or me.role == "removed":
            if other.name in view.live():
                self._leave("removed")
            return
        if view.head.content().generation == self.presented:
            return
        held = [each for each in (view.active, view.pending) if each is not None and each.root]
        has = {*self.stored, *self.requests, *self.asked}
        found = [each for each in held if self.name in each.certificates and each.number in has]
        if found:
            self.take(found[-1].number, tuple(each.number for each in held), view)
            self._world.counts["nodes back by the chain"] += 1
        elif self._awaiting == 0:
            shown = next((number for number in sorted(has, reverse=True) if pin(number, self.name) in me.pins), 0)
            if shown:
                self._waits = True
                command = ["return", "x", self.name, pin(shown, self.name), b"back"]
                self._all.submit(other.process, command, self._returning, PATIENCE_SECONDS)
        elif view.newest > self._awaiting or (view.pending is None and view.active.number < self._awaiting):
            self._awaiting = 0  # given up

    def _returning(self, result: list[Any] | None) -> None:
        self._waits = False
        if result is not None and result[0] == 0:
            self._awaiting = result[1]
            self.asked.add(result[1])

    def take(self, number: int, roots: tuple[int, ...], view: View) -> None:
        """A certificate, and the roots that are trusted with it, from somebody else: a bundle."""
        self.requests.pop(number, None)
        self.stored.add(number)
        self.rooted.update(roots)
        self.on_disk.update({*roots, number})
        self.presented, self.trusted, self.revision = number, roots, view.revision
        self.pins = {name: frozenset(member.pins) for name, member in peers(view, self.name).items()}
        self._awaiting = 0
        self.asked.clear()
