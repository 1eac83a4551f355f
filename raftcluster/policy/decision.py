"""What a policy request asks of the greylist, and what Postfix is told about the verdict. Pure.

Decides only what greylisting may decide: `request=smtpd_access_policy` at `protocol_state=RCPT`, for a client that has
not authenticated. Anything else is answered DUNNO: "no opinion, go on with your other restrictions".
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from raftcluster.greylist.rules import DEFER, PASS
from raftcluster.greylist.settings import Unavailable
from raftcluster.greylist.verdict import Verdict
from raftcluster.policy.protocol import Attributes

NO_OPINION: Final = "DUNNO"
UNAVAILABLE: Final = "4.3.0 Greylisting is temporarily unavailable, please try again later"
WATCHDOG_SECONDS: Final = 5  # Postfix's own time-out for us; must exceed the deadline of a decision


@dataclass(frozen=True, slots=True)
class Question:
    """One recipient of one message, as the greylist is asked about it."""

    client: str
    client_name: str
    """The client's verified host name, or `unknown`."""
    sender: str
    recipient: str
    instance: str | None
    helo: str


def question(attributes: Attributes) -> Question | None:
    """What the request asks, or None when it is none of greylisting's business."""
    get = attributes.get
    if get("request") != "smtpd_access_policy" or get("protocol_state") != "RCPT" or get("sasl_username"):
        return None
    client, recipient = get("client_address"), get("recipient")
    if not client or not recipient:
        return None
    return Question(
        client, get("client_name", ""), get("sender", ""), recipient, get("instance") or None, get("helo_name", "")
    )


def unavailable(on_unavailable: Unavailable) -> str:
    """The action when there is no verdict, as the administrator chose."""
    return NO_OPINION if on_unavailable != DEFER else f"DEFER_IF_PERMIT {UNAVAILABLE}"


def action(verdict: Verdict) -> str:
    """The action for a verdict. The greylist gives a header to one recipient of a message only."""
    if verdict.action == PASS:
        return f"PREPEND {verdict.header}" if verdict.header else NO_OPINION
    return f"DEFER_IF_PERMIT {'4.3.0' if verdict.degraded else '4.2.0'} {verdict.text}"


def postfix_line(address: str, deadline: float, on_unavailable: Unavailable) -> str:
    """The restriction to put after `reject_unauth_destination` in Postfix's `smtpd_recipient_restrictions`.

    `address` is `inet:HOST:PORT` or `unix:PATH`. Its default action, which Postfix takes when we do not answer at all,
    says the same as `on_unavailable`.
    """
    default = unavailable(on_unavailable)
    attribute = f"default_action={default}" if " " not in default else f"{{ default_action = {default} }}"
    timeout = max(WATCHDOG_SECONDS, ceil(deadline) + 2)
    return f"check_policy_service {{ {address}, timeout={timeout}s, {attribute} }}"
