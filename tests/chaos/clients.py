"""The recorded clients of one node: threads inside its process, as a mail gateway that embeds it would have them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b, sha256
from io import BytesIO
from random import Random
from typing import Any, TypeVar

from raftcluster import Envelope, Node, limits
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Rejected, StorageRefusal, Unavailable
from raftcluster.lease.holding import Lease
from raftcluster.lease.rules import LeaseLost
from raftcluster.notifications.subscription import Subscription
from raftcluster.quarantine.rules import DeliveryFailed
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
LEASES = ("nightly", "report")
HELD = b"Subject: held\r\n\r\n"
HELD_KEY = b"a key that all nodes have, 32 B."
HELD_SECONDS = 2.0
"""A new message is held so often."""
CLAIM_SECONDS = 2.0
HANDED_AGAIN = 3
"""How many notifications may be handed to a consumer once more after a crash."""


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


class Holder(Client):
    """Takes leases that the holders at all nodes want, says whether it believes in its own, lets it go or keeps it."""

    pause = 0.15

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._lease: Lease | None = None
        self._name = ""

    def run(self) -> None:
        super().run()
        if self._lease is not None:
            self._lease.release()  # or the renewals go on

    def step(self) -> None:
        if self._lease is None:
            self._name = self.random.choice(LEASES)
            lease = self.node.lease(self._name, seconds=self.random.choice((1.0, 2.0, 4.0)), on_lost=self._lost)
            outcome, token = self.attempt("acquire", lambda: _token(lease), _same, name=self._name)
            if outcome == "ok" and token:
                self._lease = lease
            return
        since = time.monotonic()
        with suppress(LeaseLost):
            token = self._lease.token
            self.recorder.event("believes", session=self.session, name=self._name, token=token, since=since)
            if self.random.random() > 0.05:
                return
        self._lease.release()
        self._lease = None

    def _lost(self, why: str) -> None:
        self.recorder.event("lost", session=self.session, name=self._name, why=why)


class Publisher(Client):
    """Publishes, and acknowledges what others have published lately."""

    pause = 0.6

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = 0

    def step(self) -> None:
        notifications = self.node.notifications
        if self.random.random() < 0.7:
            self._count += 1
            text = f"{self.session}-{self._count}"
            deadline = self.random.choice((0.5, limits.CALL_SECONDS))
            self.attempt("publish", lambda: notifications.publish("info", text, deadline=deadline), _same, text=text)
            return
        try:
            newest = notifications.last()
        except RaftclusterError as error:
            self.recorder.event("down", code=error.code)
            return
        position = max(1, newest - self.random.randrange(5))
        self.attempt(
            "acknowledge", lambda: notifications.acknowledge(position, author=self.session), _same, position=position
        )


class Consumer(Client):
    """Reads the stream for its node, from where that was before."""

    pause = 0.1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = 0
        self._subscription: Subscription | None = None

    def step(self) -> None:
        self._count += 1
        subscription = f"{self.session}-{self._count}"
        try:
            with self.node.notifications.subscribe(self.node.name, batch=HANDED_AGAIN) as self._subscription:
                for each in () if self._ending.is_set() else self._subscription:
                    consumer, position = self.node.name, each.position
                    self.recorder.event(
                        "handed", consumer=consumer, subscription=subscription, position=position, text=each.text
                    )
        except RaftclusterError as error:
            self.recorder.event("down", code=error.code)
            self._ending.wait(0.5)

    def end(self) -> None:
        super().end()
        if self._subscription is not None:
            self._subscription.close()


class Lister(Client):
    """Adds entries to the greylist's lists and removes some; each entry is its own."""

    pause = 0.5

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = 0
        self._added: list[str] = []

    def step(self) -> None:
        lists = self.node.greylist.lists
        if self._added and self.random.random() < 0.6:
            gone = self._added.pop(self.random.randrange(len(self._added)))
            self.attempt("unlist", lambda: lists.remove("allow", "sender-domain", gone), _same, name=gone)
            return
        self._count += 1
        name = f"e{self._count}.{self.session.replace('.', '-')}.example"
        if self.attempt("list", lambda: lists.add("allow", "sender-domain", name), _same, name=name)[0] != "never":
            self._added.append(name)


class Releaser(Client):
    """Holds a message every some seconds, the same at all nodes, and has the newest ones released as everybody else does."""

    pause = 0.3

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._number = 0
        self.node.quarantine.attach(HELD_KEY, lambda _: BytesIO(HELD), self._deliver)

    def step(self) -> None:
        quarantine = self.node.quarantine
        newest = int(time.monotonic() / HELD_SECONDS)
        ident = held_id(newest)
        if self._number != newest:
            envelope = Envelope("a@sender.example")
            envelope.rcpt("box@recipient.example")
            about: dict[str, Any] = {"digest": sha256(HELD).digest(), "size": len(HELD), "reference": str(newest)}
            asked = lambda: quarantine.capture(envelope, **about, id=ident)  # noqa: E731
            self.attempt("capture", asked, _same, message=ident)
            self._number = newest
        message = held_id(newest - self.random.randrange(4))
        self._message = message
        self.attempt(
            "release",
            lambda: quarantine.release(message, 1, author=self.session, claim=CLAIM_SECONDS),
            lambda done: done.deliveries,
            message=message,
        )

    def _deliver(self, envelope: Envelope, recipient: Any, body: bytes, left: Callable[[], float]) -> str:
        """As a server would that takes its time, or says no."""
        self._ending.wait(self.random.choice((0.0, 0.05, 0.5)))
        if self.random.random() < 0.15 or left() <= 0:
            raise DeliveryFailed("450 later", subject=self._message)
        self.recorder.event("delivered", session=self.session, message=self._message)
        return "250 taken"


def held_id(number: int) -> str:
    """The id of a message that all nodes hold."""
    return blake2b(f"held {number}".encode(), digest_size=16).hexdigest()


CLIENTS: dict[str, type[Client]] = {
    "config0": Configurer,
    "config1": Configurer,
    "adder0": Adder,
    "sender0": Sender,
    "sender1": Sender,
    "sampler": Sampler,
    "holder": Holder,
    "publisher": Publisher,
    "consumer": Consumer,
    "lister": Lister,
    "releaser": Releaser,
}


def _token(lease: Lease) -> int:
    """The fencing token; 0 when others have it, or when it was lost again already."""
    if not lease.acquire():
        return 0
    try:
        return lease.token
    except LeaseLost:
        return 0


def _same(value: Any) -> Any:
    return value


def _shown(entry: Any) -> Any:
    return None if entry is None else [entry.revision, entry.value]


def _first_seen(explanation: dict[str, Any]) -> Any:
    return explanation["first_seen_ms"]
