"""What an entry of the greylist's lists may be, and what it matches: pure functions.

=================  ============================  ==================================================================
kind               pattern                       matches
=================  ============================  ==================================================================
client             ``192.0.2.0/24``, an address  the client's address; IPv4 mapped into IPv6 is IPv4
client-name        ``example.org``               the client's verified host name: this name and all below it
sender             ``user@example.org``, ``<>``  the envelope sender in its normal form (see `greylist.rules`)
sender-domain      ``example.org``               this domain and all below it
recipient          ``user@example.org``          this recipient, also with a ``+extension`` that the pattern has not
recipient-domain   ``example.org``               this domain and all below it
=================  ============================  ==================================================================

Effects: *allow* (never greylisted), *greylist* (always, whatever else would exempt it); for recipients also *opt-out*
(nothing to them is greylisted) and *opt-in* (greylisted where the domain is out, or all are: setting `recipients`).

Who decides. First opt-in and opt-out: the most specific entry about the recipient -- an address before a domain, a long
domain before a short one. Then, for each of client, client name, sender and recipient, the most specific entry speaks;
one that says greylist decides, else one that says allow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, NetmaskValueError
from typing import Final, NamedTuple

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.greylist.rules import normal_recipient, normal_sender

ALLOW: Final = "allow"
GREYLIST: Final = "greylist"
OPT_IN: Final = "opt-in"
OPT_OUT: Final = "opt-out"
EFFECTS: Final = (ALLOW, GREYLIST, OPT_IN, OPT_OUT)
OPTS: Final = (OPT_IN, OPT_OUT)

CLIENT: Final = "client"
CLIENT_NAME: Final = "client-name"
SENDER: Final = "sender"
SENDER_DOMAIN: Final = "sender-domain"
RECIPIENT: Final = "recipient"
RECIPIENT_DOMAIN: Final = "recipient-domain"
KINDS: Final = (CLIENT, CLIENT_NAME, SENDER, SENDER_DOMAIN, RECIPIENT, RECIPIENT_DOMAIN)

PATTERN_BYTES: Final = 320  # a local part of 64, an @, a domain of 255 (RFC 5321, 4.5.3.1)
LABEL_BYTES: Final = 63  # RFC 1035, 2.3.4
COMMENT_CHARACTERS: Final = 500
_MAPPED_BITS: Final = 96  # ::ffff:0:0/96
_MAPPED: Final = 0xFFFF << 32
_HIDDEN: Final = re.compile(
    r"[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)
"""Controls, spaces, and what turns a line about. By number: `isprintable` knows the Unicode of its Python, and nodes with another
one would decide otherwise about the same command."""


class Entry(NamedTuple):
    """One entry as it is kept. Times in milliseconds of cluster time."""

    effect: str
    kind: str
    pattern: str
    """In normal form."""
    comment: str
    author: str
    node: str
    """Where it was added: the node's name."""
    added: int
    expires: int | None
    """None: never."""

    @property
    def list(self) -> str:
        """`opt` or `rule`: in each of the two there is one entry for a kind and a pattern."""
        return list_of(self.effect)

    def alive(self, now: int) -> bool:
        """Whether it is in force at `now`."""
        return self.expires is None or now < self.expires


class Question(NamedTuple):
    """What is looked up, in normal form."""

    client: str
    """An IP address."""
    name: str
    """The client's verified host name; empty when there is none."""
    sender: bytes
    recipient: bytes


def list_of(effect: str) -> str:
    """Which of the two lists an entry with this effect is in."""
    return "opt" if effect in OPTS else "rule"


def check_effect(effect: object, kind: object) -> None:
    """Raise `Rejected` when there are no such entries."""
    if effect not in EFFECTS:
        raise Rejected(
            f"no effect of an entry: {effect!a:.40}", subject="effect", remedy=f"one of {', '.join(EFFECTS)}"
        )
    if kind not in KINDS:
        raise Rejected(f"no kind of entry: {kind!a:.40}", subject="kind", remedy=f"one of {', '.join(KINDS)}")
    if effect in OPTS and kind not in (RECIPIENT, RECIPIENT_DOMAIN):
        raise Rejected(f"{effect} is about recipients, not about a {kind}", subject="kind")


def normal_pattern(kind: str, pattern: object) -> str:
    """The pattern as it is kept; the same again for what it returned. Raises `Rejected`, saying what is wrong with it."""
    if type(pattern) is not str:
        raise _wrong(kind, pattern, "is no text", "write it as text")
    try:
        length = len(pattern.encode())
    except UnicodeEncodeError:
        raise _wrong(kind, pattern, "is no valid text", "an entry takes UTF-8") from None
    if length > PATTERN_BYTES:
        raise _wrong(kind, pattern, f"has {length} bytes, more than {PATTERN_BYTES}", "shorten it")
    if kind == CLIENT:
        return _network(pattern)
    if kind == SENDER:
        return "<>" if pattern in ("", "<>") else _address(kind, pattern, normal_sender)
    if kind == RECIPIENT:
        return _address(kind, pattern, normal_recipient)
    return _domain(kind, pattern)


