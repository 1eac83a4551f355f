"""The configuration's API over a host of one process; watches lose and repeat nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.config import past
from raftcluster.config import watch as watches
from raftcluster.config.api import Config
from raftcluster.config.machine import ConfigMachine
from raftcluster.config.reading import Page
from raftcluster.config.rules import CyclicValue, Forgotten, NodeLocal, RevisionMismatch, ValueTooLarge
from raftcluster.config.watch import AsyncWatch, Change, Changes, FellBehind, Watch
from raftcluster.errors import Rejected, Unavailable
from tests.helpers import eventually
from tests.local_host import LocalHost, MemoryRows


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([ConfigMachine()])


@pytest.fixture
def config(host: LocalHost) -> Iterator[Config]:
    config = Config(host, MemoryRows())
    yield config
    config.close()


def test_set_get_history_keys_delete(host: LocalHost, config: Config) -> None:
    assert config.get("antispam/threshold") is None
    assert config.get("antispam/threshold", 7) == 7
    assert config.set("antispam/threshold", 5, reason="holiday wave", author="admin") == 1
    assert config.get("antispam/threshold", consistency="linearizable") == 5
    entry = config.entry("antispam/threshold")
    assert entry is not None
    assert entry[:6] == ("antispam/threshold", 1, 5, "admin", "holiday wave", host.name)
    assert config.set("antispam/threshold", 6, expect_revision=1) == 2
    with pytest.raises(Rejected) as caught:
        config.set("antispam/threshold", 7, expect_revision=1)
    assert caught.value.code == "revision-mismatch"
    assert config.keys("antispam/") == ["antispam/threshold"]
    assert config.delete("antispam/threshold", expect_revision=2) == 3
    assert config.entry("antispam/threshold") is None
    assert [(each.value, each.deleted) for each in config.history("antispam/threshold")] == [
        (None, True),
        (6, False),
        (5, False),
    ]
    assert config.revision() == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("A", 1),
        ("local/ui/theme", "dark"),
        ("a", (1, 2)),
        ("a", {1, 2}),
        ("a", object()),
        ("a", 2**64),
        ("a", "\ud800"),
        ("a", ["\ud800"]),
        ("a", "x" * limits.CONFIG_VALUE_BYTES),
    ],
)
def test_what_cannot_be_set_is_rejected_before_anything_is_sent(
    host: LocalHost, config: Config, arguments: tuple[Any, Any]
) -> None:
    with pytest.raises(Rejected):
        config.set(*arguments)
    with pytest.raises(Rejected):
        config.set("a", 1, reason="\ud800")
    assert host.proposals == 0


def test_errors_of_the_cluster_come_through(host: LocalHost, config: Config) -> None:
    host.failure = Unavailable("no quorum")
    with pytest.raises(Unavailable):
        config.set("a", 1)
    with pytest.raises(Unavailable):
        config.get("a", consistency="linearizable")
    assert config.get("a") is None


def test_all_keys_are_listed_however_many(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCAN_ROWS", 3)
    for number in range(10):
        config.set(f"k/{number}", number)
    assert config.keys("k/") == [f"k/{number}" for number in range(10)]


# --- classes of keys


def test_an_override_applies_on_its_node_only(host: LocalHost, config: Config) -> None:
    config.set("antispam/threshold", 5)
    config.set("antispam/threshold", 9, node=host.name)
    config.set("antispam/threshold", 7, node="mx7")
    assert config.get("antispam/threshold") == 9
    entry, here, there, other = (
        config.entry("antispam/threshold"),
        config.effective("antispam/threshold"),
        config.effective("antispam/threshold", node="mx7"),
        config.effective("antispam/threshold", node="mx8"),
    )
    assert entry and here and there and other
    assert (entry.value, here.value, there.value, other.value) == (5, 9, 7, 5)
    assert here.key == f"nodes/{host.name}/antispam/threshold"
    config.delete("antispam/threshold", node=host.name)
    assert config.get("antispam/threshold") == 5


@pytest.mark.parametrize("key", ["local/ui/theme", "local"])
@pytest.mark.parametrize("node", [None, "mx1"])
def test_what_is_a_nodes_own_is_refused_for_the_cluster_and_says_why(
    host: LocalHost, config: Config, key: str, node: str | None
) -> None:
    with pytest.raises(NodeLocal, match="belongs to one node, on purpose") as caught:
        config.set(key, 1, node=node)
    assert caught.value.code == "node-local"
    assert host.proposals == 0


@pytest.mark.parametrize("key", ["nodes", "nodes/mx1", "nodes/mx1/nodes/mx2/a", "nodes/mx1/greylist/delay"])
def test_an_override_is_of_a_key_that_can_be_set(host: LocalHost, config: Config, key: str) -> None:
    with pytest.raises(Rejected):
        config.set(key, 1)
    assert host.proposals == 0


def test_a_node_keeps_its_own_values_out_of_the_log(host: LocalHost, config: Config) -> None:
    config.local.set("local/schedule/scan", {"hour": 3})
    assert config.get("local/schedule/scan") == config.local.get("local/schedule/scan") == {"hour": 3}
    assert config.get("local/ui/theme", "dark") == "dark"
    assert config.keys("local/") == ["local/schedule/scan"]
    config.local.delete("local/schedule/scan")
    assert config.keys("local/") == []
    with pytest.raises(Rejected, match="not set on this node"):
        config.local.delete("local/schedule/scan")
    with pytest.raises(Rejected, match="is the cluster's"):
        config.local.set("antispam/threshold", 1)
    with pytest.raises(Rejected, match="cannot be a set"):
        config.local.set("local/a", {1})
    assert (host.proposals, host.index, config.revision()) == (0, 0, 0)


# --- transactions


def test_several_keys_change_at_one_revision_or_not_at_all(host: LocalHost, config: Config) -> None:
    assert config.transact([], [("set", "a", 1), ("set", "b", 2), ("set", "c", 3)], author="me", reason="why") == 1
    assert [(each.key, each.revision, each.author, each.reason) for each in config.log()] == [
        (key, 1, "me", "why") for key in "abc"
    ]
    before = host.tables["config"].image()
    for conditions, changes in (
        ([("a", "revision", 2)], [("set", "a", 9)]),
        ([("a", "value", 1), ("b", "value", 3)], [("set", "a", 9)]),
        ([("nothing", "value", None)], [("set", "a", 9)]),
    ):
        with pytest.raises(RevisionMismatch):
            config.transact(conditions, changes)
    refused: list[Any] = [[("set", "a", 9), ("delete", "nothing")], [("set", "a", 9), ("set", "a", 8)], []]
    for changes in refused:
        with pytest.raises(Rejected):
            config.transact([], changes)
    assert host.tables["config"].image() == before
    assert config.transact([("a", "value", 1), ("d", "revision", 0)], [("delete", "a"), ("set", "d", 4)]) == 2
    assert config.keys() == ["b", "c", "d"]


def test_a_watch_sees_all_of_a_transaction_at_one_revision(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "PAGE", 2)
    with config.watch(since=0) as watch:
        for number in range(3):
            config.transact([], [("set", key, number) for key in "abc"])
        seen = [next(watch) for _ in range(9)]
    assert [(change.revision, change.key) for change in seen] == [(n, key) for n in (1, 2, 3) for key in "abc"]


@pytest.mark.parametrize("change", [("set", "a"), ("rename", "a", "b"), ("delete", "a", 1), ("set", "local/a", 1)])
def test_what_is_no_change_is_not_sent(host: LocalHost, config: Config, change: Any) -> None:
    with pytest.raises(Rejected):
        config.transact([], [change])
    assert host.proposals == 0


# --- values that a program can make and no configuration holds


def test_values_that_contain_themselves_or_are_too_large_are_told_apart(host: LocalHost, config: Config) -> None:
    cyclic: list[Any] = []
    cyclic.append({"again": cyclic})
    shared: list[Any] = []
    for _ in range(24):
        shared = [shared, shared]  # 2 ** 24 items, in 24 lists
    with pytest.raises(CyclicValue):
        config.set("a", cyclic)
    for large in (shared, "x" * limits.CONFIG_VALUE_BYTES, [0] * (limits.CONFIG_VALUE_ITEMS + 1)):
        with pytest.raises(ValueTooLarge):
            config.set("a", large)
    assert host.proposals == 0
    twice = [1]
    assert config.set("a", [twice, twice]) == 1


# --- what it was


def test_the_past_is_read_compared_and_brought_back(host: LocalHost, config: Config) -> None:
    config.transact([], [("set", "a", 1), ("set", "b/x", True)])
    at = host.now / 1000
    host.now += 60_000
    config.set("a", 2)
    config.delete("b/x")
    config.set("c", "new")
    assert config.revision_at(at - 1) == 0
    assert config.revision_at(at) == config.revision_at(at + 59) == 1
    assert config.revision_at(at + 60) == 4
    assert {key: entry.value for key, entry in config.at(1).items()} == {"a": 1, "b/x": True}
    assert config.at(0) == {}
    assert [(key, before and before.value, after and after.value) for key, before, after in config.diff(1)] == [
        ("a", 1, 2),
        ("b/x", True, None),
        ("c", None, "new"),
    ]
    assert [key for key, *_ in config.diff(1, 2)] == ["a"]
    assert config.rollback(1, "b/", reason="it was right") == 5
    assert config.get("b/x") is True and config.get("a") == 2
    assert config.rollback(1) == 6
    assert {key: entry.value for key, entry in config.at(6).items()} == {"a": 1, "b/x": True}
    assert config.rollback(1) == 0
    assert [(each.revision, each.key, each.deleted) for each in config.log("", limit=3)] == [
        (6, "a", False),
        (6, "c", True),
        (5, "b/x", False),
    ]
    assert [each.revision for each in config.log("a")] == [6, 2, 1]
    assert [each.revision for each in config.log(before=2)] == [1, 1]
    with pytest.raises(Rejected, match="the newest is 6"):
        config.at(7)


def test_true_is_not_one(config: Config) -> None:
    config.set("a", 1)
    config.set("a", True)
    assert [each.key for each in config.diff(1)] == ["a"]


def test_the_past_of_many_keys_is_read_in_parts(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "KEYS", 3)
    monkeypatch.setattr(limits, "SCAN_ROWS", 4)
    for number in range(10):
        config.set(f"k/{number}", number)
    config.set("l", 1)
    assert [entry.value for entry in config.at(11, "k/").values()] == list(range(10))
    assert [each.value for each in config.log("k/", limit=20)] == list(reversed(range(10)))


def test_what_is_no_longer_kept_is_not_made_up(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 3)
    config.transact([], [("set", "a", 0), ("set", "b", 0)])
    for number in range(1, 6):
        config.set("a", number)
    with pytest.raises(Forgotten, match="a was at revision 2"):
        config.at(2)
    assert config.at(1, "b")["b"].value == 0
    assert config.at(4)["a"].value == 3
    assert [(each.revision, each.key) for each in config.log()] == [(6, "a"), (5, "a"), (4, "a"), (1, "b")]


# --- watches


def test_a_watch_begins_where_it_is_told(config: Config) -> None:
    config.set("a/x", 1)
    config.set("b", 2)
    with config.watch("a/", since=0) as watch, config.watch() as later:
        config.set("a/x", 3)
        config.delete("a/x")
        seen = [next(watch) for _ in range(3)]
        assert [(change.revision, change.value, change.deleted) for change in seen] == [
            (1, 1, False),
            (3, 3, False),
            (4, None, True),
        ]
        assert next(later).revision == 3


def test_a_closed_watch_ends_also_when_it_waits(config: Config) -> None:
    watch = config.watch()
    ended = threading.Event()

    def follow() -> None:
        assert list(watch) == []
        ended.set()

    thread = threading.Thread(target=follow)
    thread.start()
    watch.close()
    thread.join(60)
    assert ended.is_set()
    assert list(watch) == []


def test_closing_the_configuration_ends_all_watches(config: Config) -> None:
    watch = config.watch()
    thread = threading.Thread(target=list, args=(watch,))
    thread.start()
    config.close()
    thread.join(60)
    assert not thread.is_alive()


def test_no_change_is_lost_or_repeated_while_many_threads_set(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "PAGE", 7)
    writers, each = 4, 100
    seen: list[list[Change]] = [[], [], []]
    followed = [config.watch("w/"), config.watch("w/1/"), config.watch("", since=0)]

    def follow(watch: Watch, changes: list[Change]) -> None:
        changes.extend(watch)

    def write(writer: int) -> None:
        for number in range(each):
            config.set(f"w/{writer}/{number % 10}", number)

    readers = [threading.Thread(target=follow, args=pair) for pair in zip(followed, seen, strict=True)]
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in readers + threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: [len(changes) for changes in seen] == [400, 100, 400], what="all changes seen")
    config.close()
    for thread in readers:
        thread.join(60)
    assert [change.revision for change in seen[0]] == [change.revision for change in seen[2]] == list(range(1, 401))
    assert [change.value for change in seen[1]] == list(range(each))


def test_a_watch_reads_only_when_it_is_woken(host: LocalHost, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    query = host.query

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal reads
        reads += 1
        return query(*arguments, **named)

    watch = config.watch(since=0)
    monkeypatch.setattr(host, "query", counting)
    seen: list[Change] = []
    thread = threading.Thread(target=lambda: seen.extend(watch))
    thread.start()
    for number in range(20):
        config.set("a", number)
        eventually(lambda wanted=number + 1: len(seen) == wanted, what="the change seen")  # type: ignore[misc]
    config.close()
    thread.join(60)
    assert reads <= 3 * 20 + 2


def test_a_watch_that_comes_too_late_is_told(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 5)
    watch = config.watch("a")
    for number in range(20):
        config.set("a", number)
    with pytest.raises(FellBehind, match="since revision 0") as caught:
        next(watch)
    assert caught.value.code == "fell-behind"
    last = config.revision()
    fresh = config.watch("a", since=last)
    config.set("a", 99)
    assert next(fresh).value == 99


def test_a_watch_that_nobody_holds_is_gone(config: Config) -> None:
    for _ in range(10):
        config.watch()
    gc.collect()
    assert len(config._followers._known) == 0


def test_an_asynchronous_watch(config: Config) -> None:
    async def follow() -> list[Any]:
        values = []
        async with config.awatch("a/") as watch:
            setter = asyncio.create_task(asyncio.to_thread(lambda: [config.set("a/x", number) for number in range(50)]))
            async for change in watch:
                values.append(change.value)
                if len(values) == 50:
                    break
            await setter
        async for _ in watch:
            raise AssertionError("a closed watch yields nothing")
        return values

    assert asyncio.run(follow()) == list(range(50))


def test_an_asynchronous_watch_loses_nothing_when_a_step_is_cancelled_while_it_reads() -> None:
    """The cancelled step's read goes on in its thread: what it brings belongs to the next step."""
    change = Change("a", 1, 5, "", "", "mx1", 0, 1)
    reading, go_on = threading.Event(), threading.Event()

    def read(after: int, limit: int) -> Page:
        reading.set()
        assert go_on.wait(60)
        return Page([change] if after == 0 else [], 1, 1)

    async def follow() -> Change:
        watch = AsyncWatch(Changes(read, lambda: 0))
        cancelled = asyncio.ensure_future(watch.__anext__())
        await asyncio.to_thread(reading.wait, 60)
        cancelled.cancel()
        following = asyncio.ensure_future(watch.__anext__())
        await asyncio.sleep(0)  # it has found nothing to take, and reads after the first one
        go_on.set()
        return await asyncio.wait_for(following, 60)

    assert asyncio.run(follow()) == change


def test_an_asynchronous_watch_may_outlive_its_loop(config: Config) -> None:
    async def begin() -> object:
        return config.awatch(since=0)

    watch = asyncio.run(begin())
    assert config.set("a", 1) == 1
    assert watch is not None
