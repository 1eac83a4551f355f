"""Notifications as a program sees them: at least once, exactly once without a crash, at most a batch again after one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.errors import Rejected, Unavailable
from raftcluster.notifications.api import Notifications
from raftcluster.notifications.machine import NotificationsMachine, read_cursor
from raftcluster.notifications.rules import FellBehind
from tests.helpers import eventually
from tests.local_host import LocalHost


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([NotificationsMachine()])


@pytest.fixture
def api(host: LocalHost) -> Iterator[Notifications]:
    api = Notifications(host)
    yield api
    api.close()


def test_publish_list_acknowledge(api: Notifications, host: LocalHost) -> None:
    assert api.publish("error", "the update failed", key="update", payload={"code": 7}) == 1
    assert api.publish("error", "the update failed", key="update") == 1
    assert api.publish("info", "done", ttl=60) == api.last() == 2
    assert [(each.text, each.repeats, each.payload) for each in api.list()] == [
        ("the update failed", 1, {"code": 7}),
        ("done", 0, None),
    ]
    assert api.acknowledge(1, author="anna") and not api.acknowledge(1, author="bob")
    assert [each.position for each in api.list()] == [2]
    assert [each.acknowledged and each.acknowledged[0] for each in api.list(acknowledged=True)] == ["anna", None]
    host.now += 60_000
    assert api.list() == []
    with pytest.raises(Rejected):
        api.acknowledge(2)


def test_a_consumer_goes_on_where_it_was(api: Notifications) -> None:
    for number in range(5):
        api.publish("info", str(number))
    with api.subscribe("pager") as first:
        assert [each.text for each in islice(first, 3)] == ["0", "1", "2"]
    with api.subscribe("pager") as second:
        assert [each.text for each in islice(second, 3)] == ["2", "3", "4"], "the last one was not said to be handled"
    assert [each.text for each in islice(api.subscribe(since=3), 2)] == ["3", "4"]
    api.seek("pager", 1)
    assert next(api.subscribe("pager")).text == "1"
    assert api.forget("pager") and not api.forget("pager")
    assert next(api.subscribe("pager")).text == "0"


def test_without_a_quorum_nothing_more_is_handed_out(api: Notifications, host: LocalHost) -> None:
    for number in range(3):
        api.publish("info", str(number))
    subscription, got = api.subscribe("pager"), list[str]()
    assert next(subscription).text == "0"
    host.failure = Unavailable("no quorum")
    proposals = host.proposals
    thread = threading.Thread(target=lambda: got.extend(each.text for each in subscription))
    thread.start()
    eventually(lambda: host.proposals >= proposals + 3, what="it tries to keep its cursor")
    assert got == []
    host.failure = None
    eventually(lambda: got == ["1", "2"], what="it goes on")
    eventually(lambda: host.query("notifications", lambda t, _: read_cursor(t, "pager")) == 3, what="all is handled")
    api.publish("info", "3")
    eventually(lambda: got == ["1", "2", "3"], what="it is woken")
    api.close()
    thread.join(60)
    assert not thread.is_alive()


def test_who_fell_behind_is_told_and_can_go_on(api: Notifications, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NOTIFICATIONS", 2)
    api.seek("pager", 0)
    for number in range(5):
        api.publish("info", str(number))
    with pytest.raises(FellBehind, match="after position 0 were dropped"):
        next(api.subscribe("pager"))
    assert [each.text for each in api.list()] == ["3", "4"]
    assert next(api.subscribe("new")).text == "3"
    api.seek("pager", 3)
    assert next(api.subscribe("pager")).text == "3"


@given(count=st.integers(1, 40), batch=st.integers(1, 7), crashes=st.lists(st.integers(1, 12), max_size=4))
def test_at_least_once_and_at_most_a_batch_again(count: int, batch: int, crashes: list[int]) -> None:
    api = Notifications(LocalHost([NotificationsMachine()]))
    for number in range(count):
        api.publish("info", str(number))
    handed: list[int] = []
    for taken in crashes:
        part = [
            int(each.text) for each in islice(api.subscribe("c", batch=batch), min(taken, count - len(set(handed))))
        ]
        assert len(set(part) & set(handed)) <= batch, "what was handed out before"
        handed += part
    missing = count - len(set(handed))
    rest = api.subscribe("c", batch=batch)
    while missing:
        number = int(next(rest).text)
        missing -= number not in handed
        handed.append(number)
    assert sorted(set(handed)) == list(range(count)), "nothing is lost"
    assert len(handed) - count <= batch * len(crashes)
    if not crashes:
        assert handed == list(range(count)), "exactly once"


def test_what_cannot_be_is_refused_before_it_is_sent(api: Notifications, host: LocalHost) -> None:
    for arguments in (("loud", "x"), ("info", ""), ("info", "\udcff"), ("info", "x" * 2_000)):
        with pytest.raises(Rejected):
            api.publish(*arguments)
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    cyclic: list[object] = []
    cyclic += [cyclic, cyclic]
    for payload in (deep, cyclic, 2**70, float("nan"), {1: 2}, object(), "x" * 9_000):
        with pytest.raises(Rejected):
            api.publish("info", "x", payload=payload)
    for ttl in (0.5, -1.0, 1e12, float("inf"), float("nan")):
        with pytest.raises(Rejected):
            api.publish("info", "x", ttl=ttl)
    with pytest.raises(Rejected, match="batch"):
        api.subscribe("x", batch=0)
    assert host.proposals == 0
    for position in (-1, 2**70, "1", True):
        for call in (api.acknowledge, lambda p: api.seek("x", p), lambda p: api.advance("x", p)):
            with pytest.raises(Rejected):
                call(position)  # type: ignore[arg-type]
        with pytest.raises(Rejected):
            api.subscribe(since=position)  # type: ignore[arg-type]
    with pytest.raises(Rejected, match="there is no position 1 yet"):
        next(api.subscribe("x", since=1))
    assert host.proposals == 0


# --- from asyncio


def test_asynchronous_publishing_and_reading(api: Notifications) -> None:
    async def work() -> list[str]:
        got = []
        async with api.asubscribe("pager") as subscription:
            publishing = asyncio.create_task(publish())
            async for each in subscription:
                got.append(each.text)
                if len(got) == 30:
                    break
            await publishing
        async for _ in subscription:
            raise AssertionError("a closed subscription yields nothing")
        assert await api.aacknowledge(1, author="anna") and not await api.aacknowledge(1)
        assert [each.position for each in await api.alist(after=28)] == [29, 30]
        return got

    async def publish() -> None:
        for number in range(30):
            assert await api.apublish("info", str(number), key=f"k{number}") == number + 1

    assert asyncio.run(work()) == [str(number) for number in range(30)]
    assert api.cursor("pager") == 29, "the last one was not said to be handled"
    assert next(api.subscribe("pager")).text == "29"
    with pytest.raises(Rejected):
        asyncio.run(api.apublish("loud", "x"))


@given(count=st.integers(1, 25), batch=st.integers(1, 5), cancelled=st.lists(st.integers(0, 24), max_size=6))
def test_a_cancelled_step_loses_and_repeats_nothing(count: int, batch: int, cancelled: list[int]) -> None:
    api = Notifications(LocalHost([NotificationsMachine()]))
    for number in range(count):
        api.publish("info", str(number))

    async def work() -> list[str]:
        got: list[str] = []
        async with api.asubscribe("pager", batch=batch) as subscription:
            while len(got) < count:
                step = asyncio.ensure_future(anext(subscription))
                if len(got) in cancelled:
                    cancelled.remove(len(got))
                    await asyncio.sleep(0)  # it has begun
                    if step.cancel():
                        with pytest.raises(asyncio.CancelledError):
                            await step
                        continue
                got.append((await step).text)
        return got

    assert asyncio.run(work()) == [str(number) for number in range(count)]


def test_an_asynchronous_reader_waits_out_a_lost_quorum(api: Notifications, host: LocalHost) -> None:
    for number in range(3):
        api.publish("info", str(number))

    async def work() -> None:
        async with api.asubscribe("pager") as subscription:
            assert (await anext(subscription)).text == "0"
            host.failure, proposals = Unavailable("no quorum"), host.proposals
            step = asyncio.ensure_future(anext(subscription))
            await asyncio.to_thread(
                eventually, lambda: host.proposals >= proposals + 3, 20.0, "it tries to keep its cursor"
            )
            assert not step.done()
            host.failure = None
            assert (await step).text == "1"

    asyncio.run(work())


def test_a_subscription_since_what_has_not_been_published_is_refused(api: Notifications) -> None:
    """What comes until then would be missed."""
    api.publish("info", "0")
    assert api.subscribe(since=1) is not None
    with pytest.raises(Rejected, match="there is no position 2 yet"):
        next(api.subscribe(since=2))


def test_at_a_node_that_trails_a_subscription_waits_until_the_cluster_can_say(
    api: Notifications, host: LocalHost
) -> None:
    asked, query = threading.Event(), host.query

    def noticed(*arguments: Any, **more: Any) -> Any:
        if more.get("consistency") == "linearizable":
            asked.set()
        return query(*arguments, **more)

    host.query = noticed  # type: ignore[method-assign]
    host.failure = Unavailable("no quorum")
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.extend(each.text for each in api.subscribe(since=2)))
    thread.start()
    assert asked.wait(60)
    assert thread.is_alive() and got == []
    host.entry("notifications", [["publish", "info", str(n), "", None, 60_000, "mx1"] for n in range(4)])
    host.failure = None
    eventually(lambda: got == ["2", "3"], what="what comes after the position")
    api.close()
    thread.join(60)
    assert not thread.is_alive()
