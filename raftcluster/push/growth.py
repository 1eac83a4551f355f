"""From hosts with the program to members of one cluster.

The first may begin it. All others are invited, and only then do they join, all at once, so that one generation of certificates is
made for all of them. A token goes from the answer of the member that gives it, through this process, to the standard input of
the host that uses it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, Protocol

from raftcluster.errors import PushFailed, RaftclusterError, Refusal
from raftcluster.push.plan import Step
from raftcluster.push.rollout import Entry, Rollout, Work
from raftcluster.remote.shell import Local

Where = Mapping[str, tuple[tuple[str, int], Sequence[str]]]
"""By host: where others reach its node, and from where it comes."""
TTL_SECONDS: Final = 900
SETTLE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.5


class Seat(Protocol):
    """A member that can be asked, by the commands of its node."""

    def command(self, *words: str) -> Any:
        """The answer to `raftcluster ... --json`. Raises `RaftclusterError`."""
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """The node of this host."""

    python: str
    directory: str

    def command(self, *words: str) -> Any:
        """As `Seat.command`."""
        done = Local().run([self.python, "-m", "raftcluster.cli", "-C", self.directory, *words, "--json"])
        if done.status != 0:
            raise PushFailed(f"this host: {done.said}", subject="this host")
        return json.loads(done.out)


def grow(
    rollout: Rollout, works: Sequence[Work], where: Where, seat: Seat | None, begin: tuple[str, bool] | None
) -> None:
    """Prepare all, begin the cluster (its name, whether it is for trying out) where there is no member, and let the rest join."""
    rollout.prepare(works)
    rollout.finish([each for each in works if Step.ENTER not in each.left])  # a member that does not run invites nobody
    alive = [each for each in works if each.error is None]
    if seat is None and begin is not None and alive:
        founder = alive[0]
        rollout.finish([founder], lambda work: _founding(work, where, *begin))
        if founder.error is not None:
            return
        seat = founder.target
    entries = _invited(rollout, alive, where, seat) if seat is not None else {}
    rollout.finish([each for each in alive if each.left], lambda work: entries[work.name])


def first(works: Sequence[Work]) -> Seat | None:
    """The first that is a node."""
    return next((each.target for each in works if each.status), None)


def settled(
    seat: Seat | None, works: Sequence[Work], pause: Callable[[float], object] | None = None
) -> list[dict[str, Any]]:
    """The members as `seat` sees them, once those of `works` vote and are linked, and all are of one generation; else as they are
    after a minute. Raises what the seat does."""
    if seat is None:
        return []
    wait = pause or Event().wait
    mine = {each.name for each in works if each.error is None}
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        rows = list(seat.command("status")["members"])
        ours = [each for each in rows if each["name"] in mine]
        done = {each["name"] for each in ours} == mine and all(
            each["linked"] and each["role"] != "learner" for each in ours
        )
        if (done and len({each["generation"] for each in rows}) == 1) or time.monotonic() > end:
            return rows
        wait(PAUSE_SECONDS)


def _founding(work: Work, where: Where, cluster: str, lab: bool) -> Entry:
    if not cluster:
        raise Refusal("a cluster has a name", subject="cluster", remedy="give --name")
    return Entry(["init", "--name", cluster, *_place(work.name, where), *(["--lab"] if lab else [])])


def _invited(rollout: Rollout, works: Sequence[Work], where: Where, seat: Seat) -> dict[str, Entry]:
    """For each that is no node yet. Where a join was cut off after the cluster had let the host in, that member goes first."""
    entries = {}
    begun = any(each.found.joining for each in works)
    known = {str(each["node_id"]) for each in seat.command("members")} if begun else set()
    for work in works:
        if Step.ENTER not in work.left:
            continue
        words = [each for address in where[work.name][1] for each in ("--address", address)]
        half = work.found.joining in known
        verb = ["members", "replace", work.name, "--reason", "its join was cut off"] if half else ["invite"]
        try:
            invited = seat.command(*verb, work.name, "--ttl", str(TTL_SECONDS), *words)
        except RaftclusterError as error:
            work.error = error
            rollout.say(work.name, f"not invited: {error}")
            continue
        host = f"[{invited['host']}]" if ":" in invited["host"] else invited["host"]
        entries[work.name] = Entry(
            ["join", *_place(work.name, where), "--", f"{host}:{invited['port']}"], str(invited["token"])
        )
    return entries


def _place(name: str, where: Where) -> list[str]:
    (host, port), _ = where[name]
    shown = f"[{host}]" if ":" in host else host
    return ["--node", name, "--listen", f"0.0.0.0:{port}", "--advertise", f"{shown}:{port}"]
