"""Which addresses may reach a node's port. Pure but for `resolve`, which may wait for a name server.

A member may come from where it says it is (its advertised name or address) and from where it was seen (behind a router that
is another one). What a name led to is remembered: a name server that does not answer locks nobody out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from raftcluster.firewall.table import plain

SEEN: Final = 4
"""Addresses that a member was seen at which are remembered."""
NAMES_SECONDS: Final = 60.0
"""Names are looked up this often: a node that has moved is let in within it."""
NAMED: Final = 16
"""Addresses that one name may have."""

Resolve = Callable[[str], Iterable[str]]
"""The addresses of a name; none when it is not known. Must not raise."""


@dataclass(slots=True)
class Memory:
    """What is remembered of members, by node id. Written to the node's disk."""

    named: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, list[str]] = field(default_factory=dict)

    def addresses(self) -> frozenset[str]:
        """All of it: what is let in before anything newer is known."""
        return frozenset(each for held in (*self.named.values(), *self.seen.values()) for each in held)

    def learn(self, members: Mapping[str, str], links: Mapping[str, str], resolve: Resolve) -> bool:
        """`members`: node id -> host; `links`: node id -> address that it is linked from. Whether anything has changed."""
        before = (dict(self.named), {node: list(held) for node, held in self.seen.items()})
        self.named = {node: addresses_of(host, resolve) or self.named.get(node, []) for node, host in members.items()}
        self.seen = {node: held for node, held in self.seen.items() if node in members}
        for node, address in links.items():
            if node in members and address not in self.named[node]:
                others = [each for each in self.seen.get(node, []) if each != address]
                self.seen[node] = [*others, address][-SEEN:]
        return before != (self.named, self.seen)


class Names:
    """`resolve`, asked about each name once in `NAMES_SECONDS`. Thread: one."""

    def __init__(self, resolve: Resolve, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolve, self._clock = resolve, clock
        self._known: dict[str, tuple[float, list[str]]] = {}

    def __call__(self, name: str) -> Iterable[str]:
        """The addresses of `name`."""
        now = self._clock()
        self._known = {each: held for each, held in self._known.items() if now - held[0] < NAMES_SECONDS}
        if name not in self._known:
            self._known[name] = (now, list(self._resolve(name)))
        return self._known[name][1]


def addresses_of(host: str, resolve: Resolve) -> list[str]:
    """The addresses of a name, or the one that `host` is; sorted, in their plain form."""
    try:
        return [plain(host)]
    except ValueError:
        found = set()
        for each in resolve(host):
            found.add(plain(each))
        return sorted(found)[:NAMED]
