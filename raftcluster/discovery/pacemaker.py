"""The provider `pacemaker`: the hosts of a failover cluster, from its live commands, else from corosync.conf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from raftcluster.discovery import corosync_conf, pacemaker_status
from raftcluster.discovery.candidate import Found, Sighting, State
from raftcluster.discovery.inquiry import Inquiry
from raftcluster.discovery.site import Site
from raftcluster.errors import Refusal, Unavailable

NAME: Final = "pacemaker"
CONF: Final = "/etc/corosync/corosync.conf"
T = TypeVar("T")


class Pacemaker:
    """Asks the commands of pacemaker and corosync, each for what it alone knows; those that fail are remarked upon."""

    def find(self, inquiry: Inquiry) -> Found:
        """The cluster's nodes; past members are told apart. Raises `Refusal` when corosync.conf cannot be understood."""
        site = inquiry.site
        remarks: list[str] = []

        def asked(words: list[str], understand: Callable[[str], T]) -> T | None:
            try:
                return understand(site.run(*words))
            except (Refusal, Unavailable) as error:
                remarks.append(error.message)
                return None

        if not site.has("crm_node") and not site.has("corosync-cmapctl"):
            return _from_file(site, ())
        known = asked(["crm_node", "--list"], pacemaker_status.remembered)
        present = asked(["crm_node", "--partition"], pacemaker_status.partition)
        remote = asked(["cibadmin", "--query", "--scope", "nodes"], pacemaker_status.remotes)
        cmap = asked(["corosync-cmapctl"], pacemaker_status.keys)
        nodes = pacemaker_status.live(known or [], present or frozenset(), cmap or {}, remote or [])
        if not nodes:
            return _from_file(site, tuple(remarks))
        origin = "crm_node, corosync-cmapctl" if known and cmap else "crm_node" if known else "corosync-cmapctl"
        sightings = tuple(
            Sighting(NAME, f"{origin}, {_what(each)}", each.name, each.addresses, state=each.state) for each in nodes
        )
        return Found(sightings, tuple(remarks))


def _what(node: pacemaker_status.LiveNode) -> str:
    which = f"node {node.id}" if node.id else "remote node"
    return f"{which}, past member" if node.state is State.PAST else which


def _from_file(site: Site, remarks: tuple[str, ...]) -> Found:
    text = site.read(CONF)
    if text is None:
        return Found(remarks=(*remarks, f"no pacemaker or corosync runs here, and there is no {CONF}"))
    nodes = corosync_conf.nodes(text)
    if not nodes:
        remarks = (*remarks, f"{CONF} lists no nodes")
    sightings = (
        Sighting(NAME, f"{CONF}, node {each.id or number}", each.name, each.addresses)
        for number, each in enumerate(nodes, 1)
    )
    return Found(tuple(sightings), remarks)
