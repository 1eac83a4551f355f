"""Several hosts, side by side: `prepare` puts the program there, `finish` makes nodes of them.

A host that fails takes nothing away from the others. What this run has changed on it is undone, as long as it is no node: then
the first push leaves nothing, and a later one leaves the release that was there. From the moment that a host asks to join nothing is
undone any more; the next run finishes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from raftcluster.errors import PushFailed, RaftclusterError
from raftcluster.push.artefact import Artefact
from raftcluster.push.host import Target
from raftcluster.push.plan import Found, Step, plan

WORKERS: Final = 16
Say = Callable[[str, str], None]
"""(host, what was done). Thread: any."""
_BEFORE: Final = (Step.COPY, Step.INSTALL, Step.ARRANGE, Step.SWITCH)


@dataclass(frozen=True, slots=True)
class Entry:
    """How a host becomes a node."""

    words: Sequence[str]
    """Of `raftcluster`: init or join."""
    token: str = field(default="", repr=False)


@dataclass(slots=True)
class Work:
    """One host's. Thread: one at a time."""

    target: Target
    enter: bool = False
    """It shall be a node."""
    done: list[Step] = field(default_factory=list)
    left: list[Step] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    error: RaftclusterError | None = None
    undone: bool = False
    status: dict[str, Any] = field(default_factory=dict)
    """What its node says in the end."""

    @property
    def name(self) -> str:
        """The host's."""
        return self.target.name


@dataclass(frozen=True, slots=True)
class Rollout:
    """One artefact for several hosts."""

    artefact: Artefact
    options: str
    """Of `serve`, where a host has none yet."""
    say: Say

    def look(self, works: Sequence[Work], *, upgrade: bool = False) -> None:
        """What is missing on each, into `left`; nothing is changed."""
        self._each(works, lambda work: self._look(work, upgrade))

    def prepare(self, works: Sequence[Work], *, switch: bool = True) -> None:
        """The program is on each host; without `switch` what is started there is still the one before."""
        steps = _BEFORE if switch else _BEFORE[:-1]
        self._each(works, lambda work: self._steps(work, steps))

    def finish(self, works: Sequence[Work], entry: Callable[[Work], Entry] | None = None) -> None:
        """Each host joins by its `entry`, if it is no node, and runs."""

        def step(work: Work) -> None:
            if Step.ENTER in work.left:
                assert entry is not None, "who joins has something to join with"
                how = entry(work)
                work.target.enter(self.artefact, how.words, how.token)
                self._did(work, Step.ENTER)
            self._steps(work, (Step.START,))
            if Step.VERIFY in work.left:
                work.status = work.target.status(self.artefact.id)
                self._did(work, Step.VERIFY)

        self._each(works, step)

    def _look(self, work: Work, upgrade: bool) -> None:
        target = work.target
        target.check(self.artefact)
        work.found = target.look(self.artefact)
        work.left = plan(work.found, self.artefact, target.place, enter=work.enter, upgrade=upgrade, host=target.name)

    def _steps(self, work: Work, steps: Sequence[Step]) -> None:
        for step in [each for each in work.left if each in steps]:
            match step:
                case Step.COPY:
                    work.target.copy(self.artefact)
                case Step.INSTALL:
                    work.target.install(self.artefact)
                case Step.ARRANGE:
                    work.target.arrange(self.artefact, self.options)
                case Step.SWITCH:
                    work.target.switch(self.artefact.id)
                case Step.START:
                    work.target.start(self.artefact.id)
            self._did(work, step)

    def _did(self, work: Work, step: Step) -> None:
        work.left.remove(step)
        work.done.append(step)
        self.say(work.name, step)

    def _each(self, works: Sequence[Work], act: Callable[[Work], None]) -> None:
        def guarded(work: Work) -> None:
            try:
                act(work)
            except RaftclusterError as error:
                work.error = error
                self.say(work.name, f"failed: {error}")
                self._undo(work)

        alive = [each for each in works if each.error is None]
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="raftcluster-push") as pool:
            list(pool.map(guarded, alive))

    def _undo(self, work: Work) -> None:
        """What this run has changed, as far as no node is touched."""
        if work.found.node or Step.ENTER in work.done or not set(work.left) & set(_BEFORE):
            return
        try:
            if not work.found.begun:
                work.target.undo()
            elif Step.SWITCH in work.done and work.found.current:
                work.target.switch(work.found.current)
            else:
                return
        except RaftclusterError as error:
            self.say(work.name, f"not undone: {error}")
        else:
            work.undone = True
            self.say(work.name, "as it was before")


def failed(works: Sequence[Work]) -> PushFailed | None:
    """What there is to raise when a host has failed."""
    wrong = [each for each in works if each.error is not None]
    if not wrong:
        return None
    names = ", ".join(each.name for each in wrong)
    return PushFailed(
        f"{len(wrong)} of {len(works)} hosts failed: {names}",
        subject=names,
        remedy="mend what is named for each, then ask again: what is done already is not done again",
    )
