"""Who is invited, and how: also a host whose join was cut off after the cluster had let it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from raftcluster.errors import PushFailed
from raftcluster.push.growth import TTL_SECONDS, grow
from raftcluster.push.host import Target
from raftcluster.push.place import Place
from raftcluster.push.plan import Found, Step
from raftcluster.push.rollout import Rollout, Work
from raftcluster.remote.shell import Done, Running
from tests.unit.test_push_plan import ARTEFACT, FACTS

MEMBERS = [{"name": "mx1", "node_id": "n1"}, {"name": "mx2", "node_id": "n2"}]
WHERE = {name: ((name, 9777), ["192.0.2.2"]) for name in ("mx2", "mx3")}
INVITED = ["--ttl", str(TTL_SECONDS), "--address", "192.0.2.2"]


class Member:
    """Answers as a node does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def command(self, *words: str) -> Any:
        self.asked.append([*words])
        if words == ("members",):
            return MEMBERS
        if words[0] == "invite" and "mx2" in words:
            raise PushFailed("mx2 is a member already (name-taken)", subject="mx2")
        return {"host": "mx1", "port": 9777, "token": f"rc1.{words[-6]}"}


class Joining:
    """The shell of a host on which every step succeeds; keeps what was given to its standard input."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.given: list[str] = []

    def run(self, words: Sequence[str], given: str = "", seconds: float = 0) -> Done:
        self.given.append(given)
        return Done(0, "", "")

    def start(self, words: Sequence[str]) -> Running:
        raise AssertionError(words)


def work(name: str, joining: str) -> Work:
    target = Target(name, Joining(name), replace(FACTS, root=True), Place())
    return Work(target, enter=True, left=[Step.ENTER], found=Found(begun=True, joining=joining))


@pytest.mark.parametrize(
    ("joining", "verb"),
    [
        ("n2", ["members", "replace", "mx2", "--reason", "its join was cut off", "mx2"]),
        ("", ["invite", "mx2"]),
        ("another", ["invite", "mx2"]),
    ],
)
def test_a_member_that_never_ran_is_replaced_and_no_other(joining: str, verb: list[str]) -> None:
    seat, works = Member(), [work("mx2", joining), work("mx3", "")]
    said: list[str] = []
    grow(Rollout(ARTEFACT, "", lambda host, text: said.append(f"{host} {text}")), works, WHERE, seat, None)
    asked = [each for each in seat.asked if each != ["members"]]
    assert asked == [[*verb, *INVITED], ["invite", "mx3", *INVITED]]
    assert bool(works[0].error) is (verb[0] == "invite"), "the name is taken by somebody else: that is told"
    assert works[1].done == [Step.ENTER] and works[1].error is None
