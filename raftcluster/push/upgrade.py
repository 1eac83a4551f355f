"""Node by node to another release, the leader last.

The new release lies on every host before the first node is touched. Then one node at a time is stopped -- a leader hands over
before -- and started with it, and the next one waits until the leader says that all members are linked and none trails. The first
node that does not come back stops the roll: it gets its release back, and the others are left as they are. Neighbouring
releases work together, so a cluster may stay between two for as long as it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any, Final

from raftcluster.errors import PushFailed, RaftclusterError
from raftcluster.push.plan import Step
from raftcluster.push.rollout import Rollout, Work

GATE_SECONDS: Final = 90.0
"""For a node to be linked with all others and to have caught up; longer is something to look at."""
PAUSE_SECONDS: Final = 0.5
TRAILS: Final = 1_000
"""Entries that a member may trail by while traffic goes on."""


def roll(rollout: Rollout, works: Sequence[Work], pause: Callable[[float], object] | None = None) -> None:
    """Have each node of `works`, prepared up to the switch, run the release. Errors are in the works; the first one ends it.
    Waits as long as it takes. Thread: any."""
    wait = pause or Event().wait
    left = [each for each in works if each.error is None and Step.START in each.left]
    while left:
        work = left[-1]
        try:
            statuses = gate(works, wait)
            work = _next(left, statuses)
            _replace(rollout, work, statuses)
            gate(works, wait)
        except RaftclusterError as error:
            work.error = error
            rollout.say(work.name, f"failed: {error}")
            _back(rollout, work)
            return
        left.remove(work)


def gate(works: Sequence[Work], wait: Callable[[float], object]) -> Mapping[str, dict[str, Any]]:
    """The statuses by host, once every node of `works` answers and the leader sees all members linked and not trailing.
    Raises `PushFailed`, saying what it still waits for."""
    end = time.monotonic() + GATE_SECONDS
    while True:
        statuses, why = _asked(works)
        if not why:
            return statuses
        if time.monotonic() > end:
            raise PushFailed(
                f"not well after {GATE_SECONDS:.0f} s: {why}", subject="cluster", remedy="see raftcluster status there"
            )
        wait(PAUSE_SECONDS)


def unwell(statuses: Mapping[str, Mapping[str, Any]]) -> str:
    """What keeps the next node from being stopped, by what nodes say; "" when nothing does. Pure."""
    leaders = [each for each in statuses.values() if each["role"] == "leader"]
    if len(leaders) != 1:
        seen = sorted(
            {row["name"] for each in statuses.values() for row in each["members"] if row["id"] == each["leader"]}
        )
        # The leader may be a member that is not among those asked: then the links that these see have to do.
        if len(seen) != 1 or len(leaders) > 1:
            return f"who leads is not agreed upon: {', '.join(seen) or 'nobody'}"
        leaders = list(statuses.values())
    for status in leaders:
        for row in status["members"]:
            if not row["linked"]:
                return f"{status['name']} is not linked with {row['name']}"
            if row["trails_by"] is not None and row["trails_by"] > TRAILS:
                return f"{row['name']} trails by {row['trails_by']} entries"
    troubled = [name for name, each in statuses.items() if each["failure"] or each["storage"] != "ok"]
    return f"{', '.join(troubled)}: see its status" if troubled else ""


def _asked(works: Sequence[Work]) -> tuple[dict[str, dict[str, Any]], str]:
    statuses: dict[str, dict[str, Any]] = {}
    for work in works:
        if work.error is None:
            try:
                statuses[work.name] = work.target.command("status")
            except RaftclusterError as error:
                return statuses, str(error)
    return statuses, unwell(statuses)


def _next(left: Sequence[Work], statuses: Mapping[str, Mapping[str, Any]]) -> Work:
    """A follower, as long as there is one."""
    followers = [each for each in left if statuses[each.name]["role"] != "leader"]
    return (followers or left)[0]


def _replace(rollout: Rollout, work: Work, statuses: Mapping[str, Mapping[str, Any]]) -> None:
    status, target, release = statuses[work.name], work.target, rollout.artefact.id
    if status["role"] == "leader" and len(status["members"]) > 1:
        rollout.say(work.name, f"hands over to {target.command('transfer')['name']}")
    if Step.SWITCH in work.left:
        target.switch(release)
        _did(rollout, work, Step.SWITCH)
    target.start(release)
    _did(rollout, work, Step.START)
    work.status = target.status(release)
    _did(rollout, work, Step.VERIFY)


def _did(rollout: Rollout, work: Work, step: Step) -> None:
    work.left.remove(step)
    work.done.append(step)
    rollout.say(work.name, step)


def _back(rollout: Rollout, work: Work) -> None:
    """The node that did not come back gets the release that it had."""
    before = work.found.current
    if Step.SWITCH not in work.done or not before:
        return
    try:
        work.target.switch(before)
        work.target.start(before)
        work.target.status(before)
    except RaftclusterError as error:
        rollout.say(work.name, f"not set back: {error}")
    else:
        work.undone = True
        rollout.say(work.name, f"runs release {before} again")
