"""The firewall of one node: what its keeper is told of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from raftcluster.cluster.archive import archives
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.records import Member
from raftcluster.cluster.view import View, invitations
from raftcluster.errors import Unavailable
from raftcluster.events.recorder import Recorder
from raftcluster.firewall.keeper import Keeper, Wanted
from raftcluster.firewall.nft import Nft
from raftcluster.firewall.sources import Names
from raftcluster.firewall.table import table_name
from raftcluster.host import Host
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport import sockets
from raftcluster.transport.ports import Address, Links

FORMER_DAYS: Final = 90
"""For how long members of a destroyed cluster may come for its tombstone: no certificate of theirs lives longer."""


class Linked(Host, Protocol):
    """A host that has links."""

    @property
    def mesh(self) -> Links:
        """Its links."""


def keeper(
    node: Linked,
    directory: DataDirectory,
    facts: dict[str, Any],
    keystore: Keystore,
    recorder: Recorder,
    nft: Nft | None,
    address: Callable[[Member], Address],
) -> Keeper | None:
    """The keeper of this node's table, which `prepare` has made already; None when the node goes without a firewall. `address`
    says where this node looks for a member, which may be elsewhere than the record has it yet."""
    if not facts.get("firewall"):
        return None

    def look() -> Wanted:
        view, tokens = node.query("cluster", lambda rows, now: (View.read(rows, now), invitations(rows)))
        if view.facts is None or view.revision < keystore.trust().revision or node.id not in view.live():
            raise Unavailable("the tables are older than what this node knows", subject=node.id)
        invited: dict[str, int] = {}
        live = {each.name for each in view.live().values()}
        for each in tokens:  # one that was used is for a host that may have to ask again, unless it was removed since
            if not each.revoked and each.expires > view.time and (each.used_by is None or each.name in live):
                for host in each.addresses or [each.name]:
                    invited[host] = max(invited.get(host, 0), (each.expires - view.time) // 1000)
        others = [each for each in view.live().values() if each.node_id != node.id]
        moved = {address(each)[0] for each in others} - {each.host for each in others}
        return Wanted(
            {each.node_id: each.host for each in others},
            {peer: info.address.rpartition(":")[0].strip("[]") for peer, info in node.mesh.links().items()},
            invited,
            frozenset(
                str(about[1])
                for kept in archives(directory.path)
                for each in kept.statements(FORMER_DAYS * 86_400)
                for about in each.members.values()
            ),
            frozenset(moved),
        )

    found = Keeper(
        directory,
        table_name(facts["node_id"]),
        facts["listen"][1],
        look,
        recorder.note,
        Names(sockets.addresses),
        nft=nft,
    )
    found.prepare({peer.node_id: peer.address[0] for peer in keystore.trust().peers.values()})
    return found
