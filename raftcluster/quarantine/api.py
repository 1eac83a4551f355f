"""The quarantine as the embedding product sees it: `node.quarantine`.

The product keeps the messages, the cluster keeps whom they were for: the envelope, as the SMTP connection gave it. So what
is released goes to a recipient that a server accepted in RCPT, whatever the message's header says; nothing here takes an
address or a header once the envelope is captured, a recipient is named by its number.

    envelope = Envelope("a@example.net")                                   # at MAIL
    envelope.rcpt("b@example.org", orcpt="rfc822;b@example.org")           # at each RCPT that is accepted
    digest = hashlib.sha256(message).digest()                              # after DATA; the product keeps the message
    id = node.quarantine.capture(envelope, digest=digest, size=len(message), reference="2f/17", reason="macro virus")

    node.quarantine.attach(key, open_message, SmtpDelivery(...))           # once, on each node that releases
    node.quarantine.release(id, 1)                                         # on any of them

Guarantee. A release is a claim that the cluster gives once, with a fencing token and until a moment of cluster time; then the
delivery; then its outcome. Two that release at once: one delivers, the other is told `Claimed` or `AlreadyDelivered`. The claim
of a node that crashed ends, and may be taken again: what crashed between the server's taking the message and the commit of
that fact has delivered it without anybody's knowing, and then it comes twice. DESIGN.md has the bound.

Errors: those of every call -- `Unavailable` (not done), `OutcomeUnknown` (may be), `Rejected` -- and the kinds of `rules`.
Thread: every method may be called from any thread, but never from a node's callback: they wait. Times in seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import BinaryIO, Final, NamedTuple, TypeVar

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import OutcomeUnknown, Rejected, Unavailable
from raftcluster.host import Consistency, Host
from raftcluster.machine import ReadTables
from raftcluster.quarantine.delivery import Deliver
from raftcluster.quarantine.envelope import Envelope, Recipient
from raftcluster.quarantine.machine import (
    NAME,
    Message,
    Release,
    check_claimable,
    read_message,
    read_page,
    read_release,
    read_releases,
    read_usage,
)
from raftcluster.quarantine.rules import (
    ID_BYTES,
    ClaimLost,
    Content,
    DeliveryFailed,
    Tampered,
    UnknownMessage,
    check_key,
    of_kind,
)
from raftcluster.twins import twin

log = logging.getLogger("raftcluster.quarantine")

T = TypeVar("T")

OpenMessage = Callable[[str], BinaryIO]
"""The message that the product keeps under this reference, byte for byte as it came in DATA (dots undone). Raises `OSError`."""

RETRY_SECONDS: Final = 0.2
_TIME_BYTES: Final = 6


class Summary(NamedTuple):
    """One line of a list. Times are cluster time in milliseconds."""

    id: str
    captured: int
    expires: int
    node: str
    sender: bytes
    first: bytes
    """The first recipient's address."""
    recipients: int
    delivered: int
    """To how many of them."""
    size: int
    reason: str


class Listing(NamedTuple):
    """A page of the list, in the order of capture, and after which id the next one begins; empty at the end."""

    messages: list[Summary]
    next: str


class Standing(NamedTuple):
    """One recipient, as captured, and how far the release to it is; see `Release`."""

    number: int
    address: bytes
    orcpt: str
    notify: str
    state: str
    node: str
    author: str
    since: int
    until: int
    claims: int
    deliveries: int
    detail: str


class Details(NamedTuple):
    """All that is known of one message. Times are cluster time in milliseconds."""

    id: str
    captured: int
    expires: int
    node: str
    sender: bytes
    ret: str
    envid: str
    smtputf8: bool
    size: int
    digest: bytes
    reference: str
    reason: str
    intact: bool | None
    """Whether the seal fits; None where no key is attached."""
    recipients: list[Standing]


