"""Exact timing between real hosts: `./run chaos --matrix`, the twin of tests/simulation/test_timing.py.

A triplet that one node saw first is deferred a second before its wait is over and passes a second after, at every node, for all
pairs of nodes at once, whatever happens to the leader at one of three moments meanwhile: nothing, kill -9 (and a restart at once), a
partition, its wall clock a day ahead or behind. Each is a round; a round takes some seconds longer than the wait.

A check is asked again at the same node under its SMTP instance until the cluster has decided it. What counts is when it was
called first and answered: an early one that was answered too late proves nothing and is counted apart.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.cluster import SETTLE_SECONDS, Cluster
from tests.chaos.faults import DAY_SECONDS, off_by
from tests.chaos.nodes import NodeProcess, Refused, Silent
from tests.checkers.greylisting import Rules
from tests.helpers import eventually

RULES = Rules(delay=10, tolerance=0.0)
SETTINGS = {"delay": RULES.delay, "window": 6 * 3600, "life": 7 * 24 * 3600, "auto_allow": 0}
AWAY_SECONDS = 3.0
"""How long a leader is cut off."""
MARGIN_SECONDS = 1.0
MOMENTS = {
    "between the two checks": 3.0,
    "just before the early one": RULES.delay - MARGIN_SECONDS - 0.3,
    "before the late one": RULES.delay + 0.5,
}
"""Seconds after the first attempts."""
CLOCK_SECONDS = 1.3
"""A clock is set so much earlier: it takes about a second."""
PATIENCE_SECONDS = 60.0


class Answer(NamedTuple):
    """A check that was decided. Times in seconds of CLOCK_MONOTONIC, of its first call and its last answer."""

    call: float
    ret: float
    action: str


class Pair(NamedTuple):
    """What was told of one triplet: first at one node, early and late at another."""

    first_at: str
    then_at: str
    first: Answer
    early: Answer
    late: Answer


class Judgement(NamedTuple):
    """Of some pairs."""

    wrong: list[str]
    in_time: int
    """Early checks that were answered so early that they prove something."""


def judge(pairs: Iterable[Pair], rules: Rules) -> Judgement:
    """What was told wrongly. Cluster time may be `slew` fast or slow."""
    wrong: list[str] = []
    in_time = 0
    for pair in pairs:
        who = f"{pair.first_at} -> {pair.then_at}"
        if pair.first.action != "defer":
            wrong.append(f"{who}: the first attempt passed")
        if pair.early.ret - pair.first.call < rules.delay / (1 + rules.slew):
            in_time += 1
            if pair.early.action != "defer":
                wrong.append(f"{who}: passed {pair.early.ret - pair.first.call:.3f} s after its first attempt")
        waited = pair.late.call - pair.first.ret
        if waited >= rules.delay / (1 - rules.slew) and pair.late.action != "pass":
            wrong.append(f"{who}: deferred {waited:.3f} s after its first attempt")
    return Judgement(wrong, in_time)


class Hands:
    """One thread for each node, which alone asks it; what it is given it does in order. Use as a context manager, around
    the cluster: a node's process ends with the thread that has started it."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._threads: dict[int, ThreadPoolExecutor] = {}

    def __enter__(self) -> Hands:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def give(self, node: NodeProcess, act: Callable[[], Any]) -> Future[Any]:
        """Have it done by the node's thread."""
        if node.number not in self._threads:
            self._threads[node.number] = self._running.enter_context(ThreadPoolExecutor(1, f"hand of {node.name}"))
        return self._threads[node.number].submit(act)


def ask(node: NodeProcess, asked: list[dict[str, Any]]) -> list[Answer]:
    """Have them checked at this node, again and again until the cluster has decided each."""
    began = time.monotonic()
    found: dict[int, Answer] = {}
    while len(found) < len(asked):
        assert time.monotonic() < began + PATIENCE_SECONDS, f"{node.name} does not decide"
        open_ = [number for number in range(len(asked)) if number not in found]
        with suppress(Refused, Silent):
            told = node.ask("checks", [asked[number] for number in open_])
            ret = time.monotonic()
            for number, (action, _, degraded) in zip(open_, told, strict=True):
                if not degraded:
                    found[number] = Answer(began, ret, action)
    return [found[number] for number in range(len(asked))]


# ---- what happens to the leader


@contextmanager
def steady(cluster: Cluster, leader: NodeProcess, hands: Hands) -> Iterator[None]:
    yield


def start(node: NodeProcess) -> None:
    """It was killed."""
    node.launch()
    node.open()


@contextmanager
def killed(cluster: Cluster, leader: NodeProcess, hands: Hands) -> Iterator[None]:
    leader.kill()
    back = hands.give(leader, partial(start, leader))
    yield
    back.result()


