"""Exactly once in the counters, with real processes: `./run chaos --kills N`, the twin of tests/simulation/counting.py.

The leader's process is killed (-9) so often while checks are counted. An event is a check under an SMTP instance; it is asked again
at the same node under the same instance, also after that node was killed and is back, until the cluster has decided it, and
now and then once more. In the end the counters, in all and of each triplet, are equal to the distinct events.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from tests.chaos.analysis import History
from tests.chaos.cluster import SETTLE_SECONDS, Cluster
from tests.chaos.failover import Kill, led
from tests.chaos.nodes import NodeProcess, Refused, Silent
from tests.helpers import eventually

TRIPLETS: Final = 40
SETTINGS: Final = {"delay": 4, "window": 6 * 3600, "life": 7 * 24 * 3600, "auto_allow": 0}
TOGETHER: Final = 12
"""Checks under way at a node at a time."""
PAUSE_SECONDS: Final = (0.3, 2.0)
"""Between a kill, once its node is back and all have a leader, and the next one."""
DOWN_SECONDS: Final = (0.1, 1.0)
PACE_SECONDS: Final = (0.05, 0.25)
"""Between two times that a node is asked: what is looked for is in the kills, not in the load."""
PATIENCE_SECONDS: Final = 120.0


class Event(NamedTuple):
    """One check."""

    number: int
    triplet: int

    @property
    def mail(self) -> dict[str, Any]:
        return {**mail(self.triplet), "instance": f"event{self.number}"}


def mail(triplet: int) -> dict[str, Any]:
    """What is asked about a triplet."""
    return {"client": f"10.1.{triplet}.1", "sender": "a@sender.example", "recipient": "b@recipient.example"}


class Counted(threading.Thread):
    """Makes events at one node, and has it restarted when it was killed. It alone asks the node. `answers` is for all of them."""

    def __init__(self, cluster: Cluster, node: NodeProcess, answers: dict[Event, str]) -> None:
        super().__init__(name=f"events of {node.name}", daemon=True)
        self.node, self._cluster = node, cluster
        self._random = Random(f"events {cluster.seed} {node.number}")
        self._answers = answers
        self._open: list[Event] = []
        self._ending, self.ended = threading.Event(), threading.Event()
        self._made = 0
        self.asked = 0
        self.wrong: list[str] = []
        self.status: dict[str, Any] = {}
        """What it said last of itself; empty while it is down."""

    def run(self) -> None:
        try:
            while not self._ending.is_set() or self._open:
                self._step()
        except BaseException as error:
            self.wrong.append(f"{self.name}: {error!r}")
            raise
        finally:
            self.ended.set()
        threading.Event().wait()  # a process ends with the thread that has started it

    def end(self) -> None:
        self._ending.set()

    def _step(self) -> None:
        self._ending.wait(self._random.uniform(*PACE_SECONDS))
        while len(self._open) < TOGETHER and not self._ending.is_set():
            self._made += 1
            number = self._made * 10 + self.node.number
            self._open.append(Event(number, self._random.randrange(TRIPLETS)))
        again = [event for event in self._recent() if self._random.random() < 0.05]
        asked = [*self._open, *again]
        try:
            told = self.node.ask("checks", [event.mail for event in asked])
            self.status = self.node.ask("status")
        except (Refused, Silent):
            return
        except (AssertionError, BrokenPipeError):  # it was killed
            self._back()
            return
        self.asked += len(asked)
        for event, (action, reason, degraded) in zip(asked, told, strict=True):
            if degraded:
                continue
            known = self._answers.setdefault(event, f"{action} {reason}")
            if known != f"{action} {reason}":
                self.wrong.append(f"{event} was told {known}, then {action} {reason}")
        self._open = [event for event in self._open if event not in self._answers]

    def _recent(self) -> list[Event]:
        mine = [event for event in list(self._answers)[-100:] if event.number % 10 == self.node.number]
        return mine[-TOGETHER:]

    def _back(self) -> None:
        self.status = {}
        self.node.kill()
        self._cluster.wait(self._random.uniform(*DOWN_SECONDS))
        self.node.launch()
        self.node.open()


def kill_leaders(cluster: Cluster, directory: Path, counted: list[Counted], wanted: int) -> int:
    """Until so many nodes were killed while they led; how many were killed in all."""
    kills = tries = 0
    while kills < wanted:
        assert tries < 2 * wanted + 10, f"only {kills} of {tries} led when they were killed"

        def leading() -> Counted | None:
            states = [(each.status.get("term", 0), each) for each in counted]
            if any(not each.status for each in counted) or any(each.wrong for each in counted):
                assert not any(each.wrong for each in counted), [each.wrong for each in counted]
                return None
            return max(states, key=lambda state: (state[1].status["role"] == "leader", state[0]))[1]

        eventually(leading, SETTLE_SECONDS, "all are up")
        cluster.wait(cluster.random.uniform(*PAUSE_SECONDS))
        each = leading()
        if each is None or each.status["role"] != "leader":
            continue
        tries += 1
        began = time.monotonic()
        each.status = {}
        each.node.strike()
        kills += led(History(directory.glob("*.history")), Kill(each.node.name, began, time.monotonic()))
        if kills % 20 == 0:
            print(f"  {kills} leaders killed, {sum(one.asked for one in counted)} checks asked", flush=True)
    return tries


def compare(cluster: Cluster, answers: dict[Event, str]) -> list[str]:
    """What the counters say that the events do not."""
    node = cluster.nodes[0]

    def words(events: list[str]) -> dict[str, int]:
        return {
            "deferred": sum(each[:5] == "defer" for each in events),
            "passed": sum(each[:4] == "pass" for each in events),
        }

    wrong: list[str] = []
    totals, told_of = cluster.retried(lambda: node.ask("totals"), "the totals"), words(list(answers.values()))
    if totals != told_of:
        wrong.append(f"the totals say {totals}, the events were told {told_of}")
    by_triplet: dict[int, list[str]] = {}
    for event, told in answers.items():
        by_triplet.setdefault(event.triplet, []).append(told)
    for triplet, events in by_triplet.items():
        seen = cluster.retried(lambda t=triplet: node.ask("seen", mail(t)), "a record")  # type: ignore[misc]
        if seen != words(events):
            wrong.append(f"triplet {triplet} counts {seen}, its events were {words(events)}")
    return wrong


def counting(directory: Path, seed: int, size: int, wanted: int) -> bool:
    """All of it; True when each event was counted once."""
    problems: list[str] = []
    answers: dict[Event, str] = {}
    tries = asked = 0
    began = time.monotonic()
    try:
        with Cluster(size, directory, seed, faulty_disks=False, load=False, settings=SETTINGS) as cluster:
            counted = [Counted(cluster, node, answers) for node in cluster.nodes]
            for each in counted:
                each.start()
            tries = kill_leaders(cluster, directory, counted, wanted)
            for each in counted:
                each.end()
            for each in counted:
                assert each.ended.wait(PATIENCE_SECONDS), f"{each.name} have no answer"
            asked = sum(each.asked for each in counted)
            problems += [text for each in counted for text in each.wrong]
            eventually(cluster.settled, SETTLE_SECONDS, "all nodes agree")
            problems += compare(cluster, answers)
    except (AssertionError, OSError) as error:
        traceback.print_exc()
        problems.append(f"the run did not end well: {error}")
    told: Counter[str] = Counter(text.split()[0] for text in answers.values())
    for text in problems[:50]:
        print(f"PROBLEM: {text}")
    print(
        f"chaos: seed {seed}: the leader was killed {wanted} times ({tries} processes in all); {len(answers)} distinct events, asked "
        f"{asked} times, {told['defer']} deferred and {told['pass']} passed: {len(problems)} problems, "
        f"{time.monotonic() - began:.0f} s"
    )
    return not problems
