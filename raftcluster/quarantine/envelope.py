"""What one SMTP transaction said before the message: sender, recipients, and how they asked to be notified. Pure.

Everything is kept verbatim, in bytes, as it stood between the angle brackets: it is said again in the same way when the message
is released. So what could not stand there -- a line feed, a closing bracket -- is refused here, and no recipient of a header
has a way in: the only one is `rcpt`.

RFC 5321 (4.1.2 addresses, 4.5.3.1 sizes), RFC 3461 (RET, ENVID, NOTIFY, ORCPT), RFC 6531 (SMTPUTF8), RFC 6533 (ORCPT in UTF-8).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected

_PATH: Final = re.compile(rb'(?:"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~\x80-\xff])*"|[!#-;=?-\[\]-~\x80-\xff])*')
"""No control characters; space, brackets and the backslash only in a quoted string."""
_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+", re.ASCII)
_UTF8_TEXT: Final = re.compile(r"(?:[!-*,-<>-~\u00a1-\U0010ffff]|\+[0-9A-F]{2})+")
_TYPE: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_NOTIFY: Final = frozenset({"SUCCESS", "FAILURE", "DELAY"})


class Recipient(NamedTuple):
    """One recipient that the server accepted, in the order of RCPT."""

    address: bytes
    orcpt: str
    """The original recipient, `rfc822;xtext`; empty when the client gave none."""
    notify: str
    """NEVER, or some of SUCCESS, FAILURE, DELAY with commas; empty when the client gave none."""


class Envelope:
    """One SMTP transaction's envelope, filled while it goes on: made at MAIL, `rcpt` at each RCPT that is accepted.

    Raises `Rejected` for what cannot stand in those commands; it is then as it was. Thread: one at a time.
    """

    def __init__(self, sender: str | bytes, *, ret: str = "", envid: str = "", smtputf8: bool = False) -> None:
        """`sender` as given in MAIL, without brackets, empty for the null sender; `ret` (FULL, HDRS), `envid` and `smtputf8` are
        that command's parameters."""
        self.sender = path("sender", sender, empty=True)
        if ret.upper() not in ("", "FULL", "HDRS"):
            raise Rejected(f"{ret!a:.80} is no value of RET", subject="ret", remedy="FULL or HDRS")
        self.ret = ret.upper()
        if envid and (len(envid) > limits.QUARANTINE_ENVID or not _XTEXT.fullmatch(envid)):
            raise Rejected(f"{envid!a:.80} is no value of ENVID", subject="envid", remedy="xtext, RFC 3461")
        self.envid = envid
        self.smtputf8 = bool(smtputf8)
        self._recipients: list[Recipient] = []

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """In the order of RCPT; their numbers begin with 1."""
        return tuple(self._recipients)

    def rcpt(self, address: str | bytes, *, orcpt: str = "", notify: str = "") -> int:
        """One more recipient, as given in RCPT, with that command's parameters; its number."""
        if len(self._recipients) >= limits.QUARANTINE_RECIPIENTS:
            raise Rejected(
                f"{limits.QUARANTINE_RECIPIENTS} recipients are all that one message may have", subject="rcpt"
            )
        self._recipients.append(Recipient(path("recipient", address), _orcpt(orcpt), _notify(notify)))
        return len(self._recipients)

    @property
    def needs_utf8(self) -> bool:
        """Whether it can be said to a server that knows SMTPUTF8 only."""
        return self.smtputf8 or not all(map(bytes.isascii, (self.sender, *(each.address for each in self._recipients))))

    def values(self) -> list[Value]:
        """All of it, to be packed."""
        recipients = [list(each) for each in self._recipients]
        return [self.sender, self.ret, self.envid, self.smtputf8, recipients]

    @classmethod
    def of(cls, values: Value) -> Self:
        """The envelope with these `values`. Raises `Rejected` when there is none."""
        match values:
            case [bytes(sender), str(ret), str(envid), bool(smtputf8), list(recipients)]:
                made = cls(sender, ret=ret, envid=envid, smtputf8=smtputf8)
                for each in recipients:
                    match each:
                        case [bytes(address), str(orcpt), str(notify)]:
                            made.rcpt(address, orcpt=orcpt, notify=notify)
                        case _:
                            raise Rejected("malformed recipient of an envelope", subject="envelope")
                if made.values() == values:
                    return made
        raise Rejected("malformed envelope", subject="envelope")


def path(what: str, address: str | bytes, *, empty: bool = False) -> bytes:
    """An address in bytes, as it may stand between the brackets of MAIL or RCPT. Raises `Rejected`."""
    try:
        verbatim = address.encode("utf-8", "surrogateescape") if isinstance(address, str) else address
    except UnicodeEncodeError:
        verbatim = b"\0"
    if type(verbatim) is not bytes or (not verbatim and not empty):
        raise Rejected(f"a {what} is an address, not {address!a:.80}", subject=what)
    if len(verbatim) > limits.QUARANTINE_ADDRESS_BYTES:
        most = limits.QUARANTINE_ADDRESS_BYTES
        raise Rejected(f"a {what} of {len(verbatim)} bytes, at most {most} can be said", subject=what)
    if not _PATH.fullmatch(verbatim):
        raise Rejected(
            f"{verbatim!a:.80} cannot stand in MAIL or RCPT",
            subject=what,
            remedy="give what stood between the angle brackets, without them",
        )
    return verbatim


def _orcpt(orcpt: str) -> str:
    kind, _, text = orcpt.partition(";")
    allowed = _UTF8_TEXT if kind.lower() == "utf-8" else _XTEXT
    good = _TYPE.fullmatch(kind) and allowed.fullmatch(text) and not any("\ud800" <= each <= "\udfff" for each in text)
    if orcpt and (len(orcpt) > limits.QUARANTINE_ORCPT or not good):
        raise Rejected(f"{orcpt!a:.80} is no value of ORCPT", subject="orcpt", remedy="type;xtext, RFC 3461")
    return orcpt


def _notify(notify: str) -> str:
    named = notify.upper()
    words = named.split(",")
    if named and named != "NEVER" and (not _NOTIFY.issuperset(words) or len(set(words)) != len(words)):
        raise Rejected(
            f"{notify!a:.80} is no value of NOTIFY", subject="notify", remedy="NEVER, or of SUCCESS,FAILURE,DELAY"
        )
    return named
