"""What the quarantine refuses, by name, and the seal on what it keeps. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.quarantine.envelope import Envelope

ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32
SEAL_BYTES: Final = 32
_CONTEXT: Final = "raftcluster quarantine 1"


class UnknownMessage(Rejected):
    """The quarantine holds no such message: it never did, or it has expired or was discarded."""

    code = "quarantine-unknown"


class NoSuchRecipient(Rejected):
    """The message has no recipient of this number."""

    code = "quarantine-recipient"


class AlreadyDelivered(Rejected):
    """This recipient has the message."""

    code = "quarantine-delivered"


class Claimed(Rejected):
    """Somebody is delivering it to this recipient."""

    code = "quarantine-claimed"


class ClaimLost(Rejected):
    """The claim is another's by now."""

    code = "quarantine-claim-lost"


class Tampered(Rejected):
    """The record, or the message itself, is not what was captured."""

    code = "quarantine-tampered"


class QuarantineFull(Rejected):
    """There is no space. Nothing is ever evicted for it."""

    code = "quarantine-full"


class DeliveryFailed(Rejected):
    """It was not delivered, and may be released again."""

    code = "quarantine-failed"


KINDS: Final = {
    each.code: each
    for each in (
        UnknownMessage,
        NoSuchRecipient,
        AlreadyDelivered,
        Claimed,
        ClaimLost,
        Tampered,
        QuarantineFull,
        DeliveryFailed,
    )
}


def of_kind(error: Rejected) -> Rejected:
    """`error` in its own class: what has travelled through the log is a `Rejected` that knows its code only."""
    kind = KINDS.get(error.code)
    return error if kind is None else kind(error.message, subject=error.subject, remedy=error.remedy)


class Content(NamedTuple):
    """What is captured of one message, and sealed. Nothing of it ever changes."""

    id: bytes
    envelope: list[Value]
    """`Envelope.values()`."""
    digest: bytes
    """SHA-256 of the message."""
    size: int
    """Of the message, in bytes."""
    reference: str
    """Where the product keeps the message: its own words."""
    reason: str
    """Why it was put here: for people."""
    lifetime: int
    """Milliseconds from its capture on."""
    node: str
    """Where it was captured: the node's name."""

    def seal(self, key: bytes) -> bytes:
        """HMAC-SHA-256 of all of it (RFC 2104)."""
        return hmac.digest(key, codec.pack([_CONTEXT, *self]), "sha256")

    def is_sealed(self, seal: bytes, keys: Sequence[bytes]) -> bool:
        """Whether one of `keys` has made `seal` for it."""
        return any(hmac.compare_digest(self.seal(key), seal) for key in keys)

    def check(self) -> Envelope:
        """Its envelope. Raises `Rejected` when a field is not what it has to be."""
        check_bytes("id", self.id, ID_BYTES)
        check_bytes("digest", self.digest, DIGEST_BYTES)
        if type(self.size) is not int or not 0 <= self.size <= limits.QUARANTINE_MESSAGE_BYTES:
            most = limits.QUARANTINE_MESSAGE_BYTES
            raise Rejected(f"a message of {self.size!a:.40} bytes, at most {most} are kept", subject="size")
        check_text("reference", self.reference, limits.QUARANTINE_REFERENCE_BYTES, empty=False)
        check_text("reason", self.reason, limits.QUARANTINE_REASON_BYTES)
        check_text("node", self.node, limits.NAME_BYTES)
        most = int(limits.QUARANTINE_MAX_SECONDS * 1000)
        if type(self.lifetime) is not int or not 1_000 <= self.lifetime <= most:
            raise Rejected(f"a message is kept 1000 to {most} ms, not {self.lifetime!a:.40}", subject="lifetime")
        envelope = Envelope.of(self.envelope)
        if not envelope.recipients:
            raise Rejected("a message without a recipient", subject="envelope", remedy="capture it after RCPT")
        size = len(codec.pack(self.envelope))
        if size > limits.QUARANTINE_ENVELOPE_BYTES:
            most = limits.QUARANTINE_ENVELOPE_BYTES
            raise Rejected(f"an envelope of {size} bytes, at most {most} are kept", subject="envelope")
        return envelope


def check_key(key: bytes) -> None:
    """Bytes, and enough of them for HMAC-SHA-256. Says nothing of what they are."""
    if type(key) is not bytes or len(key) < limits.QUARANTINE_KEY_BYTES:
        least = limits.QUARANTINE_KEY_BYTES
        raise Rejected(
            f"the key that seals envelopes has at least {least} bytes", subject="key", remedy="make a new one"
        )


def check_text(what: str, text: Value, most: int, *, empty: bool = True) -> None:
    """Valid text of at most `most` bytes."""
    try:
        fits = type(text) is str and (empty or bool(text)) and len(text.encode()) <= most
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise Rejected(f"{what} takes text of at most {most} bytes, not {text!a:.80}", subject=what)


def check_bytes(what: str, value: Value, length: int) -> None:
    """Exactly `length` bytes."""
    if type(value) is not bytes or len(value) != length:
        raise Rejected(f"{what} takes {length} bytes, not {value!a:.80}", subject=what)


def check_claim(milliseconds: Value) -> None:
    """How long a claim may last."""
    most = int(limits.QUARANTINE_CLAIM_MAX_SECONDS * 1000)
    if type(milliseconds) is not int or not 1_000 <= milliseconds <= most:
        raise Rejected(f"a claim lasts 1000 to {most} ms, not {milliseconds!a:.40}", subject="claim")
