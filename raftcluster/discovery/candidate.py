"""What is found: `Sighting`, what one source says of one host, and `Candidate`, a host as all sources together say. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

PORT: Final = 9777
"""The cluster's port where nobody says another one."""


class State(StrEnum):
    """What a host is to the source that names it; of several sources the first of these counts."""

    MEMBER = "member"
    """It takes part now."""
    DOWN = "down"
    """It belongs to the cluster and does not take part now."""
    LISTED = "listed"
    """It is written somewhere: in a configuration file, in DNS, by the administrator."""
    PAST = "past"
    """It was a member and is configured no more."""


class Reach(StrEnum):
    """What a TCP connection to a port met."""

    UNTRIED = "untried"
    OPEN = "open"
    REFUSED = "refused"
    """The host answers, or a firewall in its name; nothing listens there."""
    SILENT = "silent"
    """Nothing came back in time: it is down, or a firewall drops."""
    UNREACHABLE = "unreachable"
    """The network says that there is no way."""
    UNRESOLVED = "unresolved"
    """Its name leads to no address."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One host as one source has it. It has a name, or addresses, or both."""

    provider: str
    origin: str
    """Where exactly: the command, the file, the record."""
    name: str = ""
    addresses: tuple[str, ...] = ()
    """As the source has them; a name where the source has a name in an address's place."""
    port: int | None = None
    """The cluster's port, where the source tells it."""
    state: State = State.LISTED
    user: str = ""
    """The account for SSH, where the source tells it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that could become a node. Equal hosts from several sources are one of these (`merging`)."""

    name: str
    """As the cluster will know it; its address where no source has a name."""
    addresses: tuple[str, ...]
    """Where it is, IPv4 before IPv6 and as the sources have it first; empty when its name leads nowhere."""
    target: str = ""
    """What to connect to: its name where that leads somewhere, else an address."""
    port: int = PORT
    """Of the cluster."""
    state: State = State.LISTED
    provenance: tuple[str, ...] = ()
    """`provider: origin` of each source."""
    aliases: tuple[str, ...] = ()
    """Other names of it."""
    here: bool = False
    """It is the host that asks."""
    user: str = ""
    """The account for SSH; empty: the one for all."""
    conflicts: tuple[str, ...] = ()
    """What the sources disagree about, in words."""
    ssh: Reach = Reach.UNTRIED
    cluster: Reach = Reach.UNTRIED
    """`OPEN`: something listens there already, such as a node."""

    @property
    def wanted(self) -> bool:
        """Whether it belongs on a list of hosts to add: neither this host nor a past member."""
        return not self.here and self.state is not State.PAST

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Found:
    """What one provider has to say."""

    sightings: tuple[Sighting, ...] = ()
    remarks: tuple[str, ...] = ()
    """What a reader should know: why nothing was found, what could not be read."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What all providers together have found, and what each says about itself."""

    candidates: tuple[Candidate, ...]
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By provider; `failed: ...` where one could not look."""

    @property
    def wanted(self) -> tuple[Candidate, ...]:
        """Those to add, see `Candidate.wanted`."""
        return tuple(each for each in self.candidates if each.wanted)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "candidates": [each.as_dict() for each in self.candidates],
            "remarks": {name: list(said) for name, said in self.remarks.items()},
        }
