"""The greylist's lists: what was added is there until it was removed or has expired, and nothing else is.

Reads the committed commands and their results in order, and keeps its own account. Times are milliseconds of cluster time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from raftcluster.codec import Value


class _Entry(NamedTuple):
    effect: str
    expires: int | None

    def alive(self, stamp: int) -> bool:
        return self.expires is None or stamp < self.expires


Key = tuple[str, str, str]
"""List, kind, pattern."""


class Listing:
    """See the module's text."""

    def __init__(self, violate: Callable[[str, str], None]) -> None:
        self._violate = violate
        self._entries: dict[Key, _Entry] = {}
        self._revision = 0

    def told(self, command: Value, result: list[Any], stamp: int) -> None:
        """`command` was committed at `stamp` with `result`."""
        entries = dict(self._entries)
        match command:
            case ["add", items, _, _, _, replace]:
                may = self._added(entries, items, replace, stamp)
            case ["remove", items, *_]:
                may = self._removed(entries, items, stamp)
            case _:
                may = False
        if may != (result[0] == 0):
            self._violate("lists", f"{command} at {stamp} is told {result}")
        elif may:
            if result[1] != self._revision + 1:
                self._violate("lists", f"revision {result[1]} follows {self._revision}")
            self._entries, self._revision = entries, result[1]

    def _added(self, entries: dict[Key, _Entry], items: list[Any], replace: bool, stamp: int) -> bool:
        for effect, kind, pattern, _, lifetime in items:
            key = ("opt" if effect.startswith("opt-") else "rule", kind, pattern)
            known = entries.get(key)
            if known is not None and known.alive(stamp) and not replace:
                return False
            entries[key] = _Entry(effect, None if lifetime is None else stamp + lifetime)
        return True

    def _removed(self, entries: dict[Key, _Entry], items: list[Any], stamp: int) -> bool:
        for which, kind, pattern in items:
            known = entries.pop((which, kind, pattern), None)
            if known is None or not known.alive(stamp):
                return False
        return True

    def finish(self, held: Mapping[Key, tuple[str, int | None]], stamp: int) -> None:
        """At the end, what the history's tables hold: (list, kind, pattern) -> (effect, expires)."""
        kept = {key: tuple(entry) for key, entry in self._entries.items() if entry.alive(stamp)}
        alive = {key: entry for key, entry in held.items() if _Entry(*entry).alive(stamp)}
        if kept != alive:
            self._violate("lists", f"the tables hold {alive}, added were {kept}")
