"""What a notification may say: pure functions that raise `Rejected`."""

from __future__ import annotations

import math
import re
from typing import Final

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected

SEVERITIES: Final = ("info", "warning", "error", "critical")
_CONSUMER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./@-]*", re.ASCII)


class FellBehind(Rejected):
    """Notifications that a consumer has not seen were dropped, because there were too many of them."""

    code = "fell-behind"


def check_severity(severity: Value) -> None:
    """One of `SEVERITIES`."""
    if type(severity) is not str or severity not in SEVERITIES:
        raise Rejected(f"{severity!a:.40} is no severity", subject="severity", remedy=f"one of {', '.join(SEVERITIES)}")


def check_text(what: str, text: Value, most: int, *, empty: bool = True) -> None:
    """Valid text of at most `most` bytes."""
    try:
        fits = type(text) is str and (empty or bool(text)) and len(text.encode()) <= most
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise Rejected(f"{what} takes text of at most {most} bytes, not {text!a:.80}", subject=what)


def check_consumer(consumer: Value) -> None:
    """A name: letters, digits and `_ . / @ -`."""
    if type(consumer) is not str or len(consumer) > limits.NAME_BYTES or not _CONSUMER.fullmatch(consumer):
        raise Rejected(f"{consumer!a:.300} is no name of a consumer", subject="consumer")


def check_position(position: Value) -> None:
    """A whole number, not below 0."""
    if type(position) is not int or not 0 <= position < 2**63:
        raise Rejected(f"{position!a:.40} is no position in the stream", subject="position")


def check_ttl(ttl_ms: Value) -> None:
    """From a second to `NOTIFICATION_MAX_SECONDS`."""
    most = int(limits.NOTIFICATION_MAX_SECONDS * 1000)
    if type(ttl_ms) is not int or not 1_000 <= ttl_ms <= most:
        raise Rejected(f"a notification lives 1000 to {most} ms, not {ttl_ms!a:.40}", subject="ttl")


def check_payload(payload: Value) -> None:
    """Plain values, nested less than `NESTING` deep, packed at most `NOTIFICATION_BYTES`."""
    level = [payload]
    for _ in range(limits.NESTING - 4):
        deeper: list[Value] = []
        for item in level:
            if isinstance(item, float) and not math.isfinite(item):
                raise Rejected("the payload holds a float that is no number", subject="payload")
            if isinstance(item, dict):
                if not all(type(name) is str for name in item):
                    raise Rejected("a dict's keys are text", subject="payload")
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
            elif item is not None and type(item) not in (bool, int, float, str, bytes):
                raise Rejected(f"a payload cannot hold a {type(item).__name__}", subject="payload")
        if len(deeper) > limits.NOTIFICATION_BYTES:
            raise Rejected("the payload holds too much", subject="payload")
        level = deeper
        if not level:
            break
    if level:
        raise Rejected("the payload is nested too deeply", subject="payload")
    try:
        size = len(codec.pack(payload))
    except (OverflowError, ValueError) as error:
        raise Rejected(
            "the payload holds an integer of more than 64 bits or no valid text", subject="payload"
        ) from error
    if size > limits.NOTIFICATION_BYTES:
        raise Rejected(f"a payload of {size} bytes, at most {limits.NOTIFICATION_BYTES} are kept", subject="payload")
