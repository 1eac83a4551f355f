"""Sightings of all sources become candidates, one a host. Pure but for what `Names` is given, which may ask name servers.

Two sightings are of one host when they have the same name, or an address in common, their own or one that their names lead
to. Loopback addresses count for nothing: a host's name often leads to one on the host itself. What the sources disagree about
is kept, in words, with the candidate. That `mx1` and `mx1.example.org` are one host is not concluded from the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, TypeVar

from raftcluster import limits
from raftcluster.discovery.candidate import PORT, Candidate, Sighting, State

T = TypeVar("T")
_LABELS: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_ORDER: Final = list(State)


@dataclass(frozen=True, slots=True)
class Names:
    """What names and addresses lead to. Each may wait, and must not raise."""

    addresses: Callable[[str], Iterable[str]]
    """Of a name; none when it leads nowhere."""
    name: Callable[[str], str]
    """Of an address; empty when it has none."""
    is_here: Callable[[str], bool]
    """Whether an address is this host's."""


@dataclass(slots=True)
class _Host:
    sightings: list[Sighting]
    names: list[str]
    addresses: list[str]
    """Of the sightings themselves first."""


def candidates(sightings: Sequence[Sighting], names: Names, port: int = PORT) -> list[Candidate]:
    """One a host, in the order in which the hosts were first seen. `port` is for those of which no source tells one."""
    hosts: list[_Host] = []
    for seen in sightings:
        host = _host(seen, names)
        same = [each for each in hosts if _are_one(each, host)]
        for each in same[1:]:
            _join(same[0], each)
            hosts.remove(each)
        if same:
            _join(same[0], host)
        else:
            hosts.append(host)
    return _remarked([_candidate(each, names, port) for each in hosts])


def is_host(text: str) -> bool:
    """Whether it is an IP address or a host name: what DNS or a file says ends up in commands that a person may paste."""
    plain = text.lower().removesuffix(".")
    return is_address(text) or (len(plain) <= limits.NAME_BYTES and _LABELS.fullmatch(plain) is not None)


def is_address(text: str) -> bool:
    """Whether it is an IP address, not a name."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _host(seen: Sighting, names: Names) -> _Host:
    own = [plain(each) for each in seen.addresses if is_address(each)]
    called = [each.lower().removesuffix(".") for each in (seen.name, *seen.addresses) if each and not is_address(each)]
    if is_address(seen.name):
        own.insert(0, plain(seen.name))
    known = any(any(names.addresses(each)) for each in called)
    if own and not known and not ip_address(own[0]).is_loopback:  # the source's name leads nowhere, or it has none
        called += [each for each in [names.name(own[0])] if each]
    led = [plain(each) for name in called for each in names.addresses(name) if is_address(each)]
    return _Host([seen], _unique(called), _unique([*own, *sorted(led, key=lambda each: ":" in each)]))


def plain(address: str) -> str:
    """An IP address in its shortest form; an IPv4 one that is mapped into IPv6 is itself."""
    found = ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


def _are_one(one: _Host, other: _Host) -> bool:
    telling = [{each for each in host.addresses if not ip_address(each).is_loopback} for host in (one, other)]
    return bool(set(one.names) & set(other.names) or telling[0] & telling[1])


def _join(one: _Host, other: _Host) -> None:
    one.sightings += other.sightings
    one.names = _unique([*one.names, *other.names])
    one.addresses = _unique([*one.addresses, *other.addresses])


def _candidate(host: _Host, names: Names, port: int) -> Candidate:
    name = max(host.names, key=lambda each: each.count("."), default="") or host.addresses[0]
    telling = [each for each in host.addresses if not ip_address(each).is_loopback]
    ports = _unique([each.port for each in host.sightings if each.port is not None])
    users = _unique([each.user for each in host.sightings if each.user])
    conflicts = [
        f"{what}: {', '.join(map(str, said))}" for what, said in (("port", ports), ("account", users)) if said[1:]
    ]
    states = {each.state for each in host.sightings}
    if State.PAST in states and len(states) > 1:
        past = next(each for each in host.sightings if each.state is State.PAST)
        conflicts.append(f"a past member to {past.provider}")
    return Candidate(
        name=name,
        addresses=tuple(telling or host.addresses),
        target=name if is_address(name) or any(names.addresses(name)) else next(iter(telling), name),
        port=ports[0] if ports else port,
        state=min(states, key=_ORDER.index),
        provenance=tuple(_unique([f"{each.provider}: {each.origin}" for each in host.sightings])),
        aliases=tuple(each for each in host.names if each != name),
        here=any(names.is_here(each) for each in host.addresses),
        user=users[0] if users else "",
        conflicts=(*conflicts, *_elsewhere(host, names)),
    )


def _elsewhere(host: _Host, names: Names) -> list[str]:
    """Names that lead to none of the addresses at which a source has the host."""
    own = {plain(each) for seen in host.sightings for each in seen.addresses if is_address(each)}
    found = []
    for name in host.names if own else []:
        led = [plain(each) for each in names.addresses(name) if is_address(each)]
        outside = [each for each in led if not ip_address(each).is_loopback]
        if outside and not own & set(outside):
            found.append(f"{name} leads to {', '.join(outside)}, a source has {', '.join(sorted(own))}")
    return found


def _remarked(found: list[Candidate]) -> list[Candidate]:
    """With a word where two may be one host under a short and a whole name, at different addresses."""
    for number, each in enumerate(found):
        if "." in each.name or is_address(each.name):
            continue
        for other in found:
            if other.name.startswith(f"{each.name}."):
                said = (*each.conflicts, f"may be {other.name}, which is at another address")
                found[number] = replace(each, conflicts=said)
    return found


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
