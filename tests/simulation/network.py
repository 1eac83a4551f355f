"""Connections between processes, as TCP gives them: ordered, until they break; breaking is noticed late or never told.

One process of a pair dials (the one with the greater name). Each end knows of a connection from its own moment on and
until its own moment: in between, what it sends into a dead one is swallowed. A new connection replaces the old one at an
end that has not noticed yet. A blocked direction parks what is under way; it arrives when the block is lifted, unless
the connection was given up meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from raftcluster.codec import pack, unpack
from tests.simulation.profiles import Options
from tests.simulation.world import World

Message = dict[str, Any]
NEVER: Final = float("inf")
FETCH_FAILS: Final = 0.1
"""How often a snapshot's connection cannot be made at all."""


class Endpoint(Protocol):
    """What the network needs of a process."""

    incarnation: int
    slow_until: float

    @property
    def up(self) -> bool: ...
    @property
    def awake_at(self) -> float:
        """When the process takes the next message: now, or the end of its pause."""

    def link_up(self, peer: str) -> None: ...
    def link_down(self, peer: str) -> None: ...
    def receive(self, peer: str, message: Message, note: object) -> None: ...


class Flight(NamedTuple):
    """A message under way."""

    arrival: float
    payload: bytes
    note: object
    """What the checker wants to know at the other end; the processes never see it."""


class Connection:
    """See the module's text. `flights` and `last` are by receiver."""

    __slots__ = ("alive", "blocked_since", "bytes", "closed", "draining", "ends", "flights", "last")

    def __init__(self, dialler: str, acceptor: str, time: float) -> None:
        self.ends = (dialler, acceptor)
        self.alive = True
        self.blocked_since: float | None = None
        self.flights: dict[str, deque[Flight]] = {dialler: deque(), acceptor: deque()}
        self.bytes = {dialler: 0, acceptor: 0}
        self.last = {dialler: time, acceptor: time}
        self.closed: str | None = None
        """The end that uses a newer connection; what it has sent before still arrives."""
        self.draining = {dialler: NEVER, acceptor: NEVER}

    def other(self, end: str) -> str:
        return self.ends[1] if end == self.ends[0] else self.ends[0]


