"""Which records somebody means: by network, sender, recipient or their domains; or one triplet. Pure.

A selection is what an entry of the lists can be about, client names left out, for a record knows none; all that is named
must hold. It travels as a mapping kind -> pattern in normal form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist.lists.rules import (
    CLIENT,
    RECIPIENT,
    RECIPIENT_DOMAIN,
    SENDER,
    SENDER_DOMAIN,
    domain_of,
    network_bits,
    normal_pattern,
    without_extension,
)
from raftcluster.greylist.rules import KEY_BYTES, triplet_of

KINDS: Final = (CLIENT, SENDER, SENDER_DOMAIN, RECIPIENT, RECIPIENT_DOMAIN)
TRIPLET: Final = "triplet"
"""Alone, with the key of the triplet."""


class Selection:
    """Made from what travels; raises `Rejected` when it is none, or not in normal form. What is `kept` in a row was in that of the
    version that wrote it."""

    def __init__(self, named: Value, *, kept: bool = False) -> None:
        if not isinstance(named, Mapping) or not named:
            raise Rejected("nothing was named", subject="selection", remedy=f"name {', '.join(KINDS)}")
        self.named: dict[str, Value] = {str(kind): named[kind] for kind in sorted(named, key=str)}
        self.key: bytes | None = None
        """Of the one triplet that is meant."""
        if TRIPLET in self.named:
            key = self.named[TRIPLET]
            if len(self.named) > 1 or type(key) is not bytes or len(key) != KEY_BYTES:
                raise Rejected("a triplet is named by its key alone", subject="selection")
            self.key = key
            return
        for kind, pattern in self.named.items():
            if kind not in KINDS:
                raise Rejected(f"records are not selected by {kind:.40}", subject=kind, remedy=f"by {', '.join(KINDS)}")
            if not kept and normal_pattern(kind, pattern) != pattern:
                raise Rejected(f"{kind} {pattern} is not in its normal form", subject=kind)
        self._network = network_bits(self.named[CLIENT]) if CLIENT in self.named else None
        self._sender, self._recipient = self._bytes(SENDER), self._bytes(RECIPIENT)
        self._domains = (self.named.get(SENDER_DOMAIN), self.named.get(RECIPIENT_DOMAIN))

    @property
    def clients_only(self) -> bool:
        """Whether nothing but the client is named."""
        return list(self.named) == [CLIENT]

    def matches(self, key: bytes, packed: bytes) -> bool:
        """Whether it means the record with this key and packed triplet; one without a triplet only by its key."""
        if self.key is not None:
            return key == self.key
        triplet = triplet_of(packed)
        if triplet is None:
            return False
        network, sender, recipient = triplet
        if self._network is not None and not self.matches_network(network):
            return False
        if self._sender is not None and sender != self._sender:
            return False
        if self._recipient is not None and self._recipient not in (recipient, without_extension(recipient)):
            return False
        return all(
            domain is None or _below(domain_of(address), domain)
            for domain, address in zip(self._domains, (sender, recipient), strict=True)
        )

    def matches_network(self, network: bytes) -> bool:
        """Whether a client of this network may be the one that is named: one of the two holds the other."""
        if self._network is None or not network:
            return False
        version, wanted, prefix = self._network
        try:
            found_version, found, found_prefix = network_bits(network.decode())
        except ValueError:  # see `triplet_of`
            return False
        if version != found_version:
            return False
        shift = (32 if version == 4 else 128) - min(prefix, found_prefix)
        return wanted >> shift == found >> shift

    def __str__(self) -> str:
        """For people, and for the record of what was done."""
        shown = {k: v.hex() if isinstance(v, bytes) else v for k, v in self.named.items()}
        return " ".join(f"{kind} {pattern}" for kind, pattern in shown.items())

    def _bytes(self, kind: str) -> bytes | None:
        pattern = self.named.get(kind)
        return None if pattern is None else b"" if pattern == "<>" else str(pattern).encode()


def _below(domain: str, pattern: Value) -> bool:
    return domain == pattern or domain.endswith(f".{pattern}")
