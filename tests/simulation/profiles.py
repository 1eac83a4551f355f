"""The kinds of runs: which of all that can happen does. Within a kind, the seed decides on everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from raftcluster.engine.ports import Bounds, Timing

PARTITIONS: Final = (
    "cut off",
    "cut off",
    "cut off the leader",
    "cut one link",
    "cut one way",
    "reset",
    "reset",
    "second connection",
    "delays",
)
CRASHES: Final = ("crash", "crash", "crash the leader", "strike")
SLOWNESS: Final = ("slow", "pause", "slow processor")


HEALED_SECONDS: Final = 40.0
"""Within this a healed cluster must have a leader and must have answered everything: thrice the slowest disk's delay
that an election may still wait for, and some rounds of it."""


@dataclass(frozen=True, slots=True)
class Options:
    """One run's circumstances. Times are in seconds of virtual time."""

    voters: int
    spares: int = 0
    least_voters: int = 2
    """The administrator leaves at least so many."""
    seconds: float = 8.0
    """How long there is trouble."""
    operations_per_second: float = 10.0
    faults_per_second: float = 1.0
    faults: tuple[str, ...] = PARTITIONS + CRASHES + SLOWNESS + ("transfer",)
    disks: tuple[str, ...] = ("fast", "mixed", "mixed", "slow")
    strikes: bool = False
    """Processes crash when something that they promise is not durable yet."""
    duplicates: float = 0.0
    """How often a message arrives a second time, out of order; and whether broken connections still deliver."""
    wall_jumps: bool = False
    """A minority of wall clocks is off by a day or half a minute, again and again."""
    part: bool = False
    """Whether only a majority is well at first, when the trouble is over: it must do."""
    residents: bool = False
    """Whether members, their certificates and links are those of the cluster's record, as the product's reconciler has it."""
    destroyed: bool = False
    """Whether the cluster is dismantled in the end."""
    healed: float = HEALED_SECONDS
    """Within this all must be well after the trouble."""
    disks_heal: bool = True
    """Whether disks are fast in the end."""
    reconnect: float = 0.3
    stretch: float = 1.0
    """How much longer faults, patience and idle steps last than in the other runs: for time-outs that are so much longer."""
    sweep: float = 0.5
    """Seconds between two looks at what is too dear to look at after every step."""
    compare: float = 0.0
    """Seconds between two comparisons of all that a disk holds with the history, at a checkpoint; 0: at each."""
    keys: int = 6
    """How many triplets there are."""
    waits: tuple[int, int, int] = (1, 4, 6)
    """Delay, window and life of the greylist, in seconds."""
    link_bytes: int = 1 << 20
    timing: Timing = field(default_factory=Timing)
    bounds: Bounds = field(default_factory=Bounds)


def _bounds(random: Random, *, cut: bool) -> Bounds:
    """Bounds small enough to be reached."""
    append_bytes = random.choice((500, 900, 4_000, 65_536))
    checkpoint_keys = random.choice((15, 100, 1_000))
    return Bounds(
        entry_bytes=min(append_bytes - 300, 2_000),
        entry_operations=random.choice((1, 1, 3, 100)),
        append_bytes=append_bytes,
        in_flight=random.choice((1, 2, 6, 20)),
        pending=200,
        queue=random.choice((5, 200)),
        checkpoint_keys=checkpoint_keys,
        overlay_keys=4 * checkpoint_keys,
        ring=random.choice((20, 10_000, 10_000)),
        keep_entries=random.choice((0, 2, 5)) if cut else 1 << 30,
        keep_bytes=random.choice((1_000, 1 << 30)) if cut else 1 << 30,
    )


def _common(random: Random, *, cut: bool = False) -> Options:
    heartbeat, least, most = random.choice(((0.05, 0.3, 0.6), (0.09, 0.3, 0.6), (0.1, 0.4, 1.0)))
    strikes = random.random() < 0.5
    bounds = _bounds(random, cut=cut)
    return Options(
        voters=random.choice((3, 3, 3, 5)),
        operations_per_second=random.choice((8.0, 20.0, 40.0)),
        faults_per_second=random.choice((0.7, 1.5, 4.0)),
        disks=("mixed", "slow", "crawl") if strikes else ("fast", "mixed", "mixed", "slow"),
        strikes=strikes,
        reconnect=random.choice((0.1, 0.3, 2.0)),
        link_bytes=random.choice((4 * bounds.append_bytes, 1 << 20, 1 << 20)),
        timing=Timing(
            heartbeat=heartbeat,
            election_min=least,
            election_max=most,
            check_quorum=random.choice((most, 1.5)),
            checkpoint=random.choice((0.1, 0.3, 1.0)) if cut else random.choice((0.3, 1.0, 5.0)),
            resend=random.choice((0.2, 0.5)),
        ),
        bounds=bounds,
    )


def _static(random: Random) -> Options:
    """Three or five members, a log that is never cut."""
    return _common(random)


def _snapshot(random: Random) -> Options:
    """A log that is cut at once: whoever was away needs a snapshot."""
    return _common(random, cut=True)


