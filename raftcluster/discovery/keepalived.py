"""The provider `keepalived`: the peers of VRRP instances that speak unicast, from keepalived's configuration.

keepalived tells nobody who is up, so its peers are listed, not seen. By multicast there is no list at all: that is remarked.
"""

from __future__ import annotations

from typing import Final

from raftcluster.discovery import keepalived_conf
from raftcluster.discovery.candidate import Found, Sighting
from raftcluster.discovery.inquiry import Inquiry
from raftcluster.discovery.site import Site

NAME: Final = "keepalived"
CONF: Final = "/etc/keepalived/keepalived.conf"


class Keepalived:
    """Reads what keepalived reads, includes and conditions as on this host."""

    def find(self, inquiry: Inquiry) -> Found:
        """The peers of every instance, and this host where it names its own address. Raises `Refusal`, `MissingPrivilege`."""
        site = inquiry.site
        if site.read(CONF) is None:
            return Found(remarks=(f"there is no {CONF}",))
        instances = keepalived_conf.instances(CONF, lambda pattern: _texts(site, pattern), site.host_name.split(".")[0])
        sightings: list[Sighting] = []
        remarks = [] if instances else [f"{CONF} has no vrrp_instance"]
        for each in instances:
            if not each.peers:
                remarks.append(f"vrrp_instance {each.name} has no unicast_peer: by multicast nobody is listed")
                continue
            if each.source:
                origin = f"{each.origin}, unicast_src_ip of {each.name}"
                sightings.append(Sighting(NAME, origin, addresses=(each.source,)))
            origin = f"{each.origin}, unicast_peer of {each.name}"
            sightings += [Sighting(NAME, origin, addresses=(peer,)) for peer in each.peers]
        return Found(tuple(sightings), tuple(remarks))


def _texts(site: Site, pattern: str) -> list[tuple[str, str]]:
    return [(path, text) for path in site.matching(pattern) if (text := site.read(path)) is not None]
