"""Held messages: a release is handed out to one claimer at a time, what was delivered is handed out no more, and each is known
as long as it lives.

Reads the committed commands and their results in order, and keeps its own account. Who may have a claim, and what its claimer
believes in true time, is a lease's business: see `leasing`. Stamps are milliseconds of cluster time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from raftcluster.codec import Value
from tests.simulation.leasing import Leasing, Place

CLAIMED: Final = [1, "quarantine-claimed"]
DELIVERED: Final = [1, "quarantine-delivered"]
UNKNOWN: Final = [1, "quarantine-unknown"]
NOBODY: Final = [1, "quarantine-recipient"]
LOST: Final = [1, "quarantine-claim-lost"]


@dataclass
class _Recipient:
    state: str = "held"
    token: int = 0
    """The last claim's."""
    until: int = 0
    by: int = 0
    """The claim under which it was delivered."""
    deliveries: int = 0


@dataclass
class _Message:
    expires: int
    recipients: list[_Recipient]
    captured: list[Value] = field(default_factory=list)
    """What the capture was told."""


class Releasing:
    """See the module's text. `claims` is an account of leases, of its own."""

    def __init__(self, violate: Callable[[str, str], None], claims: Leasing) -> None:
        self._violate, self.claims = violate, claims
        self._messages: dict[bytes, _Message] = {}
        self.delivered = 0
        """To so many recipients."""

    def told(self, command: Value, result: list[Any], stamp: int, place: Place) -> None:
        """`command` was committed at `stamp` with `result`."""
        match command:
            case ["capture", ident, envelope, _, _, _, _, lifetime, *_]:
                self._capture(ident, len(envelope[-1]), lifetime, result, stamp)
            case ["claim", ident, number, _, _, _, term]:
                self._claim(ident, number, term, result, stamp, place)
            case ["finish", ident, number, token, delivered, *_]:
                self._finish(ident, number, token, delivered, result, stamp, place)
            case ["discard", ident, *_]:
                self._discard(ident, result, stamp)

    def _living(self, ident: bytes, stamp: int) -> _Message | None:
        message = self._messages.get(ident)
        return message if message is not None and stamp < message.expires else None

    def _must_be(self, expected: Any, result: list[Any], what: str) -> bool:
        """Whether it was done, as it had to be."""
        told = result[:2] if result[0] == 1 else result
        if told != expected:
            self._violate("quarantine", f"{what} is told {result}, not {expected}")
        return bool(result[0] == 0)

    def _capture(self, ident: bytes, recipients: int, lifetime: int, result: list[Any], stamp: int) -> None:
        known = self._living(ident, stamp)
        expected = [stamp, stamp + lifetime] if known is None else known.captured
        if known is None and ident in self._messages and result[0] == 1:
            return  # it has expired and is not swept yet: under its id comes nothing new
        if self._must_be([0, expected], result, f"the capture of {ident.hex()} at {stamp}") and known is None:
            self._messages[ident] = _Message(
                stamp + lifetime, [_Recipient() for _ in range(recipients)], [stamp, stamp + lifetime]
            )

    def _found(self, ident: bytes, number: int, result: list[Any], stamp: int, what: str) -> _Recipient | None:
        message = self._living(ident, stamp)
        if message is None:
            self._must_be(UNKNOWN, result, what)
        elif not 0 < number <= len(message.recipients):
            self._must_be(NOBODY, result, what)
        else:
            return message.recipients[number - 1]
        return None

    def _claim(self, ident: bytes, number: int, term: int, result: list[Any], stamp: int, place: Place) -> None:
        what = f"the claim on {ident.hex()}/{number} at {stamp}"
        recipient = self._found(ident, number, result, stamp, what)
        if recipient is None:
            return
        if recipient.state == "delivered":
            self._must_be(DELIVERED, result, what)
            return
        name = f"{ident.hex()}/{number}"
        self.claims.told(["acquire", name, "", "", term, 0], result, stamp, place)
        if recipient.state == "claimed" and stamp < recipient.until:
            self._must_be(CLAIMED, result, what)
        elif result[0] != 0:
            self._violate("quarantine", f"{what} is told {result}; it is {recipient.state}")
        else:
            recipient.state, (recipient.token, recipient.until) = "claimed", result[1]
            message = self._messages[ident]
            message.expires = max(message.expires, recipient.until)

    def _finish(
        self, ident: bytes, number: int, token: int, delivered: bool, result: list[Any], stamp: int, place: Place
    ) -> None:
        what = f"the outcome of {token} on {ident.hex()}/{number} at {stamp}"
        recipient = self._found(ident, number, result, stamp, what)
        if recipient is None:
            return
        mine = recipient.state == "claimed" and recipient.token == token
        if not 0 < token <= recipient.token or not (mine or delivered):
            self._must_be(LOST, result, what)
            return
        if recipient.state == "delivered":
            if self._must_be([0, recipient.by == token], result, what) and recipient.by != token:
                recipient.deliveries += 1
            return
        if self._must_be([0, True], result, what):
            name = f"{ident.hex()}/{number}"
            if stamp < recipient.until:
                self.claims.told(["release", name, recipient.token], [0, True], stamp, place)
            recipient.state, recipient.until = ("delivered" if delivered else "failed"), 0
            if delivered:
                recipient.by, recipient.deliveries = token, recipient.deliveries + 1
                self.delivered += 1

    def _discard(self, ident: bytes, result: list[Any], stamp: int) -> None:
        what = f"discarding {ident.hex()} at {stamp}"
        message = self._living(ident, stamp)
        if message is None:
            self._must_be([0, False], result, what)
        elif any(each.state == "claimed" and stamp < each.until for each in message.recipients):
            self._must_be(CLAIMED, result, what)
        elif self._must_be([0, True], result, what):
            del self._messages[ident]

    def finish(self, held: dict[tuple[bytes, int], tuple[str, int]], ids: set[bytes], stamp: int) -> None:
        """At the end, what the history's tables hold: (id, number) -> (state, deliveries), without those who were never
        claimed; and the ids of all messages, be they expired or not."""
        for ident, message in self._messages.items():
            if stamp >= message.expires:
                continue
            if ident not in ids:
                self._violate("quarantine", f"{ident.hex()} is lost")
            for number, each in enumerate(message.recipients, 1):
                found = held.get((ident, number), ("held", 0))
                if found != (each.state, each.deliveries):
                    self._violate(
                        "quarantine",
                        f"{ident.hex()}/{number} is held as {found}, it is {each.state}, delivered {each.deliveries} times",
                    )