class Network:
    """All connections, and how long everything takes on them."""

    def __init__(self, world: World, options: Options, endpoints: Mapping[str, Endpoint]) -> None:
        self._world, self._options, self._endpoints = world, options, endpoints
        self.delays = "lan"
        self.healing = False
        self.admits: Callable[[str, str], bool] = lambda one, other: True
        """Whether the two let each other in."""
        self._blocked: set[tuple[str, str]] = set()
        self._links: dict[tuple[str, str], Connection] = {}
        """(end, peer) -> the connection that this end uses."""
        self._dialling: set[tuple[str, str]] = set()

    # ---- sending

    def send(self, source: str, target: str, message: Message, note: object) -> bool:
        """Queue `message`; False when there is no link, or too much waits on it."""
        connection = self._links.get((source, target))
        if connection is None:
            return False
        if not connection.alive or connection.closed == target:
            return True
        payload = pack(message)
        if connection.bytes[target] + len(payload) > self._options.link_bytes:
            return False
        world = self._world
        arrival = max(connection.last[target], world.time + self._delay(source, target))
        connection.last[target] = arrival
        connection.bytes[target] += len(payload)
        connection.flights[target].append(Flight(arrival, payload, note))
        self._drain_at(connection, target, arrival)
        return True

    def _delay(self, source: str, target: str) -> float:
        random, now = self._world.random, self._world.time
        if self.healing:
            return random.uniform(0.0005, 0.005)
        if self._endpoints[source].slow_until > now or self._endpoints[target].slow_until > now:
            return random.uniform(0.01, 1.0)
        if self.delays == "wan":
            return random.uniform(0.01, 0.6)
        if self.delays == "jitter" and random.random() < 0.3:
            return random.uniform(0.0005, 0.3)
        return random.uniform(0.0003, 0.008)

    def _drain_at(self, connection: Connection, target: str, time: float) -> None:
        if time < connection.draining[target]:
            connection.draining[target] = time
            self._world.at(time, lambda: self._drain(connection, target, time))

    def _drain(self, connection: Connection, target: str, planned: float) -> None:
        if connection.draining[target] != planned:
            return
        connection.draining[target] = NEVER
        source, world = connection.other(target), self._world
        end, flights = self._endpoints[target], connection.flights[target]
        if self._links.get((target, source)) is not connection or (source, target) in self._blocked:
            return  # drained again when the end knows of it, or the block is lifted
        while flights and connection.alive:
            due = max(flights[0].arrival, end.awake_at)
            if due > world.time:
                self._drain_at(connection, target, due)
                return
            flight = flights.popleft()
            connection.bytes[target] -= len(flight.payload)
            self._deliver(source, target, flight)
            if self._options.duplicates and not self.healing and world.chance(self._options.duplicates):
                self._again(source, target, flight, world.random.uniform(0.0, 2.0))
            if self._links.get((target, source)) is not connection:
                return

    def _deliver(self, source: str, target: str, flight: Flight) -> None:
        self._world.heard(flight.payload)
        self._endpoints[target].receive(source, unpack(flight.payload), flight.note)

    def _again(self, source: str, target: str, flight: Flight, seconds: float) -> None:
        """Deliver a message once more, out of order: worse than TCP ever is."""
        incarnation = self._endpoints[target].incarnation

        def arrive() -> None:
            end = self._endpoints[target]
            if end.up and end.incarnation == incarnation and not self.healing:
                self._world.counts["stale messages"] += 1
                self._deliver(source, target, flight)

        self._world.after(seconds, arrive)

    # ---- connecting

    def started(self, name: str) -> None:
        """A process is there: it dials, and is dialled by those who have noticed that it was gone."""
        for peer in self._endpoints:
            if peer != name:
                self._dial_soon(max(name, peer), min(name, peer), self._world.random.uniform(0.0, 0.05))

    def _dial_soon(self, dialler: str, acceptor: str, seconds: float) -> None:
        if (dialler, acceptor) not in self._dialling:
            self._dialling.add((dialler, acceptor))
            self._world.after(seconds, lambda: self._dial(dialler, acceptor))

    def _dial(self, dialler: str, acceptor: str) -> None:
        self._dialling.discard((dialler, acceptor))
        caller, callee, world = self._endpoints[dialler], self._endpoints[acceptor], self._world
        if not caller.up or (dialler, acceptor) in self._links:
            return
        if not callee.up or not self.reachable(dialler, acceptor) or caller.awake_at > world.time:
            self._dial_soon(
                dialler, acceptor, world.random.uniform(0.02, 0.3 if self.healing else self._options.reconnect)
            )
            return
        self._connect(dialler, acceptor)

    def second(self) -> None:
        """Two that are linked are linked once more: a dialler that knows nothing of a connection which is well."""
        well = sorted(
            {c.ends for (end, peer), c in self._links.items() if c.alive and self._links.get((peer, end)) is c}
        )
        well = [ends for ends in well if self.reachable(*ends)]
        if well:
            self._connect(*self._world.random.choice(well))

    def _connect(self, dialler: str, acceptor: str) -> None:
        caller, callee, world = self._endpoints[dialler], self._endpoints[acceptor], self._world
        first = world.time + world.random.uniform(0.001, 0.02)
        second = first + world.random.uniform(0.0, 0.02)
        connection = Connection(dialler, acceptor, first)
        incarnations = (caller.incarnation, callee.incarnation)

        def come_up(end: str) -> None:
            if (
                (caller.incarnation, callee.incarnation) == incarnations
                and caller.up
                and callee.up
                and connection.alive
            ):
                self._known(connection, end)
            elif connection.alive:
                self._break(connection, 0.0)

        world.at(second, lambda: come_up(dialler))  # a link is up at the dialler only after the acceptor's hello
        world.at(first, lambda: come_up(acceptor))

    def _known(self, connection: Connection, end: str) -> None:
        peer = connection.other(end)
        old = self._links.get((end, peer))
        if old is not None:
            self._close(old, end)
            del self._links[end, peer]
            self._endpoints[end].link_down(peer)
        self._links[end, peer] = connection
        self._endpoints[end].link_up(peer)
        if connection.flights[end]:
            self._drain_at(connection, end, max(self._world.time, connection.flights[end][0].arrival))

    def _close(self, old: Connection, end: str) -> None:
        """`end` has a newer one. The other end may go on with the old one for a moment, and hears what is under way on it."""
        if not old.alive:
            return
        if old.closed is not None:  # both have gone over
            old.alive = False
            return
        self._world.counts["second connections"] += 1
        old.closed = end
        old.flights[end].clear()
        self._notice(old, old.other(end), self._world.random.uniform(0.0, 1.0))

    # ---- breaking

    def reset(self, quickly: bool) -> None:
        """Some connection breaks."""
        alive = sorted({c.ends for c in self._links.values() if c.alive})
        if alive:
            self._world.counts["resets"] += 1
            ends = self._world.random.choice(alive)
            for connection in {id(c): c for c in self._links.values() if c.alive and c.ends == ends}.values():
                self._break(connection, 0.05 if quickly else 3.5)

    def gone(self, name: str) -> None:
        """A process died: its ends are no more, the others notice at once or late."""
        mine = [c for (end, _), c in self._links.items() if end == name]
        for connection in mine:
            del self._links[name, connection.other(name)]
        for connection in {id(c): c for c in [*mine, *self._links.values()] if name in c.ends}.values():
            self._break(connection, 0.05 if self._world.chance(0.7) else 3.5)

    def _break(self, connection: Connection, notice: float) -> None:
        if not connection.alive:
            return
        connection.alive = False
        world, (dialler, acceptor) = self._world, connection.ends
        if self._options.duplicates and connection.flights[acceptor] and world.chance(0.5):
            late = world.random.uniform(0.01, 2.0)  # what the dialler's kernel had sent already
            for number, flight in enumerate(connection.flights[acceptor]):
                self._again(dialler, acceptor, flight, late + number / 1000)
        for end in connection.ends:
            connection.flights[end].clear()
            self._notice(connection, end, world.random.uniform(0.0, notice))

    def _notice(self, connection: Connection, end: str, seconds: float) -> None:
        peer = connection.other(end)

        def notice() -> None:
            if self._links.get((end, peer)) is connection:
                del self._links[end, peer]
                self._endpoints[end].link_down(peer)
            if end == connection.ends[0]:
                self._dial_soon(end, peer, self._world.random.uniform(0.02, self._options.reconnect))

        self._world.after(seconds, notice)

    # ---- partitions

    def open(self, one: str, other: str) -> bool:
        """Whether a new connection can be made, be it a stranger's."""
        return (one, other) not in self._blocked and (other, one) not in self._blocked

    def reachable(self, one: str, other: str) -> bool:
        """Whether a new link can be made."""
        return self.open(one, other) and self.admits(one, other)

    def drop(self, end: str, peer: str) -> None:
        """`end` closes its link to `peer`, for the other end to notice."""
        connection = self._links.get((end, peer))
        if connection is not None:
            del self._links[end, peer]
            self._endpoints[end].link_down(peer)
            self._break(connection, 0.05)

    def block(self, source: str, target: str) -> None:
        """From now on nothing goes from `source` to `target`; after a while both give the connection up."""
        self._blocked.add((source, target))
        for connection in {id(c): c for c in self._links.values() if set(c.ends) == {source, target}}.values():
            if connection.blocked_since is None:
                connection.blocked_since = self._world.time
                give_up = partial(self._give_up, connection, self._world.time)
                self._world.after(self._world.random.uniform(1.0, 4.0), give_up)

    def _give_up(self, connection: Connection, since: float) -> None:
        if connection.blocked_since == since:
            self._break(connection, 1.0)

    def unblock(self) -> None:
        """Everything goes everywhere again, what was parked first."""
        self._blocked.clear()
        for (end, _), connection in self._links.items():
            connection.blocked_since = None
            if connection.flights[end]:
                self._drain_at(connection, end, max(self._world.time + 0.001, connection.flights[end][0].arrival))
