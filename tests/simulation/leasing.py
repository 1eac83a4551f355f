"""Leases: at most one holder at any cluster time, tokens that only rise, and no two clients who both believe.

Reads the committed commands and their results in order, and keeps its own account in plain tuples; what clients believe it is
told by the workload, in true time. Stamps are milliseconds of cluster time, everything else is seconds of true time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from raftcluster import limits
from raftcluster.codec import Value
from tests.simulation.timekeeping import Course

CLOCKS: Final = 2e-4
"""What a host's own clock may be slow, so that it believes for longer."""

Place = tuple[int, int]
"""(index, term) of an entry."""


class _Tenure(NamedTuple):
    token: int
    expires: int
    kept_until: int
    released: bool
    place: Place
    """Of the entry that granted it, or renewed it last."""

    def owned(self, token: Value, stamp: int) -> bool:
        return self.token == token and not self.released and stamp < self.expires

    def taken(self, stamp: int) -> bool:
        return stamp < (self.kept_until if self.released else max(self.expires, self.kept_until))


class Leasing:
    """See the module's text. `course` is the one of the stamp of an entry, None when it is not known."""

    def __init__(
        self,
        violate: Callable[[str, str], None],
        now: Callable[[], float],
        course: Callable[[Place], Course | None],
    ) -> None:
        self._violate, self._now, self._course = violate, now, course
        self._tenures: dict[str, _Tenure] = {}
        self._highest = 0
        self._beliefs: dict[tuple[str, int], float] = {}
        """(name, token) -> until when its holder believes in it."""
        self._places: dict[int, Place] = {}
        """Token -> where it was granted, or renewed last."""
        self._given_up: set[int] = set()
        self.granted = self.renewed = 0

    # ---- what is committed

    def told(self, command: Value, result: list[Any], stamp: int, place: Place) -> None:
        """`command` was committed at `stamp` with `result`."""
        match command:
            case ["acquire", name, _, _, term, at_least]:
                self._acquire(name, term, at_least, result, stamp, place)
            case ["renew", name, token, term]:
                self._renew(name, token, term, result, stamp, place)
            case ["release", name, token]:
                self._release(name, token, result, stamp)

    def _acquire(self, name: str, term: int, at_least: int, result: list[Any], stamp: int, place: Place) -> None:
        held = self._tenures.get(name)
        taken = held is not None and held.taken(stamp)
        if result[0] != 0:
            if not taken:
                self._violate("lease", f"{name} is free at {stamp} and refused: {result}")
            return
        token, expires = result[1]
        if taken:
            self._violate("lease", f"{name} is taken by {held} and goes to {token} at {stamp}")
        if token <= self._highest:
            self._violate("lease", f"the fencing token {token} of {name} follows {self._highest}")
        if expires != stamp + term:
            self._violate("lease", f"{name} is granted at {stamp} for {term} ms, until {expires}")
        self._highest = max(self._highest, token)
        self._tenures[name] = _Tenure(token, expires, stamp + at_least, False, place)
        self._places[token] = place
        self.granted += 1
        for (known, other), until in list(self._beliefs.items()):
            if known == name and other < token:  # who has it later may have been told already, of the same entry
                self._overlap(name, other, until, token)

    def _renew(self, name: str, token: int, term: int, result: list[Any], stamp: int, place: Place) -> None:
        held = self._tenures.get(name)
        owned = held is not None and held.owned(token, stamp)
        if (result[0] == 0) != owned:
            self._violate("lease", f"{name} under {token} at {stamp}, held as {held}: the renewal is told {result}")
        elif owned and held is not None:
            if result[1] != max(held.expires, stamp + term):
                self._violate("lease", f"{name} is renewed at {stamp} for {term} ms until {result[1]}")
            self._tenures[name] = held._replace(expires=result[1], place=place)
            self._places[token] = place
            self.renewed += 1

    def _release(self, name: str, token: int, result: list[Any], stamp: int) -> None:
        held = self._tenures.get(name)
        owned = held is not None and held.owned(token, stamp)
        if result != [0, owned]:
            self._violate("lease", f"{name} under {token} at {stamp}, held as {held}: the release is told {result}")
        elif owned and held is not None:
            self._tenures[name] = held._replace(released=True)

    # ---- what its holders believe

    def believed(self, name: str, token: int, asked: float, seconds: float) -> None:
        """Its holder was told that it has it; it had asked at `asked` for so many seconds."""
        until = asked + seconds * limits.LEASE_BELIEF * (1 + CLOCKS)
        if token in self._given_up or until <= self._now():
            return
        self._beliefs[name, token] = max(until, self._beliefs.get((name, token), 0.0))
        held = self._tenures.get(name)
        if held is not None and held.token > token:
            self._overlap(name, token, self._beliefs[name, token], held.token)

    def given_up(self, name: str, token: int) -> None:
        """Its holder believes no more, and is about to release it."""
        self._given_up.add(token)
        self._beliefs.pop((name, token), None)

    def _overlap(self, name: str, token: int, until: float, successor: int) -> None:
        """Another has it from now on, at the latest."""
        overlap = until - self._now()
        if overlap <= 0:
            self._beliefs.pop((name, token), None)
            return
        before, after = self._course(self._places[token]), self._course(self._places[successor])
        if before is None or after is None or before.timeline != after.timeline:
            return  # all who knew the time have restarted at once: what remains is the token
        if overlap > after.leapt - before.leapt:
            self._violate(
                "lease", f"{name}: the holder of {token} believes for {overlap:.3f} s yet, and {successor} has it"
            )
