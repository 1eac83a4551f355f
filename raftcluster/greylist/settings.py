"""The greylist's settings: defaults, and what must hold within and between them.

A `Settings` that exists is valid: making one raises `Rejected`, naming both values where two do not fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final, Literal, NamedTuple

from raftcluster.codec import Value
from raftcluster.errors import Rejected

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

DELAY_MIN: Final = 1
DELAY_MIN_PRODUCTION: Final = MINUTE  # below it spam that retries at once passes; only a lab cluster may
LIFE_MAX: Final = 10 * 365 * DAY
AUTO_ALLOW_MAX: Final = 1_000
TEXT_BYTES: Final = 200  # with "DEFER_IF_PERMIT 4.2.0 " and the seconds it still fits one SMTP reply line


Unavailable = Literal["pass", "defer", "local"]


class Waits(NamedTuple):
    """The three times that decide, in milliseconds of cluster time."""

    delay: int
    window: int
    life: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds. The defaults' reasons: many servers retry after 200 to 285 s and then only hours later, so the
    delay is shorter than that; a server that retries for less than two days would be broken by any outage.
    """

    delay: float = 180
    """A sender that retries earlier is deferred again."""
    window: float = 48 * HOUR
    """A sender that retries later than this after the first attempt begins anew."""
    life: float = 36 * DAY
    """A triplet that has passed is known for so long since it was last seen (a null sender: since it passed)."""
    network4: int = 24
    """IPv4 clients with this many leading bits in common are one client."""
    network6: int = 64
    """The same for IPv6."""
    replicate: bool = True
    """Triplets are the whole cluster's. False: each node decides by a table of its own, which begins with what was shared, and answers
    without asking the others; when it is true again the cluster takes over what the nodes have learnt."""
    on_unavailable: Unavailable = "pass"
    """The answer, marked as degraded, when the cluster does not decide within the deadline: mail passes, is deferred, or the
    node decides by what it knows itself, and the cluster takes it over afterwards."""
    ack: Literal["commit", "early"] = "commit"
    """When a client is told to wait: once that is decided by the cluster, or, `early`, as soon as this node sees that it will be,
    in a state at most two election time-outs old. A pass is always the cluster's."""
    text: str = "Greylisted, retry in %s s"
    """What a deferred client is told; `%s` becomes the seconds left."""
    header: str = "delayed %s seconds by raftcluster at %h"
    """What X-Greylist says; `%s` becomes the seconds since the first attempt, `%h` the node's name."""
    training: bool = False
    """Everything is decided, recorded and counted, and all mail passes: to see what greylisting would do."""
    recipients: Literal["all", "opted-in"] = "all"
    """Whose mail is greylisted: everybody's but for those who opted out, or only theirs who opted in."""
    auto_allow: int = 5
    """A client's network passes at once after so many triplets of it have passed after a wait, of which one an hour counts;
    it is allowed for a life since it was last seen. 0: never."""
    skip_spf: bool = True
    """Mail whose caller says that SPF passed for the sender does not wait."""
    privacy: bool = False
    """Keep only the triplets' hashes: nobody can list who wrote to whom, and `explain` needs the addresses."""
    lab: bool = False
    """A cluster for tests: a delay below a minute is allowed. Only settable before the first check."""

    def __post_init__(self) -> None:
        for name in ("delay", "window", "life"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= LIFE_MAX:
                raise _rejected(name, f"takes seconds above 0, at most {LIFE_MAX}, not {value!a}")
        for name, bits in (("network4", 32), ("network6", 128)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= bits:
                raise _rejected(name, f"takes a prefix length from 1 to {bits}, not {value!a}")
        if type(self.auto_allow) is not int or not 0 <= self.auto_allow <= AUTO_ALLOW_MAX:
            raise _rejected("auto_allow", f"takes a number from 0 to {AUTO_ALLOW_MAX}, not {self.auto_allow!a}")
        for name in ("replicate", "privacy", "lab", "skip_spf", "training"):
            if type(getattr(self, name)) is not bool:
                raise _rejected(name, f"takes true or false, not {getattr(self, name)!a}")
        if self.on_unavailable not in ("pass", "defer", "local"):
            raise _rejected("on_unavailable", f"takes pass, defer or local, not {self.on_unavailable!a}")
        if self.ack not in ("commit", "early"):
            raise _rejected("ack", f"takes commit or early, not {self.ack!a}")
        if self.recipients not in ("all", "opted-in"):
            raise _rejected("recipients", f"takes all or opted-in, not {self.recipients!a}")
        _check_text("text", self.text, "the %s that becomes the seconds left")
        if type(self.header) is str and self.header.count("%h") > 1:
            raise _rejected("header", "takes the node's name %h at most once")
        header = self.header.replace("%h", "") if type(self.header) is str else self.header
        _check_text("header", header, "the %s that becomes the seconds, besides %h")
        if self.delay < DELAY_MIN:
            raise _rejected("delay", f"of {self.delay} s is less than {DELAY_MIN} s")
        if self.delay < DELAY_MIN_PRODUCTION and not self.lab:
            raise _rejected(
                "delay", f"of {self.delay} s is less than {DELAY_MIN_PRODUCTION} s and this is no lab cluster"
            )
        delay, window, life = self.waits()  # as time is counted: with a window as long as the delay nobody ever passes
        if window <= delay:
            raise _rejected("window", f"of {self.window} s is not greater than the delay of {self.delay} s")
        if life <= window:
            raise _rejected("life", f"of {self.life} s is not greater than the window of {self.window} s")

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Settings:
        """The defaults but for `values`. Raises `Rejected`."""
        if values:
            check_names(values)
        return cls(**values)

    def values(self) -> dict[str, Value]:
        """All of them by name, in the order of their definition."""
        return asdict(self)

    def without_cluster(self) -> Literal["pass", "defer"]:
        """The answer when nobody has decided in time, not even, with `local`, the node by itself: then mail passes, which is
        what Postfix is told to do when it hears nothing."""
        return "pass" if self.training or self.on_unavailable == "local" else self.on_unavailable

    def waits(self) -> Waits:
        """The times that decide, rounded to milliseconds."""
        return Waits(round(self.delay * 1000), round(self.window * 1000), round(self.life * 1000))


NAMES: Final = tuple(field.name for field in fields(Settings))


def check_names(changes: Value) -> None:
    """Raise `Rejected` when `changes` is empty or names a setting that there is not."""
    if not isinstance(changes, Mapping) or not changes:
        raise Rejected("no setting was named", subject="greylist settings", remedy=f"there are {', '.join(NAMES)}")
    for name in changes:
        if name not in NAMES:
            raise Rejected(
                f"there is no greylist setting {name!a}", subject=str(name), remedy=f"there are {', '.join(NAMES)}"
            )


def _check_text(name: str, text: Value, place: str) -> None:
    if type(text) is not str or not 0 < len(text) <= TEXT_BYTES or not all(" " <= sign <= "~" for sign in text):
        raise _rejected(name, f"takes one line of 1 to {TEXT_BYTES} printable ASCII characters")
    if text.count("%") != 1 or "%s" not in text:
        raise _rejected(name, f"takes exactly one % sign: {place}")


def _rejected(name: str, problem: str) -> Rejected:
    return Rejected(f"greylist {name} {problem}", subject=name)
