"""How far a worker has read a stream. Pure."""

from __future__ import annotations

from typing import Final

from raftcluster.codec import Value

LASTING: Final = frozenset({"config.watch", "notifications.follow"})
"""Streams that have no end, and that can be opened anew where they were."""


class Place:
    """Where a stream is opened anew, on another connection."""

    def __init__(self, method: str, arguments: dict[str, Value]) -> None:
        self.method, self.arguments = method, arguments
        self.begun = False
        self._last = -1
        self._of_last = self._skip = 0
        """Changes that were handed out of the last revision; those of them that will come again."""

    @property
    def lasting(self) -> bool:
        """Whether it can be opened anew at any time; the others only before their first item."""
        return self.method in LASTING

    def is_new(self, item: Value) -> bool:
        """Whether `item` was not handed out before. One revision may have several changes."""
        self.begun = True
        if self.method == "notifications.follow":
            self.arguments = {**self.arguments, "since": item["position"]}
        elif self.method == "config.watch":
            revision = item["revision"]
            if revision == self._last and self._skip:
                self._skip -= 1
                return False
            self._of_last = self._of_last + 1 if revision == self._last else 1
            self._last = revision
            self.arguments = {**self.arguments, "since": revision - 1}
        return True

    def again(self) -> None:
        """It is opened anew, with `arguments`."""
        self._skip = self._of_last
