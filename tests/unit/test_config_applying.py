"""A node tells how far it has applied the configuration, and why no farther."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.config import applying
from raftcluster.config.api import Config
from raftcluster.config.machine import ConfigMachine
from raftcluster.errors import Rejected, Unavailable
from tests.helpers import eventually, no_more_threads
from tests.local_host import LocalHost, MemoryRows


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> LocalHost:
    monkeypatch.setattr(applying, "RETRY_SECONDS", 0.01)
    return LocalHost([ConfigMachine()])


@pytest.fixture
def config(host: LocalHost) -> Iterator[Config]:
    config = Config(host, MemoryRows())
    yield config
    config.close()


class World:
    """What an embedder makes like the configuration."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Value], int]] = []
        self.broken = ""

    def __call__(self, values: Mapping[str, Value], revision: int) -> None:
        if self.broken:
            raise OSError(self.broken)
        self.seen.append((dict(values), revision))


def reported(config: Config) -> list[tuple[int, str]]:
    return [(each.revision, each.problem) for each in config.reports()]


def test_what_applies_here_is_applied_and_reported(host: LocalHost, config: Config) -> None:
    config.set("mail/limit", 5)
    world = World()
    config.apply("mail/", world)
    eventually(lambda: reported(config) == [(1, "")])
    config.set("mail/limit", 7, node=host.name)
    config.set("mail/limit", 9, node="mx9")
    config.set("elsewhere", 1)
    eventually(lambda: reported(config) == [(4, "")])
    assert world.seen[0] == ({"mail/limit": 5}, 1) and world.seen[-1][0] == {"mail/limit": 7}
    assert [each for each, _ in world.seen].count({"mail/limit": 7}) == 1, "what has not changed is not applied again"


def test_without_threads_the_next_one_begins_it(config: Config) -> None:
    """The first one was told what the system said; those that followed were not, and nothing was applied."""
    world = World()
    config.set("mail/limit", 5)
    with no_more_threads(), pytest.raises(RuntimeError):
        config.apply("mail/", world)
    config.apply("mail/", world)
    eventually(lambda: reported(config) == [(1, "")])


def test_a_node_that_cannot_apply_says_why_until_it_can(config: Config) -> None:
    config.set("mail/limit", 5)
    world = World()
    config.apply("mail/", world)
    eventually(lambda: reported(config) == [(1, "")])
    world.broken = "disk full"
    config.set("mail/limit", 6)
    eventually(lambda: reported(config) == [(1, "mail/: OSError: disk full")])
    world.broken = ""
    eventually(lambda: reported(config) == [(2, "")])
    assert world.seen[-1] == ({"mail/limit": 6}, 2)


def test_a_reason_that_is_no_text_is_told_as_far_as_it_is(config: Config) -> None:
    """As of a file whose name is not UTF-8: that cannot travel, and the cluster was never told why the node trails."""
    config.set("mail/limit", 5)
    world = World()
    world.broken = "no such file: \udcff"
    config.apply("mail/", world)
    eventually(lambda: reported(config) == [(0, "mail/: OSError: no such file: \\udcff")])


def test_the_slowest_part_of_a_node_is_its_revision(config: Config) -> None:
    good, bad = World(), World()
    bad.broken = "no"
    config.set("a/x", 1)
    config.apply("a/", good)
    config.apply("b/", bad)
    eventually(lambda: reported(config) == [(0, "b/: OSError: no")])
    assert good.seen == [({"a/x": 1}, 1)]


def test_a_report_waits_for_a_quorum(host: LocalHost, config: Config) -> None:
    config.set("a/x", 1)
    host.failure = Unavailable("no quorum")
    world = World()
    config.apply("a/", world)
    eventually(lambda: host.proposals >= 3)
    assert reported(config) == []
    host.failure = None
    eventually(lambda: reported(config) == [(1, "")])
    assert len(world.seen) == 1


@pytest.mark.parametrize(
    "report",
    [["", "mx1", 0, ""], ["n1", "mx1", 9, ""], ["n1", "mx1", -1, ""], ["n1", "mx1", False, ""], ["n1", "", 0, 5]],
)
def test_a_report_that_cannot_be_is_refused(host: LocalHost, report: list[Any]) -> None:
    with pytest.raises(Rejected):
        host.propose("config", ["report", *report])


def test_reports_are_bounded(host: LocalHost, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONFIG_REPORTS", 3)
    for number in range(5):
        host.now += 1
        host.propose("config", ["report", f"n{number}", f"mx{number}", 0, ""])
    assert [each.node for each in config.reports()] == ["mx2", "mx3", "mx4"]
