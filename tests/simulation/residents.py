"""All nodes' parts of the cluster's record, and the administrator who lets hosts in and takes them out, or ends it all.

Checked here: who is shut out has no vote any more; each link of the chain is endorsed by a majority of the voters that the one
before names; nobody removes anything before a majority has signed the tombstone; and in the end the record, the
engine's voters, the chain and the certificates agree, and whoever was removed knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, Final

from raftcluster.cluster.manifests import is_endorsed
from raftcluster.cluster.records import SCHEMA
from raftcluster.cluster.view import View, links, members
from raftcluster.engine.operations import Operation
from raftcluster.machine import ReadTables
from tests.cluster_log import genesis
from tests.simulation.checker import Checker
from tests.simulation.process import Process
from tests.simulation.resident import Resident
from tests.simulation.world import World

FACTS: Final = ["c1", "mail", False, "mta/1", SCHEMA, "standalone"]
REFUSALS: Final = (
    "destroyed",
    "no-member",
    "last-voter",
    "change-under-way",
    "no-certificate",
    "no-cluster",
    "nothing-to-amend",
    "endorsement-needed",
)
"""Of commands that were right when they were decided upon."""
TRY_SECONDS: Final = 0.5
UNKNOWN: Final = [3]

Told = Callable[[list[Any] | None], None]
"""Gets the result of a command, None when there is none in time."""


class Residents:
    """See the module's text."""

    def __init__(self, world: World, processes: Mapping[str, Process], founder: str, checker: Checker) -> None:
        self._world, self._checker, self.founder = world, checker, founder
        self.all = {name: Resident(process, self) for name, process in processes.items()}
        self.genesis = genesis([*FACTS, founder], self._host(founder))
        self.healed = False
        self.destroying = False
        self._asked = 0
        self._checked = 0
        self._joining: set[str] = set()
        first = self.all[founder]
        first.stored, first.rooted, first.on_disk, first.presented, first.trusted = {1}, {1}, {1}, 1, (1,)
        first.member = True
        for process in processes.values():
            process.resident = self.all[process.name]

    @staticmethod
    def _host(name: str) -> list[Any]:
        return [name, f"mx-{name}", f"{name}.example.org", 9777, "mta/1"]

    def begin(self) -> None:
        """The founder's reconciler runs."""
        self._world.after(0.1, self.all[self.founder].run)

    # ---- what residents need

    def check(self, good: bool, text: str) -> None:
        """Something that must be so."""
        if not good:
            self._checker.violate("members", text)

    def expects(self, code: str) -> bool:
        """Whether a command may meet this refusal."""
        return code in REFUSALS

    def admits(self, one: str, other: str) -> bool:
        """Whether the two can link."""
        a, b = self.all[one], self.all[other]
        return a.admits(b) and b.admits(a)

    def reachable(self, asking: Resident) -> list[Resident]:
        """Who answers a stranger: who is up, and hosts that keep a tombstone."""
        network = asking.process.network
        return [
            each
            for each in self.all.values()
            if each is not asking
            and network.open(asking.name, each.name)
            and ((each.process.up and each.member) or each.left == "destroyed")
        ]

    def submit(self, process: Process, command: list[Any], told: Told, patience: float) -> None:
        """A command through this process; what it has come to follows once."""
        replica = process.replica
        self._asked += 1
        ident = self._asked.to_bytes(16, "big")
        done: list[bool] = []

        def answer(results: list[Any] | None, _error: object) -> None:
            """In the middle of a step."""
            if not done:
                done.append(True)
                self._world.after(0.0, partial(told, None if results is None or results[0] == UNKNOWN else results[0]))

        def late() -> None:
            if not done:
                done.append(False)
                told(None)

        if replica is not None:
            operation = Operation("cluster", ident, replica.engine.applied, [command])
            process.run(lambda: replica.submit(operation, answer))
            process.wake()
        self._world.after(patience, late)

    # ---- the administrator

    def _somebody(self) -> Process | None:
        up = [each.process for each in self.all.values() if each.process.up and each.member and not each.left]
        return self._world.random.choice(up) if up else None

    def _view(self) -> View | None:
        """Of the process that has applied most."""
        up = [each for each in self.all.values() if each.process.replica is not None and each.member]
        views = [each.view() for each in up]
        return max(views, key=lambda view: view.revision, default=None)

    def admit(self) -> None:
        """Another host joins, one that has never been here: also one that was removed is another node when it returns."""
        new = [
            each for each in self.all.values() if not each.member and not each.left and each.name not in self._joining
        ]
        if new and not self.destroying:
            self._joining.add(new[0].name)
            self._invite(new[0])

    def _invite(self, host: Resident) -> None:
        process = self._somebody()
        again = partial(self._world.after, TRY_SECONDS, partial(self._invite, host))
        if self.destroying or self.healed:
            self._joining.discard(host.name)
            return
        if process is None:
            again()
            return

        def told(result: list[Any] | None) -> None:
            if result is None or result[0] != 0:
                again()
            else:
                self._begin(host)

        token = f"t-{host.name}"
        self.submit(process, ["invite", token, b"k" * 32, f"mx-{host.name}", 3600, []], told, 2.0)

    def _begin(self, host: Resident) -> None:
        """Over a stranger's connection; the same request again is answered as before."""
        process, csr = self._somebody(), b"csr-" + host.name.encode()
        again = partial(self._world.after, TRY_SECONDS, partial(self._begin, host))
        if self.destroying:
            self._joining.discard(host.name)
            return

        def told(result: list[Any] | None) -> None:
            if result is not None and result[:2] == [1, "no-member"]:  # it was removed before it was let in
                host.left = "removed"
                self._joining.discard(host.name)
            elif result is None or result[0] != 0:
                again()
            else:
                host.requests[result[1]] = csr
                self._let_in(host, result[1])

        if process is None:
            again()
        else:
            name, label, address, port, product = self._host(host.name)
            who = [name, label, address, port, product, SCHEMA, "standalone", f"t-{name}", csr.ljust(32), csr]
            self.submit(process, ["begin", "x", who], told, 2.0)

    def _let_in(self, host: Resident, number: int) -> None:
        """Its bundle, once it is minted; the generation may also be given up."""
        view = self._view()
        if self.destroying:
            self._joining.discard(host.name)
        elif view is not None and view.active is not None:
            held = [each for each in (view.active, view.pending) if each is not None and each.root]
            if any(each.number == number and host.name in each.certificates for each in held):
                host.take(number, tuple(each.number for each in held), view)
                host.member = True
                self._joining.discard(host.name)
                self._world.counts["hosts let in"] += 1
                self._world.tell(host.name, f"is let in, generation {number}")
                host.process.start()
                host.run()
                return
            if view.newest > number or (view.newest == number and view.pending is None):
                host.requests.pop(number, None)
                self._begin(host)
                return
            self._world.after(0.2, partial(self._let_in, host, number))
        else:
            self._world.after(0.2, partial(self._let_in, host, number))

    def command(self, command: list[Any]) -> None:
        """Asked for once, somewhere."""
        process = self._somebody()
        if process is not None and not self.destroying:
            self.submit(process, command, lambda result: None, 2.0)

    def remove(self) -> None:
        """Take a member out, be it up, down or the leader."""
        view = self._view()
        if view is not None and len(view.live()) > 1:
            victim = self._world.random.choice(sorted(view.live()))
            if self._world.chance(0.3):
                self.all[victim].process.crash(self._world.random.uniform(0.5, 5.0))
            self.command(["leaving", victim])

    def destroy(self) -> None:
        """Dismantle the cluster."""
        view, process = self._view(), self._somebody()
        if view is not None and process is not None:

            def told(result: list[Any] | None) -> None:
                if result is None or result[0] != 0:
                    self.destroy()

            self.destroying = True
            self.submit(process, ["destroy", "event-1", "mail", True, "the end", False], told, 2.0)

    # ---- what must be so

    def committed(self, tables: ReadTables, voters: frozenset[str]) -> None:
        """The history's tables, after an entry with a command of this machine."""
        shut_out = {name for name, member in members(tables).items() if member.role == "removed"}
        self.check(not shut_out & voters, f"{sorted(shut_out & voters)} are shut out, and vote")
        chain = links(tables)
        for before, link in pairwise(chain[self._checked :]):
            signed = [each for each in link.endorsements if each in before.content().voters]
            known, current = before.content(), link.content()
            good = current.previous == before.digest and is_endorsed(known.voters, signed)
            self.check(good, f"link {current.sequence} does not follow from {known.sequence}")
        self._checked = max(0, len(chain) - 1)

    def wanting(self) -> str:
        """What is missing of a cluster in which nothing is to be done any more; empty when nothing is."""
        here = [each for each in self.all.values() if each.member and not each.left]
        if self.destroying:
            return f"{[each.name for each in here]} are not dismantled" if here else ""
        if self._joining:
            return f"{sorted(self._joining)} have not joined"
        view = self._view()
        if view is None or view.active is None or view.head is None:
            return "there is no record"
        live = view.live()
        if view.pending is not None or view.amendment is not None or view.leaving:
            return f"under way: {view.pending and view.pending.phase}, {view.amendment}, {view.leaving}"
        if set(live) != {each.name for each in here}:
            return f"members are {sorted(live)}, here are {[each.name for each in here]}"
        for each in here:
            if each.trusted != (view.active.number,) or each.on_disk != {view.active.number}:
                return f"{each.name} trusts {each.trusted}, and has {sorted(each.on_disk)} of {view.active.number}"
        replica = max(
            (each.process.replica for each in here if each.process.replica is not None),
            key=lambda replica: replica.engine.applied,
            default=None,
        )
        voters = replica.journal.voters() if replica is not None else frozenset[str]()
        if not set(live) == voters == set(view.head.content().voters):
            return (
                f"members are {sorted(live)}, voters {sorted(voters)}, the chain's {sorted(view.head.content().voters)}"
            )
        asleep = [each.name for each in live.values() if each.asleep_since or each.role != "voter"]
        return f"{asleep} do not vote" if asleep else ""