class Quarantine:
    """See the head of the file."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._keys: list[bytes] = []
        self._open: OpenMessage | None = None
        self._deliver: Deliver | None = None
        self._closed = threading.Event()

    def attach(
        self,
        key: bytes | Sequence[bytes],
        open_message: OpenMessage | None = None,
        deliver: Deliver | None = None,
    ) -> None:
        """Say with which key this node seals and checks envelopes; how it reads messages, and how it delivers them.

        Of several keys the first one seals, each may have sealed: so a key is replaced. Keys stay in this process: they are never
        in the log, on a disk or in a message. A node that only captures needs the key alone. Raises `Rejected` for a short key.
        """
        keys = [key] if isinstance(key, bytes) else list(key)
        for each in keys or [b""]:
            check_key(each)
        self._keys, self._open, self._deliver = keys, open_message, deliver

    def new_id(self) -> str:
        """An id that nobody can guess, later ones greater: for whoever wants to know it before the capture, or may repeat that."""
        return self._id(self._host.query(NAME, _time))

    anew_id = twin(new_id)

    def capture(
        self,
        envelope: Envelope,
        *,
        digest: bytes,
        size: int,
        reference: str,
        reason: str = "",
        lifetime: float = limits.QUARANTINE_SECONDS,
        id: str | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> str:
        """Keep `envelope` for the message that the product keeps under `reference`; the record's id.

        `digest` is the SHA-256 of the message, `size` its bytes, `reason` why it is here, for people. Under one `id` (see
        `new_id`) it is kept once, however often it is asked for. Raises `QuarantineFull`: nothing is evicted for it, have the
        client keep the message (451).
        """
        ident = self.new_id() if id is None else id
        content = self._content(ident, envelope, digest, size, reference, reason, lifetime)
        command, request = self._sealed(content)
        self._propose(command, id=request, deadline=deadline)
        return ident

    async def acapture(
        self,
        envelope: Envelope,
        *,
        digest: bytes,
        size: int,
        reference: str,
        reason: str = "",
        lifetime: float = limits.QUARANTINE_SECONDS,
        id: str | None = None,
        deadline: float = limits.CALL_SECONDS,
    ) -> str:
        """`capture` from asyncio."""
        ident = await asyncio.to_thread(self.new_id) if id is None else id
        content = self._content(ident, envelope, digest, size, reference, reason, lifetime)
        command, request = self._sealed(content)
        try:
            await self._host.apropose(NAME, command, id=request, deadline=deadline)
        except Rejected as error:
            raise of_kind(error) from error
        return ident

    def list(
        self, *, after: str = "", limit: int = limits.QUARANTINE_PAGE, consistency: Consistency = "local"
    ) -> Listing:
        """A page of what is kept, after the id `after`."""
        most = limits.QUARANTINE_PAGE_BYTES
        page = partial(_page, after=_ident(after) if after else b"", limit=max(1, min(limit, limits.QUARANTINE_PAGE)))
        found, last = self._query(partial(page, most=most), consistency)
        return Listing([_summary(each) for each in found], last.hex())

    alist = twin(list)  # noqa: A003

    def show(self, id: str, *, consistency: Consistency = "local") -> Details:
        """All that is known of one message. Raises `UnknownMessage`."""
        ident = _ident(id)

        def read(tables: ReadTables, now: int) -> tuple[Message, list[Release]]:
            message = read_message(tables, now, ident)
            return message, read_releases(tables, message)

        message, releases = self._query(read, consistency)
        content, envelope = message.content, message.envelope
        return Details(
            id,
            message.captured,
            message.expires,
            content.node,
            envelope.sender,
            envelope.ret,
            envelope.envid,
            envelope.smtputf8,
            content.size,
            content.digest,
            content.reference,
            content.reason,
            content.is_sealed(message.seal, self._keys) if self._keys else None,
            [_standing(*each) for each in zip(envelope.recipients, releases, strict=True)],
        )

    ashow = twin(show)

    def usage(self, *, consistency: Consistency = "local") -> dict[str, int]:
        """How many messages are kept, with how many bytes of envelopes, and how many may be."""
        messages, size = self._query(lambda tables, _: read_usage(tables), consistency)
        most, most_bytes = limits.QUARANTINE_MESSAGES, limits.QUARANTINE_BYTES
        return {"messages": messages, "bytes": size, "messages_limit": most, "bytes_limit": most_bytes}

    ausage = twin(usage)

    def release(
        self,
        id: str,
        number: int,
        *,
        author: str = "",
        claim: float = limits.QUARANTINE_CLAIM_SECONDS,
        deadline: float = limits.CALL_SECONDS,
    ) -> Standing:
        """Deliver the message to its recipient of this number, counted from 1 in the order of RCPT; how that ended.

        `claim` is for how long nobody else tries when this node crashes meanwhile; the delivery is broken off before that.
        `deadline` is for the claim. Afterwards the outcome is told to the cluster again and again until the claim ends.

        Nothing was delivered when it raises `UnknownMessage`, `NoSuchRecipient`, `Tampered` (envelope or message are not what was
        captured), `Claimed`, `AlreadyDelivered`, `Unavailable`, or `DeliveryFailed`, after which it may be released again.
        `OutcomeUnknown` says whether it is about the claim or about the delivery.
        """
        if self._open is None or self._deliver is None:
            raise Rejected(
                "nothing is attached here that reads or delivers messages",
                subject=self._host.name,
                remedy="release at a node of the product, which has called `quarantine.attach`",
            )
        ident, milliseconds = _ident(id), _milliseconds(claim)

        def read(tables: ReadTables, now: int) -> Message:
            message = read_message(tables, now, ident)
            check_claimable(message, read_release(tables, message, number), now)
            return message

        message = self._query(read, "linearizable", deadline)
        recipient = self._checked(message).recipients[number - 1]
        body = self._message(self._open, message.content)
        end = _boot_seconds() + claim * limits.LEASE_BELIEF
        token = self._claim(["claim", ident, number, self._host.id, self._host.name, author, milliseconds], deadline)
        try:
            said = self._deliver(message.envelope, recipient, body, lambda: end - _boot_seconds())
        except DeliveryFailed as error:
            self._finish([ident, number, token, False, _cut(error.message), author, self._host.name], end)
            raise
        if not self._finish([ident, number, token, True, _cut(said), author, self._host.name], end):
            log.warning("message %s, recipient %d: delivered here, and by another claim as well", id, number)
        release = self._query(
            lambda tables, now: read_release(tables, read_message(tables, now, ident), number), "local"
        )
        return _standing(recipient, release)

    arelease = twin(release)

    def discard(self, id: str, *, author: str = "", deadline: float = limits.CALL_SECONDS) -> bool:
        """Forget a message, for ever and everywhere; whether it was there. The product removes what it keeps itself."""
        return bool(self._propose(["discard", _ident(id), author, self._host.name], deadline=deadline))

    adiscard = twin(discard)

    def close(self) -> None:
        """Wait for nobody any more. Idempotent; `Node.close` does it."""
        self._closed.set()

    # ---- inside

    def _id(self, now: int) -> str:
        return (now.to_bytes(_TIME_BYTES, "big") + os.urandom(ID_BYTES - _TIME_BYTES)).hex()

    def _content(
        self,
        ident: str,
        envelope: Envelope,
        digest: bytes,
        size: int,
        reference: str,
        reason: str,
        lifetime: float,
    ) -> Content:
        if not self._keys:
            raise Rejected("there is no key to seal it with", subject="key", remedy="call `quarantine.attach` first")
        milliseconds, node = _milliseconds(lifetime), self._host.name
        content = Content(_ident(ident), envelope.values(), digest, size, reference, reason, milliseconds, node)
        content.check()
        return content

    def _sealed(self, content: Content) -> tuple[Sequence[Value], bytes]:
        """The command, and a request id that is the same for the same command only."""
        seal = content.seal(self._keys[0])
        return ["capture", *content, seal], hashlib.sha256(content.id + seal).digest()[:ID_BYTES]

    def _checked(self, message: Message) -> Envelope:
        if not message.content.is_sealed(message.seal, self._keys):
            raise Tampered(
                "the record's seal does not fit: it is not what was captured, or was sealed with another key",
                subject=message.content.id.hex(),
                remedy="attach the key of the node that captured it, else do not trust this node's tables",
            )
        return message.envelope

    @staticmethod
    def _message(open_message: OpenMessage, content: Content) -> bytes:
        try:
            with open_message(content.reference) as file:
                body = file.read(content.size + 1)
        except OSError as error:
            raise DeliveryFailed(
                f"the product cannot read the message: {error}", subject=content.reference, remedy="see to its store"
            ) from error
        if len(body) != content.size or hashlib.sha256(body).digest() != content.digest:
            raise Tampered("the message is not what was captured", subject=content.reference, remedy="do not trust it")
        return body

    def _claim(self, command: Sequence[Value], deadline: float) -> int:
        try:
            return int(self._propose(command, deadline=deadline)[0])
        except OutcomeUnknown as error:
            raise OutcomeUnknown(
                f"nothing was delivered, but it may be claimed: {error.message}",
                subject=error.subject,
                remedy="release it again; if it is claimed, when the claim has ended",
            ) from error

    def _finish(self, outcome: Sequence[Value], end: float) -> bool:
        """Tell the cluster, until the claim ends; False when another has delivered it, too. Raises `OutcomeUnknown`."""
        ident = os.urandom(ID_BYTES)
        while True:
            try:
                return bool(self._propose(["finish", *outcome], id=ident))
            except (Unavailable, OutcomeUnknown) as error:
                if not self._closed.wait(RETRY_SECONDS) and _boot_seconds() < end:
                    continue
                if outcome[3]:
                    raise OutcomeUnknown(
                        f"it was delivered, but the cluster does not know it: {error.message}",
                        subject=outcome[0].hex(),
                        remedy="do not release it again: that would deliver it again",
                    ) from error
                return True
            except (ClaimLost, UnknownMessage) as error:
                log.warning("the outcome of a release is of no use any more: %s", error)
                return True

    def _propose(
        self, command: Sequence[Value], *, id: bytes | None = None, deadline: float = limits.CALL_SECONDS
    ) -> Value:
        try:
            return self._host.propose(NAME, [*command], id=id, deadline=deadline)
        except Rejected as error:
            raise of_kind(error) from error

    def _query(
        self, read: Callable[[ReadTables, int], T], consistency: Consistency, deadline: float = limits.CALL_SECONDS
    ) -> T:
        return self._host.query(NAME, read, consistency=consistency, deadline=deadline)


def _boot_seconds() -> float:
    """CLOCK_BOOTTIME: nobody sets it, and it runs on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _ident(id: str) -> bytes:
    try:
        ident = bytes.fromhex(id)
    except (TypeError, ValueError):
        ident = b""
    if len(ident) != ID_BYTES:
        raise Rejected(
            f"{id!r:.80} is no message's id", subject="id", remedy=f"{2 * ID_BYTES} hexadecimal digits, see `list`"
        )
    return ident


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000) if abs(seconds) < limits.TIME_MS else 0


def _cut(text: str) -> str:
    """As much of it as is kept."""
    return text.encode("utf-8", "backslashreplace")[: limits.QUARANTINE_REASON_BYTES].decode("utf-8", "ignore")


def _time(tables: ReadTables, now: int) -> int:
    return now


def _page(tables: ReadTables, now: int, *, after: bytes, limit: int, most: int) -> tuple[list[Message], bytes]:
    return read_page(tables, now, after, limit, most)


def _summary(message: Message) -> Summary:
    content, envelope = message.content, message.envelope
    recipients = envelope.recipients
    return Summary(
        content.id.hex(),
        message.captured,
        message.expires,
        content.node,
        envelope.sender,
        recipients[0].address,
        len(recipients),
        message.delivered,
        content.size,
        content.reason,
    )


def _standing(recipient: Recipient, release: Release) -> Standing:
    return Standing(
        release.number,
        *recipient,
        release.state,
        release.node,
        release.author,
        release.since,
        release.until,
        release.claims,
        release.deliveries,
        release.detail,
    )
