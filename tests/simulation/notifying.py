"""Notifications: each is published once, in order, is there as long as it is kept, and is seen to by one.

Reads the committed commands and their results in order, and keeps its own account; pages that processes read from their own
tables are held against it. Times are milliseconds of cluster time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from raftcluster.codec import Value
from raftcluster.notifications.machine import Page


class _Item(NamedTuple):
    text: str
    key: str
    expires: int


class Notifying:
    """See the module's text. `most` is how many are kept."""

    def __init__(self, violate: Callable[[str, str], None], most: int) -> None:
        self._violate, self._most = violate, most
        self.items: dict[int, _Item] = {}
        """What is kept, by position: expired ones, too, until they are dropped or `settle` forgets them."""
        self._open: dict[str, int] = {}
        self._texts: dict[str, int] = {}
        """Text -> position: every publication of the workload has a text of its own."""
        self._acknowledged: dict[int, list[Any]] = {}
        self._cursors: dict[str, int] = {}
        self._last = 0
        self.dropped = 0
        """The greatest position that went before its time."""
        self.published = self.read = 0

    # ---- what is committed

    def told(self, command: Value, result: list[Any], stamp: int) -> None:
        """`command` was committed at `stamp` with `result`."""
        if result[0] != 0:
            self._refused(command, result, stamp)
            return
        match command:
            case ["publish", _, text, key, _, ttl, _]:
                self._publish(text, key, ttl, result[1], stamp)
            case ["acknowledge", position, author, _]:
                self._acknowledge(position, author, result[1], stamp)
            case ["advance" | "seek" as how, consumer, position]:
                self._move(how, consumer, position, result[1])
            case ["forget", consumer]:
                if result[1] != (consumer in self._cursors):
                    self._violate("notifications", f"forgetting {consumer} is told {result[1]}")
                self._cursors.pop(consumer, None)

    def _refused(self, command: Value, result: list[Any], stamp: int) -> None:
        match command:
            case ["acknowledge", position, *_] if position not in self.items or self.items[position].expires <= stamp:
                return
        self._violate("notifications", f"{command} at {stamp} is refused: {result}")

    def settle(self, stamp: int) -> None:
        """An entry of `stamp` was carried out: what has expired then is gone."""
        for position in [p for p, item in self.items.items() if item.expires <= stamp]:
            self._forget(position)

    def _publish(self, text: str, key: str, ttl: int, told: list[Any], stamp: int) -> None:
        position, new = told
        known = self._open.get(key) if key else None
        if known is not None and self.items[known].expires <= stamp:
            known = None
        if text in self._texts:
            self._violate("notifications", f"{text!r} is published at {position} and at {self._texts[text]}")
        self._texts[text] = position
        if not new:
            if position != known:
                self._violate("notifications", f"{text!r} is said to be at {position}; its key is open at {known}")
            return
        if known is not None:
            self._violate("notifications", f"{key!r} is open at {known} and published again at {position}")
        if position != self._last + 1:
            self._violate("notifications", f"position {position} follows {self._last}")
        self._last = position
        self.items[position] = _Item(text, key, stamp + ttl)
        self.published += 1
        if key:
            self._open[key] = position
        if len(self.items) > self._most:
            self.dropped = min(self.items)
            self._forget(self.dropped)

    def _acknowledge(self, position: int, author: str, told: list[Any], stamp: int) -> None:
        first, *whose = told
        item = self.items.get(position)
        if item is None or item.expires <= stamp:
            self._violate("notifications", f"{position} is acknowledged at {stamp}, and it is gone")
            return
        known = self._acknowledged.get(position)
        if first != (known is None) or whose != (known or [author, *whose[1:]]):
            self._violate("notifications", f"{position} is acknowledged by {whose} ({first}), after {known}")
        self._acknowledged[position] = whose
        if self._open.get(item.key) == position:
            del self._open[item.key]

    def _move(self, how: str, consumer: str, position: int, told: int) -> None:
        before = self._cursors.get(consumer, 0) if how == "advance" else 0
        if told != max(position, before):
            self._violate("notifications", f"{how} of {consumer} from {before} to {position} is told {told}")
        self._cursors[consumer] = told

    def _forget(self, position: int) -> None:
        item = self.items.pop(position)
        if self._open.get(item.key) == position:
            del self._open[item.key]

    # ---- what is read

    def page(self, who: str, after: int, page: Page | None, time: int) -> None:
        """`who` has read what comes after `after`, at its `time`, from the tables that it holds itself."""
        self.read += 1
        if page is None:
            if self.dropped <= after:
                self._violate("notifications", f"{who} says that some after {after} were dropped; {self.dropped} was")
            return
        found = {each.position: each.text for each in page.items}
        for position, text in found.items():
            if self._texts.get(text) != position:
                self._violate("notifications", f"{who} shows {text!r} at {position}, not {self._texts.get(text)}")
        for position, item in self.items.items():
            if after < position <= page.reached and position not in found and time < item.expires:
                self._violate(
                    "notifications", f"{who} lacks {item.text!r} at {position} among those up to {page.reached}"
                )

    def finish(self, positions: set[int]) -> None:
        """At the end, the positions of all that the history's tables hold, be it expired or not."""
        lost = sorted(set(self.items) - positions)
        if lost:
            self._violate("notifications", f"{[self.items[each].text for each in lost]} are lost")
