"""The command line of the simulation.

    python -m tests.simulation --ci                           1,000 seeds over every profile
    python -m tests.simulation --profile power --seeds 0:200  some seeds of one profile
    python -m tests.simulation --profile power --seed 17 --story   one run, told
    python -m tests.simulation --profile power --seed 17 --without ack_gate   a guard is off: it should fail
    python -m tests.simulation --long DONE.txt --seeds 1000:11000  many, in portions that DONE.txt remembers
    python -m tests.simulation --mutation                     each guard off in its turn: what fails then
    python -m tests.simulation --kills 200                    the leader is killed during counted traffic
    python -m tests.simulation --targets                      what is promised with a figure, in 200 runs each
    python -m tests.simulation --soak 24                      hours of virtual time: is what is bounded flat?

Exit code 1 when anything was violated; each such run is named, with the command that repeats it. So it is when a run over
every profile lacks a kind of fault.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from raftcluster.engine.guards import GUARDS
from tests.simulation import counting, soak, targets
from tests.simulation.faults import KINDS
from tests.simulation.mutation import killed_by
from tests.simulation.profiles import PROFILES
from tests.simulation.simulation import Outcome, simulate

CI_SEEDS: Final = 1_000
GARBAGE: Final = 20_000  # objects made and not freed between two looks for cycles
PORTION: Final = 10  # seeds that a worker takes at once
LONG_PORTION: Final = 100  # seeds per line of the list of those done
SHOWN: Final = (
    "elections",
    "acknowledged",
    "reads",
    "bounded reads",
    "crashes",
    "strikes",
    "snapshots",
    "truncations",
    "voters added",
    "voters removed",
    "checkpoints",
    "passed",
    "timelines",
)

Portion = tuple[str, int, int]
"""(profile, first seed, end)"""


def portions(profiles: Iterable[str], first: int, end: int, size: int) -> list[Portion]:
    """The same seeds of each profile, in portions; the profiles take turns."""
    return [(p, at, min(at + size, end)) for at in range(first, end, size) for p in profiles]


def carry_out(portion: Portion, disabled: Collection[str] = ()) -> list[Outcome]:
    """The runs of a portion, in a worker."""
    profile, first, end = portion
    return [simulate(profile, seed, disabled) for seed in range(first, end)]


def collect_less() -> None:
    """What is imported stays, and a run's garbage can wait until there is much: looking for cycles took an eighth of the time."""
    gc.freeze()
    gc.set_threshold(GARBAGE)


def all_of(work: list[Portion], workers: int, disabled: Collection[str]) -> Iterator[tuple[Portion, list[Outcome]]]:
    """Carry out all portions."""
    if workers == 1:
        collect_less()
        yield from ((portion, carry_out(portion, disabled)) for portion in work)
        return
    with ProcessPoolExecutor(workers, initializer=collect_less) as pool:
        yield from zip(work, pool.map(carry_out, work, [disabled] * len(work)), strict=True)


class Summary:
    """Counts by profile, and what went wrong."""

    def __init__(self, disabled: Collection[str]) -> None:
        self._without = f" --without {' '.join(disabled)}" if disabled else ""
        self._counts: dict[str, Counter[str]] = {}
        self.bad = 0

    def add(self, outcome: Outcome) -> None:
        """Count it; say at once what was violated."""
        counts = self._counts.setdefault(outcome.profile, Counter())
        counts.update(outcome.counts)
        counts["seeds"] += 1
        counts["bad"] += bool(outcome.violations)
        if outcome.violations:
            self.bad += 1
            print(f"{outcome.profile}/{outcome.seed}: {outcome.violations[0]}")
            print(
                f"    python -m tests.simulation --profile {outcome.profile} --seed {outcome.seed}{self._without} --story",
                flush=True,
            )

    def show(self) -> None:
        """One line a profile."""
        for profile, counts in self._counts.items():
            shown = ", ".join(f"{counts[name]} {name}" for name in SHOWN)
            print(f"{profile:20} {counts['seeds']:5} seeds, {counts['bad']} bad: {shown}")

    def show_faults(self) -> list[str]:
        """What went wrong, by kind, in all runs; the kinds that never came about."""
        total = sum(self._counts.values(), Counter[str]())
        print("faults: " + ", ".join(f"{total[kind]} {kind}" for kind in KINDS))
        return [kind for kind in KINDS if not total[kind]]


def span(text: str) -> tuple[int, int]:
    """`A:B`"""
    first, _, end = text.partition(":")
    return int(first), int(end)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ci", action="store_true", help=f"{CI_SEEDS} seeds over every profile")
    parser.add_argument(
        "--long", type=Path, metavar="DONE", help="skip the portions that this file lists, add those done"
    )
    parser.add_argument("--profile", choices=sorted(PROFILES), help="only this one")
    parser.add_argument("--seeds", type=span, metavar="A:B", help="from A to below B, of each profile")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--story", action="store_true", help="tell what happens")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="GUARD", choices=sorted(GUARDS), help="guards to leave out"
    )
    parser.add_argument(
        "--targets", action="store_true", help=f"what is promised with a figure, {targets.RUNS} runs each"
    )
    parser.add_argument("--kills", type=int, metavar="N", help="the leader is killed so often while checks are counted")
    parser.add_argument("--soak", type=float, metavar="HOURS", help="so much virtual time: does anything grow?")
    parser.add_argument("--mutation", action="store_true", help="leave out each guard in its turn: something must fail")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    return parser.parse_args()


def mutate() -> int:
    """The mutation score."""
    killed = 0
    for guard in GUARDS:
        killer = killed_by(guard)
        killed += killer is not None
        print(f"{guard:18} {killer or 'SURVIVES: nothing fails without it'}", flush=True)
    print(f"killed {killed} of {len(GUARDS)}")
    return 0 if killed == len(GUARDS) else 1


def main() -> int:
    given = arguments()
    if given.mutation:
        return mutate()
    if given.targets:
        return targets.report()
    if given.kills:
        return counting.report(given.kills, given.seed or 1)
    if given.soak is not None:
        return soak.report(given.soak, given.seed or 0)
    profiles = [given.profile] if given.profile else list(PROFILES)
    summary = Summary(given.without)
    began = time.monotonic()
    if given.seed is not None:
        for profile in profiles:
            summary.add(simulate(profile, given.seed, given.without, print if given.story else None))
    else:
        if given.ci:
            each = -(-CI_SEEDS // len(profiles))
            work = portions(profiles, 0, each, PORTION)
        else:
            first, end = given.seeds or (0, 20)
            work = portions(profiles, first, end, LONG_PORTION if given.long else PORTION)
        if given.long and given.long.exists():
            done = set(given.long.read_text().splitlines())
            work = [portion for portion in work if _line(portion) not in done]
        for portion, outcomes in all_of(work, given.workers, given.without):
            for outcome in outcomes:
                summary.add(outcome)
            if given.long and not any(outcome.violations for outcome in outcomes):
                with given.long.open("a") as file:
                    file.write(_line(portion) + "\n")
    summary.show()
    lacking = summary.show_faults() if given.ci else []
    if lacking:
        print(f"never came about: {', '.join(lacking)}")
    print(f"{summary.bad} bad, {time.monotonic() - began:.1f} s")
    return 1 if summary.bad or lacking else 0


def _line(portion: Portion) -> str:
    profile, first, end = portion
    return f"{profile} {first}:{end}"


if __name__ == "__main__":
    sys.exit(main())
