"""Cluster time against true time, which only the simulation knows.

What is promised: stamps never decrease; within one timeline the time runs at most 5 % off true time, but for the delay
of the message from which a new leader continues; wall clocks decide nothing. A timeline begins where a leader can ask
nobody who knows the time: the first leader, or one after all have restarted at once.

So the checker follows, beside each message, how fresh what the receiver then knows is. When a leader begins to stamp,
its knowledge is `received - sent` late and has been running at its own rate since; that much more is allowed between
stamps of before and after, and no more.

It cannot be regained: whoever holds an entry of that leader, and so can lead after it, has heard its time with the entry, or
asks others who have. But for one case: all of those have restarted meanwhile, and who is asked knows an older term's time only.
The time may *leap* then, by what it was late.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

RATE: Final = 0.05 + 1e-3  # the slew, and what two hosts' quartzes differ
SLACK: Final = 0.004  # stamps are whole milliseconds
FRESH_SECONDS: Final = 5.0


class Sample(NamedTuple):
    """What a process knows of cluster time: how the cluster's time was when it was `sent`, got to know when `received`."""

    term: int
    sent: float
    received: float
    timeline: int


class Note(NamedTuple):
    """Travels with a message, unseen by the processes."""

    sent: float
    known: Sample | None


class Course(NamedTuple):
    """Which time a stamp is of."""

    timeline: int
    leapt: float
    """By how much the time may have leapt so far, in seconds."""


class _Stamp(NamedTuple):
    first: float
    """True time: not before this ..."""
    last: float
    """... and not after this."""
    stamp: float
    who: str
    timeline: int
    late: float
    early: float
    leapt: float


class _Answer(NamedTuple):
    term: int
    received: float
    sent: float
    known: Sample


class Timekeeping:
    """See the module's text."""

    def __init__(self, violate: Callable[[str, str], None]) -> None:
        self._violate = violate
        self._samples: dict[str, Sample] = {}
        self._answers: dict[tuple[str, str], _Answer] = {}
        self._reigns: dict[str, int] = {}
        self._begun: dict[int, float] = {}
        """Term -> when its leader began to stamp."""
        self._late = self._early = self._leapt = 0.0
        self.timelines = 0
        self._stamps: dict[tuple[int, int], _Stamp] = {}

    def restarted(self, name: str) -> None:
        """It knows no time any more."""
        self._samples.pop(name, None)
        self._reigns.pop(name, None)
        self._answers = {k: a for k, a in self._answers.items() if k[0] != name}

    def note(self, name: str, now: float) -> Note:
        """For a message that `name` sends with its time."""
        return Note(now, self._samples.get(name))

    def heard(self, name: str, term: int, note: Note, now: float) -> None:
        """`name` accepts an append of `term`."""
        if note.known is None:
            return
        sample = Sample(term, note.sent, now, note.known.timeline)
        held = self._samples.get(name)
        if held is None or (sample.term, sample.sent) > (held.term, held.sent):
            self._samples[name] = sample

    def answered(self, name: str, peer: str, term: int, note: Note, now: float) -> None:
        """The leader `name` of `term` gets what `peer` knows."""
        if note.known is not None:
            self._answers[name, peer] = _Answer(term, now, note.sent, note.known)

    def lateness(self, name: str) -> float:
        """How late `name`'s cluster time may be, in seconds."""
        sample = self._samples.get(name)
        return 0.0 if sample is None else sample.received - sample.sent

    def goes_on(self, name: str, term: int, now: float) -> bool:
        """`name` leads; whether it has led in this term, and known the time, before."""
        if self._reigns.get(name) != term:
            return False
        self._samples[name] = Sample(term, now, now, self._samples[name].timeline)
        return True

    def begins(self, name: str, term: int, now: float, voters: Collection[str], stamped: int) -> None:
        """`name` begins to lead, by the votes of `voters`, and knows the time. `stamped` is the last term of which a stamp
        is committed, or in the log of `name` and so will be."""
        self._reigns[name] = term
        sample = self._samples.get(name)
        asked = sample is None
        if sample is None:
            sample = self._asked(name, term, now, voters)
        if sample is None:
            self.timelines += 1
            sample = Sample(term, now, now, self.timelines)
        since = sample.sent
        if sample.term < stamped:
            self._leapt += self._late
            # Who led before has gone its own way since the first of those took over whose time nobody knows any more.
            since = min([since, *(at for later, at in self._begun.items() if later > sample.term)])
        self._begun[term] = now
        running = RATE * (now - since)
        if asked:
            self._leapt += running  # whom it has asked may not have heard how the last leader steered
        self._late += sample.received - sample.sent + running
        self._early += running
        self._samples[name] = Sample(term, now, now, sample.timeline)

    def _asked(self, name: str, term: int, now: float, voters: Collection[str]) -> Sample | None:
        known = [
            a
            for (asker, peer), a in self._answers.items()
            if asker == name and peer in voters and a.term == term and now - a.received < FRESH_SECONDS
        ]
        if not known:
            return None
        latest = max(a.known.term for a in known)
        worst = max((a for a in known if a.known.term == latest), key=lambda a: a.received - a.sent - a.known.sent)
        sample = worst.known
        return Sample(latest, sample.sent, sample.received + worst.received - worst.sent, sample.timeline)

    def stamped(self, name: str, index: int, term: int, stamp: int, began: float, now: float) -> None:
        """The leader `name` wrote a stamped entry at a moment between `began` and `now`."""
        sample = self._samples.get(name)
        if sample is not None:
            self._stamps[index, term] = _Stamp(
                began, now, stamp / 1000, name, sample.timeline, self._late, self._early, self._leapt
            )

    def course(self, place: tuple[int, int]) -> Course | None:
        """Of the stamp of the entry (index, term)."""
        stamp = self._stamps.get(place)
        return None if stamp is None else Course(stamp.timeline, stamp.leapt)

    def check(self, committed: list[tuple[int, int]]) -> None:
        """The stamps of the committed (index, term), in order."""
        before: _Stamp | None = None
        for place in committed:
            stamp = self._stamps.get(place)
            if stamp is None:
                continue
            if before is not None:
                gone = stamp.stamp - before.stamp
                least, most = stamp.first - before.last, stamp.last - before.first
                if gone < 0:
                    self._violate("time decreases", f"entry {place}: by {-gone:.3f} s, {before.who} then {stamp.who}")
                elif stamp.timeline == before.timeline:
                    leapt = stamp.leapt - before.leapt
                    if gone > most + RATE * most + stamp.early - before.early + leapt + SLACK:
                        self._violate("time too fast", f"entry {place}: {gone:.3f} s in {most:.3f} s of true time")
                    if gone < least - RATE * least - (stamp.late - before.late) - SLACK:
                        self._violate("time too slow", f"entry {place}: {gone:.3f} s in {least:.3f} s of true time")
            before = stamp
