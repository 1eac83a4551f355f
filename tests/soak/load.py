"""Strangers, their retries and configuration changes at one node, a few a second, for hours."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

from raftcluster.errors import RaftclusterError
from tests.policy_client import PolicyClient
from tests.served import Served

DELAY_SECONDS = 3
WINDOW_SECONDS = 60
LIFE_SECONDS = 300
SETTINGS = {
    "delay": DELAY_SECONDS,
    "window": WINDOW_SECONDS,
    "life": LIFE_SECONDS,
    "on_unavailable": "defer",
    "auto_allow": 0,
}
RETRY_SECONDS = 4.0 * DELAY_SECONDS
"""Long after the delay, whatever the cluster's clock does."""
ABANDONED = 4
"""Every so many strangers never retry: their records expire with the window."""
NETWORKS = 1000
RECONNECT_ASKS = 200
BEHIND_SECONDS = 60.0
"""What it is further behind than this it does not catch up."""
CONFIG_SECONDS = 9.0
CONFIG_KEY = "soak/value"
"""One key, so that its history has reached its bound before the second quarter begins."""


class Warming(threading.Thread):
    """Asks a node about a few triplets, as fast as it answers, until `count` checks were made."""

    def __init__(self, node: Served, count: int) -> None:
        super().__init__(name=f"warming {node.name}", daemon=True)
        self._node, self._count = node, count

    def run(self) -> None:
        with PolicyClient(self._node.policy) as client:
            for number in range(self._count):
                sender = f"w{number % 50}x@sender.example"
                # without an instance: none is a repetition, which would be remembered already
                client.ask(client_address="192.0.2.1", sender=sender, recipient="box@example.org", instance="")


class Load(threading.Thread):
    """Asks `per_second` times over one connection, and catches up when it could not. Read `counts` when it has ended, or
    for a look: they are only added to."""

    def __init__(self, node: Served, number: int, per_second: float) -> None:
        super().__init__(name=f"{node.name}c{number}", daemon=True)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        """Answers that a stranger must never get."""
        self._node, self._pause = node, 1.0 / per_second
        self._ending = threading.Event()
        self._number = 0
        self._waiting: deque[tuple[float, int]] = deque()
        """When whom may retry."""
        self._configured = 0.0

    def end(self) -> None:
        self._ending.set()

    @property
    def asked(self) -> int:
        """Checks that were answered."""
        return sum(count for what, count in self.counts.items() if what.startswith(("strangers", "retries")))

    def run(self) -> None:
        due = time.monotonic()
        while not self._ending.is_set():
            try:
                with PolicyClient(self._node.policy) as client:
                    for _ in range(RECONNECT_ASKS):
                        due = max(due + self._pause, time.monotonic() - BEHIND_SECONDS)
                        self._ask(client)
                        self._configure()
                        if self._ending.wait(max(0.0, due - time.monotonic())):
                            return
            except (OSError, EOFError) as error:  # it stands still, or a request took too long
                self.counts[f"connection: {type(error).__name__}"] += 1
                self._ending.wait(1.0)

    def _ask(self, client: PolicyClient) -> None:
        now = time.monotonic()
        retries = bool(self._waiting) and self._waiting[0][0] <= now
        if retries:
            _, number = self._waiting.popleft()
        else:
            self._number += 1
            number = self._number
            if number % ABANDONED:
                self._waiting.append((now + RETRY_SECONDS, number))
        action = client.ask(
            client_address=f"10.{number % NETWORKS // 250}.{number % 250}.7",
            sender=f"s{number}x{self.name}@sender.example",
            recipient="box@recipient.example",
            instance=f"{self.name}.{number}.{retries}",
        )
        kind = "deferred" if action.startswith("DEFER_IF_PERMIT") else "passed"
        self.counts[f"{'retries' if retries else 'strangers'} {kind}"] += 1
        if kind == "passed" and not retries:
            self.wrong.append(f"stranger {number} of {self.name} was told {action}")

    def _configure(self) -> None:
        if time.monotonic() - self._configured < CONFIG_SECONDS:
            return
        self._configured = time.monotonic()
        try:
            self._node.client.config.set(CONFIG_KEY, f"{self._node.name} {'x' * 200}", reason="soak")
            self.counts["configuration changes"] += 1
        except RaftclusterError as error:
            self.counts[f"configuration: {error.code}"] += 1