def network_bits(pattern: str) -> tuple[int, int, int]:
    """(version, network as a number, prefix length) of a client pattern in normal form."""
    address, _, prefix = pattern.partition("/")
    if ":" in address:
        return 6, int(IPv6Address(address)), int(prefix)
    return 4, int(IPv4Address(address)), int(prefix)


def client_bits(client: str) -> tuple[int, int]:
    """(version, address as a number) of a client. Raises `Rejected` for what is no address."""
    try:
        if ":" not in client:
            return 4, int(IPv4Address(client))
        address = IPv6Address(client.partition("%")[0])
    except AddressValueError:
        raise Rejected(f"client {client[:80]!a} is no IP address", subject="client") from None
    return (6, int(address)) if address.ipv4_mapped is None else (4, int(address.ipv4_mapped))


def is_printable(text: str) -> bool:
    """Whether it is one line, all of which is seen. The same with every Python."""
    return _HIDDEN.search(text) is None


def normal_name(name: str | None) -> str:
    """A client's host name as it is looked up; empty for none, and for Postfix's `unknown`."""
    if not name or name == "unknown":
        return ""
    return _fold(name.rstrip("."))


def upwards(domain: str) -> list[str]:
    """The domain and all above it, the longest first."""
    labels = domain.split(".")
    return [".".join(labels[n:]) for n in range(len(labels))] if domain else []


def domain_of(address: bytes) -> str:
    """The domain of a normal address; empty when it has none. Bytes that are no UTF-8 match no pattern."""
    return address.rpartition(b"@")[2].decode("utf-8", "replace") if b"@" in address else ""


def without_extension(recipient: bytes) -> bytes:
    """`user@d` of `user+ext@d`; anything else as it is."""
    local, at, domain = recipient.rpartition(b"@")
    return (local.partition(b"+")[0] or local) + at + domain


def specific(entry: Entry) -> int:
    """The greater, the more specific among entries about the same part of one question."""
    if entry.kind == CLIENT:
        return network_bits(entry.pattern)[2]
    if entry.kind in (SENDER, RECIPIENT):
        return PATTERN_BYTES + len(entry.pattern)
    return len(entry.pattern)


def _network(pattern: str) -> str:
    address, slash, prefix = pattern.strip().partition("/")
    if slash and not (prefix.isascii() and prefix.isdigit()):
        raise _wrong(CLIENT, pattern, "has no prefix length", "for example 192.0.2.0/24")
    try:
        if ":" not in address:
            made: IPv4Network | IPv6Network = IPv4Network((address, int(prefix or 32)), strict=False)
            exact = int(IPv4Address(address))
        else:
            address = address.partition("%")[0]  # a client's zone is dropped, too; it may be any text
            six = IPv6Network((address, int(prefix or 128)), strict=False)
            exact = int(IPv6Address(address))
            made = six
            if six.prefixlen >= _MAPPED_BITS and exact >> 32 == _MAPPED >> 32:
                made = IPv4Network((int(six.network_address) - _MAPPED, six.prefixlen - _MAPPED_BITS))
                exact -= _MAPPED
    except (AddressValueError, NetmaskValueError, ValueError):
        raise _wrong(CLIENT, pattern, "is no address and no network", "for example 192.0.2.0/24") from None
    if made.prefixlen == 0:
        raise _wrong(CLIENT, pattern, "is everybody", "narrow it down")
    if int(made.network_address) != exact:
        raise _wrong(CLIENT, pattern, f"has bits beyond its {made.prefixlen}", f"did you mean {made}?")
    return str(made)


def _address(kind: str, pattern: str, normal: Callable[[str], bytes]) -> str:
    local, at, domain = pattern.strip().rpartition("@")
    if not at or not local or local == "*":
        raise _wrong(kind, pattern, "is no address", f"for a whole domain there is {kind}-domain")
    found, address = _domain(kind, domain), normal(local + at + domain).decode()
    if not address.endswith(f"@{found}"):  # a * or a space before it: this would match nobody
        raise _wrong(kind, pattern, "is no address", f"for a whole domain there is {kind}-domain")
    return address


def _domain(kind: str, pattern: str) -> str:
    domain = _fold(pattern.strip()).removeprefix("*").removeprefix(".").rstrip(".")
    if "@" in domain:
        remedy = f"for one address there is {kind.partition('-')[0]}"
        raise _wrong(kind, pattern, "is an address", remedy if kind != CLIENT_NAME else "names have no @")
    if not is_printable(domain) or any(sign in domain for sign in " */<>,;"):
        raise _wrong(kind, pattern, "holds a character that no domain has", "it matches all below it, without a *")
    if not all(0 < len(label.encode()) <= LABEL_BYTES for label in domain.split(".")):
        raise _wrong(kind, pattern, f"has an empty label, or one of more than {LABEL_BYTES} bytes", "as in example.org")
    if len(domain.encode()) > limits.NAME_BYTES:
        raise _wrong(kind, pattern, f"has more than {limits.NAME_BYTES} bytes", "shorten it")
    return domain


def _fold(text: str) -> str:
    """Only ASCII letters are folded, as in addresses."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "replace")


def _wrong(kind: str, pattern: object, problem: str, remedy: str) -> Rejected:
    return Rejected(f"{kind} {pattern!a:.80} {problem}", subject=kind, remedy=remedy)