@contextmanager
def cut_off(cluster: Cluster, leader: NodeProcess, hands: Hands) -> Iterator[None]:
    others = [node.number for node in cluster.nodes if node is not leader]
    links = [link for other in others for link in ((leader.number, other), (other, leader.number))]
    cluster.network.rules({link: {"cut": True} for link in links})
    with ThreadPoolExecutor(1) as healer:

        def heal() -> None:
            cluster.wait(AWAY_SECONDS)
            cluster.network.rules({})

        healed = healer.submit(heal)
        yield
        healed.result()


@contextmanager
def _jumps(days: int, leader: NodeProcess) -> Iterator[None]:
    leader.set_clock(f"{days:+d}d")
    eventually(lambda: off_by(leader, days * DAY_SECONDS), SETTLE_SECONDS, f"the clock of {leader.name} jumps")
    yield
    leader.set_clock("+0")
    eventually(lambda: off_by(leader, 0), SETTLE_SECONDS, f"the clock of {leader.name} is right")


HAPPENINGS: dict[str, Any] = {
    "steady": steady,
    "leader killed": killed,
    "partition": cut_off,
    "leader's clock a day ahead": lambda cluster, leader, hands: _jumps(1, leader),
    "leader's clock a day behind": lambda cluster, leader, hands: _jumps(-1, leader),
}
UNDISTURBED = ("steady", "leader's clock a day ahead", "leader's clock a day behind")


def play(cluster: Cluster, hands: Hands, happening: str, moment: str, number: int) -> list[Pair]:
    """One round, of all pairs."""
    pairs = list(product(cluster.nodes, repeat=2))

    def mail(place: int, when: str) -> dict[str, Any]:
        return {
            "client": f"10.{number}.{place}.1",
            "sender": "a@sender.example",
            "recipient": "b@recipient.example",
            "instance": f"{number}.{place}.{when}",
        }

    def all_of(when: str, side: int) -> dict[int, Future[list[Answer]]]:
        places = {
            node.number: [place for place, pair in enumerate(pairs) if pair[side] is node] for node in cluster.nodes
        }
        return {
            node.number: hands.give(node, partial(ask, node, [mail(place, when) for place in places[node.number]]))
            for node in cluster.nodes
        }

    def answers(futures: dict[int, Future[list[Answer]]], side: int) -> list[Answer]:
        told = {number: iter(future.result()) for number, future in futures.items()}
        return [next(told[pair[side].number]) for pair in pairs]

    first = answers(all_of("first", 0), 0)
    began, ended = min(answer.call for answer in first), max(answer.ret for answer in first)

    def at(moment: float) -> None:
        cluster.wait(max(0.0, moment - time.monotonic()))

    with ExitStack() as undoing:

        def happens() -> None:
            at(began + MOMENTS[moment] - CLOCK_SECONDS * ("clock" in happening))
            leader = cluster.leader()
            undoing.enter_context(HAPPENINGS[happening](cluster, leader, hands))

        early_first = MOMENTS[moment] > RULES.delay
        if not early_first:
            happens()
        at(began + RULES.delay - MARGIN_SECONDS)
        early = all_of("early", 1)
        if early_first:
            wait(early.values())  # nobody else asks a node while it is looked for who leads
            happens()
        at(ended + RULES.delay + MARGIN_SECONDS)
        late = all_of("late", 1)
        told_early, told_late = answers(early, 1), answers(late, 1)
    return [
        Pair(pair[0].name, pair[1].name, *times)
        for pair, *times in zip(pairs, first, told_early, told_late, strict=True)
    ]


def matrix(directory: Path, seed: int, size: int) -> bool:
    """All of it; True when no verdict was wrong and enough was answered in time to say so."""
    problems: list[str] = []
    rounds = verdicts = 0
    try:
        with (
            Hands() as hands,
            Cluster(size, directory, seed, faulty_disks=False, load=False, settings=SETTINGS) as cluster,
        ):
            for number, (happening, moment) in enumerate(product(HAPPENINGS, MOMENTS)):
                eventually(cluster.settled, SETTLE_SECONDS, "all is well before the round")
                pairs = play(cluster, hands, happening, moment, number)
                found = judge(pairs, RULES)
                rounds, verdicts = rounds + 1, verdicts + 3 * len(pairs)
                print(f"  {happening}, {moment}: {len(pairs)} pairs, {found.in_time} early ones in time", flush=True)
                problems += [f"{happening}, {moment}: {text}" for text in found.wrong]
                if happening in UNDISTURBED and found.in_time < len(pairs):
                    problems.append(f"{happening}, {moment}: only {found.in_time} early checks were answered in time")
    except (AssertionError, OSError) as error:
        traceback.print_exc()
        problems.append(f"the run did not end well: {error}")
    for text in problems:
        print(f"PROBLEM: {text}")
    print(f"chaos: seed {seed}: {rounds} rounds, {verdicts} verdicts, {len(problems)} problems")
    return not problems
