"""What every `Log` promises, tried on files and on their twin in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcluster.errors import StorageFailed, StorageFull, Unavailable
from raftcluster.storage.ports import Health, Log, LogImage, Record
from tests.contract.models import LogModel, log_history
from tests.contract.stores import LOGS, Bench, bench_of
from tests.helpers import eventually, memory

EMPTY = LogImage([], 0, None, 0)


@pytest.fixture(params=LOGS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench_of(request.param, tmp_path) as found:
        yield found


class Heard:
    """What a log reported."""

    def __init__(self, log: Log) -> None:
        self.tickets: list[int] = []
        self.health: list[Health] = []
        log.on_durable = self.tickets.append
        log.on_health = lambda health, reason: self.health.append(health)

    def durable(self, ticket: int) -> None:
        eventually(lambda: self.tickets and self.tickets[-1] >= ticket, what=f"ticket {ticket}")


def reloaded(bench: Bench) -> LogImage:
    log = bench.open_log()
    try:
        return log.load()
    finally:
        log.close()


def appends(first: int, last: int, term: int = 1) -> list[Record]:
    return [("append", b"command %d" % index, index, term) for index in range(first, last + 1)]


def entries(*indices: int, term: int = 1) -> list[tuple[bytes, int, int]]:
    return [(b"command %d" % index, index, term) for index in indices]


def test_a_new_log_is_empty(bench: Bench) -> None:
    assert reloaded(bench) == EMPTY


def test_tickets_count_and_become_durable_in_order(bench: Bench) -> None:
    log = bench.open_log()
    heard = Heard(log)
    assert [log.submit(appends(index, index)) for index in range(1, 101)] == list(range(1, 101))
    assert log.submit([]) == 101
    heard.durable(101)
    assert heard.tickets == sorted(set(heard.tickets))
    log.close()
    log = bench.open_log()
    assert log.submit(appends(101, 101)) == 1, "tickets count per opened log"
    log.close()


def test_what_block_returns_is_durable_and_reported(bench: Bench) -> None:
    log = bench.open_log()
    heard = Heard(log)
    log.submit(appends(1, 3))
    assert log.submit([("vote", 2, "b")]) == log.block() == heard.tickets[-1] == 2
    assert log.load() == LogImage(entries(1, 2, 3), 2, "b", 0)
    log.close()


def test_close_writes_what_is_queued_and_is_idempotent(bench: Bench) -> None:
    log = bench.open_log()
    for index in range(1, 51):
        log.submit([*appends(index, index), ("commit", index - 1)])
    log.close()
    log.close()
    assert reloaded(bench) == LogImage(entries(*range(1, 51)), 0, None, 49)


@pytest.mark.parametrize(
    ("records", "left"),
    [
        ([("truncate", 8)], range(5, 8)),
        ([("truncate", 5)], []),
        ([("truncate", 1)], []),
        ([("truncate", 10)], range(5, 10)),
        ([("truncate", 99)], range(5, 10)),
        ([("cut", 8)], range(8, 10)),
        ([("cut", 9)], [9]),
        ([("cut", 1)], range(5, 10)),
        ([("cut", 10)], []),
        ([("cut", 99)], []),
        ([("reset",)], []),
        ([("truncate", 7), *appends(7, 8)], range(5, 9)),
        ([("cut", 99), *appends(40, 41)], [40, 41]),
        ([("reset",), *appends(2, 3)], [2, 3]),
        ([("reset",), ("truncate", 1), ("cut", 1), ("reset",)], []),
    ],
)
def test_how_a_log_becomes_shorter(bench: Bench, records: list[Record], left: list[int]) -> None:
    log = bench.open_log()
    log.submit(appends(5, 9))
    log.submit(records)
    log.close()
    assert reloaded(bench).entries == entries(*left)


def test_votes_and_commit_indices_replace_each_other(bench: Bench) -> None:
    log = bench.open_log()
    log.submit([("vote", 3, "node-ä"), ("commit", 7), ("vote", 4, None), ("commit", 8)])
    log.close()
    assert reloaded(bench) == LogImage([], 4, None, 8)


@pytest.mark.parametrize("kind", LOGS)
@given(seed=st.integers(0, 2**32), tickets=st.lists(st.integers(0, 40), min_size=1, max_size=5))
@settings(max_examples=40)
def test_any_history_is_read_back(kind: str, seed: int, tickets: list[int]) -> None:
    """Each number in `tickets` is one opening of the log."""
    model = LogModel()
    history = log_history(seed)
    with tempfile.TemporaryDirectory(dir=memory()) as folder, bench_of(kind, Path(folder)) as bench:
        for count in tickets:
            log = bench.open_log()
            assert log.load() == model.image()
            for records in islice(history, count):
                log.submit(records)
                model.apply(records)
            log.close()
        assert reloaded(bench) == model.image()


def test_an_append_that_does_not_follow_fails_for_good(bench: Bench) -> None:
    log = bench.open_log()
    heard = Heard(log)
    log.submit(appends(1, 3))
    log.block()
    log.submit(appends(5, 5))
    eventually(lambda: heard.health == ["failed"], what="health")
    assert log.health == "failed"
    log.submit(appends(4, 4))
    log.close()
    assert heard.tickets == [1]
    assert reloaded(bench).entries == entries(1, 2, 3)


def test_full_keeps_all_in_order_and_goes_on_when_there_is_space(bench: Bench) -> None:
    log = bench.open_log()
    heard = Heard(log)
    log.submit(appends(1, 1))
    log.block()
    bench.full()
    for index in range(2, 301):
        log.submit([*appends(index, index), ("commit", index - 1)])
    eventually(lambda: heard.health == ["full"], what="health")
    with pytest.raises(StorageFull):
        log.block()
    assert heard.tickets == [1]
    assert log.load().entries == entries(1), "reads go on"
    bench.well()
    heard.durable(300)
    eventually(lambda: heard.health == ["full", "ok"], what="health")
    assert log.health == "ok" and log.block() == 300
    log.close()
    assert reloaded(bench) == LogImage(entries(*range(1, 301)), 0, None, 299)


def test_closing_a_full_log_does_not_pretend(bench: Bench) -> None:
    log = bench.open_log()
    heard = Heard(log)
    log.submit(appends(1, 1))
    log.block()
    bench.full()
    log.submit(appends(2, 2))
    eventually(lambda: heard.health == ["full"], what="health")
    log.close()
    bench.well()
    assert heard.tickets == [1]
    assert reloaded(bench).entries == entries(1)


def test_a_failed_write_is_latched(bench: Bench) -> None:
    """After a failed fsync nothing becomes durable any more, even when the disk seems well again."""
    log = bench.open_log()
    heard = Heard(log)
    log.submit(appends(1, 1))
    log.block()
    bench.broken()
    log.submit(appends(2, 2))
    eventually(lambda: heard.health == ["failed"], what="health")
    bench.well()
    log.submit(appends(3, 3))
    log.submit([("vote", 9, "a")])
    with pytest.raises(StorageFailed):
        log.block()
    assert log.health == "failed"
    log.close()
    assert heard.tickets == [1] and heard.health == ["failed"]
    assert reloaded(bench) == LogImage(entries(1), 0, None, 0)


def test_a_scrub_reads_what_is_durable_and_a_closed_log_is_not_read(bench: Bench) -> None:
    log = bench.open_log()
    assert log.scrub() == 0
    log.submit([*appends(1, 40), ("vote", 2, "b"), ("commit", 30)])
    log.submit([("cut", 11)])
    log.block()
    assert log.scrub() == 30
    log.close()
    with pytest.raises(Unavailable):
        log.scrub()
