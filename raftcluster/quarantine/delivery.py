"""Handing a released message to an SMTP server, with the envelope that was captured. RFC 5321, 1652, 1870, 3461, 6531.

To one recipient, in a transaction of its own: what one server says of one recipient is then what is known of it. The message
is sent byte for byte, dots doubled (RFC 5321, 4.5.2). Lines that do not end in CRLF have no place in DATA, and mending them
would be another message: they are refused. The server should take what it is told without filtering it again.

    node.quarantine.attach(key, read, SmtpDelivery(lambda: smtplib.SMTP("127.0.0.1", 10026, timeout=30)))

When is a failure one? Until the message's last line has been sent nobody has it, so any error until then is `DeliveryFailed`.
What goes wrong between that line and the answer leaves open whether it was taken: `OutcomeUnknown`.
"""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from raftcluster.errors import OutcomeUnknown
from raftcluster.quarantine.envelope import Envelope, Recipient
from raftcluster.quarantine.rules import DeliveryFailed

Deliver = Callable[[Envelope, Recipient, bytes, Callable[[], float]], str]
"""(envelope, the recipient, message, seconds left) -> what was answered, when somebody else has taken the message over.

Raises `DeliveryFailed` when certainly nobody has it, `OutcomeUnknown` when that cannot be told. It must not begin to hand the
message over for good when no seconds are left: somebody else may be doing it. Thread: the caller's; one call per claim."""

_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_DOT: Final = re.compile(rb"(?m)^\.")
_BLOCK: Final = 256 * 1024


class SmtpDelivery:
    """A `Deliver`. Thread: any, each call has a connection of its own."""

    def __init__(self, connect: Callable[[], smtplib.SMTP]) -> None:
        """`connect` gives a connection that has been greeted, with TLS and authentication where they are wanted, and with a
        time-out: half the time of a claim at most. It may raise `OSError` and `smtplib.SMTPException`."""
        self._connect = connect

    def __call__(self, envelope: Envelope, recipient: Recipient, message: bytes, left: Callable[[], float]) -> str:
        """See `Deliver`."""
        if found := _BARE.search(message):
            raise DeliveryFailed(
                f"the message has a line that does not end in CRLF, at byte {found.start()}",
                subject="message",
                remedy="have the product keep it as SMTP brought it",
            )
        if not message.endswith(b"\r\n"):
            raise DeliveryFailed("the message's last line has no end", subject="message", remedy="see above")
        try:
            smtp = self._connect()
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryFailed(f"there is no server: {error}", subject="smtp", remedy="release it again") from error
        try:
            return _deliver(smtp, envelope, recipient, message, left)
        finally:
            with suppress(OSError, smtplib.SMTPException):
                smtp.putcmd("QUIT")  # its answer does not matter
            smtp.close()


def _deliver(
    smtp: smtplib.SMTP, envelope: Envelope, recipient: Recipient, message: bytes, left: Callable[[], float]
) -> str:
    try:
        smtp.ehlo_or_helo_if_needed()
        smtp.command_encoding = "latin-1"  # addresses are bytes: so each is one
        mail, rcpt = _parameters(smtp, envelope, recipient, message)
        _say(smtp, 250, "MAIL FROM:", envelope.sender, mail)
        _say(smtp, 250, "RCPT TO:", recipient.address, rcpt)
        _answered(354, *smtp.docmd("DATA"))
        stuffed = memoryview(_DOT.sub(b"..", message))
        for begin in range(0, len(stuffed), _BLOCK):
            smtp.send(stuffed[begin : begin + _BLOCK].tobytes())
    except (OSError, smtplib.SMTPException) as error:
        raise DeliveryFailed(
            f"the server has not taken it: {error}", subject="smtp", remedy="release it again"
        ) from error
    if left() <= 0:
        raise DeliveryFailed("it took too long, and was broken off", subject="smtp", remedy="release it again")
    try:
        smtp.send(b".\r\n")
        code, text = smtp.getreply()
    except (OSError, smtplib.SMTPException) as error:
        raise OutcomeUnknown(
            f"the server did not say whether it has taken it: {error}",
            subject="smtp",
            remedy="look into its log before you release it again",
        ) from error
    return _answered(250, code, text)


def _parameters(
    smtp: smtplib.SMTP, envelope: Envelope, recipient: Recipient, message: bytes
) -> tuple[list[str], list[str]]:
    """Of MAIL and of RCPT: what the server offers."""
    mail, rcpt = list[str](), list[str]()
    if smtp.has_extn("size"):
        mail.append(f"SIZE={len(message)}")
    needs_utf8 = envelope.smtputf8 or not (envelope.sender + recipient.address).isascii()
    if needs_utf8:
        if not smtp.has_extn("smtputf8"):
            raise DeliveryFailed("the server does not offer SMTPUTF8", subject="smtp", remedy="release to another one")
        mail.append("SMTPUTF8")
    if not message.isascii():
        if not smtp.has_extn("8bitmime"):
            raise DeliveryFailed("the server does not offer 8BITMIME", subject="smtp", remedy="release to another one")
        mail.append("BODY=8BITMIME")
    if smtp.has_extn("dsn"):
        mail += [f"RET={envelope.ret}"] if envelope.ret else []
        mail += [f"ENVID={envelope.envid}"] if envelope.envid else []
        rcpt += [f"NOTIFY={recipient.notify}"] if recipient.notify else []
        if recipient.orcpt and (needs_utf8 or recipient.orcpt.isascii()):
            rcpt.append(f"ORCPT={recipient.orcpt.encode().decode('latin-1')}")
    return mail, rcpt


def _say(smtp: smtplib.SMTP, wanted: int, command: str, address: bytes, parameters: list[str]) -> None:
    _answered(wanted, *smtp.docmd(" ".join([f"{command}<{address.decode('latin-1')}>", *parameters])))


def _answered(wanted: int, code: int, text: bytes) -> str:
    said = f"{code} {text.decode('utf-8', 'backslashreplace')}"
    if code != wanted and not (wanted == 250 and code == 251):
        raise DeliveryFailed(f"the server has not taken it: {said}", subject="smtp", remedy="see the server's answer")
    return said
