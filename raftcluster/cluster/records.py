"""What the cluster's tables hold: members, invitations, generations, facts. Values only; no IO, no clock.

Everything here is replicated and therefore public to every member: there is no private key and no token secret in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, Self

from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError, Rejected

Role = Literal["learner", "voter", "removed"]
Phase = Literal["collect", "trust", "switch", "active", "retired", "aborted"]
"""collect: certificate requests come in; trust: minted, everyone learns to trust it; switch: everyone presents it;
active: the one in force; retired: superseded, only its root is kept; aborted: given up before it was minted."""

SCHEMA: Final = 1
"""Version of all built-in tables together; nodes with another one do not form one cluster."""


class Record:
    """A row: packed as the list of its fields, in order."""

    __match_args__: ClassVar[tuple[str, ...]]
    """Their names; each dataclass has them."""

    def pack(self) -> bytes:
        """The row as it is stored."""
        return pack(self.values())

    def values(self) -> list[Value]:
        """The fields, as a message carries them."""
        return [getattr(self, name) for name in self.__match_args__]

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The row that `pack` made. Raises `FrameError` when it is none."""
        return cls.of(unpack(data))

    @classmethod
    def of(cls, values: Value) -> Self:
        """The row with these fields. Raises `FrameError` when their number is not right."""
        if not isinstance(values, list) or len(values) != len(cls.__match_args__):
            raise FrameError(f"not a {cls.__name__.lower()}", subject=cls.__name__.lower())
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Member(Record):
    """One node, from the entry that let it in; removed ones stay as a record."""

    node_id: str
    """UUID. The identity: in the certificate's SAN; name and address are data."""
    name: str
    host: str
    port: int
    role: Role
    pins: Sequence[bytes]
    """Fingerprints of the keys it may show: the active generation's and, once minted, the next one's. Empty: it may not
    link."""
    generation: int
    """The newest generation that it holds a certificate of; 0 before its first."""
    product: str
    joined_at: int
    """Cluster time, milliseconds."""
    asleep_since: int = 0
    """Cluster time, milliseconds, at which a generation came into force without it; 0 when it is in the active one. It may
    return by the key that it is known by, for a while."""


@dataclass(frozen=True, slots=True)
class Invitation(Record):
    """What is known of a token. Its secret is not."""

    token_id: str
    public_key: bytes
    """Verifies the joiner's proof; derived from the secret, which is not replicated."""
    name: str
    expires: int
    """Cluster time, milliseconds."""
    used_by: bytes | None
    """Hash of the certificate request that consumed it."""
    revoked: bool
    addresses: Sequence[str]
    """From where the host will come, for the members' firewalls; empty: from where its name leads."""


@dataclass(frozen=True, slots=True)
class Generation(Record):
    """One certificate hierarchy and how far the cluster has got with it."""

    number: int
    phase: Phase
    txid: str
    sequence: int
    """Of its manifest in the chain."""
    members: Sequence[str]
    """Who takes part: those that hold a certificate of the generation before, without who is excluded or leaves."""
    begun: int
    """Cluster time in milliseconds, like all times here; 0 while a step is still to come."""
    patient: bool = True
    """When a request is missing at the deadline: give the generation up; otherwise exclude who has not sent one."""
    joiners: Mapping[str, str] = field(default_factory=dict)
    """node id -> the token that lets it in; "" for a member that returns."""
    leaving: Sequence[str] = field(default_factory=list)
    """Members whose endorsement is needed for a generation without them: they are removed when it is switched to."""
    excluded: Sequence[str] = field(default_factory=list)
    """Members that have not sent a request in time, or were named from the beginning."""
    requests: Mapping[str, bytes] = field(default_factory=dict)
    """node id -> certificate request (PEM); until it retires."""
    root: bytes = b""
    """PEM; empty until minted."""
    manifest: bytes = b""
    signature: bytes = b""
    """The root's, of the manifest."""
    certificates: Mapping[str, bytes] = field(default_factory=dict)
    trusted: Sequence[str] = field(default_factory=list)
    endorsements: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    """node id -> [public key, signature]: see `manifests`."""
    switched: Sequence[str] = field(default_factory=list)
    minted: int = 0
    switching: int = 0
    retired: int = 0
    """When its predecessor was."""
    reason: str = ""
    """Why it was given up."""

    def holders(self) -> list[str]:
        """Who is to hold a certificate of it, in the order of the ids."""
        return sorted([*self.members, *self.joiners])


@dataclass(frozen=True, slots=True)
class Amendment(Record):
    """A change of the chain's voters without a new hierarchy, until a majority of the voters before has endorsed it."""

    sequence: int
    manifest: bytes
    voters: Sequence[str]
    endorsements: Mapping[str, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Facts(Record):
    """What makes this cluster this cluster. Never changes after genesis."""

    cluster_id: str
    name: str
    lab: bool
    product: str
    schema: int
    realm: str
    founder: str
    """Node id of the first member: the genesis configuration of the log."""


@dataclass(frozen=True, slots=True)
class Destruction(Record):
    """The committed decision to dismantle the cluster."""

    event_id: str
    reason: str
    at: int
    """Cluster time, milliseconds."""
    recorded: Sequence[str]
    """Nodes that have tombstone and event record on their disk."""
    signatures: Mapping[str, Sequence[bytes]]
    """node id -> [public key (DER), signature of the tombstone's statement], as they came: judged by who acts on them."""
    keep_software: bool = False
    """What `push` has installed on the hosts stays there."""


def product_name(product: str) -> str:
    """`mail-gateway` of `mail-gateway/4.2`: versions of one product may form a cluster, different products may not."""
    return product.partition("/")[0]


def differences(facts: Facts, product: str, schema: int, realm: str) -> list[str]:
    """What keeps a node with these properties out of the cluster; empty when nothing does."""
    found = []
    wanted = product_name(facts.product)
    if product_name(product) != wanted:
        found.append(
            f"product: the cluster runs {facts.product!a}, this node {product!a}; any version of {wanted!a} may join"
        )
    if schema != facts.schema:
        found.append(
            f"schema: the cluster's tables have version {facts.schema}, this node's {schema}; "
            f"only version {facts.schema} may join"
        )
    if realm != facts.realm:
        found.append(
            f"trust realm: the cluster belongs to {facts.realm!a}, this node to {realm!a}; one cluster, one realm"
        )
    return found


def rejected(code: str, message: str, *, subject: str = "", remedy: str = "") -> Rejected:
    """A refusal with a stable code of its own."""
    error = Rejected(message, subject=subject, remedy=remedy)
    error.code = code
    return error
