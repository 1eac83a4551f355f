"""Both implementations of `Links`, two or more nodes each, under one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from raftcluster.transport.memory import MemoryMesh, Network, pin_of, root
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.ports import Address, Event, Identity, Links, Message, Peer
from tests.helpers import eventually
from tests.hierarchy import Hierarchy

HELLO = {"product": "test/1", "schema": {"counter": 1}}
ANY = ("127.0.0.1", 0)


class World(Protocol):
    """What differs between the two: how a node is made, what it shows, and how time passes."""

    def make(self, node: str, generation: int, hello: dict[str, Any], listen: Address = ANY) -> Links: ...

    def identity(self, node: str, generation: int) -> Identity: ...

    def roots(self, generations: Sequence[int]) -> list[bytes]: ...

    def pin(self, node: str, generation: int) -> bytes: ...

    def step(self) -> None: ...


class RealWorld:
    """Meshes on loopback."""

    def __init__(self) -> None:
        self._generations = {number: Hierarchy(["a", "b", "c"], generation=number) for number in (1, 2)}

    def make(self, node: str, generation: int, hello: dict[str, Any], listen: Address = ANY) -> Links:
        return Mesh(self.identity(node, generation), self.roots([generation]), listen, hello, seed=1)

    def identity(self, node: str, generation: int) -> Identity:
        return self._generations[generation].identity(node)

    def roots(self, generations: Sequence[int]) -> list[bytes]:
        return [self._generations[number].root for number in generations]

    def pin(self, node: str, generation: int) -> bytes:
        return self._generations[generation].pin(node)

    def step(self) -> None:
        """Time passes while the nodes poll."""


class MemoryWorld:
    """Twins on a network of their own."""

    def __init__(self) -> None:
        self.network = Network()

    def make(self, node: str, generation: int, hello: dict[str, Any], listen: Address = ANY) -> Links:
        return MemoryMesh(self.identity(node, generation), self.roots([generation]), listen, hello, self.network)

    def identity(self, node: str, generation: int) -> Identity:
        return Identity("mail", node, generation, f"{node} {generation}".encode(), b"key")

    def roots(self, generations: Sequence[int]) -> list[bytes]:
        return [root("mail", number) for number in generations]

    def pin(self, node: str, generation: int) -> bytes:
        return pin_of(self.identity(node, generation))

    def step(self) -> None:
        self.network.step()


class Bench:
    """Started nodes and what each has seen."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.nodes: dict[str, Links] = {}
        self.seen: dict[str, list[Event]] = {}

    def start(self, node: str, generation: int = 1, hello: dict[str, Any] = HELLO) -> Links:
        """Start a node, or start it again after `close`."""
        self.nodes[node] = links = self.world.make(node, generation, hello)
        self.seen[node] = []
        links.start()
        return links

    def members(self, nodes: str, generations: Sequence[int] = (1,)) -> dict[str, Peer]:
        """These nodes (a letter each) as they know each other."""
        return {
            node: Peer(
                node, self.nodes[node].address, frozenset(self.world.pin(node, number) for number in generations)
            )
            for node in nodes
        }

    def link(self, nodes: str) -> None:
        """Start these nodes and let all of them be linked."""
        for node in nodes:
            self.start(node)
        for node in nodes:
            self.nodes[node].configure(self.members(nodes))
        self.until(lambda: all(len(self.nodes[node].links()) == len(nodes) - 1 for node in nodes), "all linked")
        self.forget()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Let the nodes work until it is so."""

        def attempt() -> bool:
            self.step()
            return bool(condition())

        eventually(attempt, what=what)

    def step(self) -> None:
        """One turn of every node."""
        self.world.step()
        for node, links in self.nodes.items():
            self.seen[node] += links.poll(0.002)

    def forget(self) -> None:
        """Drop what was seen so far."""
        for events in self.seen.values():
            events.clear()

    def messages(self, node: str) -> list[Any]:
        """The values that it has received."""
        return [event.value for event in self.seen[node] if isinstance(event, Message)]

    def close(self) -> None:
        for links in self.nodes.values():
            links.close()


WORLDS: dict[str, Callable[[], World]] = {"mesh": RealWorld, "memory": MemoryWorld}
