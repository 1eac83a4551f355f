"""All providers asked, their sightings made one list, each host tried: `survey`. It changes nothing, here or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Final

from raftcluster.discovery import providers
from raftcluster.discovery.candidate import PORT, Candidate, Found, Sighting, Survey
from raftcluster.discovery.inquiry import Inquiry, Provider
from raftcluster.discovery.merging import Names, candidates, is_address, is_host
from raftcluster.discovery.reach import reach
from raftcluster.errors import RaftclusterError
from raftcluster.transport import sockets

WORKERS: Final = 16
"""Questions under way at once: name servers and hosts that do not answer are waited for side by side."""
SSH: Final = 22


def survey(
    inquiry: Inquiry,
    *,
    only: Sequence[str] | None = None,
    typed: Sequence[Sighting] = (),
    port: int = PORT,
    ssh_port: int = SSH,
    tried: bool = True,
) -> Survey:
    """Ask the providers `only`, None: all that are installed, and put what was `typed` before what they say.

    With `tried` a connection is made to the SSH and the cluster's port of each host, and nothing is sent. A provider of `only`
    that cannot look raises its error (`RaftclusterError`); of all, it is a remark. Thread: any; waits some seconds.
    """
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="raftcluster-discovery") as pool:
        asked = _usable() if only is None else {name: providers.load(name) for name in only}
        strict = only is not None
        said = dict(zip(asked, pool.map(lambda each: _ask(each, inquiry, strict), asked.values()), strict=True))
        sightings = [*typed, *(each for found in said.values() for each in found.sightings)]
        found = candidates(sightings, _names(pool, sightings), port)
        if tried:
            found = list(pool.map(lambda each: _tried(each, ssh_port), found))
    remarks = {name: found.remarks for name, found in said.items() if found.remarks}
    return Survey(tuple(found), remarks)


class _Unusable:
    """In the place of a provider that cannot be loaded."""

    def __init__(self, error: RaftclusterError) -> None:
        self._error = error

    def find(self, inquiry: Inquiry) -> Found:
        raise self._error


def _usable() -> Mapping[str, Provider]:
    found: dict[str, Provider] = {}
    for name in providers.names():
        try:
            found[name] = providers.load(name)
        except RaftclusterError as error:
            found[name] = _Unusable(error)
    return found


def _ask(provider: Provider, inquiry: Inquiry, strict: bool) -> Found:
    try:
        said = provider.find(inquiry)
        wrong = [each for each in said.sightings if not _is_host(each)]
        kept = tuple(each for each in said.sightings if each not in wrong)
        odd = tuple(f"names what is no host: {(each.name, *each.addresses)!r:.80}" for each in wrong)
        return Found(kept, (*said.remarks, *odd))
    except RaftclusterError as error:
        if strict:
            raise
        return Found(remarks=(f"failed: {error}",))


def _is_host(seen: Sighting) -> bool:
    named = [each for each in (seen.name, *seen.addresses) if each]
    return bool(named) and all(map(is_host, named))


def _names(pool: ThreadPoolExecutor, sightings: Iterable[Sighting]) -> Names:
    """The system's names, each asked for once, all of them side by side."""
    resolve = cache(sockets.addresses)
    name_of = cache(sockets.name_of)
    given = {each for seen in sightings for each in (seen.name, *seen.addresses) if each}
    list(pool.map(lambda each: name_of(each) if is_address(each) else resolve(each), given))
    return Names(resolve, name_of, cache(sockets.is_local))


def _tried(candidate: Candidate, ssh_port: int) -> Candidate:
    if candidate.here:
        return candidate
    return replace(
        candidate,
        ssh=reach(candidate.addresses, ssh_port),
        cluster=reach(candidate.addresses, candidate.port),
    )
