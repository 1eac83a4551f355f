"""The greylist's verdicts as entries of the log. Pure."""

from __future__ import annotations

from typing import Final

from raftcluster.greylist.request import Asked
from raftcluster.greylist.rules import DEFER
from raftcluster.greylist.verdict import Verdict
from raftcluster.maillog.entry import GREYLISTING, NOT_VERIFIED, PASSED, REJECTED, VERIFIED, Entry, cut

_VERIFIED_BY: Final = frozenset(("known", "waited", "client"))


def action_of(verdict: Verdict) -> str:
    """What the log calls a verdict."""
    if verdict.action == DEFER:
        return NOT_VERIFIED if verdict.reason == "early" else REJECTED
    return VERIFIED if verdict.reason in _VERIFIED_BY else PASSED


def entry_of(moment: float, source: str, asked: Asked, verdict: Verdict) -> Entry:
    """The entry for a verdict that was given at `moment`."""
    return Entry(
        moment,
        action_of(verdict),
        cut(asked.client),
        cut(asked.helo),
        cut(asked.sender),
        cut(asked.recipient),
        verdict.seconds_left,
        verdict.reason,
        GREYLISTING,
        source,
        cut(asked.client_name),
        cut(asked.instance),
        "",
        "",
        verdict.degraded,
    )
