"""Who is the same sender, and what a triplet is told: pure functions.

*Identity.* A triplet is (client network, sender, recipient), each in a normal form, so that what a sender varies from
message to message does not make it a stranger:

=================================  ===============================  ==========================================
seen                               normal form                      why
=================================  ===============================  ==========================================
``User@Example.ORG.``              ``user@example.org``             nobody tells mailboxes apart by case; domains never
``<>``                             (empty)                          the null sender
``prvs=1234abcdef=user@d``         ``user@d``                       BATV tag, changes daily (also ``msprvs1=``, ``btv1==``)
``SRS0=hash=day=dom=user@fwd``     ``srs:dom=user@fwd``             SRS: hash and day change
``SRS1=hash=fwd1==h=d=dom=user@``  ``srs:fwd1=dom=user@``           SRS, forwarded twice
``list+user=dom@d``                ``list@d``                       VERP and sub-addresses
``bounce-4711-user@d``             ``bounce-#-user@d``              VERP with a message number
``4711@d``                         ``4711@d``                       a mailbox that is called so, no VERP
=================================  ===============================  ==========================================

Addresses are bytes: only ASCII letters are folded, so that every node and every Python makes the same key. Invalid
UTF-8 is kept as it is; control characters (NUL, CR, LF) and overlong addresses are rejected. Only the sender's local
part is rewritten; in a recipient nothing but case changes. Normalising twice changes nothing.

*Time.* `decide` is the whole greylist: a record is alive while now < expires.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from struct import Struct
from typing import Final, Literal, NamedTuple

from raftcluster.errors import Rejected
from raftcluster.greylist.settings import Waits
from raftcluster.limits import ADDRESS_BYTES

PASS: Final = "pass"
DEFER: Final = "defer"
Action = Literal["pass", "defer"]

KEY_BYTES: Final = 16
_CLIENTS_KEPT: Final = 16_384  # clients come back: parsing an address costs more than all the rest

_LENGTH: Final = Struct(">H")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_BATV: Final = re.compile(rb"^(?:(?:ms)?prvs1?=[^=]+=|btv1==[^=]+==)+(?=.)")
_SRS0: Final = re.compile(rb"^srs0[=+-][^=]+=[^=]+=([^=]+)=(.+)$")
_SRS1: Final = re.compile(rb"^srs1[=+-][^=]+=([^=]+)=[=+-][^=]+=[^=]+=([^=]+)=(.+)$")
_NUMBER: Final = re.compile(rb"(?<![0-9a-z\x80-\xff])[0-9]+(?![0-9a-z\x80-\xff])")


class Triplet(NamedTuple):
    """In normal form."""

    network: bytes
    sender: bytes
    recipient: bytes

    def pack(self) -> bytes:
        """Each part behind its length (2 bytes, big endian): two triplets never pack alike."""
        return pack_triplet(*self)

    @classmethod
    def unpack(cls, packed: bytes) -> Triplet:
        """What `pack` packed."""
        parts = []
        while packed:
            end = 2 + int.from_bytes(packed[:2], "big")
            parts.append(packed[2:end])
            packed = packed[end:]
        return cls(*parts)


def triplet_of(packed: bytes) -> Triplet | None:
    """What was packed; None when it is no triplet, which only a member that is not of our making can have sent."""
    try:
        return Triplet.unpack(packed)
    except TypeError:
        return None


def pack_triplet(network: bytes, sender: bytes, recipient: bytes) -> bytes:
    """`Triplet.pack` without one."""
    length = _LENGTH.pack
    return length(len(network)) + network + length(len(sender)) + sender + length(len(recipient)) + recipient


def network_in(packed: bytes) -> bytes:
    """The network of a packed triplet."""
    return packed[2 : 2 + int.from_bytes(packed[:2], "big")]


def key_of(packed: bytes) -> bytes:
    """The key of a packed triplet: fixed in size, where triplets may be longer than a key of the store."""
    return blake2b(packed, digest_size=KEY_BYTES).digest()


@lru_cache(maxsize=_CLIENTS_KEPT)
def network_of(client: str, prefix4: int, prefix6: int) -> bytes:
    """The network of a client's address, as `192.0.2.0/24`. IPv4 mapped into IPv6 is IPv4; a zone is dropped.

    Raises `Rejected` for what is no address.
    """
    try:
        if ":" not in client:
            return _masked4(IPv4Address(client), prefix4)
        address = IPv6Address(client.partition("%")[0])
    except AddressValueError:
        raise Rejected(f"client {client[:80]!a} is no IP address", subject="client") from None
    if address.ipv4_mapped is not None:
        return _masked4(address.ipv4_mapped, prefix4)
    return b"%s/%d" % (str(IPv6Address(int(address) >> (128 - prefix6) << (128 - prefix6))).encode(), prefix6)


def normal_sender(sender: str | bytes) -> bytes:
    """The normal form of an envelope sender; empty for the null sender. Raises `Rejected`."""
    address = _folded(sender, "sender")
    if address in (b"", b"<>"):
        return b""
    local, at, domain = address.rpartition(b"@")
    if not at:  # a local user: no BATV, SRS or VERP without a domain
        return address
    return _normal_local(local) + b"@" + domain.rstrip(b".")


def normal_recipient(recipient: str | bytes) -> bytes:
    """The normal form of an envelope recipient. Raises `Rejected`, also when it is empty."""
    address = _folded(recipient, "recipient")
    if not address:
        raise Rejected("the recipient is empty", subject="recipient")
    local, at, domain = address.rpartition(b"@")
    return local + at + domain.rstrip(b".") if at else address


def decide(
    first: int, expires: int, passed: bool, now: int, waits: Waits, null_sender: bool
) -> tuple[Action, int, int, bool, int, int]:
    """What a triplet is told at `now`, and what its record becomes. All times are milliseconds of cluster time.

    `first`, `expires`, `passed` are the record's; a triplet without a record has expires 0. Returns (action, first,
    expires, passed before, milliseconds left, milliseconds delayed). The new record has passed when it was told to.

    A record that has expired is none, whether its row was cleaned up already or not: for one that has not passed that
    means that the window is over and the wait begins anew.
    """
    delay, window, life = waits
    if now >= expires:
        return DEFER, now, now + window, False, delay, 0
    if passed:
        extended = now + life
        return PASS, first, expires if null_sender or extended < expires else extended, True, 0, 0
    waited = now - first
    if waited < delay:
        return DEFER, first, expires, False, delay - waited, 0
    extended = now + life
    return PASS, first, max(expires, extended), False, 0, waited


def _folded(address: str | bytes, what: str) -> bytes:
    plain = False
    if isinstance(address, str):
        plain = address.isascii() and address.isprintable()
        try:
            address = address.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise Rejected(f"the {what} is no text", subject=what) from None
    if len(address) > ADDRESS_BYTES:
        raise Rejected(f"the {what} has {len(address)} bytes, more than {ADDRESS_BYTES}", subject=what)
    if not plain and _CONTROL.search(address):
        raise Rejected(f"the {what} holds a control character", subject=what)
    return address.lower()


def _normal_local(local: bytes) -> bytes:
    if local.isalnum():  # most are: nothing is marked off in it
        return local
    if b"=" in local:
        local = _BATV.sub(b"", local)
        local = _SRS0.sub(rb"srs:\1=\2", local)
        local = _SRS1.sub(rb"srs:\1=\2=\3", local)
    if b"+" in local:
        local = local.partition(b"+")[0] or local
    return local if local.isdigit() else _NUMBER.sub(b"#", local)


def _masked4(address: IPv4Address, prefix: int) -> bytes:
    shift = 32 - prefix
    return b"%s/%d" % (str(IPv4Address(int(address) >> shift << shift)).encode(), prefix)
