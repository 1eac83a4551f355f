"""What a provider is asked: `Inquiry`; what a provider is: `Provider`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from raftcluster.discovery.candidate import Found
from raftcluster.discovery.site import Site


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Where to look. One for all providers; each takes of it what concerns it."""

    site: Site = field(default_factory=Site)
    domains: tuple[str, ...] = ()
    """For DNS; empty: the domain that this host's name is in."""
    nameservers: tuple[str, ...] = ()
    """`ADDRESS` or `ADDRESS:PORT`; empty: those of resolv.conf."""


class Provider(Protocol):
    """A class of the entry point group `raftcluster.discovery`, made without arguments; the entry point's name is its name.

    A product adds its own in its package's metadata:

        [project.entry-points."raftcluster.discovery"]
        inventory = "gateway.inventory:Inventory"
    """

    def find(self, inquiry: Inquiry) -> Found:
        """The hosts that it knows of; what there is to say when it knows of none is a remark. It must not wait longer than
        some seconds, and changes nothing. Raises `RaftclusterError` when it cannot look. Thread: any, one call at a time."""
        ...
