"""What no triplet may ever be told, whatever happens to nodes, links and clocks. Times are milliseconds of cluster time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from raftcluster.codec import Value
from raftcluster.greylist.check import HEAD, Told, told


class _Seen(NamedTuple):
    first: int
    alive_until: int
    passed: bool


class Greylisting:
    """Reads the committed checks and their verdicts in order, and keeps its own account of every triplet."""

    def __init__(self, violate: Callable[[str, str], None]) -> None:
        self._violate = violate
        self._waits = (180_000, 48 * 3_600_000, 36 * 86_400_000)
        self._seen: dict[bytes, _Seen] = {}
        self.passed = 0

    def told(self, command: Value, result: list[Any], stamp: int) -> None:
        """`command` was committed at `stamp` with `result`."""
        if result[0] != 0:
            return
        if type(command) is not bytes:
            changes = command[1]
            names = ("delay", "window", "life")
            self._waits = tuple(  # type: ignore[assignment]
                round(changes[n] * 1000) if n in changes else w for n, w in zip(names, self._waits, strict=True)
            )
        elif type(result[1]) is bytes:
            _, key, _, flags = HEAD.unpack_from(command)
            self._check(key, flags, told(result[1]), stamp)

    def _check(self, key: bytes, null_sender: int, verdict: Told, now: int) -> None:
        delay, window, life = self._waits
        first = verdict.first
        seen = self._seen.get(key)
        if seen is not None and now >= seen.alive_until:
            seen = None
        if verdict.passes:
            self.passed += 1
            if seen is None:
                self._violate("greylist", f"{key.hex()} passes without a committed first attempt")
                return
            if now - seen.first < delay:
                self._violate("greylist", f"{key.hex()} passes {now - seen.first} ms after its first attempt")
        elif seen is not None and seen.passed:
            self._violate("greylist", f"{key.hex()} has passed and is deferred within its life")
        elif seen is not None and now - seen.first >= delay:
            self._violate("greylist", f"{key.hex()} is deferred after {now - seen.first} ms of {delay}")
        if seen is not None and first != seen.first:
            self._violate("greylist", f"{key.hex()}: the first attempt moves from {seen.first} to {first}")
        if seen is None:
            self._seen[key] = _Seen(now, now + window, False)
        elif verdict.passes:
            extended = seen.alive_until if null_sender and seen.passed else max(seen.alive_until, now + life)
            self._seen[key] = _Seen(seen.first, extended, True)
