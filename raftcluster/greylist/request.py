"""One check on its way: what the machine is sent, under which id."""

from __future__ import annotations

from hashlib import blake2b

from raftcluster.greylist import check
from raftcluster.greylist.rules import key_of, network_of, normal_recipient, normal_sender, pack_triplet
from raftcluster.greylist.settings import Settings

ID_BYTES = 16


class Current:
    """The settings of one revision, and what each check needs of them."""

    __slots__ = ("delay", "opted_in_only", "revision", "settings")

    def __init__(self, revision: int, settings: Settings) -> None:
        self.revision, self.settings = revision, settings
        self.delay = settings.waits().delay
        """In milliseconds."""
        self.opted_in_only = settings.recipients == "opted-in"


class Request:
    """Raises `Rejected` when made from what can never be checked.

    With an SMTP instance its id is derived from (node, instance, recipient), so that asking again is the same operation.
    Made again under new settings it is another operation, whose id is derived from the first one's: whoever repeats the
    request walks the same way and finds the same verdict.
    """

    __slots__ = ("_node", "client", "command", "current", "id", "instance", "key", "recipient", "sender")

    command: bytes
    """What `GreylistMachine.apply` takes."""

    def __init__(
        self,
        node_id: str,
        node: bytes,
        current: Current,
        client: str,
        sender: str | bytes,
        recipient: str | bytes,
        instance: str | None,
    ) -> None:
        self._node = node
        self.client = client
        self.sender = normal_sender(sender)
        self.recipient = normal_recipient(recipient)
        self.instance = instance
        self.id: bytes | None = None
        if instance:
            name = instance.encode("utf-8", "surrogatepass")
            self.id = _derived(node_id.encode(), name, self.recipient)
        self._settle(current)

    def renew(self, current: Current) -> None:
        """Make it again under other settings."""
        self._settle(current)
        if self.id is not None:
            self.id = _derived(self.id, current.revision.to_bytes(8, "big"))

    def _settle(self, current: Current) -> None:
        self.current = current
        settings = current.settings
        network = network_of(self.client, settings.network4, settings.network6)
        triplet = pack_triplet(network, self.sender, self.recipient)
        self.key = key_of(triplet)
        kept = b"" if settings.privacy else triplet
        self.command = check.command(current.revision, self.key, self._node, not self.sender, kept)


def _derived(*parts: bytes) -> bytes:
    hashed = blake2b(digest_size=ID_BYTES)
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big") + part)
    return hashed.digest()
