"""The greylist's verdicts as entries of the log. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from raftcluster.greylist.request import Asked
from raftcluster.greylist.rules import DEFER
from raftcluster.greylist.verdict import Verdict
from raftcluster.maillog.entry import GREYLISTING, NOT_VERIFIED, PASSED, REJECTED, VERIFIED, Entry, cut, quoted

_VERIFIED_BY: Final = frozenset(("known", "waited", "client"))


class Decision(NamedTuple):
    """A verdict, not yet an entry: there are thousands a second."""

    time: float
    source: str
    """Who asked."""
    asked: Asked
    verdict: Verdict

    @property
    def entry(self) -> Entry:
        """As an entry."""
        asked, verdict = self.asked, self.verdict
        return Entry(
            self.time,
            action_of(verdict),
            cut(asked.client),
            cut(asked.helo),
            cut(asked.sender),
            cut(asked.recipient),
            verdict.seconds_left,
            verdict.reason,
            GREYLISTING,
            self.source,
            cut(asked.client_name),
            cut(asked.instance),
            degraded=verdict.degraded,
        )

    def line(self, sequence: int) -> bytes:
        """The line of that entry, at half its cost."""
        asked, verdict = self.asked, self.verdict
        text = (
            f'{{"sequence":{sequence},"time":{self.time!r},"action":"{action_of(verdict)}","client":{quoted(asked.client)},'
            f'"recipient":{quoted(asked.recipient)},"reason":{quoted(verdict.reason)},"category":"{GREYLISTING}",'
            f'"source":{quoted(self.source)}'
        )
        if asked.sender:
            text += f',"sender":{quoted(asked.sender)}'
        if asked.helo:
            text += f',"helo":{quoted(asked.helo)}'
        if asked.client_name:
            text += f',"client_name":{quoted(asked.client_name)}'
        if asked.instance:
            text += f',"instance":{quoted(asked.instance)}'
        if verdict.seconds_left:
            text += f',"seconds_left":{verdict.seconds_left}'
        if verdict.degraded:
            text += ',"degraded":true'
        return (text + "}\n").encode("ascii")


def action_of(verdict: Verdict) -> str:
    """What the log calls a verdict."""
    if verdict.action == DEFER:
        return NOT_VERIFIED if verdict.reason == "early" else REJECTED
    return VERIFIED if verdict.reason in _VERIFIED_BY else PASSED
