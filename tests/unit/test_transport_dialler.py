"""When a peer is dialled again: at once, or after a pause that grows."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from raftcluster import limits
from raftcluster.transport.dialler import Dialler
from raftcluster.transport.refusals import RefusalLog
from raftcluster.transport.stream import Stream
from raftcluster.transport.subject import SubjectId
from raftcluster.transport.tls import Shown
from raftcluster.transport.trust import Connection
from tests.helpers import eventually


def connection(generation: int) -> Connection:
    """One on which the peer shows a certificate of that generation; of the stream a dialler wants to know nothing."""
    subject = SubjectId(str(uuid.UUID(int=1)), generation, str(uuid.UUID(int=2)))
    return Connection(cast(Stream, None), Shown(b"", subject, b""), {}, generation, dialled=True)


class Dials:
    """A dialler whose dials succeed or fail as told, and where they went."""

    def __init__(self, seed: int = 1) -> None:
        self.fails = False
        self.generation = 1
        self.delivered: list[Connection] = []
        self.dialled: list[float] = []
        self.dialler = Dialler("a", self._connect, self.delivered.append, RefusalLog(), seed)
        self.dialler.start()

    def _connect(self, opened: Callable[[Any], None]) -> Connection:
        self.dialled.append(time.monotonic())
        if self.fails:
            raise ConnectionRefusedError("nobody there")
        return connection(self.generation)

    def lost(self, seconds: float) -> None:
        """The newest link is gone, after so long."""
        self.dialler.lost(self.delivered[-1], seconds)

    @property
    def pause(self) -> float:
        """Seconds until the next dial may start."""
        return self.dialler._not_before - time.monotonic()


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dials]:
    monkeypatch.setattr(limits, "DIAL_MIN_SECONDS", 100.0)
    monkeypatch.setattr(limits, "DIAL_MAX_SECONDS", 100.0)
    monkeypatch.setattr(limits, "REFUSED_SECONDS", 100.0)
    made = Dials()
    eventually(lambda: made.delivered, what="the first dial")
    yield made
    made.dialler.stop()
    made.dialler.join(60)
    assert made.dialler.ended


def test_a_link_that_had_lived_is_dialled_again_at_once(dials: Dials) -> None:
    dials.lost(60.0)
    eventually(lambda: len(dials.delivered) == 2, what="the second dial")


def test_links_that_fall_at_once_are_no_storm(dials: Dials) -> None:
    dials.lost(0.01)
    assert dials.pause > 40
    dials.dialler.want()
    eventually(lambda: len(dials.delivered) == 2, what="a wish ends the pause")


def test_news_of_the_peer_end_a_pause_and_nothing_else(dials: Dials) -> None:
    dials.dialler.hurry()
    assert len(dials.delivered) == 1, "there is a link: nothing to dial for"
    dials.lost(0.01)
    dials.dialler.hurry()
    eventually(lambda: len(dials.delivered) == 2, what="the second dial")


def test_news_during_a_dial_that_fails_are_not_forgotten(dials: Dials) -> None:
    """It was dialled at its old address; the new one shall not wait for the pause."""

    def fail_with_news(opened: Callable[[Any], None]) -> Connection:
        dials.dialler._connect = dials._connect
        dials.dialler.hurry()
        raise ConnectionRefusedError("it has moved")

    dials.dialler._connect = fail_with_news
    dials.lost(60.0)
    eventually(lambda: len(dials.delivered) == 2, what="the dial at the new address")


class Held:
    """A dial that is under way until it is let go; it then gets what the peer shows by now."""

    def __init__(self, dials: Dials) -> None:
        self._dials, self._go, self.begun = dials, threading.Event(), threading.Event()
        dials.dialler._connect = self._connect
        dials.dialler.want()
        assert self.begun.wait(60)

    def _connect(self, opened: Callable[[Any], None]) -> Connection:
        self._dials.dialler._connect = self._dials._connect
        self.begun.set()
        assert self._go.wait(60)
        return self._dials._connect(opened)

    def let_go(self) -> None:
        self._go.set()
        eventually(lambda: len(self._dials.delivered) >= 2, what="the second dial")


def dialled_in_all(dials: Dials) -> int:
    """How many connections there were; the dialler must have nothing left to do."""
    with dials.dialler._condition:
        assert not dials.dialler._wanted and not dials.dialler._dialling
    return len(dials.delivered)


def test_a_link_that_is_being_replaced_may_end_before_the_new_one_is_seen(dials: Dials) -> None:
    """The peer has the new one first, and closes the old one then: that is no reason for a third."""
    first = dials.delivered[0]
    held = Held(dials)
    dials.dialler.lost(first, 60.0)
    held.let_go()
    dials.dialler.lost(first, 60.0)
    assert dialled_in_all(dials) == 2


def test_a_dial_that_fails_after_the_old_link_has_ended_is_tried_again(dials: Dials) -> None:
    first, dials.fails = dials.delivered[0], True
    held = Held(dials)
    dials.dialler.lost(first, 60.0)
    held._go.set()
    eventually(lambda: len(dials.dialled) >= 2, what="a dial that fails")
    dials.fails = False
    dials.dialler.hurry()
    eventually(lambda: len(dials.delivered) == 2, what="the next one")


def test_a_peer_that_asks_during_a_dial_gets_another_only_if_it_shows_nothing_newer_on_that(dials: Dials) -> None:
    first = dials.delivered[0]
    held = Held(dials)
    dials.dialler.asked(first, 60.0)
    dials.generation = 2
    held.let_go()
    dials.dialler.asked(first, 60.0)  # read from the old link, before the new one is there
    assert dialled_in_all(dials) == 2
    held = Held(dials)
    dials.dialler.asked(dials.delivered[-1], 60.0)
    held.let_go()
    eventually(lambda: len(dials.delivered) == 4, what="on the one under way it showed what it did before")
    dials.dialler.asked(dials.delivered[-1], 60.0)
    eventually(lambda: len(dials.delivered) == 5, what="and whoever asks over the newest link is heard")


def test_pauses_double_up_to_their_bound_and_differ_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIAL_MIN_SECONDS", 0.01)
    monkeypatch.setattr(limits, "REFUSED_SECONDS", 0.04)
    made: dict[int, list[list[float]]] = {}
    for seed in (1, 1, 2):
        dials = Dials(seed)
        eventually(lambda dials=dials: dials.delivered, what="the first dial")  # type: ignore[misc]
        dials.dialler.stop()
        dials.dialler.join(60)
        pauses = []
        for number in range(8):
            before = time.monotonic()
            dials.lost(0.0)
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
    dials.lost(5.0)
    eventually(lambda: len(dials.dialled) >= 6, what="more dials")
    assert len(dials.delivered) == 1
    dials.dialler.stop()
    dials.dialler.join(60)
    assert dials.dialler.ended


def test_nobody_there_is_dialled_more_often_than_who_turns_us_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is back waits for those that dial it; who is turned down costs both ends a handshake each time."""
    assert limits.DIAL_MAX_SECONDS < limits.REFUSED_SECONDS
    monkeypatch.setattr(limits, "DIAL_MIN_SECONDS", 0.001)
    monkeypatch.setattr(limits, "DIAL_MAX_SECONDS", 0.002)
    monkeypatch.setattr(limits, "REFUSED_SECONDS", 600.0)
    dials = Dials()
    eventually(lambda: dials.delivered, what="the first dial")
    dials.fails = True
    dials.lost(5.0)
    eventually(lambda: len(dials.dialled) >= 30, what="many dials: their pauses have doubled up to the shorter bound")
    dials.dialler.stop()
    dials.dialler.join(60)
