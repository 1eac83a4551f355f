"""One check on its way: what the machine is sent, under which id."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple, Protocol

from raftcluster.greylist import check
from raftcluster.greylist.clients import client_key
from raftcluster.greylist.rules import key_of, network_of, normal_recipient, normal_sender, pack_triplet
from raftcluster.greylist.settings import Settings

ID_BYTES = 16


class Asked(Protocol):
    """What is known of what was asked about: a `Mail`, or the policy server's question."""

    @property
    def client(self) -> str: ...
    @property
    def client_name(self) -> str | None: ...
    @property
    def helo(self) -> str: ...
    @property
    def sender(self) -> str | bytes: ...
    @property
    def recipient(self) -> str | bytes: ...
    @property
    def instance(self) -> str | None: ...


class Mail(NamedTuple):
    """What is asked about: see `Greylist.check`."""

    client: str
    client_name: str | None
    sender: str | bytes
    recipient: str | bytes
    instance: str | None
    authenticated: bool
    spf_pass: bool
    helo: str = ""


class Current:
    """The settings of one revision, and what each check needs of them."""

    __slots__ = ("clients", "counts", "delay", "direct", "early", "opted_in_only", "replicated", "revision", "settings")

    def __init__(self, revision: int, settings: Settings) -> None:
        self.revision, self.settings = revision, settings
        self.delay = settings.waits().delay
        """In milliseconds."""
        self.opted_in_only = settings.recipients == "opted-in"
        self.clients = settings.auto_allow > 0
        self.early = settings.ack == "early"
        self.replicated = settings.replicate
        self.counts = self.clients and not self.replicated
        """This node counts by itself what clients earn."""
        self.direct = self.replicated and not self.early
        """The cluster decides, and nobody else is asked before it."""


class Request:
    """Raises `Rejected` when made from what can never be checked.

    With an SMTP instance its id is derived from (node, instance, recipient), so that asking again is the same request, and the
    same operation. When the cluster has answered that operation with newer settings only, the request becomes another one, whose
    id is derived from the first one's: whoever repeats the request walks the same way and finds the same verdict.
    """

    __slots__ = (
        "_allow",
        "_node",
        "client",
        "command",
        "current",
        "hinted",
        "id",
        "instance",
        "key",
        "network",
        "operation",
        "recipient",
        "sender",
        "triplet",
    )

    command: bytes
    """What `GreylistMachine.apply` takes."""
    hinted: bool
    """It says that its client is allowed."""

    def __init__(
        self, node_id: str, node: bytes, current: Current, mail: Mail, allow: Callable[[bytes], bool] | None
    ) -> None:
        """`allow` is asked whether mail from a network is believed to pass at once; None: it does not, whatever is believed."""
        self._node = node
        self._allow = allow
        self.client = mail.client
        self.sender = normal_sender(mail.sender)
        self.recipient = normal_recipient(mail.recipient)
        self.instance = mail.instance
        self.id: bytes | None = None
        if mail.instance:
            name = mail.instance.encode("utf-8", "surrogatepass")
            self.id = _derived(node_id.encode(), name, self.recipient)
        self.operation = self.id
        """The id under which the cluster is asked."""
        self._settle(current)

    @property
    def may_be_allowed(self) -> bool:
        """Whether its client may be, and it need not wait then."""
        return self._allow is not None

    def insist(self) -> None:
        """Whatever is believed of its client: it waits."""
        self._allow = None
        if self.hinted:
            self._settle(self.current)

    def renew(self, current: Current) -> None:
        """Make it again under other settings."""
        self._settle(current)

    def answered(self) -> None:
        """The cluster has answered its operation, with the settings that it has now; what it is asked next is another one."""
        if self.operation is not None:
            self.operation = _derived(self.operation, self.current.revision.to_bytes(8, "big"))

    def _settle(self, current: Current) -> None:
        self.current = current
        settings = current.settings
        self.network = network = network_of(self.client, settings.network4, settings.network6)
        triplet = pack_triplet(network, self.sender, self.recipient)
        self.key = key_of(triplet)
        self.hinted = current.clients and self._allow is not None and self._allow(network)
        hashed = settings.privacy
        rest = client_key(network) if hashed else triplet
        self.triplet = b"" if hashed else triplet
        """As it is kept."""
        self.command = check.command(current.revision, self.key, self._node, not self.sender, rest, hashed, self.hinted)


def _derived(*parts: bytes) -> bytes:
    hashed = blake2b(digest_size=ID_BYTES)
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big") + part)
    return hashed.digest()
