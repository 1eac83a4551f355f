"""The log of refused connections: always who and why, never a flood."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from raftcluster import limits

LOGGER: Final = logging.getLogger("raftcluster.transport")

_KEYS: Final = 1_024  # (reason, peer) pairs remembered; strangers choose addresses, so they are bounded


class RefusalLog:
    """Any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.counts: Counter[str] = Counter()
        """Refusals per reason since the start, logged or not: for metrics."""
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, reason: str, who: str, why: str, remedy: str = "") -> None:
        """Count a refusal and log it, unless one of the same reason and peer was logged just before."""
        now = self._clock()
        key = (reason, who)
        with self._lock:
            self.counts[reason] += 1
            logged, omitted = self._last.pop(key, (float("-inf"), 0))
            quiet = now - logged < limits.REFUSAL_LOG_SECONDS
            if len(self._last) >= _KEYS:
                del self._last[next(iter(self._last))]
            self._last[key] = (logged, omitted + 1) if quiet else (now, 0)
        if not quiet:
            LOGGER.warning(
                "refused [%s] %s: %s%s%s",
                reason,
                who,
                why,
                f" ({remedy})" if remedy else "",
                f"; {omitted} more like this since the last line" if omitted else "",
            )
