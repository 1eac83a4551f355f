"""The recorded clients of one node: threads inside its process, as a mail gateway that embeds it would have them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from random import Random
from typing import Any, TypeVar

from raftcluster import Node, limits
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Rejected, StorageRefusal, Unavailable
from tests.chaos import ledger
from tests.chaos.recorder import Recorder

T = TypeVar("T")

EPOCH_SECONDS = 6.0
"""A new set of configuration keys begins this often, so that no key's history grows beyond what can be searched."""
KEYS = 3
TRIPLETS_PER_SECOND = 2.0
RECENT_TRIPLETS = 40
SHARED_PER_SECOND = 5.0
"""Ledger operations that all nodes ask for at the same time, under the same request id."""
STATUS_SECONDS = 0.1


class Client(threading.Thread, ABC):
    """Does `step` again and again, about every `pause` seconds, until `end`."""

    pause = 0.03

    def __init__(self, name: str, node: Node, recorder: Recorder, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.session = f"{recorder.prefix}.{name}"
        self.node, self.recorder = node, recorder
        self.random = Random(f"{seed} {self.session}")
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            while not self._ending.wait(self.random.uniform(0.2, 1.8) * self.pause):
                self.step()
        except BaseException as error:
            self.recorder.event("broken", session=self.session, error=repr(error))
            raise

    @abstractmethod
    def step(self) -> None:
        """One thing that such a client does."""

    def end(self) -> None:
        self._ending.set()

    def attempt(
        self, op: str, act: Callable[[], T], shown: Callable[[T], Any], **arguments: Any
    ) -> tuple[str, T | None]:
        """Do it, with what is asked and answered on record: ("ok", result), ("never", None) or ("unknown", None)."""
        name = self.recorder.call(self.session, op, **arguments)
        try:
            result = act()
        except (Unavailable, Rejected) as error:
            self.recorder.event("never", id=name, code=error.code)
            if isinstance(error, StorageRefusal):
                self._ending.wait(0.2)  # the node has stopped for good, or waits for space
            return "never", None
        except OutcomeUnknown as error:
            self.recorder.event("unknown", id=name, code=error.code)
            return "unknown", None
        self.recorder.event("ok", id=name, result=shown(result))
        return "ok", result


class Configurer(Client):
    """Reads, sets, and sets what it has read if it is so still."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._value = int.from_bytes(blake2b(self.session.encode(), digest_size=3).digest(), "big") << 24
        self._known: dict[str, tuple[int, int | None]] = {}

    def step(self) -> None:
        key = f"chaos/{int(time.monotonic() / EPOCH_SECONDS)}/{self.random.randrange(KEYS)}"
        config, chance = self.node.config, self.random.random()
        self._value += 1
        value = self._value
        if chance < 0.3:
            self._read(key)
        elif chance < 0.5:
            self.attempt("local", lambda: config.entry(key), _shown, key=key)
            self.attempt("revision", config.revision, _same)
        elif chance < 0.7:
            self.attempt("set", lambda: config.set(key, value), _same, key=key, value=value)
        else:
            if self.random.random() < 0.8:
                self._read(key)
            revision, expected = self._known.get(key, (0, None))
            self.attempt(
                "cas",
                lambda: config.set(key, value, expect_revision=revision),
                _same,
                key=key,
                value=value,
                expected=expected,
            )

    def _read(self, key: str) -> None:
        outcome, entry = self.attempt(
            "read", lambda: self.node.config.entry(key, consistency="linearizable"), _shown, key=key
        )
        if outcome == "ok":
            self._known[key] = (entry.revision, entry.value) if entry else (0, None)


class Adder(Client):
    """Adds names to the ledger, its own and those that everybody adds now; asks again under the same request id."""

    pause = 0.06

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = 0

    def step(self) -> None:
        self._count += 1
        name = f"{self.session}-{self._count}"
        if self.random.random() < 0.5:
            name = f"all-{int(time.monotonic() * SHARED_PER_SECOND)}"
        ident = blake2b(name.encode(), digest_size=16).digest()
        deadline = self.random.choice((0.3, 1.0, 2.0))
        for _ in range(self.random.randint(1, 4)):
            outcome, _place = self.attempt(
                "add",
                lambda: self.node.propose(ledger.NAME, ["add", name], id=ident, deadline=deadline),
                _same,
                name=name,
            )
            if outcome == "ok" and self.random.random() < 0.9:
                return


class Sender(Client):
    """Asks the greylist about triplets that the senders at all nodes share, and looks at their records."""

    pause = 0.04

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = 0
        self._began = int(time.monotonic() * TRIPLETS_PER_SECOND)

    def step(self) -> None:
        newest = int(time.monotonic() * TRIPLETS_PER_SECOND)
        chance = self.random.random()
        if chance < 0.35:
            number = newest
        elif chance < 0.9:
            number = newest - self.random.randrange(RECENT_TRIPLETS)
        else:
            number = self.random.randint(self._began, newest)
        asked: dict[str, Any] = {
            "client": "192.0.2.7",
            "sender": f"t{number}x@sender.example",
            "recipient": "box@recipient.example",
        }
        greylist = self.node.greylist
        if self.random.random() < 0.12:
            self.attempt(
                "look", lambda: greylist.explain(**asked, consistency="linearizable"), _first_seen, triplet=number
            )
            return
        self._count += 1
        instance = f"{self.session}.{self._count}" if self.random.random() < 0.5 else None
        for _ in range(1 + (instance is not None and self.random.random() < 0.3)):
            deadline = self.random.choice((0.5, limits.CALL_SECONDS))
            self.attempt(
                "check",
                partial(greylist.check, **asked, instance=instance, deadline=deadline),
                lambda verdict: [verdict.action, verdict.reason, verdict.delayed_seconds, verdict.degraded],
                triplet=number,
                request=instance or "",
                deadline=deadline,
            )


class Sampler(Client):
    """Notes what the node says of itself."""

    pause = STATUS_SECONDS
    NOTED = ("term", "role", "leader", "applied_index", "cluster_time_ms", "storage")

    def step(self) -> None:
        try:
            status = self.node.status()
        except RaftclusterError as error:
            self.recorder.event("down", code=error.code)
            self._ending.wait(0.2)
        else:
            self.recorder.event("status", node=self.node.id, **{name: status[name] for name in self.NOTED})


CLIENTS: dict[str, type[Client]] = {
    "config0": Configurer,
    "config1": Configurer,
    "adder0": Adder,
    "sender0": Sender,
    "sender1": Sender,
    "sampler": Sampler,
}


def _same(value: Any) -> Any:
    return value


def _shown(entry: Any) -> Any:
    return None if entry is None else [entry.revision, entry.value]


def _first_seen(explanation: dict[str, Any]) -> Any:
    return explanation["first_seen_ms"]