def _membership(random: Random) -> Options:
    """Members come and go."""
    options = _common(random)
    return replace(options, voters=3, spares=2, faults=options.faults + ("membership",) * 9, seconds=10.0)


def _membership_snapshot(random: Random) -> Options:
    """Members come and go, and need snapshots."""
    options = _common(random, cut=True)
    return replace(options, voters=3, spares=2, faults=options.faults + ("membership",) * 9, seconds=10.0)


def _adversarial(random: Random) -> Options:
    """Messages arrive twice, late, and over connections that are gone."""
    options = _common(random, cut=random.random() < 0.6)
    return replace(options, voters=random.choice((2, 3, 4, 5)), duplicates=0.03)


def _single(random: Random) -> Options:
    """A cluster of one."""
    options = _common(random, cut=random.random() < 0.6)
    return replace(options, voters=1, faults=(*CRASHES, *CRASHES, *SLOWNESS), seconds=12.0)


def _small(random: Random) -> Options:
    """One to three members, growing and shrinking down to one."""
    options = _common(random, cut=random.random() < 0.6)
    faults = options.faults + ("membership",) * 12
    return replace(options, voters=random.choice((1, 2, 3)), spares=2, least_voters=1, faults=faults, seconds=10.0)


def _seven(random: Random) -> Options:
    """Seven members."""
    options = _common(random, cut=random.random() < 0.5)
    return replace(options, voters=7, seconds=6.0)


def _replaced(random: Random) -> Options:
    """Hosts are replaced by others, some because they have lost their disks."""
    options = _common(random, cut=random.random() < 0.6)
    faults = options.faults + ("replace",) * 8 + ("empty disk",) * 6
    return replace(options, voters=random.choice((3, 3, 5)), spares=4, faults=faults, seconds=10.0)


def _part(random: Random) -> Options:
    """A majority is well in the end, the others are not: a liveness run, after little trouble."""
    options = _common(random, cut=random.random() < 0.5)
    return replace(options, voters=random.choice((3, 5, 7)), part=True, seconds=4.0)


def _power(random: Random) -> Options:
    """Power goes, for one or for all at once, in the middle of writes."""
    options = _common(random, cut=random.random() < 0.5)
    faults = (*CRASHES, *CRASHES, "strike", "power", "power", "power", *PARTITIONS, "transfer")
    return replace(options, faults=faults, strikes=True, disks=("mixed", "slow", "crawl"))


def _clocks(random: Random) -> Options:
    """Wall clocks jump, leaders change, processes stand still."""
    options = _common(random, cut=random.random() < 0.5)
    faults = (*CRASHES, "power", *PARTITIONS, *SLOWNESS, "transfer", "transfer")
    return replace(options, faults=faults, wall_jumps=True, seconds=12.0)


def _full_disk(random: Random) -> Options:
    """Disks fill up and empty again, or fail for good."""
    options = _common(random, cut=random.random() < 0.5)
    return replace(options, faults=options.faults + ("full disk",) * 8 + ("failed disk",) * 2, seconds=10.0)


def _slow_disks(random: Random) -> Options:
    """Every write takes a second, for good. All that is promised must come about nonetheless."""
    options = _common(random, cut=random.random() < 0.5)
    faults = ("crash", "crash the leader", "reset", "transfer")
    bounds = replace(options.bounds, entry_operations=100, entry_bytes=2_000, append_bytes=4_000)
    link_bytes = max(options.link_bytes, 4 * bounds.append_bytes)  # else a whole append may never find room
    options = replace(options, disks=("second",), disks_heal=False, strikes=False, bounds=bounds, link_bytes=link_bytes)
    return replace(options, faults=faults, operations_per_second=4.0, seconds=16.0)


def _members(random: Random) -> Options:
    """Hosts are let in and removed by the cluster's record, while nodes crash and links break; some clusters are destroyed."""
    options = _common(random, cut=random.random() < 0.6)
    faults = (*PARTITIONS, *CRASHES, "transfer", *("admit",) * 4, *("remove",) * 3, "rotate")
    bounds = replace(options.bounds, append_bytes=65_536, entry_bytes=2_000)  # a hierarchy does not fit into less
    return replace(
        options, voters=1, spares=6, faults=faults, faults_per_second=random.choice((0.7, 1.5)), bounds=bounds,
        operations_per_second=8.0, residents=True, destroyed=random.random() < 0.3, seconds=30.0, healed=150.0,
        link_bytes=1 << 20, disks=("fast", "mixed"),
    )  # fmt: skip


PROFILES: Final[dict[str, Callable[[Random], Options]]] = {
    "static": _static,
    "snapshot": _snapshot,
    "membership": _membership,
    "membership_snapshot": _membership_snapshot,
    "adversarial": _adversarial,
    "seven": _seven,
    "replaced": _replaced,
    "part": _part,
    "single": _single,
    "small": _small,
    "power": _power,
    "clocks": _clocks,
    "full_disk": _full_disk,
    "slow_disks": _slow_disks,
    "members": _members,
}


def options_of(profile: str, seed: int) -> Options:
    """The circumstances of one run."""
    return PROFILES[profile](Random(f"{profile}/{seed}/options"))
