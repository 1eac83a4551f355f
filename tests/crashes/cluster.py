"""A cluster of writing processes on loopback, as a test sees it: crashed, started again, asked, checked."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import raftcluster
from raftcluster import failpoints
from raftcluster.errors import RaftclusterError
from tests.checkout import ROOT
from tests.children import Child
from tests.crashes import writer
from tests.crashes.account import Account
from tests.crashes.writer import TRIPLETS
from tests.helpers import eventually, free_ports

ANSWER_SECONDS = 60.0
CRASH_SECONDS = 60.0
PASSING = ("unavailable", "outcome-unknown", "generation-under-way")
"""Errors that say: ask again."""
REPEATED = 20
"""Checks of a node and a round that are asked again although they were acknowledged."""
SMALL = {
    "bounds": {"keep_entries": 8},
    "timing": {"checkpoint": 0.1},
    "limits": {"FIRST_SEGMENT_BYTES": 2_048, "SEGMENT_BYTES": 16_384},
}
"""Options of a node whose log is cut all the time, so that a short absence needs a snapshot."""


class Refused(Exception):
    """The node answered with an error of the library; `code` is its code."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Cluster:
    """Nodes 0, 1, ... by number. Use as a context manager: leaving ends all processes. Not thread-safe.

    `places` are directories that exist, for a node's data each; `addresses` are any free ones, unless the
    places hold nodes already. `histories`: whether votes are noted.
    """

    def __init__(
        self,
        directory: Path,
        seed: int,
        *,
        places: Sequence[Path],
        options: Mapping[str, Any] | None = None,
        addresses: Sequence[tuple[str, int]] | None = None,
        histories: bool = False,
    ) -> None:
        self.size = len(places)
        self.account = Account(seed, self.size)
        self.random = Random(f"crashes {seed}")
        self.nodes: dict[int, Child] = {}
        """The processes that run, as far as it is known."""
        self.ids: dict[int, str] = {}
        self._replaced: set[int] = set()
        """Who is another node than when this round was written: the same instances would be other checks there."""
        self.writing: set[int] = set()
        """Who writes in this round, of those that run."""
        self._directory, self._places = directory, list(places)
        self.options, self._histories = dict(options or {}), histories
        self._names = [f"node{number}" for number in range(self.size)]
        self.addresses = list(addresses or [("127.0.0.1", port) for port in free_ports(self.size)])

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.nodes.values():
            child.kill()
        self.nodes = {}

    # ---- processes

    def found(self) -> None:
        """A new cluster of all nodes."""
        raftcluster.init(self.path(0), cluster="crashes", node=self._names[0], listen=self.addresses[0])
        self.start([0])
        for number in range(1, self.size):
            self.admit(number)
        eventually(lambda: self.settled() and self.voters() == self.size, ANSWER_SECONDS, "the cluster is complete")

    def admit(self, number: int) -> None:
        """Have it join, in an empty place, and start it."""
        self.ask_to_join(number, next(each for each in sorted(self.nodes) if each != number))()
        self.start([number])

    def ask_to_join(self, number: int, member: int) -> Callable[[], None]:
        """Have it ask a member, on a thread of its own; what is returned waits until its directory is complete."""
        self._replaced.add(number)
        token = self.insist(member, "invite", self._names[number])
        failures: list[RaftclusterError] = []

        def join() -> None:
            try:
                raftcluster.join(
                    self.path(number),
                    address=self.addresses[member],
                    token=token,
                    node=self._names[number],
                    listen=self.addresses[number],
                )
            except RaftclusterError as error:
                failures.append(error)

        thread = threading.Thread(target=join, name=f"join of node{number}")
        thread.start()

        def joined() -> None:
            thread.join()
            assert failures == []

        return joined

    def path(self, number: int) -> Path:
        """The node's data directory."""
        return self._places[number] / "data"

    def log(self, number: int) -> Path:
        return self._directory / f"node{number}.log"

    def launch(self, number: int, failpoint: str | None = None) -> Child:
        """Start its process, with a failpoint in its environment; it will say "open" """
        history = self._directory / f"node{number}.votes"
        options = {**self.options, **({"history": str(history)} if self._histories else {})}
        command = [sys.executable, "-m", writer.__name__, str(self.path(number)), json.dumps(options)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        if failpoint is not None:
            env[failpoints.VARIABLE] = failpoint
        child = self.nodes[number] = Child(f"node{number}", command, self.log(number), pipes=True, env=env)
        return child

    def start(self, numbers: Iterable[int]) -> None:
        """Start them together, and wait until each can answer for the cluster."""
        numbers = list(numbers)
        for number in numbers:
            self.launch(number)
        for number in numbers:
            assert self.hear(number) == "open"
            self.know(number)

    def know(self, number: int) -> None:
        """Ask for its id: it is open."""
        self.ids[number] = self.ask(number, "status")["id"]

    def crash(self, numbers: Iterable[int]) -> None:
        """SIGKILL, one right after the other, in a random order. A killed process acknowledges nothing more."""
        numbers = [number for number in numbers if number in self.nodes]
        self.random.shuffle(numbers)
        for number in numbers:
            self.nodes[number].process.kill()
        for number in numbers:
            self.bury(number)

    def bury(self, number: int) -> int:
        """A process that has been killed or kills itself: count what it still said. Its exit status."""
        child = self.nodes[number]
        self.writing.discard(number)
        child.process.wait(CRASH_SECONDS)
        status = child.kill()
        del self.nodes[number]
        for line in child.rest():
            said = json.loads(line)
            if type(said) is int:
                self.account.acknowledge(number, said)
        return status

    # ---- questions

    def hear(self, number: int) -> Any:
        """Its next answer. Raises `Refused`."""
        while type(said := json.loads(self.nodes[number].line(ANSWER_SECONDS))) is int:
            self.account.acknowledge(number, said)
        if "error" in said:
            raise Refused(said["error"], said["text"])
        return said["answer"]

    def tell(self, number: int, *request: object) -> None:
        self.nodes[number].tell(json.dumps(request))

    def ask(self, number: int, *request: object) -> Any:
        """The answer to a command. Raises `Refused`."""
        self.tell(number, *request)
        return self.hear(number)

    def forgive(self, number: int) -> None:
        """It owes an answer, and may say whatever it wants."""
        with suppress(Refused):
            self.hear(number)

    def insist(self, number: int, *request: object, seconds: float = ANSWER_SECONDS) -> Any:
        """What an administrator does: when it cannot be done now, ask again."""
        found: list[Any] = []

        def attempt() -> bool:
            try:
                found.append(self.ask(number, *request))
            except Refused as refused:
                if refused.code not in PASSING:
                    raise
            return bool(found)

        eventually(attempt, seconds, f"node{number} does {request[0]!r}")
        return found[0]

    def settled(self) -> bool:
        """All that run agree: one leader, everything applied, no certificates on their way."""
        try:
            states = [self.ask(number, "settled") for number in self.nodes]
        except Refused:
            return False
        leader, last, applied, stable = states[0]
        return leader is not None and last == applied and stable and all(state == states[0] for state in states)

    def voters(self) -> int:
        """How many there are, once all that run agree; else 0."""
        found = {tuple(self.ask(number, "status")["voters"]) for number in self.nodes}
        return len(found.pop()) if len(found) == 1 else 0

    def leader(self) -> int:
        """Who leads, once all that run agree."""

        def agreed() -> list[int]:
            leaders = {self.ask(number, "status")["leader"] for number in self.nodes}
            return [number for number in self.nodes if leaders == {self.ids[number]}]

        return eventually(agreed, ANSWER_SECONDS, "a leader that all know")[0]

    # ---- rounds of writing

    def write(self, numbers: Iterable[int] | None = None) -> None:
        """A new round: these nodes (all that run) write."""
        round_ = self.account.begin()
        self._replaced.clear()
        numbers = list(self.nodes if numbers is None else numbers)
        for number in set(range(self.size)) - set(numbers):
            self.account.stopped(number)
        for number in numbers:
            assert self.ask(number, "write", self.account.seed, round_, number) == "writing"
        self.writing = set(numbers)

    def acknowledged(self, number: int, count: int) -> None:
        """Wait until this node has so many more acknowledgements."""
        end = time.monotonic() + ANSWER_SECONDS
        while count > 0:
            said = json.loads(self.nodes[number].line(max(0.0, end - time.monotonic())))
            assert type(said) is int, said
            self.account.acknowledge(number, said)
            count -= 1

    def stop(self) -> None:
        """Those that run stop writing, and have answers to all that they asked."""
        for number in self.writing:
            self.tell(number, "stop")
        for number in self.writing:
            assert self.hear(number) == "stopped"
            self.account.stopped(number)
        self.writing = set()

    def read(self, number: int) -> list[int]:
        """Per triplet the number of checks that were counted, as this node has it, all that was acknowledged included."""
        counts: list[int] = self.insist(number, "read", list(range(TRIPLETS)))
        return counts

    def check(self, reader: int | None = None) -> list[str]:
        """The end of a round, and the final checks: what is wrong. All nodes run, and none writes any more.

        One node reads the records, `reader` or any; that the others have the same is seen by the hashes of all tables.
        """
        account = self.account
        reader = self.random.choice(sorted(self.nodes)) if reader is None else reader
        problems = account.compare(self.read(reader))
        for number in self.nodes:
            kept = [] if number in self._replaced else account.acknowledged(number)
            again = self.random.sample(kept, min(REPEATED, len(kept)))
            self.tell(number, "repeat", account.seed, account.round, number, [*account.unknown(number), *again])
        for number in self.nodes:
            assert self.hear(number) == "repeated"
            account.stopped(number)
        account.settle()
        problems += [f"after repetition: {text}" for text in account.compare(self.read(reader))]
        return problems + self.compare_tables()

    def compare_tables(self) -> list[str]:
        """Whether all have the same tables at the same entry: what is wrong."""
        found: dict[int, Any] = {}

        def equal_indices() -> bool:
            found.update((number, self.ask(number, "hashes")) for number in self.nodes)
            return len({hashes and hashes[0] for hashes in found.values()}) == 1

        eventually(equal_indices, ANSWER_SECONDS, "all checkpoints are at the same entry")
        first = min(found)
        return [
            f"at entry {hashes[0]} node{number} and node{first} have different tables"
            for number, hashes in found.items()
            if hashes != found[first]
        ]

    def votes(self) -> list[str]:
        """What is wrong with the votes and leaders that were noted."""
        votes: dict[tuple[int, str], str] = {}
        leaders: dict[int, str] = {}
        problems = set()
        for path in sorted(self._directory.glob("node*.votes")):
            *lines, _torn = path.read_text().split("\n")
            for event, term, *names in map(json.loads, lines):
                if event == "vote" and votes.setdefault((term, names[0]), names[1]) != names[1]:
                    problems.add(f"{names[0]} has voted twice in term {term}")
                elif event == "leader" and leaders.setdefault(term, names[0]) != names[0]:
                    problems.add(f"term {term} has two leaders")
        assert votes and leaders, "nothing was noted"
        return sorted(problems)

    def votes_seen(self) -> int:
        """How many votes were noted, each once per node that heard of it."""
        return sum(path.read_text().count('"vote"') for path in self._directory.glob("node*.votes"))


def places(directory: Path, count: int) -> list[Path]:
    """So many new directories on the machine's own disk."""
    made = [directory / f"place{number}" for number in range(count)]
    for place in made:
        place.mkdir()
    return made
