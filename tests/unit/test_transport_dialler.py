"""When a peer is dialled again: at once, or after a pause that grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from raftcluster import limits
from raftcluster.transport.dialler import Dialler
from raftcluster.transport.refusals import RefusalLog
from raftcluster.transport.trust import Connection
from tests.helpers import eventually

CONNECTION = cast(Connection, object())  # a dialler hands it over without a look at it


class Dials:
    """A dialler whose dials succeed or fail as told, and where they went."""

    def __init__(self, seed: int = 1) -> None:
        self.fails = False
        self.delivered: list[Connection] = []
        self.dialled: list[float] = []
        self.dialler = Dialler("a", self._connect, self.delivered.append, RefusalLog(), seed)
        self.dialler.start()

    def _connect(self, opened: Callable[[Any], None]) -> Connection:
        self.dialled.append(time.monotonic())
        if self.fails:
            raise ConnectionRefusedError("nobody there")
        return CONNECTION

    @property
    def pause(self) -> float:
        """Seconds until the next dial may start."""
        return self.dialler._not_before - time.monotonic()


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dials]:
    monkeypatch.setattr(limits, "DIAL_MIN_SECONDS", 100.0)
    monkeypatch.setattr(limits, "DIAL_MAX_SECONDS", 100.0)
    made = Dials()
    eventually(lambda: made.delivered, what="the first dial")
    yield made
    made.dialler.stop()
    made.dialler.join(60)
    assert made.dialler.ended


def test_a_link_that_had_lived_is_dialled_again_at_once(dials: Dials) -> None:
    dials.dialler.lost(60.0)
    eventually(lambda: len(dials.delivered) == 2, what="the second dial")


def test_links_that_fall_at_once_are_no_storm(dials: Dials) -> None:
    dials.dialler.lost(0.01)
    assert dials.pause > 40
    dials.dialler.want()
    eventually(lambda: len(dials.delivered) == 2, what="a wish ends the pause")


def test_news_of_the_peer_end_a_pause_and_nothing_else(dials: Dials) -> None:
    dials.dialler.hurry()
    assert len(dials.delivered) == 1, "there is a link: nothing to dial for"
    dials.dialler.lost(0.01)
    dials.dialler.hurry()
    eventually(lambda: len(dials.delivered) == 2, what="the second dial")


def test_news_during_a_dial_that_fails_are_not_forgotten(dials: Dials) -> None:
    """It was dialled at its old address; the new one shall not wait for the pause."""

    def fail_with_news(opened: Callable[[Any], None]) -> Connection:
        dials.dialler._connect = dials._connect
        dials.dialler.hurry()
        raise ConnectionRefusedError("it has moved")

    dials.dialler._connect = fail_with_news
    dials.dialler.lost(60.0)
    eventually(lambda: len(dials.delivered) == 2, what="the dial at the new address")


def test_pauses_double_up_to_their_bound_and_differ_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIAL_MIN_SECONDS", 0.01)
    monkeypatch.setattr(limits, "DIAL_MAX_SECONDS", 0.04)
    made: dict[int, list[list[float]]] = {}
    for seed in (1, 1, 2):
        dials = Dials(seed)
        eventually(lambda dials=dials: dials.delivered, what="the first dial")  # type: ignore[misc]
        dials.dialler.stop()
        dials.dialler.join(60)
        pauses = []
        for number in range(8):
            before = time.monotonic()
            dials.dialler.lost(0.0)
            after, bound = time.monotonic(), min(0.04, 0.01 * 2**number)
            assert before + bound / 2 <= dials.dialler._not_before <= after + bound
            pauses.append(round(dials.dialler._not_before - before, 3))
        made.setdefault(seed, []).append(pauses)
    assert made[1][0] != made[2][0]


def test_failures_are_tried_again_and_stop_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIAL_MIN_SECONDS", 0.001)
    dials = Dials()
    eventually(lambda: dials.delivered, what="the first dial")
    dials.fails = True
    dials.dialler.lost(5.0)
    eventually(lambda: len(dials.dialled) >= 6, what="more dials")
    assert len(dials.delivered) == 1
    dials.dialler.stop()
    dials.dialler.join(60)
    assert dials.dialler.ended
