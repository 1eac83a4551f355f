"""The mesh's twin, in one process, without sockets, threads, clocks or cryptography: for tests that must be repeatable.

Nothing moves by itself. Meshes share a :class:`Network`; `Network.step` links who may be linked and carries what was
flushed. `poll` returns what has arrived and never waits. Frames travel packed, so that nobody shares an object.

A certificate here is any bytes, its pin their SHA-256; a root is what :func:`root` returns. Who may talk to whom is
judged by the same pure code (`handshake.py`) as in the mesh. Streams are not part of the port, hence not of the twin.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import AddressInUse, Rejected, Unavailable
from raftcluster.transport import frames, handshake
from raftcluster.transport.handshake import RAFT, Refused
from raftcluster.transport.ports import Address, Down, Event, Identity, LinkInfo, Message, Peer, Up
from raftcluster.transport.subject import SubjectId


def root(cluster_id: str, generation: int) -> bytes:
    """What stands for a root certificate."""
    return f"{cluster_id} {generation}".encode()


def pin_of(identity: Identity) -> bytes:
    """What stands for the fingerprint of its public key."""
    return hashlib.sha256(identity.certificate).digest()


class Network:
    """Where memory meshes find each other. Not thread-safe."""

    def __init__(self) -> None:
        self._meshes: dict[Address, MemoryMesh] = {}
        self._cut: set[frozenset[str]] = set()
        self._held: set[tuple[str, str]] = set()
        self._port = 49_152

    def step(self) -> bool:
        """Dial once whoever wants to, then deliver all that was flushed, in order; whether anything has happened."""
        meshes = sorted(self._meshes.values(), key=lambda mesh: mesh.node_id)
        dialled = [mesh.dial() for mesh in meshes]
        return any([*dialled, *(mesh.deliver() for mesh in meshes)])

    def cut(self, one: str, other: str) -> None:
        """Take their link down, and let them not be linked until `heal`."""
        self._cut.add(frozenset((one, other)))
        for mesh in list(self._meshes.values()):
            for peer in (one, other):
                if mesh.node_id in (one, other):
                    mesh.drop(peer, "cut")

    def heal(self, one: str, other: str) -> None:
        """Undo `cut`."""
        self._cut.discard(frozenset((one, other)))

    def hold(self, sender: str, receiver: str) -> None:
        """Carry nothing in this direction until `release`: the link stays up."""
        self._held.add((sender, receiver))

    def release(self, sender: str, receiver: str) -> None:
        """Undo `hold`."""
        self._held.discard((sender, receiver))

    def carries(self, sender: str, receiver: str) -> bool:
        """Whether frames flow in this direction."""
        return (sender, receiver) not in self._held

    def bind(self, address: Address, mesh: MemoryMesh) -> Address:
        """Let `mesh` be found there; port 0 takes a free one. Raises `AddressInUse`."""
        if address[1] == 0:
            self._port += 1
            address = (address[0], self._port)
        if address in self._meshes:
            raise AddressInUse(f"{address[0]}:{address[1]} is in use", subject=f"{address[0]}:{address[1]}")
        self._meshes[address] = mesh
        return address

    def unbind(self, mesh: MemoryMesh) -> None:
        """Forget it."""
        self._meshes = {address: other for address, other in self._meshes.items() if other is not mesh}

    def find(self, address: Address, caller: str) -> MemoryMesh | None:
        """Who listens there, unless the way is cut."""
        mesh = self._meshes.get(address)
        return None if mesh is None or frozenset((mesh.node_id, caller)) in self._cut else mesh


@dataclass(eq=False)
class _End:
    """One end of a link."""

    peer: Identity
    own_generation: int
    dialled: bool
    hello: Mapping[str, Value]
    remote: MemoryMesh
    other: _End | None = None
    unsent: deque[bytes] = field(default_factory=deque)
    travelling: deque[bytes] = field(default_factory=deque)
    queued: int = 0


class MemoryMesh:
    """See `ports.Links`. One thread for everything."""

    def __init__(
        self, identity: Identity, roots: Sequence[bytes], listen: Address, hello: Mapping[str, Any], network: Network
    ) -> None:
        self.identity = identity
        self._generations = _generations(identity, roots)
        self._listen = listen
        self._address: Address | None = None
        self._about = dict(hello)
        self._network = network
        self._peers: Mapping[str, Peer] = {}
        self.ends: dict[str, _End] = {}
        self.wanted: set[str] = set()
        self.events: list[Event] = []
        self.refused: Counter[str] = Counter()

    @property
    def node_id(self) -> str:
        """This node's."""
        return self.identity.node_id

    @property
    def address(self) -> Address:
        """The address that is listened at."""
        if self._address is None:
            raise Unavailable("not started", subject=self.node_id)
        return self._address

    @property
    def refusals(self) -> dict[str, int]:
        """How many connections were refused for which reason."""
        return dict(self.refused)

    def start(self) -> None:
        """Listen. Raises `AddressInUse`."""
        self._address = self._network.bind(self._listen, self)

    def configure(self, peers: Mapping[str, Peer]) -> None:
        """Set who may link and is dialled."""
        self._peers = {node_id: peer for node_id, peer in peers.items() if node_id != self.node_id}
        self._judge()

    def use(self, identity: Identity, roots: Sequence[bytes]) -> None:
        """Show and trust these from now on. Raises `Rejected`, then nothing has changed."""
        if (identity.cluster_id, identity.node_id) != (self.identity.cluster_id, self.node_id):
            raise Rejected(f"{identity} is not of {self.node_id}", subject=identity.node_id)
        self._generations, self.identity = _generations(identity, roots), identity
        self._judge()

    def relink(self, peers: Collection[str]) -> None:
        """Replace these links at the next step."""
        for peer in self.ends.keys() & peers:
            if self.ends[peer].dialled:
                self.wanted.add(peer)
            else:
                self.ends[peer].remote.wanted.add(self.node_id)

    def poll(self, timeout: float) -> list[Event]:
        """Flush, and what has arrived; never waits."""
        self.flush()
        events, self.events = self.events, []
        return events

    def send(self, peer: str, message: dict[str, Value]) -> bool:
        """Queue a message; False when there is no link or its queue is full."""
        frame = frames.encode(message)
        end = self.ends.get(peer)
        if end is None or end.queued + len(frame) > limits.LINK_QUEUE_BYTES:
            return False
        end.unsent.append(frame)
        end.queued += len(frame)
        return True

    def flush(self) -> None:
        """Let the network carry what is queued."""
        for end in self.ends.values():
            end.travelling.extend(end.unsent)
            end.unsent.clear()

    def wake(self) -> None:
        """Nobody waits."""

    def links(self) -> dict[str, LinkInfo]:
        """The links that are up."""
        return {
            peer: LinkInfo(
                peer=peer,
                address=":".join(map(str, end.remote.address)),
                dialled=end.dialled,
                age=0.0,
                generation=end.peer.generation,
                own_generation=end.own_generation,
                round_trip=None,
                queued=end.queued,
                hello=end.hello,
            )
            for peer, end in self.ends.items()
        }

    def close(self) -> None:
        """Take all links down and be found no more. Idempotent."""
        self._network.unbind(self)
        for peer in list(self.ends):
            self.drop(peer, "closed")
        self.events.clear()

    # --- for the network

    def dial(self) -> bool:
        """Link to the peers that this node dials; whether a link came up."""
        peers = [peer for peer in sorted(self._peers) if peer < self.node_id]
        wanted = [peer for peer in peers if peer not in self.ends or peer in self.wanted]
        linked = [self._dial(peer) for peer in wanted]  # all of them: `any` alone would stop at the first
        return any(linked)

    def deliver(self) -> bool:
        """Carry what this node has flushed; whether there was any."""
        moved = False
        for end in list(self.ends.values()):
            if not self._network.carries(self.node_id, end.peer.node_id):
                continue
            for frame in end.travelling:
                value = codec.unpack(frame[frames.HEADER_BYTES :])
                end.remote.events.append(Message(self.node_id, value))
                end.queued -= len(frame)
                moved = True
            end.travelling.clear()
        return moved

    def drop(self, peer: str, reason: str) -> None:
        """Take the link to `peer` down, at both ends and with what was under way; nothing when there is none."""
        end = self.ends.pop(peer, None)
        if end is None:
            return
        self.events.append(Down(peer, reason))
        remote = end.remote
        if remote.ends.get(self.node_id) is end.other:
            remote.drop(self.node_id, reason)

    def _dial(self, node_id: str) -> bool:
        self.wanted.discard(node_id)
        remote = self._network.find(self._peers[node_id].address, self.node_id)
        if remote is None:
            return False
        ours, theirs = handshake.hello(self.identity.cluster_id, RAFT, self._about), remote.hello()
        try:
            if remote.node_id != node_id:
                raise Refused("other-node", f"{remote.node_id} answers", subject=node_id)
            self.admit(remote.identity)
            handshake.check_hello(ours, theirs, (RAFT,))
        except Refused as refused:
            self.refused[refused.reason] += 1
            return False
        try:
            remote.admit(self.identity)
        except Refused as refused:
            remote.refused[refused.reason] += 1
            self.refused[refused.reason] += 1
            return False
        self.drop(node_id, "replaced by a newer link")
        near = _End(remote.identity, self.identity.generation, True, theirs, remote)
        far = _End(self.identity, near.peer.generation, False, ours, self, near)
        near.other = far
        self.ends[node_id], remote.ends[self.node_id] = near, far
        self.events.append(Up(node_id))
        remote.events.append(Up(self.node_id))
        return True

    def hello(self) -> dict[str, Value]:
        """What it says to who dials."""
        return handshake.hello(self.identity.cluster_id, RAFT, self._about)

    def admit(self, identity: Identity) -> None:
        """Raise `Refused` unless a member shows itself."""
        subject = SubjectId(identity.cluster_id, identity.generation, identity.node_id)
        if identity.cluster_id == self.identity.cluster_id and identity.generation not in self._generations:
            raise Refused("untrusted", f"generation {identity.generation} is not trusted", subject=identity.node_id)
        handshake.admit(subject, pin_of(identity), self.identity.cluster_id, self._peers)

    def _judge(self) -> None:
        for peer, end in list(self.ends.items()):
            try:
                self.admit(end.peer)
            except Refused as refused:
                self.refused[refused.reason] += 1
                self.drop(peer, refused.message)


def _generations(identity: Identity, roots: Sequence[bytes]) -> frozenset[int]:
    trusted = {int(text.split()[1]) for text in roots if text.split()[0] == identity.cluster_id.encode()}
    if identity.generation not in trusted:
        raise Rejected(f"no root of generation {identity.generation}", subject=identity.node_id)
    return frozenset(trusted)
