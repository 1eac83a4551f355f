"""The answer to one check, as a program sees it."""

from __future__ import annotations

from dataclasses import dataclass

from raftcluster.greylist.rules import Action


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one check."""

    action: Action
    """pass: take the mail; defer: tell the client to try again later."""
    reason: str
    """new, early (it retried too soon), waited (it passes for the first time), known, client (its network is allowed by
    itself); when nothing was to be decided: authenticated, opted-out, not-opted-in, allowed, spf; when degraded, the error's
    code."""
    seconds_left: int
    """How long the client has to wait yet, rounded up; 0 when it passes."""
    delayed_seconds: int
    """How long the first attempt was ago, when the client passes for the first time."""
    header: str | None
    """To be prepended to the message: on the first pass, once per SMTP instance."""
    degraded: bool
    """Not decided by the cluster: `on_unavailable` applies."""
    text: str
    """What to tell a client that is deferred; empty when it passes."""
    training: bool = False
    """It passes only because the setting `training` says so; `reason` and `seconds_left` are those of the deferral."""
