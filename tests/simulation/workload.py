"""Clients. Each operation keeps its id until its client knows the result, however often and wherever it is sent.

What clients are told is held against the history by the checker; what they may conclude from it (exactly once, never
applied, linearizable reads) is noted here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from raftcluster.codec import pack
from raftcluster.engine.operations import Operation
from raftcluster.errors import RaftclusterError, Unavailable
from raftcluster.greylist.check import HEAD, command
from raftcluster.greylist.record import node_label
from tests.simulation.checker import Checker
from tests.simulation.machines import count
from tests.simulation.process import Process
from tests.simulation.profiles import Options
from tests.simulation.requests import Requests
from tests.simulation.timekeeping import RATE, SLACK
from tests.simulation.world import World

TRIES: Final = 6
TOGETHER: Final = (1, 1, 1, 2, 5)
"""How many commands an operation holds."""
OVERHEAD_BYTES: Final = 150
"""What an append has beside the commands of one operation, which is never split."""
UNKNOWN: Final = [3]


class Client:
    """One operation and whoever wants its result."""

    def __init__(self, number: int, ident: bytes, machine: str, commands: list[Any]) -> None:
        self.number, self.ident, self.machine, self.commands = number, ident, machine, commands
        self.born: int | None = None
        self.asked = 0.0
        """When it was sent first, in true time."""
        self.tries = 0
        self.maybe_sent = False
        """A copy may be under way somewhere: 'not applied' cannot be concluded any more."""
        self.results: list[list[Any]] | None = None
        self.abandoned = False

    @property
    def settled(self) -> bool:
        return self.results is not None or self.abandoned


class Workload:
    """Makes clients, and has them ask until they know."""

    def __init__(self, world: World, options: Options, processes: Mapping[str, Process], checker: Checker) -> None:
        self._world, self._options, self._processes, self._checker = world, options, processes, checker
        self.clients: list[Client] = []
        self.open: dict[int, Client] = {}
        self.patient = False
        """Everything is healed: nobody gives up any more."""
        self._requests = Requests(world, checker)
        self._lines = 0
        self._settings: tuple[int, Any] = (0, None)
        self._kinds: tuple[tuple[str, float, Callable[[], Any]], ...] = (
            ("ledger", 0.42, self._line),
            ("greylist", 0.66, self._check),
            ("config", 0.72, self._setting),
            ("lease", 0.81, self._requests.lease),
            ("notifications", 0.88, self._requests.notification),
            ("lists", 0.92, self._requests.entry),
            ("quarantine", 1.0, self._requests.release),
        )
        """(machine, up to which of all operations it has, what makes a command)."""
        self._highest = 0
        """The greatest position in the ledger that any client knows of, from a result or from a linearizable read."""
        self._heights: list[tuple[float, int]] = [(0.0, 0)]
        """(time, highest) of each rise."""

    def begin(self) -> None:
        """The first operation sets the greylist's waits; when it is answered, others come at random. A check that came before it
        would be the cluster's first one, after which nobody may make it a lab cluster."""
        delay, window, life = self._options.waits
        settings = {"lab": True, "delay": delay, "window": window, "life": life}
        self._submit("greylist", [["settings", settings, "admin", "waits that fit into a run", None, ""]])
        self._world.after(0.5, self._next)

    def _next(self) -> None:
        if self.patient:
            return
        if self.clients[0].results is None:
            self._world.after(0.1, self._next)
            return
        kind = self._world.random.random()
        if kind < 0.2:
            self.read()
        elif kind < 0.3:
            self.bounded_read()
        elif kind < 0.35:
            self._page()
        else:
            self.operation()
        self._world.after(self._world.random.expovariate(self._options.operations_per_second), self._next)

    # ---- operations

    def operation(self) -> Client:
        """One operation of any kind."""
        random = self._world.random
        kind = random.random()
        machine, make = next((name, make) for name, share, make in self._kinds if kind < share)
        commands = [make() for _ in range(random.choice(TOGETHER))]
        while len(commands) > 1 and len(pack(commands)) > self._options.bounds.append_bytes - OVERHEAD_BYTES:
            commands.pop()
        return self._submit(machine, commands)

    def _line(self) -> list[Any]:
        random = self._world.random
        self._lines += 1
        return [random.choice(("refuse", "break")) if random.random() < 0.1 else "add", self._lines]

    def _check(self) -> bytes:
        random = self._world.random
        key = random.randrange(self._options.keys).to_bytes(16, "big")
        triplet = random.choice((b"", b"triplet of " + key))
        return command(self._settings[0], key, bytes(8), random.random() < 0.2, triplet)

    def _setting(self) -> list[Any]:
        random = self._world.random
        name = random.choice(("a/b", "a/c", "d"))
        expected = random.choice((None, None, 0, self._checker.revision))
        if random.random() < 0.2:
            return ["delete", name, "admin", "", "n1", expected]
        return ["set", name, len(self.clients), "admin", "because", "n1", expected]

    def burst(self, process: Process) -> None:
        """Some operations and reads at `process`, which may be a leader that nobody hears any more."""
        for _ in range(self._world.random.randint(2, 8)):
            self._world.after(self._world.random.uniform(0, 0.8), partial(self._add_at, process))
            self._world.after(self._world.random.uniform(0, 2.0), partial(self.read, process))

    def _add_at(self, process: Process) -> None:
        self._lines += 1
        self._submit("ledger", [["add", self._lines]], process)

    def _submit(self, machine: str, commands: list[Any], at: Process | None = None) -> Client:
        number = len(self.clients)
        ident = self._world.random.getrandbits(64).to_bytes(8, "big") + number.to_bytes(8, "big")
        client = Client(number, ident, machine, commands)
        self.clients.append(client)
        self.open[number] = client
        self._ask(client, at)
        return client

    def _pick(self) -> Process | None:
        up = [p for p in self._processes.values() if p.up]
        leaders = [p for p in up if p.replica is not None and p.replica.engine.is_leader]
        if not up:
            return None
        return self._world.random.choice(leaders if leaders and self._world.chance(0.4) else up)

    def _ask(self, client: Client, process: Process | None = None) -> None:
        """Send the operation through some process; ask again elsewhere when no result comes."""
        world, random = self._world, self._world.random
        if client.settled:
            return
        if process is None or not process.up:
            process = self._pick()
        if process is None or process.replica is None:
            world.after(0.2, partial(self._ask, client))
            return
        client.tries += 1
        replica = process.replica
        if client.born is None:
            client.born, client.asked = replica.engine.applied, world.time
            if client.machine == "greylist":
                client.commands = [_made_at(process.name, each) for each in client.commands]
        operation = Operation(client.machine, client.ident, client.born, client.commands)
        answer = partial(self._answered, client)
        process.run(lambda: replica.submit(operation, answer))
        process.wake()
        incarnation = process.incarnation

        def late() -> None:
            if client.settled:
                return
            keen = self.patient or client.number == 0  # the waits must be set, or all others are about nothing
            if process.up and process.incarnation == incarnation:
                never: list[bool] = []
                process.run(lambda: never.append(replica.outbox.give_up(client.ident, answer)))
                if never == [True]:
                    world.counts["not applied"] += 1
                    if not client.maybe_sent and not keen and world.chance(0.5):
                        if client.machine == "ledger":
                            for _, line in client.commands:
                                self._checker.never_applied(line, process.name)
                        self._abandon(client)
                        return
                else:
                    client.maybe_sent = True
            else:
                client.maybe_sent = True
            if not keen and (client.tries >= TRIES or world.chance(0.2)):
                self._abandon(client)
            else:
                self._ask(client)

        world.after(self._options.stretch * random.uniform(0.3, 2.0), late)
        if world.chance(0.05):  # an impatient client: a second copy at once, through another process
            client.maybe_sent = True
            world.after(random.uniform(0, 0.05), partial(self._ask, client))

    def _abandon(self, client: Client) -> None:
        client.abandoned = True
        self.open.pop(client.number, None)

    def _answered(self, client: Client, results: list[Any] | None, error: RaftclusterError | None) -> None:
        if results is None:
            return  # `late` asks again
        self._checker.answered(client.ident, results)
        self.open.pop(client.number, None)
        if client.results is not None:
            if client.results != results and UNKNOWN not in client.results + results:
                told = f"operation {client.number}: {client.results}, then {results}"
                self._checker.violate("exactly once", told)
            return
        client.results = results
        for made, result in zip(client.commands, results, strict=True):
            self._requests.answered(client.machine, client.asked, made, result)
            self._world.counts["acknowledged"] += result != UNKNOWN
            self._world.counts["too old to tell"] += result == UNKNOWN
            if client.machine == "ledger" and result[0] == 0:
                self._rise(result[1])
            elif client.machine == "greylist" and result[0] == 0 and type(result[1]) is list:
                self._settings = (result[1][1], result[1][2])

    def _rise(self, position: int) -> None:
        if position > self._highest:
            self._highest = position
            self._heights.append((self._world.time, position))

    # ---- reads

    def _page(self) -> None:
        process = self._pick()
        if process is not None and process.replica is not None:
            self._requests.read(process)

    def bounded_read(self) -> None:
        """A read of what was current at most so many seconds ago: by cluster time, which is late by a message's delay."""
        process, world = self._pick(), self._world
        if process is None or process.replica is None:
            return
        replica, within = process.replica, world.random.choice((0.05, 0.3, 1.0, 3.0))

        def look() -> None:
            world.counts["bounded reads"] += 1
            late = self._checker.time.lateness(process.name)
            since = world.time - within * (1 + RATE) - late - SLACK
            least = self._heights[bisect_left(self._heights, (since, 0)) - 1][1]
            found = count(replica.applier.tables("ledger"))
            if found < least:
                self._checker.violate(
                    "bounded read",
                    f"{process.name} shows {found} lines, {least} were known {within} s + {late:.3f} s before",
                )

        process.run(lambda: replica.queries.ask(look, lambda error: None, within=within))
        process.wake()

    def read(self, process: Process | None = None) -> None:
        """A linearizable read of the ledger's length."""
        process = process or self._pick()
        if process is None or process.replica is None:
            return
        replica, least, world = process.replica, self._highest, self._world
        outcome: list[str] = []

        def look() -> None:
            outcome.append("read")
            world.counts["reads"] += 1
            found = count(replica.applier.tables("ledger"))
            if found < least:
                self._checker.violate(
                    "linearizable read", f"{process.name} shows {found} lines, {least} were known before it was asked"
                )
            self._rise(found)

        def fail(error: RaftclusterError) -> None:
            outcome.append("failed")
            assert isinstance(error, Unavailable)

        handle: list[Callable[[], None]] = []

        def ask() -> None:
            query = replica.queries.ask(look, fail, within=None)
            if query is not None:
                handle.append(lambda: replica.queries.drop(query))

        process.run(ask)
        process.wake()
        incarnation = process.incarnation

        def late() -> None:
            if not outcome and handle and process.incarnation == incarnation:
                process.run(handle[0])

        world.after(world.random.uniform(0.5, 2.0), late)


def _made_at(node: str, check: Any) -> Any:
    """A check as this node makes it."""
    if type(check) is not bytes:
        return check
    revision, key, _, flags = HEAD.unpack_from(check)
    return HEAD.pack(revision, key, node_label(node), flags) + check[HEAD.size :]
