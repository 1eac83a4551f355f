"""One check on its way: what the machine is sent, under which id."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from raftcluster.codec import Value
from raftcluster.greylist.machine import NULL_SENDER
from raftcluster.greylist.rules import Triplet, key_of, network_of, normal_recipient, normal_sender
from raftcluster.greylist.settings import Settings

ID_BYTES = 16


class Current(NamedTuple):
    """The settings of one revision."""

    revision: int
    settings: Settings


class Request:
    """Raises `Rejected` when made from what can never be checked.

    With an SMTP instance its id is derived from (node, instance, recipient), so that asking again is the same operation.
    Made again under new settings it is another operation, whose id is derived from the first one's: whoever repeats the
    request walks the same way and finds the same verdict.
    """

    __slots__ = ("_client", "_node", "_recipient", "_sender", "current", "id", "instance", "key", "triplet")

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
        self._client = client
        self._sender = normal_sender(sender)
        self._recipient = normal_recipient(recipient)
        self.instance = instance
        self.id: bytes | None = None
        if instance:
            name = instance.encode("utf-8", "surrogatepass")
            self.id = _derived(node_id.encode(), name, self._recipient)
        self._settle(current)

    def command(self) -> Value:
        """What `GreylistMachine.apply` takes."""
        revision, settings = self.current
        triplet = None if settings.privacy else self.triplet
        return ["c", revision, self.key, self._node, 0 if self._sender else NULL_SENDER, triplet]

    def renew(self, current: Current) -> None:
        """Make it again under other settings."""
        self._settle(current)
        if self.id is not None:
            self.id = _derived(self.id, current.revision.to_bytes(8, "big"))

    def _settle(self, current: Current) -> None:
        self.current = current
        network = network_of(self._client, current.settings.network4, current.settings.network6)
        self.triplet = Triplet(network, self._sender, self._recipient).pack()
        self.key = key_of(self.triplet)


def _derived(*parts: bytes) -> bytes:
    hashed = blake2b(digest_size=ID_BYTES)
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big") + part)
    return hashed.digest()
