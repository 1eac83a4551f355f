"""What is true on a node, and what it may have to do: the words between `lifecycle` (decides) and `reconcile` (does)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from raftcluster.cluster.records import Destruction
from raftcluster.codec import Value


@dataclass(frozen=True, slots=True)
class Local:
    """What is true on this node."""

    node_id: str
    leader: bool
    revision: int
    """Of the newest view that this node has acted upon, also before a restart."""
    requests: Mapping[int, bytes]
    """generation -> the request whose key waits on the disk for its certificate."""
    stored: Collection[int]
    """Generations whose key and certificate are on the disk."""
    on_disk: Collection[int]
    """Generations of which anything is on the disk: only a root, or only a key."""
    presented: int
    trusted: Collection[int]
    links: Mapping[str, int]
    """peer -> the generation that this node shows on the link to it."""
    rooted: Collection[int] = ()
    """Generations of which the root is on the disk, with or without a certificate."""
    lonely_s: float = 0.0
    """Since when this node has had links to less than a majority, or nobody has led it: all whom it has links to may have slept
    with it, and have been removed."""
    expired: bool = False
    """Whether the certificate that is presented has expired."""
    product: str = ""
    """What runs here, "name/version"."""
    features: Sequence[str] = ()
    """What it understands, in order: see `features`."""
    founder: bool = False
    """Whether this node keeps the genesis."""
    voters: Collection[str] = ()
    """Of the engine. Leader only."""
    changing: bool = False
    """Whether a change of these is not committed yet: another leader may know nothing of it. Leader only."""
    caught_up: Collection[str] = ()
    """Learners that have all but the newest entries. Leader only."""
    signed: bool = False
    """Whether this node's signature of the tombstone is committed."""
    entombed: bool = False
    """Whether a majority of the voters has signed it."""
    recorded: bool = False
    """Whether tombstone and event record of the cluster's destruction are on the disk."""
    destroying_s: float = 0.0
    """Since this node heard that the cluster is being destroyed."""


class Action:
    """Something to be done now; doing it twice does no harm."""


@dataclass(frozen=True, slots=True)
class Found(Action):
    """Propose the genesis that `init` has left."""


@dataclass(frozen=True, slots=True)
class Request(Action):
    """Make this node's key for the generation unless it is there, and propose its request."""

    number: int


@dataclass(frozen=True, slots=True)
class Mint(Action):
    """Have root and certificates made, and propose them."""

    number: int
    requests: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Store(Action):
    """Complete the generation's directory: root, certificate, key. Without a certificate only the root is kept."""

    number: int
    root: bytes
    certificate: bytes | None


@dataclass(frozen=True, slots=True)
class Use(Action):
    """Present one generation and trust these roots, from now on and after a restart."""

    present: int
    trust: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vouch(Action):
    """Check the generation that is to be trusted, endorse its manifest when this node is a voter, and say so."""

    number: int


@dataclass(frozen=True, slots=True)
class Amend(Action):
    """Propose to bring the chain's voters up to date; with `candidate`, a learner that is about to become one."""

    candidate: str = ""


@dataclass(frozen=True, slots=True)
class Endorse(Action):
    """Endorse the change of the chain's voters that is under way."""

    sequence: int


@dataclass(frozen=True, slots=True)
class CatchUp(Action):
    """Ask the others for the public chain; follow it, and return with it."""


@dataclass(frozen=True, slots=True)
class HandOver(Action):
    """Let another node lead: this one leaves."""


@dataclass(frozen=True, slots=True)
class Relink(Action):
    """Replace the links to these peers, on which this node shows another generation."""

    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Propose(Action):
    """A command for the cluster machine."""

    command: Value


@dataclass(frozen=True, slots=True)
class Renew(Action):
    """Begin a generation without a joiner; who is down is excluded."""


@dataclass(frozen=True, slots=True)
class Forget(Action):
    """Delete keys and certificates of these generations."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Promote(Action):
    """Make a learner a voter of the engine."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Expel(Action):
    """Take a node out of the engine's voters."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Depart(Action):
    """This node was removed: it stops, and does not start again from its directory."""


@dataclass(frozen=True, slots=True)
class Sign(Action):
    """Propose this node's signature of the tombstone."""


@dataclass(frozen=True, slots=True)
class Record(Action):
    """Write the event record of the cluster's destruction and keep the tombstone, durably and outside the data directory."""

    destruction: Destruction


@dataclass(frozen=True, slots=True)
class Wipe(Action):
    """Stop this node and remove what is in its data directory."""


@dataclass(frozen=True, slots=True)
class Alarm(Action):
    """Nothing can be done here; a person must know."""

    code: str
    text: str
