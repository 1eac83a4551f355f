"""What the transport offers to the engine, and what both implementations share: `mesh.Mesh` and its twin `memory.MemoryMesh`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from raftcluster.codec import Value

Address = tuple[str, int]
"""(host name or IP address, port)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node shows: its leaf certificate of one generation, and the key to it."""

    cluster_id: str
    node_id: str
    generation: int
    certificate: bytes
    """PEM."""
    key: bytes
    """PEM, not encrypted."""

    def __repr__(self) -> str:
        return f"Identity({self.cluster_id!r}, {self.node_id!r}, generation {self.generation}, key=<hidden>)"


@dataclass(frozen=True, slots=True)
class Peer:
    """A member as the replicated table knows it."""

    node_id: str
    address: Address
    """Where to dial it: its advertised address, which need not be the one that it listens at. Resolved at each dial."""
    pins: frozenset[bytes]
    """SHA-256 of the public keys that it may show: one, or two while a generation changes."""


class Up(NamedTuple):
    """The one link to `peer` exists, and nothing that an older one held will arrive any more."""

    peer: str


class Down(NamedTuple):
    """The link to `peer` is gone, with what was unread and unsent."""

    peer: str
    reason: str


class Message(NamedTuple):
    """One message, in the order in which `peer` has sent it on this link."""

    peer: str
    value: dict[str, Value]


Event = Up | Down | Message


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A link, for status."""

    peer: str
    address: str
    """The peer's end, as seen from here."""
    dialled: bool
    """Whether this node dialled."""
    age: float
    """Seconds since it is up."""
    generation: int
    """Of the certificate that the peer shows."""
    own_generation: int
    """Of the certificate that this node shows on it."""
    round_trip: float | None
    """Seconds, of the last ping; None before the first answer."""
    queued: int
    """Bytes accepted by `send` and not yet taken by the kernel."""
    hello: Mapping[str, Value]
    """What the peer said of itself: product and its version, schema, ... Never its identity."""


class Links(Protocol):
    """One ordered link per peer. See `DESIGN.md` for what it promises.

    Thread: `poll`, `send`, `flush` and `drop` on the tick thread; everything else on any.
    """

    @property
    def address(self) -> Address:
        """The address that is listened at."""

    @property
    def refusals(self) -> dict[str, int]:
        """How many connections were refused for which reason (`handshake.REASONS`), by either end."""

    def start(self) -> None:
        """Listen and begin to dial. Raises `AddressInUse` or `MissingPrivilege`; then nothing has been started."""

    def configure(self, peers: Mapping[str, Peer]) -> None:
        """Set who may link and is dialled (this node's own entry is ignored). Links of peers that are absent now, or
        whose key is not pinned any more, are closed at the next `poll`. Raises `Unavailable` when there is no thread to dial
        one of them: then it is to be called again."""

    def use(self, identity: Identity, roots: Sequence[bytes]) -> None:
        """Show and trust these (PEM) from now on. Links stay, except those whose peer's generation has no root any more.
        Raises `Rejected` when the identity does not fit together; then nothing has changed."""

    def relink(self, peers: Collection[str]) -> None:
        """Replace the links to these by such that show the identity in use: the new one first, then the old one is closed."""

    def poll(self, timeout: float) -> list[Event]:
        """Write what is queued, wait up to `timeout` seconds for something to happen, and return it in order."""

    def send(self, peer: str, message: dict[str, Value]) -> bool:
        """Queue a message; False when there is no link or its queue is full: the message is dropped, as a network would.

        True promises nothing: it is lost when the link goes down. Raises `FrameError` when it is longer than a frame.
        """

    def flush(self) -> None:
        """Give the kernel what is queued, without waiting."""

    def drop(self, peer: str, reason: str) -> None:
        """Tick thread: close the link to `peer`, because it sends nonsense. `Down` follows, then a new link may."""

    def wake(self) -> None:
        """End a `poll` that waits, now or soon."""

    def links(self) -> dict[str, LinkInfo]:
        """The links that are up."""

    def close(self) -> None:
        """Close everything and wait for the threads. Idempotent."""
